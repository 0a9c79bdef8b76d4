/* Products with some of the inputs. Functions here trust their arguments: the public functions have checked them. */
#ifndef SF_COLUMNS_H
#define SF_COLUMNS_H

#include "matrix/matrix.h"

/* The inputs x (columns) that are not below the limit times each of up to SF_EACH matrices: ys[k] (rows of
 * matrices[k]). All inputs by rows, as tokens of SF_DECODE, where that is faster, or the limit is 0; else every matrix
 * has columns. Returns how many were multiplied, or MEMORY. */
int32_t sf_multiply_above(sf_context *context, const sf_matrix *const *matrices, int32_t n_matrices, const float *x,
                          float limit, float *const *ys);

#endif
