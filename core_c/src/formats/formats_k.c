/* Conversions of the formats with blocks of 256 columns. Reading is bit for bit as GGUF's reference does it. Writing
 * looks for the scales that leave the least squared error: GGUF fixes the layout, not the search. */
#include <math.h>

#include "formats/blocks.h"
#include "formats/conversions.h"
#include "formats/half.h"

enum { SUB = K_COLUMNS / K_SUB_BLOCKS, RUN = 16, RUNS = K_COLUMNS / RUN };

/* x to the nearest integer of least … most; `least` for NaN. */
static int32_t nearest(float x, int32_t least, int32_t most) {
  if (!(x > (float)least)) return least;
  return x < (float)most ? (int32_t)floorf(x + 0.5f) : most;
}

/* The scale of a block, of which the largest of its steps is `most`: a half that neither overflows nor is NaN. */
static float block_scale(float most, float steps, uint8_t *half) {
  const float scale = most / steps;
  sf_put_half(half, scale < 65504.0f ? (scale > -65504.0f ? scale : -65504.0f) : 65504.0f);
  return sf_get_half(half);
}

static float inverse_of(float scale) { return scale == 0 ? 0.0f : 1.0f / scale; }

/* ---- Q4_K and Q5_K: w = scale · q - min ---- */

typedef struct {
  float scale, min; /* both ≥ 0 */
} affine;

static float affine_error(const float *x, affine a, int32_t most) {
  const float inverse = inverse_of(a.scale);
  float error = 0;
  for (int k = 0; k < SUB; ++k) {
    const float off = a.scale * (float)nearest((x[k] + a.min) * inverse, 0, most) - a.min - x[k];
    error += off * off;
  }
  return error;
}

/* The scale and min that fit x best when its levels are those that `by` gives. */
static affine affine_fit(const float *x, affine by, int32_t most) {
  const float inverse = inverse_of(by.scale);
  float q1 = 0, q2 = 0, x1 = 0, xq = 0;
  for (int k = 0; k < SUB; ++k) {
    const float q = (float)nearest((x[k] + by.min) * inverse, 0, most);
    q1 += q, q2 += q * q, x1 += x[k], xq += x[k] * q;
  }
  const float determinant = (float)SUB * q2 - q1 * q1;
  affine best = {0, 0};
  if (determinant > 0) {
    best.scale = ((float)SUB * xq - x1 * q1) / determinant;
    best.min = (q1 * xq - q2 * x1) / determinant;
  }
  if (!(best.min > 0)) { /* a min below 0 cannot be stored */
    best.min = 0;
    best.scale = q2 > 0 ? xq / q2 : 0;
  }
  if (!(best.scale > 0)) best.scale = 0;
  return best;
}

/* Tries somewhat finer and coarser levels than those that just span x, each with its best fit. */
static affine affine_search(const float *x, int32_t most) {
  float least = 0, largest = x[0]; /* a min below 0 cannot be stored */
  for (int k = 0; k < SUB; ++k) {
    least = x[k] < least ? x[k] : least;
    largest = x[k] > largest ? x[k] : largest;
  }
  affine best = {(largest - least) / (float)most, -least};
  if (!(best.scale > 0)) best.scale = 0;
  float best_error = affine_error(x, best, most);
  for (int step = -6; step <= 8; ++step) {
    const affine spread = {(largest - least) / ((float)most + 0.15f * (float)step), -least};
    const affine fitted = affine_fit(x, spread, most);
    const float error = affine_error(x, fitted, most);
    if (error < best_error) {
      best = fitted;
      best_error = error;
    }
  }
  return best;
}

static void pack_k_scales(const uint8_t *scales, const uint8_t *mins, uint8_t *packed) {
  for (int s = 0; s < 4; ++s) {
    packed[s] = (uint8_t)(scales[s] | (scales[s + 4] >> 4) << 6);
    packed[s + 4] = (uint8_t)(mins[s] | (mins[s + 4] >> 4) << 6);
    packed[s + 8] = (uint8_t)((scales[s + 4] & 15) | (mins[s + 4] & 15) << 4);
  }
}

/* Writes d, m and the packed scales; leaves in `subs` what they come to. */
static void write_affine(const float *x, int32_t most, uint8_t *dst, affine *subs) {
  uint8_t scales[K_SUB_BLOCKS], mins[K_SUB_BLOCKS];
  float largest_scale = 0, largest_min = 0;
  for (int s = 0; s < K_SUB_BLOCKS; ++s) {
    subs[s] = affine_search(x + SUB * s, most);
    largest_scale = subs[s].scale > largest_scale ? subs[s].scale : largest_scale;
    largest_min = subs[s].min > largest_min ? subs[s].min : largest_min;
  }
  const float d = block_scale(largest_scale, 63, dst), m = block_scale(largest_min, 63, dst + 2);
  for (int s = 0; s < K_SUB_BLOCKS; ++s) {
    scales[s] = (uint8_t)nearest(subs[s].scale * inverse_of(d), 0, 63);
    mins[s] = (uint8_t)nearest(subs[s].min * inverse_of(m), 0, 63);
    subs[s].scale = d * (float)scales[s];
    subs[s].min = m * (float)mins[s];
  }
  pack_k_scales(scales, mins, dst + K_SCALES);
}

static void quantize_affine(const float *src, size_t blocks, uint8_t *dst, int bits) {
  const size_t bytes = bits == 5 ? Q5_K_BYTES : Q4_K_BYTES;
  for (size_t b = 0; b < blocks; ++b, src += K_COLUMNS, dst += bytes) {
    uint8_t *nibbles = dst + (bits == 5 ? Q5_K_NIBBLES : Q4_K_NIBBLES);
    affine subs[K_SUB_BLOCKS];
    memset(dst, 0, bytes);
    write_affine(src, (1 << bits) - 1, dst, subs);
    for (int s = 0; s < K_SUB_BLOCKS; ++s) {
      const float inverse = inverse_of(subs[s].scale);
      for (int k = 0; k < SUB; ++k) {
        const int32_t level = nearest((src[SUB * s + k] + subs[s].min) * inverse, 0, (1 << bits) - 1);
        nibbles[SUB * (s / 2) + k] |= (uint8_t)((level & 15) << 4 * (s % 2));
        if (bits == 5) dst[Q5_K_FIFTHS + k] |= (uint8_t)((level >> 4) << s);
      }
    }
  }
}

static void dequantize_affine(const uint8_t *src, size_t blocks, float *dst, int bits) {
  for (size_t b = 0; b < blocks; ++b, src += bits == 5 ? Q5_K_BYTES : Q4_K_BYTES, dst += K_COLUMNS) {
    const uint8_t *nibbles = src + (bits == 5 ? Q5_K_NIBBLES : Q4_K_NIBBLES);
    const float d = sf_get_half(src), m = sf_get_half(src + 2);
    uint8_t unpacked[2 * K_SUB_BLOCKS];
    sf_unpack_k_scales(src + K_SCALES, unpacked);
    for (int s = 0; s < K_SUB_BLOCKS; ++s) {
      const float scale = d * (float)unpacked[s], min = m * (float)unpacked[K_SUB_BLOCKS + s];
      for (int k = 0; k < SUB; ++k) {
        const int fifth = bits == 5 ? src[Q5_K_FIFTHS + k] >> s & 1 : 0;
        const int level = (nibbles[SUB * (s / 2) + k] >> 4 * (s % 2) & 15) + 16 * fifth;
        dst[SUB * s + k] = scale * (float)level - min;
      }
    }
  }
}

void sf_quantize_q4_k(const float *src, size_t blocks, uint8_t *dst) { quantize_affine(src, blocks, dst, 4); }
void sf_quantize_q5_k(const float *src, size_t blocks, uint8_t *dst) { quantize_affine(src, blocks, dst, 5); }
void sf_dequantize_q4_k(const uint8_t *src, size_t blocks, float *dst) { dequantize_affine(src, blocks, dst, 4); }
void sf_dequantize_q5_k(const uint8_t *src, size_t blocks, float *dst) { dequantize_affine(src, blocks, dst, 5); }

/* ---- Q6_K: w = scale · (q - 32) ---- */

/* The scale of 16 columns: of several that give the extreme value a level near the end, each fitted to the levels that
 * come of it, the one with the least error, which is Σ x² - (Σ x q)² / Σ q². */
static float centred_search(const float *x) {
  float extreme = 0, best = 0, best_gain = 0;
  for (int k = 0; k < RUN; ++k) extreme = fabsf(x[k]) > fabsf(extreme) ? x[k] : extreme;
  if (extreme == 0) return 0;
  for (int step = -9; step <= 9; ++step) {
    const float inverse = -(32.0f + 0.1f * (float)step) / extreme;
    float xq = 0, q2 = 0;
    for (int k = 0; k < RUN; ++k) {
      const float q = (float)nearest(x[k] * inverse, -32, 31);
      xq += x[k] * q, q2 += q * q;
    }
    const float gain = q2 > 0 ? xq * (xq / q2) : 0;
    if (gain > best_gain) {
      best_gain = gain;
      best = xq / q2;
    }
  }
  return best_gain > 0 ? best : extreme / -32; /* squares so small or large that they tell nothing */
}

/* Columns are numbered as in blocks.h. */
static void put_q6(uint8_t *block, int column, int32_t level) {
  const int part = column / 128, in_part = column % 128;
  block[64 * part + in_part % 64] |= (uint8_t)((level & 15) << 4 * (in_part / 64));
  block[Q6_K_PAIRS + 32 * part + in_part % 32] |= (uint8_t)((level >> 4) << 2 * (in_part / 32));
}

static int32_t get_q6(const uint8_t *block, int column) {
  const int part = column / 128, in_part = column % 128;
  const int nibble = block[64 * part + in_part % 64] >> 4 * (in_part / 64) & 15;
  return nibble | (block[Q6_K_PAIRS + 32 * part + in_part % 32] >> 2 * (in_part / 32) & 3) << 4;
}

void sf_quantize_q6_k(const float *src, size_t blocks, uint8_t *dst) {
  for (size_t b = 0; b < blocks; ++b, src += K_COLUMNS, dst += Q6_K_BYTES) {
    float scales[RUNS], extreme = 0;
    memset(dst, 0, Q6_K_BYTES);
    for (int i = 0; i < RUNS; ++i) {
      scales[i] = centred_search(src + RUN * i);
      extreme = fabsf(scales[i]) > fabsf(extreme) ? scales[i] : extreme;
    }
    const float d = block_scale(extreme, -128, dst + Q6_K_D);
    for (int i = 0; i < RUNS; ++i) {
      const int32_t step = nearest(scales[i] * inverse_of(d), -128, 127);
      const float inverse = inverse_of(d * (float)step);
      dst[Q6_K_SCALES + i] = (uint8_t)(step & 255);
      for (int k = RUN * i; k < RUN * (i + 1); ++k) put_q6(dst, k, nearest(src[k] * inverse, -32, 31) + 32);
    }
  }
}

void sf_dequantize_q6_k(const uint8_t *src, size_t blocks, float *dst) {
  for (size_t b = 0; b < blocks; ++b, src += Q6_K_BYTES, dst += K_COLUMNS) {
    const float d = sf_get_half(src + Q6_K_D);
    int8_t scales[RUNS];
    memcpy(scales, src + Q6_K_SCALES, sizeof scales);
    for (int k = 0; k < K_COLUMNS; ++k) dst[k] = d * (float)scales[k / RUN] * (float)(get_q6(src, k) - 32);
  }
}
