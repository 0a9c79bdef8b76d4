/* Quantisation to blocks of 32 columns with quants that count from 0, bit for bit as GGUF's reference does it. */
#ifndef SF_QUANTIZE_SMALL_H
#define SF_QUANTIZE_SMALL_H

#include <math.h>

#include "formats/quants.h"

/* The quant of x, which truncation rounds; 0 for NaN. */
static uint32_t truncated(float x, uint32_t most) {
  if (!(x >= 1)) return 0;
  return x < (float)most ? (uint32_t)x : most;
}

/* Quants of 0 … most stand for the values from the least to the largest. Returns the scale. */
static float quants_with_min(const float *x, uint32_t most, uint32_t *quants, float *min) {
  float least = x[0], largest = x[0];
  for (int k = 1; k < SF_BLOCK; ++k) {
    least = x[k] < least ? x[k] : least;
    largest = x[k] > largest ? x[k] : largest;
  }
  const float scale = (largest - least) / (float)most;
  const float inverse = scale == 0 ? 0.0f : 1.0f / scale;
  for (int k = 0; k < SF_BLOCK; ++k) quants[k] = truncated((x[k] - least) * inverse + 0.5f, most);
  *min = least;
  return scale;
}

/* The value of the largest magnitude gets quant 0, the other end of the quants one step less. Returns the scale. */
static float quants_with_zero_point(const float *x, int zero_point, uint32_t most, uint32_t *quants) {
  const float zero = (float)zero_point;
  float extreme = x[0];
  for (int k = 1; k < SF_BLOCK; ++k) extreme = fabsf(x[k]) > fabsf(extreme) ? x[k] : extreme;
  const float scale = extreme / -zero;
  const float inverse = scale == 0 ? 0.0f : 1.0f / scale;
  for (int k = 0; k < SF_BLOCK; ++k) quants[k] = truncated(x[k] * inverse + (zero + 0.5f), most);
  return scale;
}

static void quantize_small(const sf_traits *traits, const float *src, size_t blocks, uint8_t *dst) {
  const uint32_t most = (uint32_t)most_quant(traits);
  for (size_t b = 0; b < blocks; ++b, src += SF_BLOCK, dst += traits->block_bytes) {
    uint32_t quants[SF_BLOCK];
    float min = 0;
    memset(dst, 0, (size_t)traits->block_bytes);
    if (traits->m == SF_NO_MIN) {
      sf_put_half(dst + traits->d, quants_with_zero_point(src, traits->zero_point, most, quants));
    } else {
      sf_put_half(dst + traits->d, quants_with_min(src, most, quants, &min));
      sf_put_half(dst + traits->m, min);
    }
    for (int k = 0; k < SF_BLOCK; ++k) put_quant(traits, dst, k, (int32_t)quants[k]);
  }
}

#endif
