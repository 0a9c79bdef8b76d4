/* Selection by scores. Functions here trust their arguments: the public functions
 * have checked them. */
#ifndef SF_SELECT_H
#define SF_SELECT_H

#include "kernels/kernels.h"
#include "sparsefire.h"

/* sf_select_top_k and sf_select_threshold with the kernels of a context. */
int32_t sf_top_k(const sf_kernels *kernels, const float *scores, int32_t count, int32_t k, int32_t *ids);
int32_t sf_above_threshold(const sf_kernels *kernels, const float *scores, int32_t count, float threshold,
                           int32_t least, int32_t most, int32_t *ids);

#endif
