#ifdef __linux__
#define _DEFAULT_SOURCE /* for madvise */
#include <sys/mman.h>
#endif

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "isa.h"

enum {
  ALIGNMENT = 64,            /* a cache line, and the widest vector */
  PARTS_PER_THREAD = 4,      /* small parts, so that a thread held up by the system delays the others little */
  BYTES_PER_PART = 64 << 10, /* of these; threads contend for smaller ones */
  LEAST_BYTES = 16 << 10     /* below this, handing a part to another thread costs more than doing it */
};

/* Until a host sets others for a format: measured for F32, F16 and Q8_0, which hardly differ. */
static const sf_costs default_costs = {1.1f, 0.4f};

const char *sf_status_text(int32_t status) {
  switch (status) {
    case SF_WAITING:
      return "neurons have to be read";
    case SF_OK:
      return "ok";
    case SF_ERROR_ARGUMENT:
      return "invalid argument";
    case SF_ERROR_SHAPE:
      return "shapes do not fit each other";
    case SF_ERROR_FORMAT:
      return "unknown weight format, or columns not a multiple of the format's block";
    case SF_ERROR_MEMORY:
      return "out of memory";
    case SF_ERROR_UNSUPPORTED:
      return "not supported by this machine or this layout";
    case SF_ERROR_NOT_FINITE:
      return "NaN or infinity in an input or a result";
    case SF_ERROR_INCOMPLETE:
      return "the model lacks a tensor";
    case SF_ERROR_CONTEXT_FULL:
      return "more tokens than the context holds";
    case SF_ERROR_NOT_RESIDENT:
      return "a neuron is not in the cache";
    default:
      return "unknown status";
  }
}

const char *sf_version(void) { return SF_VERSION; }

/* aligned_alloc is not in C99, so the first aligned address of a block is used, and the block's own address is kept
 * just before it. */
static void *align(uint8_t *block, size_t alignment) {
  if (!block) return NULL;
  uintptr_t aligned = ((uintptr_t)block + sizeof(void *) + alignment - 1) & ~(uintptr_t)(alignment - 1);
  memcpy((uint8_t *)aligned - sizeof(void *), &block, sizeof(void *));
  return (void *)aligned;
}

enum { EXTRA = ALIGNMENT + sizeof(void *) };

/* Large blocks are for weights. In huge pages these are read faster, scattered rows above all; where the system has
 * none to give, nothing is lost but the room for aligning. */
static void *alloc_huge(size_t bytes) {
#ifdef MADV_HUGEPAGE
  enum { HUGE_PAGE = 2 << 20 };
  if (bytes >= 2 * HUGE_PAGE && bytes <= SIZE_MAX - HUGE_PAGE - sizeof(void *)) {
    void *memory = align(malloc(bytes + HUGE_PAGE + sizeof(void *)), HUGE_PAGE);
    if (memory) (void)madvise(memory, bytes & ~(size_t)(HUGE_PAGE - 1), MADV_HUGEPAGE);
    return memory;
  }
#else
  (void)bytes;
#endif
  return NULL;
}

void *sf_alloc(size_t bytes) {
  void *huge = alloc_huge(bytes);
  if (huge) return huge;
  return bytes > SIZE_MAX - EXTRA ? NULL : align(malloc(bytes + EXTRA), ALIGNMENT);
}

void sf_free(void *memory) {
  if (!memory) return;
  void *block;
  memcpy(&block, (uint8_t *)memory - sizeof(void *), sizeof(void *));
  free(block);
}

size_t sf_size_product(size_t a, size_t b) { return b != 0 && a > SIZE_MAX / b ? SIZE_MAX : a * b; }

/* calloc, so that pages which nobody has touched, such as those of a long key/value cache, cost nothing. */
void *sf_array(size_t count, size_t size) {
  size_t bytes = sf_size_product(count, size);
  return bytes > SIZE_MAX - EXTRA ? NULL : align(calloc(1, bytes + EXTRA), ALIGNMENT);
}

int32_t sf_grow(void **array, size_t *capacity, size_t count, size_t size) {
  if (count <= *capacity) return SF_OK;
  void *grown = sf_array(count, size);
  if (!grown) return SF_ERROR_MEMORY;
  sf_free(*array);
  *array = grown;
  *capacity = count;
  return SF_OK;
}

void sf_add_count(int32_t *count, int32_t more) { *count = more > INT32_MAX - *count ? INT32_MAX : *count + more; }

int32_t sf_copy_floats(float **copy, const float *values, int32_t count) {
  float *made = NULL;
  if (values) {
    for (int32_t i = 0; i < count; i++) {
      if (!isfinite(values[i])) return SF_ERROR_NOT_FINITE;
    }
    made = sf_array((size_t)count, sizeof(float));
    if (!made) return SF_ERROR_MEMORY;
    memcpy(made, values, (size_t)count * sizeof(float));
  }
  sf_free(*copy);
  *copy = made;
  return SF_OK;
}

int32_t sf_context_open(sf_context **out, int32_t isa, int32_t threads) {
  if (!out || isa < -1 || isa >= sf_isa_count() || threads < 1) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (isa >= 0 && !sf_isa_supported(isa)) return SF_ERROR_UNSUPPORTED;
  if (isa < 0) isa = sf_isa_best();
  sf_context *context = sf_array(1, sizeof(sf_context));
  if (!context) return SF_ERROR_MEMORY;
  context->isa = isa;
  context->kernels = sf_isa_kernels(isa);
  context->pool = sf_pool_open(threads);
  if (!context->pool) {
    sf_free(context);
    return SF_ERROR_MEMORY;
  }
  for (int32_t i = 0; i < SF_FORMATS; i++) context->costs[i] = default_costs;
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
  sf_free(context);
}

int32_t sf_context_isa(const sf_context *context) { return context ? context->isa : SF_ERROR_ARGUMENT; }

int32_t sf_context_threads(const sf_context *context) {
  return context ? sf_pool_threads(context->pool) : SF_ERROR_ARGUMENT;
}

int32_t sf_parts(const sf_context *context, size_t bytes) {
  int32_t threads = sf_pool_threads(context->pool);
  size_t least = bytes / LEAST_BYTES, parts = bytes / BYTES_PER_PART, most = (size_t)threads * PARTS_PER_THREAD;
  if (threads == 1 || least < 2) return 1;
  if (least > (size_t)threads) least = (size_t)threads;
  parts = parts < least ? least : parts;
  return (int32_t)(parts < most ? parts : most);
}

int32_t sf_part_begin(int32_t count, int32_t grain, int32_t part, int32_t parts) {
  int64_t grains = ((int64_t)count + grain - 1) / grain;
  int64_t begin = grains * part / parts * grain;
  return begin < count ? (int32_t)begin : count;
}
