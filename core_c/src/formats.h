/* Weight formats: one row of a table each. The public functions over them are in sparsefire.h. */
#ifndef SF_FORMATS_H
#define SF_FORMATS_H

#include <stddef.h>
#include <stdint.h>

#include "conversions.h"
#include "kernels.h"

typedef struct {
  int32_t format;        /* SF_F32, … */
  int32_t block_columns; /* columns of a block */
  int32_t block_bytes;   /* bytes of a block */
  sf_format_index index; /* place in the kernel tables */
  sf_input_kind input;   /* what dot_rows wants to be given */
  sf_quantize_fn *quantize;
  sf_dequantize_fn *dequantize;
} sf_format;

/* The format of that number, or NULL. */
const sf_format *sf_format_find(int32_t format);

/* Bytes of `rows` packed rows, or 0 when they cannot be: see sf_format_row_bytes, rows < 1, or more than size_t
 * holds. */
size_t sf_format_bytes(int32_t format, int32_t rows, int32_t columns);

#endif
