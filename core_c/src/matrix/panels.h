/* Rows in panels. Functions here trust their arguments: the public functions
 * have checked them. */
#ifndef SF_PANELS_H
#define SF_PANELS_H

#include "matrix/matrix.h"

/* A second layout of a matrix, for products of all its rows, many and short ones: see sf_dot_panels_fn. */
typedef struct {
  uint8_t *data; /* NULL where the kernels have none for the format, or the matrix has a scale */
  const sf_format *format;
  int32_t rows, columns;
  size_t row_bytes;
} sf_panels;

/* A copy of the matrix's rows; frees what was there before. Errors: MEMORY. */
int32_t sf_panels_make(sf_panels *panels, const sf_context *context, const sf_matrix *matrix);
void sf_panels_close(sf_panels *panels);
/* out[j * out_stride + i - first] = row i · input j for the rows from `first` on. */
void sf_multiply_panels(sf_context *context, const sf_panels *matrix, int32_t first, const sf_inputs *inputs, int32_t n,
                        float *out, size_t out_stride);

#endif
