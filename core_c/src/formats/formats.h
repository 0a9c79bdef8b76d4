/* Weight formats: one row of a table each. The public functions over them are in sparsefire.h. */
#ifndef SF_FORMATS_H
#define SF_FORMATS_H

#include <stddef.h>
#include <stdint.h>

#include "formats/traits.h"

/* Index of a format in the kernel tables (sf_format maps SF_F32 … to it). */
#define SF_FORMAT(NAME, name) SF_FORMAT_##NAME,
typedef enum {
#include "formats/lists.h"
  SF_FORMATS
} sf_format_index;
#undef SF_FORMAT

/* Conversions of whole blocks from and to floats. Any input is safe; what NaN and infinity become is unspecified. */
typedef void sf_quantize_fn(const float *src, size_t blocks, uint8_t *dst);
typedef void sf_dequantize_fn(const uint8_t *src, size_t blocks, float *dst);

typedef struct {
  int32_t format;        /* SF_F32, … */
  sf_format_index index; /* place in the kernel tables */
  const sf_traits *traits;
  sf_quantize_fn *quantize; /* NULL: the format is only read */
  sf_dequantize_fn *dequantize;
} sf_format;

/* The format of that number, or NULL. */
const sf_format *sf_format_find(int32_t format);

/* Bytes of `rows` packed rows, or 0 when they cannot be: see sf_format_row_bytes, rows < 1, or more than size_t
 * holds. */
size_t sf_format_bytes(int32_t format, int32_t rows, int32_t columns);

#endif
