/* Passes of any mode through a layer in memory. */
#ifndef SF_LAYER_H
#define SF_LAYER_H

#include "ffn/pass.h"

/* sf_ffn_forward without its checks. The predictor is given `hints` (n, d_in), NULL: x. Counts the neurons that fired
 * in fired (hidden), NULL: does not. */
int32_t sf_ffn_run(sf_ffn *ffn, int32_t mode, int32_t phase, const float *x, const float *hints, int32_t n, float *y,
                   int32_t *selected, int32_t *active, uint8_t *fired);

#endif
