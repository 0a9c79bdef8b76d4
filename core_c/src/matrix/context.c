/* Contexts, and how work is cut into parts. */
#include "matrix/context.h"

#include <math.h>

#include "base/check.h"
#include "base/memory.h"
#include "formats/formats.h"
#include "kernels/isa.h"

enum {
  PARTS_PER_THREAD = 4,      /* small parts, so that a thread held up by the system delays the others little */
  BYTES_PER_PART = 64 << 10, /* of these; threads contend for smaller ones */
  LEAST_BYTES = 16 << 10     /* below this, handing a part to another thread costs more than doing it */
};

/* Until a host sets others for a format: measured for F32, F16 and Q8_0, which hardly differ. */
static const sf_costs default_costs = {1.1f, 0.4f};
/* Measured for Q4_0 with AVX-512 and matrices beyond the caches. */
static const float default_column_cost = 1.05f, default_column_fixed = 0.1f;
/* Measured with AVX2 and two threads for rows of 576 to 4,096 numbers, plain ones and those in blocks. With one thread
 * rows cost half as much, but the choice must not depend on the number of threads. */
static const sf_list_cost plain_cost = {1.2f, 2200.0f}, block_cost = {1.8f, 1000.0f};

SF_CHECK(parts_fit, SF_MAX_THREADS *PARTS_PER_THREAD <= SF_MAX_PARTS);
/* What a batch of the longest vectors has is counted in 32 bits. */
SF_CHECK(batch_fits, SF_MAX_NEURONS <= INT32_MAX / SF_BATCH);
/* Axpy kernels begin at whole blocks. */
SF_CHECK(columns_are_blocks, SF_COLUMN_GRAIN % SF_BLOCK == 0);

int32_t sf_context_open(sf_context **out, int32_t isa, int32_t threads) {
  if (!out || isa < -1 || isa >= sf_isa_count() || threads < 1) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (isa >= 0 && !sf_isa_supported(isa)) return SF_ERROR_UNSUPPORTED;
  if (isa < 0) isa = sf_isa_best();
  if (isa < 0) return SF_ERROR_UNSUPPORTED;
  sf_context *context = sf_array(1, sizeof(sf_context));
  if (!context) return SF_ERROR_MEMORY;
  context->isa = isa;
  context->kernels = sf_isa_kernels(isa);
  context->tiles = sf_isa_tiles(isa);
  context->pool = sf_pool_open(threads);
  if (!context->pool) {
    sf_free(context);
    return SF_ERROR_MEMORY;
  }
  for (int32_t i = 0; i < SF_FORMATS; i++) context->costs[i] = default_costs;
  context->column_cost = default_column_cost;
  context->column_fixed = default_column_fixed;
  *out = context;
  return SF_OK;
}

int32_t sf_context_set_costs(sf_context *context, int32_t format, float scattered, float batched) {
  if (!context || !(scattered > 0) || !isfinite(scattered) || !(batched > 0) || !isfinite(batched)) {
    return SF_ERROR_ARGUMENT;
  }
  const sf_format *found = sf_format_find(format);
  if (!found) return SF_ERROR_FORMAT;
  context->costs[found->index].scattered = scattered;
  context->costs[found->index].batched = batched;
  return SF_OK;
}

void sf_context_close(sf_context *context) {
  if (!context) return;
  sf_pool_close(context->pool);
  sf_free(context->values);
  sf_free(context->scales);
  for (int32_t f = 0; f < SF_SPLIT_FORMS; f++) sf_free(context->split[f]);
  sf_free(context->input_tiles);
  sf_free(context->chosen);
  sf_free(context->column_sums);
  sf_free(context);
}

int32_t sf_context_isa(const sf_context *context) { return context ? context->isa : SF_ERROR_ARGUMENT; }

int32_t sf_context_threads(const sf_context *context) {
  return context ? sf_pool_threads(context->pool) : SF_ERROR_ARGUMENT;
}

sf_list_cost sf_list_cost_of(const sf_format *format) { return sf_is_plain(format->traits) ? plain_cost : block_cost; }

int32_t sf_parts(const sf_context *context, size_t bytes) {
  int32_t threads = sf_pool_threads(context->pool);
  size_t least = bytes / LEAST_BYTES, parts = bytes / BYTES_PER_PART, most = (size_t)threads * PARTS_PER_THREAD;
  if (threads == 1 || least < 2) return 1;
  if (least > (size_t)threads) least = (size_t)threads;
  parts = parts < least ? least : parts;
  if (parts > most) parts = most;
  /* As many for each thread: of five parts one of two threads would do three. */
  return (int32_t)(parts > (size_t)threads ? parts - parts % (size_t)threads : parts);
}

int32_t sf_part_begin(int32_t count, int32_t grain, int32_t part, int32_t parts) {
  int64_t grains = ((int64_t)count + grain - 1) / grain;
  int64_t begin = grains * part / parts * grain;
  return begin < count ? (int32_t)begin : count;
}
