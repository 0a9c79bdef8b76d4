/* Weight formats: sizes, and conversion from and to floats as GGUF's reference implementation does it. Weights are
 * stored little-endian, like every machine this runs on. */
#include "formats/formats.h"

#include <string.h>

#include "formats/blocks.h"
#include "formats/half.h"
#include "sparsefire.h"

static void quantize_f32(const float *src, size_t blocks, uint8_t *dst) { memcpy(dst, src, blocks * sizeof *src); }

static void dequantize_f32(const uint8_t *src, size_t blocks, float *dst) { memcpy(dst, src, blocks * sizeof *dst); }

static void quantize_f16(const float *src, size_t blocks, uint8_t *dst) {
  for (size_t i = 0; i < blocks; ++i) {
    const uint16_t half = sf_float_to_half(src[i]);
    memcpy(dst + 2 * i, &half, sizeof half);
  }
}

static void dequantize_f16(const uint8_t *src, size_t blocks, float *dst) {
  for (size_t i = 0; i < blocks; ++i) {
    uint16_t half;
    memcpy(&half, src + 2 * i, sizeof half);
    dst[i] = sf_half_to_float(half);
  }
}

static void quantize_bf16(const float *src, size_t blocks, uint8_t *dst) {
  for (size_t i = 0; i < blocks; ++i) {
    const uint16_t bfloat = sf_float_to_bfloat(src[i]);
    memcpy(dst + 2 * i, &bfloat, sizeof bfloat);
  }
}

static void dequantize_bf16(const uint8_t *src, size_t blocks, float *dst) {
  for (size_t i = 0; i < blocks; ++i) {
    uint16_t bfloat;
    memcpy(&bfloat, src + 2 * i, sizeof bfloat);
    dst[i] = sf_bfloat_to_float(bfloat);
  }
}

static const sf_format formats[SF_FORMATS] = {
    {SF_F32, 1, 4, SF_FORMAT_F32, SF_INPUT_F32, quantize_f32, dequantize_f32},
    {SF_F16, 1, 2, SF_FORMAT_F16, SF_INPUT_F32, quantize_f16, dequantize_f16},
    {SF_BF16, 1, 2, SF_FORMAT_BF16, SF_INPUT_F32, quantize_bf16, dequantize_bf16},
    {SF_Q4_0, SF_BLOCK, Q4_0_BYTES, SF_FORMAT_Q4_0, SF_INPUT_I16, sf_quantize_q4_0, sf_dequantize_q4_0},
    {SF_Q4_1, SF_BLOCK, Q4_1_BYTES, SF_FORMAT_Q4_1, SF_INPUT_I16, sf_quantize_q4_1, sf_dequantize_q4_1},
    {SF_Q5_0, SF_BLOCK, Q5_0_BYTES, SF_FORMAT_Q5_0, SF_INPUT_I16, sf_quantize_q5_0, sf_dequantize_q5_0},
    {SF_Q5_1, SF_BLOCK, Q5_1_BYTES, SF_FORMAT_Q5_1, SF_INPUT_I16, sf_quantize_q5_1, sf_dequantize_q5_1},
    {SF_Q8_0, SF_BLOCK, Q8_0_BYTES, SF_FORMAT_Q8_0, SF_INPUT_I16, sf_quantize_q8_0, sf_dequantize_q8_0},
    {SF_Q4_K, K_COLUMNS, Q4_K_BYTES, SF_FORMAT_Q4_K, SF_INPUT_I16, sf_quantize_q4_k, sf_dequantize_q4_k},
    {SF_Q5_K, K_COLUMNS, Q5_K_BYTES, SF_FORMAT_Q5_K, SF_INPUT_I16, sf_quantize_q5_k, sf_dequantize_q5_k},
    {SF_Q6_K, K_COLUMNS, Q6_K_BYTES, SF_FORMAT_Q6_K, SF_INPUT_I16, sf_quantize_q6_k, sf_dequantize_q6_k},
};

const sf_format *sf_format_find(int32_t format) {
  for (int i = 0; i < SF_FORMATS; ++i) {
    if (formats[i].format == format) return &formats[i];
  }
  return NULL;
}

size_t sf_format_row_bytes(int32_t format, int32_t columns) { return sf_format_bytes(format, 1, columns); }

size_t sf_format_bytes(int32_t format, int32_t rows, int32_t columns) {
  const sf_format *f = sf_format_find(format);
  if (!f || rows < 1 || columns < 1 || columns % f->block_columns != 0) return 0;
  /* Two factors below 2^31 and one below 2^8: 2^62 is never passed before the division of the test. */
  const uint64_t blocks = (uint64_t)rows * (uint64_t)(columns / f->block_columns);
  if (blocks > SIZE_MAX / (uint64_t)f->block_bytes) return 0;
  return (size_t)blocks * (size_t)f->block_bytes;
}

/* Why sf_format_bytes gave 0. */
static int32_t bytes_error(int32_t format, int32_t rows, int32_t columns) {
  const sf_format *f = sf_format_find(format);
  if (!f) return SF_ERROR_FORMAT;
  if (rows < 1 || columns < 1) return SF_ERROR_ARGUMENT;
  return columns % f->block_columns != 0 ? SF_ERROR_FORMAT : SF_ERROR_SHAPE;
}

int32_t sf_quantize(int32_t format, const float *src, int32_t rows, int32_t columns, void *dst, size_t dst_bytes) {
  const size_t bytes = sf_format_bytes(format, rows, columns);
  if (!bytes) return bytes_error(format, rows, columns);
  if (!src || !dst) return SF_ERROR_ARGUMENT;
  if (dst_bytes < bytes) return SF_ERROR_SHAPE;
  const sf_format *f = sf_format_find(format);
  f->quantize(src, bytes / (size_t)f->block_bytes, dst);
  return SF_OK;
}

int32_t sf_dequantize(int32_t format, const void *src, size_t src_bytes, int32_t rows, int32_t columns, float *dst) {
  const size_t bytes = sf_format_bytes(format, rows, columns);
  if (!bytes) return bytes_error(format, rows, columns);
  if (!src || !dst) return SF_ERROR_ARGUMENT;
  if (src_bytes < bytes) return SF_ERROR_SHAPE;
  const sf_format *f = sf_format_find(format);
  f->dequantize(src, bytes / (size_t)f->block_bytes, dst);
  return SF_OK;
}
