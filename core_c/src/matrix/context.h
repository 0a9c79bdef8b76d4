/* A context: kernels, threads and work memory, and how work is cut into parts. Functions here trust their arguments:
 * the public functions have checked them. */
#ifndef SF_CONTEXT_H
#define SF_CONTEXT_H

#include "base/pool.h"
#include "kernels/tiles.h"
#include "sparsefire.h"

/* Multiples in which work is cut into parts, so that the kernels' inner loops run full. */
enum {
  SF_ROW_GRAIN = 8,      /* rows, which the kernels read side by side */
  SF_COLUMN_GRAIN = 128, /* columns of an axpy: whole cache lines of the output */
  SF_MAX_PARTS = UINT16_MAX
};

/* Cost model of sparse passes, for weights in one format. */
typedef struct {
  float scattered, batched; /* see sf_context_set_costs */
} sf_costs;

/* What adding a row from a list takes, over the time of a byte of a matrix that is multiplied: so much a byte, and so
 * much for the row itself. */
typedef struct {
  float byte, row;
} sf_list_cost;

struct sf_context {
  const sf_kernels *kernels;
  const sf_tiles *tiles; /* NULL: prompts are multiplied by the kernels */
  int32_t isa;
  sf_pool *pool;
  int16_t *values; /* work memory of sf_prepare */
  float *scales;   /* and the sums after them */
  uint8_t *split[SF_SPLIT_FORMS];
  uint16_t *input_tiles;
  size_t values_capacity, scales_capacity, split_capacity[SF_SPLIT_FORMS], input_tiles_capacity;
  sf_costs costs[SF_FORMATS];
  sf_chosen *chosen; /* work memory of sf_multiply_above, */
  float *column_sums;
  size_t chosen_capacity, column_sums_capacity;
  float column_cost, column_fixed; /* see sf_context_set_column_cost */
};

/* Its products of matrices of floats: of tiles, where it has them. */
static inline const sf_products *sf_context_products(const sf_context *context) {
  return context->tiles ? &context->tiles->products : &context->kernels->products;
}
/* The cost of rows in this format. */
sf_list_cost sf_list_cost_of(const sf_format *format);
/* Into how many parts to cut work that touches `bytes` of weights: 1 when waking threads would cost more. */
int32_t sf_parts(const sf_context *context, size_t bytes);
/* First item of part `part` when `count` items are cut into `parts`, in multiples of `grain`. */
int32_t sf_part_begin(int32_t count, int32_t grain, int32_t part, int32_t parts);

#endif
