/* Layers of experts. Functions here trust their arguments: the public functions have checked them. */
#ifndef SF_EXPERTS_H
#define SF_EXPERTS_H

#include "ffn/cached.h"

struct sf_experts {
  sf_context *context;
  int32_t count, hidden; /* experts; neurons of all of them */
  int32_t d_in, d_out;
  int32_t gated;
  sf_matrix *matrices; /* (count, 3): gate, up and down of each expert, as parts of those of the layer */
  sf_ffn **ffns;       /* (count); owned */
  sf_ffn_work work;    /* which the experts share */
  sf_cache *cache;     /* of experts, NULL: all of them are in memory */
  size_t offsets[3];   /* of a cached expert's matrices in its bundle */
};

/* Begins a pass: the experts that any of n ≤ SF_BATCH vectors wants. Of a cached layer, asks for as many as fit:
 * SF_WAITING when pass->missing, which are experts, have to be read. The host may read them while other steps go on. */
int32_t sf_experts_begin(sf_experts *experts, sf_cached_pass *pass, const float *routes, int32_t used, int32_t share,
                         int32_t n);

/* Goes on with a pass that has begun: y (n, d_out) = for each of its vectors x (n, d_in) the sum over its experts, in
 * ascending order, of weight · expert(x) or, with `before` 1, expert(weight · x). routes (n, 2 · used): the experts,
 * ascending, and their weights; `share` experts of the routes are one here. Writes counts (n) as sf_ffn_forward does.
 * Of a cached layer: SF_WAITING when all that can be computed is, and pass->missing has to be read; then the same call
 * once more, when at least one of them is there, else NOT_RESIDENT. */
int32_t sf_experts_run(sf_experts *experts, sf_cached_pass *pass, int32_t mode, int32_t phase, const float *x,
                       const float *routes, int32_t used, int32_t before, int32_t share, int32_t n, float *y,
                       int32_t *selected, int32_t *active, uint8_t *fired);

#endif
