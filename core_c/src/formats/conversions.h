/* What formats.c puts into its table: conversions of whole blocks from and to floats. Any input is safe; what NaN and
 * infinity become is unspecified. */
#ifndef SF_CONVERSIONS_H
#define SF_CONVERSIONS_H

#include <stddef.h>
#include <stdint.h>

typedef void sf_quantize_fn(const float *src, size_t blocks, uint8_t *dst);
typedef void sf_dequantize_fn(const uint8_t *src, size_t blocks, float *dst);

sf_quantize_fn sf_quantize_q4_0, sf_quantize_q4_1, sf_quantize_q5_0, sf_quantize_q5_1, sf_quantize_q8_0;
sf_quantize_fn sf_quantize_q4_k, sf_quantize_q5_k, sf_quantize_q6_k;
sf_dequantize_fn sf_dequantize_q4_0, sf_dequantize_q4_1, sf_dequantize_q5_0, sf_dequantize_q5_1, sf_dequantize_q8_0;
sf_dequantize_fn sf_dequantize_q4_k, sf_dequantize_q5_k, sf_dequantize_q6_k;

#endif
