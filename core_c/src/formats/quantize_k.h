/* Quantisation by a search for the scales that leave the least squared error, to formats of which GGUF fixes the
 * layout, not the search: those with blocks of 256 columns, or with levels. */
#ifndef SF_QUANTIZE_K_H
#define SF_QUANTIZE_K_H

#include <math.h>

#include "formats/quants.h"

/* Stores the integer scales and mins of a block. */
typedef void pack_scales_fn(uint8_t *block, const int32_t *scales, const int32_t *mins);

/* x to the nearest integer of least … most; `least` for NaN. */
static int32_t nearest(float x, int32_t least, int32_t most) {
  if (!(x > (float)least)) return least;
  return x < (float)most ? (int32_t)floorf(x + 0.5f) : most;
}

/* The scale of a block, of which the largest of its steps is `most`: a half that neither overflows nor is NaN. */
static float block_scale(float most, float steps, uint8_t *half) {
  const float scale = most / steps;
  sf_put_half(half, scale < SF_LARGEST_HALF ? (scale > -SF_LARGEST_HALF ? scale : -SF_LARGEST_HALF) : SF_LARGEST_HALF);
  return sf_get_half(half);
}

/* Columns that share a scale in blocks of 256. */
static int run_columns(const sf_traits *traits) { return traits->scales == SF_SCALES_RUNS ? SF_RUN : SF_BLOCK; }

static float inverse_of(float scale) { return scale == 0 ? 0.0f : 1.0f / scale; }

/* ---- With mins: w = scale · q - min ---- */

typedef struct {
  float scale, min; /* both ≥ 0 */
} affine;

static float affine_error(const float *x, int n, affine a, int32_t most) {
  const float inverse = inverse_of(a.scale);
  float error = 0;
  for (int k = 0; k < n; ++k) {
    const float off = a.scale * (float)nearest((x[k] + a.min) * inverse, 0, most) - a.min - x[k];
    error += off * off;
  }
  return error;
}

/* The scale and min that fit x (n) best when its quants are those that `by` gives. */
static affine affine_fit(const float *x, int n, affine by, int32_t most) {
  const float inverse = inverse_of(by.scale);
  float q1 = 0, q2 = 0, x1 = 0, xq = 0;
  for (int k = 0; k < n; ++k) {
    const float q = (float)nearest((x[k] + by.min) * inverse, 0, most);
    q1 += q, q2 += q * q, x1 += x[k], xq += x[k] * q;
  }
  const float determinant = (float)n * q2 - q1 * q1;
  affine best = {0, 0};
  if (determinant > 0) {
    best.scale = ((float)n * xq - x1 * q1) / determinant;
    best.min = (q1 * xq - q2 * x1) / determinant;
  }
  if (!(best.min > 0)) { /* a min below 0 cannot be stored */
    best.min = 0;
    best.scale = q2 > 0 ? xq / q2 : 0;
  }
  if (!(best.scale > 0)) best.scale = 0;
  return best;
}

/* Tries somewhat finer and coarser steps than those that just span x (n), each with its best fit. */
static affine affine_search(const float *x, int n, int32_t most) {
  float least = 0, largest = x[0]; /* a min below 0 cannot be stored */
  for (int k = 0; k < n; ++k) {
    least = x[k] < least ? x[k] : least;
    largest = x[k] > largest ? x[k] : largest;
  }
  affine best = {(largest - least) / (float)most, -least};
  if (!(best.scale > 0)) best.scale = 0;
  float best_error = affine_error(x, n, best, most);
  for (int step = -6; step <= 8; ++step) {
    const affine spread = {(largest - least) / ((float)most + 0.15f * (float)step), -least};
    const affine fitted = affine_fit(x, n, spread, most);
    const float error = affine_error(x, n, fitted, most);
    if (error < best_error) {
      best = fitted;
      best_error = error;
    }
  }
  return best;
}

/* Writes d, m and the scales and mins, integers up to `most_scale`; leaves in `runs` what they come to. */
static void write_affine(const sf_traits *traits, const float *x, int run, int32_t most_scale, pack_scales_fn *pack,
                         uint8_t *dst, affine *runs) {
  const int count = SF_SUPER_BLOCK / run;
  int32_t scales[SF_RUNS], mins[SF_RUNS];
  float largest_scale = 0, largest_min = 0;
  for (int i = 0; i < count; ++i) {
    runs[i] = affine_search(x + run * i, run, most_quant(traits));
    largest_scale = runs[i].scale > largest_scale ? runs[i].scale : largest_scale;
    largest_min = runs[i].min > largest_min ? runs[i].min : largest_min;
  }
  const float d = block_scale(largest_scale, (float)most_scale, dst + traits->d);
  const float m = block_scale(largest_min, (float)most_scale, dst + traits->m);
  for (int i = 0; i < count; ++i) {
    scales[i] = nearest(runs[i].scale * inverse_of(d), 0, most_scale);
    mins[i] = nearest(runs[i].min * inverse_of(m), 0, most_scale);
    runs[i].scale = d * (float)scales[i];
    runs[i].min = m * (float)mins[i];
  }
  pack(dst, scales, mins);
}

static void quantize_with_mins(const sf_traits *traits, int32_t most_scale, pack_scales_fn *pack, const float *src,
                               size_t blocks, uint8_t *dst) {
  const int run = run_columns(traits);
  for (size_t b = 0; b < blocks; ++b, src += SF_SUPER_BLOCK, dst += traits->block_bytes) {
    affine runs[SF_RUNS];
    memset(dst, 0, (size_t)traits->block_bytes);
    write_affine(traits, src, run, most_scale, pack, dst, runs);
    for (int k = 0; k < SF_SUPER_BLOCK; ++k) {
      const affine a = runs[k / run];
      put_quant(traits, dst, k, nearest((src[k] + a.min) * inverse_of(a.scale), 0, most_quant(traits)));
    }
  }
}

/* ---- With a zero point or levels: w = scale · value of q ---- */

/* The quant whose value is nearest to x, which counts in steps of the scale. */
static int32_t nearest_quant(const sf_traits *traits, float x) {
  const int8_t *levels = traits->levels; /* they ascend */
  if (!levels) return nearest(x, -traits->zero_point, most_quant(traits) - traits->zero_point) + traits->zero_point;
  int32_t quant = 0;
  while (quant < most_quant(traits) && 2 * x > (float)(levels[quant] + levels[quant + 1])) ++quant;
  return quant;
}

/* Adds the quants of columns first … last - 1 to a block of zeros; x is the block. */
static void put_nearest(const sf_traits *traits, const float *x, int first, int last, float scale, uint8_t *dst) {
  const float inverse = inverse_of(scale);
  for (int k = first; k < last; ++k) put_quant(traits, dst, k, nearest_quant(traits, x[k] * inverse));
}

/* What the extreme value is tried to be, in steps of the scale, of tries -9 … 9. Levels do not lie alike on both sides
 * of 0, so both are tried. */
static float tried_extreme(const sf_traits *traits, int try) {
  if (!traits->levels) return (float)value_of_quant(traits, 0) - 0.1f * (float)try;
  const float size = 118.0f + 2.5f * (float)try;
  return try % 2 ? size : -size;
}

/* The scale of n columns: of several that give the extreme value a quant near the end, each fitted to the quants that
 * come of it, the one with the least error, which is Σ x² - (Σ x q)² / Σ q². */
static float centred_search(const sf_traits *traits, const float *x, int n) {
  float extreme = 0, best = 0, best_gain = 0;
  for (int k = 0; k < n; ++k) extreme = fabsf(x[k]) > fabsf(extreme) ? x[k] : extreme;
  if (extreme == 0) return 0;
  for (int try = -9; try <= 9; ++try) {
    const float inverse = tried_extreme(traits, try) / extreme;
    float xq = 0, q2 = 0;
    for (int k = 0; k < n; ++k) {
      const float q = (float)value_of_quant(traits, nearest_quant(traits, x[k] * inverse));
      xq += x[k] * q, q2 += q * q;
    }
    const float gain = q2 > 0 ? xq * (xq / q2) : 0;
    if (gain > best_gain) {
      best_gain = gain;
      best = xq / q2;
    }
  }
  return best_gain > 0 ? best
                       : extreme / tried_extreme(traits, 0); /* squares so small or large that they tell nothing */
}

/* The scales are integers from -steps to steps - 1. */
static void quantize_with_zero_point(const sf_traits *traits, int32_t steps, pack_scales_fn *pack, const float *src,
                                     size_t blocks, uint8_t *dst) {
  const int run = run_columns(traits), count = SF_SUPER_BLOCK / run;
  for (size_t b = 0; b < blocks; ++b, src += SF_SUPER_BLOCK, dst += traits->block_bytes) {
    float scales[SF_RUNS], extreme = 0;
    int32_t stored[SF_RUNS];
    memset(dst, 0, (size_t)traits->block_bytes);
    for (int i = 0; i < count; ++i) {
      scales[i] = centred_search(traits, src + run * i, run);
      extreme = fabsf(scales[i]) > fabsf(extreme) ? scales[i] : extreme;
    }
    const float d = block_scale(extreme, (float)-steps, dst + traits->d);
    for (int i = 0; i < count; ++i) {
      stored[i] = nearest(scales[i] * inverse_of(d), -steps, steps - 1);
      put_nearest(traits, src, run * i, run * (i + 1), d * (float)stored[i], dst);
    }
    pack(dst, stored, NULL);
  }
}

#endif
