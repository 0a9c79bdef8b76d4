/* The last step of a pass. */
#ifndef SF_DOWN_H
#define SF_DOWN_H

#include "ffn/pass.h"

/* y (n, d_out) += of each vector j, Σ_i alpha[j * hidden + i] · down row ids[j * hidden + i], i < counts[j], in that
 * order, the ids ascending; ids NULL: of every row. Not for a cached layer unless n is 1 and the ids are its rows.
 * With down by output the sum is the product of the whole matrix with 0 for what is not listed: that is what happens
 * without down by neuron and, unless `lists` is 1, where it is faster. Errors then: MEMORY, NOT_FINITE. */
int32_t sf_ffn_add_down(sf_ffn *ffn, int32_t phase, const int32_t *ids, const int32_t *counts, const float *alpha,
                        int32_t n, int32_t lists, float *y);

#endif
