/* Weight formats: sizes, and conversion from and to floats as GGUF's reference implementation does it. Weights are
 * stored little-endian, like every machine this runs on. */
#include "formats/formats.h"

#include <math.h>
#include <string.h>

#include "formats/half.h"
#include "sparsefire.h"

/* The formats' files define how they are quantised, with what these headers have in common. */
/* clang-format off */
#define SF_CONVERSIONS
#include "formats/quants.h"
#include "formats/quantize_small.h"
#include "formats/quantize_k.h"
#include "formats/lists.h"
/* clang-format on */

#define SF_FORMAT(NAME, name)                                                    \
  static void dequantize_##name(const uint8_t *src, size_t blocks, float *dst) { \
    dequantize(&sf_traits_##name, src, blocks, dst);                             \
  }
#include "formats/lists.h"
#undef SF_FORMAT

#define SF_FORMAT(NAME, name) {SF_##NAME, SF_FORMAT_##NAME, &sf_traits_##name, quantize_##name, dequantize_##name},
static const sf_format formats[SF_FORMATS] = {
#include "formats/lists.h"
};
#undef SF_FORMAT

const sf_format *sf_format_find(int32_t format) {
  for (int i = 0; i < SF_FORMATS; ++i) {
    if (formats[i].format == format) return &formats[i];
  }
  return NULL;
}

size_t sf_format_row_bytes(int32_t format, int32_t columns) { return sf_format_bytes(format, 1, columns); }

size_t sf_format_bytes(int32_t format, int32_t rows, int32_t columns) {
  const sf_format *f = sf_format_find(format);
  if (!f || rows < 1 || columns < 1 || columns % f->traits->block_columns != 0) return 0;
  /* Two factors below 2^31 and one below 2^8: 2^62 is never passed before the division of the test. */
  const uint64_t blocks = (uint64_t)rows * (uint64_t)(columns / f->traits->block_columns);
  if (blocks > SIZE_MAX / (uint64_t)f->traits->block_bytes) return 0;
  return (size_t)blocks * (size_t)f->traits->block_bytes;
}

/* Why sf_format_bytes gave 0. */
static int32_t bytes_error(int32_t format, int32_t rows, int32_t columns) {
  const sf_format *f = sf_format_find(format);
  if (!f) return SF_ERROR_FORMAT;
  if (rows < 1 || columns < 1) return SF_ERROR_ARGUMENT;
  return columns % f->traits->block_columns != 0 ? SF_ERROR_FORMAT : SF_ERROR_SHAPE;
}

int32_t sf_quantize(int32_t format, const float *src, int32_t rows, int32_t columns, void *dst, size_t dst_bytes) {
  const size_t bytes = sf_format_bytes(format, rows, columns);
  if (!bytes) return bytes_error(format, rows, columns);
  if (!src || !dst) return SF_ERROR_ARGUMENT;
  if (dst_bytes < bytes) return SF_ERROR_SHAPE;
  const sf_format *f = sf_format_find(format);
  if (!f->quantize) return SF_ERROR_FORMAT;
  f->quantize(src, bytes / (size_t)f->traits->block_bytes, dst);
  return SF_OK;
}

int32_t sf_dequantize(int32_t format, const void *src, size_t src_bytes, int32_t rows, int32_t columns, float *dst) {
  const size_t bytes = sf_format_bytes(format, rows, columns);
  if (!bytes) return bytes_error(format, rows, columns);
  if (!src || !dst) return SF_ERROR_ARGUMENT;
  if (src_bytes < bytes) return SF_ERROR_SHAPE;
  const sf_format *f = sf_format_find(format);
  f->dequantize(src, bytes / (size_t)f->traits->block_bytes, dst);
  return SF_OK;
}
