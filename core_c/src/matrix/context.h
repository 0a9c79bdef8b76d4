/* A context: kernels, threads and work memory, and how work is cut into parts. Functions here trust their arguments:
 * the public functions have checked them. */
#ifndef SF_CONTEXT_H
#define SF_CONTEXT_H

#include "base/pool.h"
#include "kernels/kernels.h"
#include "sparsefire.h"

/* What sparse passes choose their way by: see sf_context_set_costs. */
typedef struct {
  float scattered, batched;
} sf_costs;

struct sf_context {
  const sf_kernels *kernels;
  int32_t isa;
  sf_pool *pool;
  int16_t *values; /* work memory of sf_prepare */
  float *scales;   /* and the sums after them */
  size_t values_capacity, scales_capacity;
  sf_costs costs[SF_FORMATS];
};

/* Into how many parts to cut work that touches `bytes` of weights: 1 when waking threads would cost more. */
int32_t sf_parts(const sf_context *context, size_t bytes);
/* First item of part `part` when `count` items are cut into `parts`, in multiples of `grain`. */
int32_t sf_part_begin(int32_t count, int32_t grain, int32_t part, int32_t parts);

#endif
