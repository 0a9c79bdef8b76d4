/* Passes that leave inputs out. */
#ifndef SF_SOME_INPUTS_H
#define SF_SOME_INPUTS_H

#include "ffn/pass.h"

/* A pass in which gate and up leave out the inputs of a vector that are below limits[0], and down those below
 * limits[1]; 0: none. Adds for each vector the inputs of what has a limit to inputs (n), and those that were multiplied
 * to chosen (n). */
int32_t sf_ffn_some_inputs(sf_ffn *ffn, const float *limits, const float *x, int32_t n, float *y, int32_t *inputs,
                           int32_t *chosen);

#endif
