/* Passes that skip neurons. */
#ifndef SF_SPARSE_H
#define SF_SPARSE_H

#include "ffn/pass.h"

/* A pass in exact or sparse mode, y starting as the bias. Writes counts (n), see sf_ffn_forward. */
int32_t sf_ffn_sparse(sf_ffn *ffn, int32_t mode, const float *x, const float *hints, int32_t n, float *y,
                      int32_t *selected, int32_t *active, uint8_t *fired);
/* Adds to y what the neurons ids (count) make of one x. Dense mode leaves out exact zeros alone, the others what lies
 * below the cutoffs. Returns how many were active, or an error. Counts those in fired (hidden), NULL: does not. */
int32_t sf_ffn_add_neurons(sf_ffn *ffn, int32_t mode, const int32_t *ids, int32_t count, const float *x, float *y,
                           uint8_t *fired);

#endif
