/* Weight formats: one row of a table each. The public functions over them are in sparsefire.h. */
#ifndef SF_FORMATS_H
#define SF_FORMATS_H

#include <stddef.h>
#include <stdint.h>

#include "formats/conversions.h"

/* How a weight format wants its input vector: as floats, or as 16-bit integers in blocks of 32 with a scale.
 * 16 bits keep a dot product within about 1e-5 of floating point while the multiply stays an integer one
 * (pmaddwd and its kin). */
typedef enum { SF_INPUT_F32, SF_INPUT_I16 } sf_input_kind;

enum { SF_BLOCK = 32 }; /* columns of a block in every block format, and of an I16 input */

/* Every format: plain numbers, first F32, then those of two bytes, and blocks. */
#define SF_EACH_HALF_FORMAT(DO) DO(F16, f16) DO(BF16, bf16)
#define SF_EACH_BLOCK_FORMAT(DO) \
  DO(Q4_0, q4_0)                 \
  DO(Q4_1, q4_1) DO(Q5_0, q5_0) DO(Q5_1, q5_1) DO(Q8_0, q8_0) DO(Q4_K, q4_k) DO(Q5_K, q5_k) DO(Q6_K, q6_k)
#define SF_EACH_FORMAT(DO) DO(F32, f32) SF_EACH_HALF_FORMAT(DO) SF_EACH_BLOCK_FORMAT(DO)

/* Index of a format in the kernel tables (sf_format maps SF_F32 … to it). */
#define SF_FORMAT_NAME(NAME, name) SF_FORMAT_##NAME,
typedef enum { SF_EACH_FORMAT(SF_FORMAT_NAME) SF_FORMATS } sf_format_index;
#undef SF_FORMAT_NAME

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
