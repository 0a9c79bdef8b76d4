/* Weight matrices and products with them. Functions here trust their arguments: the public functions
 * have checked them. */
#ifndef SF_MATRIX_H
#define SF_MATRIX_H

#include "formats/formats.h"
#include "kernels/kernels.h"
#include "matrix/context.h"
#include "sparsefire.h"

/* Whether weights may be in column order too, see columns.h: not in WebAssembly, whose modules stay small without. */
#if defined(__wasm__)
#define SF_HAS_COLUMNS 0
#else
#define SF_HAS_COLUMNS 1
#endif

struct sf_matrix {
  const uint8_t *data;
  size_t stride;    /* bytes from row to row */
  size_t row_bytes; /* of which these hold weights */
  const sf_format *format;
  int32_t rows, columns;
  float scale;          /* of all weights */
  uint8_t *column_data; /* the weights in column order as well, see columns.h; owned. NULL: not */
};

/* The rows `ids` of a matrix (NULL: all, from row `first` on) as the kernels take them. */
sf_rows sf_matrix_rows(const sf_matrix *matrix, const int32_t *ids, int32_t first);
/* Row i as floats. */
void sf_matrix_row(const sf_matrix *matrix, int32_t i, float *out);
/* Brings n vectors x (n, columns) into the forms that `count` formats multiply in a phase, beside the floats
 * themselves, which it borrows: prompts are multiplied in tiles, where the instruction set has them, or as floats,
 * where that is faster (prompt_floats). Valid until the next call. */
int32_t sf_prepare(sf_context *context, int32_t phase, const sf_format *const *formats, int32_t count, const float *x,
                   int32_t n, int32_t columns, sf_inputs *inputs);
/* Input j of several, of `columns` numbers. */
sf_inputs sf_input(const sf_inputs *inputs, int32_t j, int32_t columns);
/* The kernel or the tiles that multiply inputs of this form, with rows of a matrix (see sf_dot_rows_fn). */
void sf_dot_rows(const sf_context *context, const sf_matrix *matrix, const sf_rows *rows, int32_t n_rows,
                 const sf_inputs *inputs, int32_t n, float *out, size_t out_stride);
/* Rows in multiples of which products with such inputs are best cut into parts. */
int32_t sf_row_grain(const sf_inputs *inputs);
/* out[j * out_stride + i] = row i · input j for `n_rows` rows: ids, or the first ones when ids is NULL. */
void sf_multiply(sf_context *context, const sf_matrix *matrix, const int32_t *ids, int32_t n_rows,
                 const sf_inputs *inputs, int32_t n, float *out, size_t out_stride);
/* The same x (n, columns) times up to SF_EACH matrices: ys[k] (n, rows of matrices[k]). x is prepared once, and the
 * threads are woken once. */
enum { SF_EACH = 5 };
int32_t sf_multiply_each(sf_context *context, int32_t phase, const sf_matrix *const *matrices, int32_t count,
                         const float *x, int32_t n, float *const *ys);
/* sf_prepare, then sf_multiply with every row: y (n, rows). */
int32_t sf_prepare_multiply(sf_context *context, int32_t phase, const sf_matrix *matrix, const float *x, int32_t n,
                            float *y);
/* y (columns) += Σ_i alpha[i] · row ids[i] (ids NULL: row i), i < count. */
void sf_accumulate(sf_context *context, const sf_matrix *matrix, const int32_t *ids, int32_t count, const float *alpha,
                   float *y);

#endif
