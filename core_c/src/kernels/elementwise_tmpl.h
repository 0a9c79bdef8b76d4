/* Kernels that go over vectors of floats once or twice: sums, products, norm, rotation, quantisation of inputs. */
#ifndef SF_KERNELS_ELEMENTWISE_H
#define SF_KERNELS_ELEMENTWISE_H

static void multiply(const float *a, const float *b, int32_t count, float *y) {
  int32_t i = 0;
  for (; i + SF_LANES <= count; i += SF_LANES) v_store(y + i, v_mul(v_load(a + i), v_load(b + i)));
  for (; i < count; ++i) y[i] = a[i] * b[i];
}

static void add(const float *a, const float *b, int32_t count, float *y) {
  int32_t i = 0;
  for (; i + SF_LANES <= count; i += SF_LANES) v_store(y + i, v_add(v_load(a + i), v_load(b + i)));
  for (; i < count; ++i) y[i] = a[i] + b[i];
}

static void halves(const float *x, int32_t count, uint8_t *y) {
  int32_t i = 0;
  for (; i + SF_LANES <= count; i += SF_LANES) v_store_f16(y + 2 * i, v_load(x + i));
  for (; i < count; ++i) sf_put_half(y + 2 * i, x[i]);
}

static void scale(float factor, float *x, int32_t count) {
  const vf times = v_set1(factor);
  int32_t i = 0;
  for (; i + SF_LANES <= count; i += SF_LANES) v_store(x + i, v_mul(v_load(x + i), times));
  for (; i < count; ++i) x[i] *= factor;
}

/* The largest |x|. */
SF_INLINE float largest_magnitude(const float *x, int32_t count) {
  vf most = v_set1(0);
  int32_t i = 0;
  for (; i + SF_LANES <= count; i += SF_LANES) most = v_max(most, v_abs(v_load(x + i)));
  if (i < count) most = v_max(most, v_abs(v_load_tail(x + i, count - i)));
  return v_largest(most);
}

/* x is taken times a power of two when its squares would overflow; it is exact and cancels out. */
static void rms_norm(const float *x, const float *weight, int32_t d, float epsilon, float *y) {
  const float down = largest_magnitude(x, d) > 0x1p56f ? 0x1p-72f : 1.0f;
  const vf shrink = v_set1(down);
  vf squares = v_set1(0);
  int32_t i = 0;
  for (; i + SF_LANES <= d; i += SF_LANES) {
    const vf v = v_mul(v_load(x + i), shrink);
    squares = v_fma(v, v, squares);
  }
  if (i < d) {
    const vf v = v_mul(v_load_tail(x + i, d - i), shrink);
    squares = v_fma(v, v, squares);
  }
  const vf scale = v_set1(down / sqrtf(v_sum(squares) / (float)d + epsilon * down * down));
  for (i = 0; i + SF_LANES <= d; i += SF_LANES) {
    v_store(y + i, v_mul(v_mul(v_load(x + i), scale), v_load(weight + i)));
  }
  if (i < d) {
    const int32_t n = d - i;
    v_store_tail(y + i, v_mul(v_mul(v_load_tail(x + i, n), scale), v_load_tail(weight + i, n)), n);
  }
}

static void rope(float *x, const float *cos_sin, int32_t pairs, int32_t halves) {
  const int32_t step = halves ? 1 : 2, apart = halves ? pairs : 1;
  for (int32_t i = 0; i < pairs; ++i, x += step) {
    const float c = cos_sin[2 * i], s = cos_sin[2 * i + 1], first = x[0], second = x[apart];
    x[0] = first * c - second * s;
    x[apart] = first * s + second * c;
  }
}

/* Values so small that their inverse scale would overflow become zeros. */
static void quantize_i16(const float *x, int32_t columns, int32_t most_level, int32_t shared, int16_t *values,
                         float *scales, float *sums) {
  const float quants = (float)most_level;
  const vf zero = v_set1(0);
  static const uint8_t one[SF_BLOCK] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  const vb ones = vb_load_u8(one);
  for (int32_t first = 0; first < columns; first += shared) {
    const int32_t end = columns - first < shared ? columns : first + shared;
    const float most = largest_magnitude(x + first, end - first);
    vf odd = zero; /* Σ x · 0: 0, or NaN where NaN or infinity is among x */
    for (int32_t c = first; c < end; c += SF_LANES) odd = v_fma(v_load(x + c), zero, odd);
    const float none = v_sum(odd), scale = most / quants;
    const int empty = !(most >= 1e-30f) || none != 0;
    const vf inverse = v_set1(empty ? 0.0f : quants / most);
    for (int32_t c = first; c < end; c += SF_BLOCK) {
      for (int k = 0; k < SF_BLOCK; k += SF_LANES) v_store_i16(values + c + k, v_mul(v_load(x + c + k), inverse));
      scales[c / SF_BLOCK] = empty ? none : scale;
      sums[c / SF_BLOCK] = scales[c / SF_BLOCK] * v_sum(vb_dot(vb_load_i16(values + c), ones));
    }
  }
}

static void prefetch(const uint8_t *from, size_t bytes) {
  for (size_t at = 0; at < bytes; at += LINE) v_prefetch(from + at);
}

/* x · 0 is 0 for every finite x, else NaN; a sum with a NaN in it is NaN. */
static int32_t all_finite(const float *x, int32_t count) {
  const vf zero = v_set1(0);
  vf sum = zero;
  int32_t i = 0;
  for (; i + SF_LANES <= count; i += SF_LANES) sum = v_add(sum, v_mul(v_load(x + i), zero));
  if (i < count) sum = v_add(sum, v_mul(v_load_tail(x + i, count - i), zero));
  return v_sum(sum) == 0.0f;
}

/* Counted in floats, which are exact up to 2²⁴. */
static int32_t count_above(const float *x, int32_t count, float limit) {
  enum { CHAINS = 4 };
  const vf above = v_set1(limit), one = v_set1(1), zero = v_set1(0);
  vf sum[CHAINS] = {zero, zero, zero, zero};
  int32_t i = 0, rest = 0;
  for (; i + CHAINS * SF_LANES <= count; i += CHAINS * SF_LANES) {
    for (int k = 0; k < CHAINS; ++k) {
      sum[k] = v_add(sum[k], v_select(v_less(above, v_load(x + i + k * SF_LANES)), one, zero));
    }
  }
  for (; i < count; ++i) rest += x[i] > limit;
  return rest + (int32_t)v_sum(v_add(v_add(sum[0], sum[1]), v_add(sum[2], sum[3])));
}

#endif
