/* What threads compute and read at most, for comparisons with what products reach. */
#include "matrix/context.h"

int32_t sf_peak_operations(const sf_context *context, int32_t kind) {
  if (!context || kind < SF_PEAK_FLOATS || kind > SF_PEAK_TILES) return SF_ERROR_ARGUMENT;
  if (kind != SF_PEAK_TILES) return context->kernels->peak_operations(kind);
  return context->tiles ? SF_TILE_PEAK : 0;
}

typedef struct {
  const sf_context *context;
  int32_t kind, repeats;
  const float *x;
  size_t count;
  float sums[SF_MAX_THREADS]; /* so that no compiler leaves the work out */
} peak_job;

static void peak_part(void *argument, int32_t part, int32_t parts) {
  peak_job *job = argument;
  (void)parts;
  job->sums[part] = job->kind == SF_PEAK_TILES ? job->context->tiles->peak(job->repeats)
                                               : job->context->kernels->peak(job->kind, job->repeats);
}

static void read_part(void *argument, int32_t part, int32_t parts) {
  peak_job *job = argument;
  const size_t each = job->count / (size_t)parts;
  job->sums[part] = job->context->kernels->read_floats(job->x + (size_t)part * each, each);
}

static float run(peak_job *job, sf_task_fn *task) {
  sf_pool *pool = job->context->pool;
  const int32_t threads = sf_pool_threads(pool);
  float sum = 0;
  sf_pool_lock(pool);
  sf_pool_run(pool, task, job, threads);
  sf_pool_unlock(pool);
  for (int32_t t = 0; t < threads; t++) sum += job->sums[t];
  return sum;
}

int32_t sf_peak_run(sf_context *context, int32_t kind, int32_t repeats, float *out) {
  int32_t operations = sf_peak_operations(context, kind);
  if (operations < 0) return operations;
  if (operations == 0) return SF_ERROR_UNSUPPORTED;
  if (repeats < 1 || !out) return SF_ERROR_ARGUMENT;
  peak_job job = {.context = context, .kind = kind, .repeats = repeats};
  *out = run(&job, peak_part);
  return SF_OK;
}

int32_t sf_peak_read(sf_context *context, const float *x, size_t count, float *out) {
  if (!context || !x || !out) return SF_ERROR_ARGUMENT;
  peak_job job = {.context = context, .x = x, .count = count};
  *out = run(&job, read_part);
  return SF_OK;
}
