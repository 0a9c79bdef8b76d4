/* Conversions of the formats with blocks of 32 columns, from and to floats, bit for bit as GGUF's reference does it. */
#include <math.h>

#include "formats/blocks.h"
#include "formats/conversions.h"
#include "formats/half.h"

enum { BLOCK = 32 };

/* ---- Q8_0 ---- */

/* x to the nearest integer within ±127, halves away from zero; NaN to 0. */
static int8_t round_to_i8(float x) {
  const float magnitude = fabsf(x), whole = floorf(magnitude);
  const float rounded = whole + (magnitude - whole >= 0.5f ? 1.0f : 0.0f);
  const int level = rounded < 127.0f ? (int)rounded : rounded >= 127.0f ? 127 : 0;
  return (int8_t)(x < 0 ? -level : level);
}

/* The scale is the largest |x| / 127; levels are x / scale, by the unrounded scale. */
void sf_quantize_q8_0(const float *src, size_t blocks, uint8_t *dst) {
  for (size_t b = 0; b < blocks; ++b, src += BLOCK, dst += Q8_0_BYTES) {
    float most = 0;
    for (int k = 0; k < BLOCK; ++k) {
      if (!(fabsf(src[k]) <= most)) most = fabsf(src[k]); /* a NaN, once met, stays: nothing compares with it */
      if (most != most) break;
    }
    const float scale = most / 127.0f;
    const float inverse = scale == 0 ? 0.0f : 1.0f / scale;
    sf_put_half(dst, scale);
    for (int k = 0; k < BLOCK; ++k) {
      const int8_t level = round_to_i8(src[k] * inverse);
      memcpy(dst + 2 + k, &level, 1);
    }
  }
}

void sf_dequantize_q8_0(const uint8_t *src, size_t blocks, float *dst) {
  for (size_t b = 0; b < blocks; ++b, src += Q8_0_BYTES, dst += BLOCK) {
    int8_t levels[BLOCK];
    memcpy(levels, src + 2, sizeof levels);
    const float scale = sf_get_half(src);
    for (int k = 0; k < BLOCK; ++k) dst[k] = scale * (float)levels[k];
  }
}

/* ---- Q4_0, Q4_1, Q5_0, Q5_1: `bits` a level, with a min or centred ---- */

/* The level of x, which truncation rounds; 0 for NaN. */
static uint32_t truncated(float x, uint32_t most) {
  if (!(x >= 1)) return 0;
  return x < (float)most ? (uint32_t)x : most;
}

/* Levels of 0 … most stand for the values from the least to the largest. Returns the scale. */
static float levels_with_min(const float *x, uint32_t most, uint32_t *levels, float *min) {
  float least = x[0], largest = x[0];
  for (int k = 1; k < BLOCK; ++k) {
    least = x[k] < least ? x[k] : least;
    largest = x[k] > largest ? x[k] : largest;
  }
  const float scale = (largest - least) / (float)most;
  const float inverse = scale == 0 ? 0.0f : 1.0f / scale;
  for (int k = 0; k < BLOCK; ++k) levels[k] = truncated((x[k] - least) * inverse + 0.5f, most);
  *min = least;
  return scale;
}

/* The value of the largest magnitude gets level 0, the other end of the levels one step less. Returns the scale. */
static float levels_centred(const float *x, uint32_t most, uint32_t *levels) {
  const float centre = (float)((most + 1) / 2);
  float extreme = x[0];
  for (int k = 1; k < BLOCK; ++k) extreme = fabsf(x[k]) > fabsf(extreme) ? x[k] : extreme;
  const float scale = extreme / -centre;
  const float inverse = scale == 0 ? 0.0f : 1.0f / scale;
  for (int k = 0; k < BLOCK; ++k) levels[k] = truncated(x[k] * inverse + (centre + 0.5f), most);
  return scale;
}

static void quantize(const float *src, size_t blocks, uint8_t *dst, int bits, int with_min) {
  for (size_t b = 0; b < blocks; ++b, src += BLOCK) {
    const uint32_t most = (1u << bits) - 1;
    uint32_t levels[BLOCK], fifths = 0;
    float min = 0;
    const float scale = with_min ? levels_with_min(src, most, levels, &min) : levels_centred(src, most, levels);
    sf_put_half(dst, scale);
    dst += 2;
    if (with_min) {
      sf_put_half(dst, min);
      dst += 2;
    }
    for (int k = 0; k < BLOCK; ++k) fifths |= (levels[k] >> 4) << k;
    if (bits == 5) {
      memcpy(dst, &fifths, sizeof fifths);
      dst += 4;
    }
    for (int k = 0; k < BLOCK / 2; ++k) *dst++ = (uint8_t)((levels[k] & 15) | (levels[k + BLOCK / 2] & 15) << 4);
  }
}

static void dequantize(const uint8_t *src, size_t blocks, float *dst, int bits, int with_min) {
  for (size_t b = 0; b < blocks; ++b, dst += BLOCK) {
    const float scale = sf_get_half(src), min = with_min ? sf_get_half(src + 2) : 0.0f;
    const int centre = with_min ? 0 : 1 << (bits - 1);
    uint32_t fifths = 0;
    src += with_min ? 4 : 2;
    if (bits == 5) {
      memcpy(&fifths, src, sizeof fifths);
      src += 4;
    }
    for (int k = 0; k < BLOCK; ++k) {
      const int nibble = k < BLOCK / 2 ? src[k] & 15 : src[k - BLOCK / 2] >> 4;
      const int level = nibble + (int)(fifths >> k & 1) * 16;
      const float value = scale * (float)(level - centre);
      dst[k] = with_min ? value + min : value;
    }
    src += BLOCK / 2;
  }
}

void sf_quantize_q4_0(const float *src, size_t blocks, uint8_t *dst) { quantize(src, blocks, dst, 4, 0); }
void sf_quantize_q4_1(const float *src, size_t blocks, uint8_t *dst) { quantize(src, blocks, dst, 4, 1); }
void sf_quantize_q5_0(const float *src, size_t blocks, uint8_t *dst) { quantize(src, blocks, dst, 5, 0); }
void sf_quantize_q5_1(const float *src, size_t blocks, uint8_t *dst) { quantize(src, blocks, dst, 5, 1); }
void sf_dequantize_q4_0(const uint8_t *src, size_t blocks, float *dst) { dequantize(src, blocks, dst, 4, 0); }
void sf_dequantize_q4_1(const uint8_t *src, size_t blocks, float *dst) { dequantize(src, blocks, dst, 4, 1); }
void sf_dequantize_q5_0(const uint8_t *src, size_t blocks, float *dst) { dequantize(src, blocks, dst, 5, 0); }
void sf_dequantize_q5_1(const uint8_t *src, size_t blocks, float *dst) { dequantize(src, blocks, dst, 5, 1); }
