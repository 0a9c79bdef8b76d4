/* Normalisation by mean and variance. */
#ifndef SF_KERNELS_LAYER_NORM_H
#define SF_KERNELS_LAYER_NORM_H

/* As in rms_norm, x is taken times a power of two when its squares would overflow. The mean goes first, so that the
 * variance is a sum of squares and not a difference of two of them. */
static void layer_norm(const float *x, const float *weight, const float *bias, int32_t d, float epsilon, float *y) {
  const float down = largest_magnitude(x, d) > 0x1p56f ? 0x1p-72f : 1.0f;
  const vf shrink = v_set1(down);
  vf sums = v_set1(0), squares = v_set1(0);
  const int32_t whole = d - d % SF_LANES, rest = d - whole;
  for (int32_t i = 0; i < whole; i += SF_LANES) sums = v_add(sums, v_mul(v_load(x + i), shrink));
  if (rest) sums = v_add(sums, v_mul(v_load_tail(x + whole, rest), shrink));
  const vf mean = v_set1(v_sum(sums) / (float)d);
  for (int32_t i = 0; i < whole; i += SF_LANES) {
    const vf v = v_sub(v_mul(v_load(x + i), shrink), mean);
    v_store(y + i, v);
    squares = v_fma(v, v, squares);
  }
  if (rest) {
    v_store_tail(y + whole, v_sub(v_mul(v_load_tail(x + whole, rest), shrink), mean), rest);
    const vf v = v_load_tail(y + whole, rest); /* without the lanes past the end, which hold -mean */
    squares = v_fma(v, v, squares);
  }
  const float variance = v_sum(squares) / (float)d + epsilon * down * down; /* 0 for large numbers that are all equal */
  const vf scale = v_set1(variance == 0 ? 0.0f : 1.0f / sqrtf(variance));
  for (int32_t i = 0; i < d; i += SF_LANES) {
    const int32_t n = d - i;
    vf v = v_mul(v_mul(load_some(y + i, n), scale), load_some(weight + i, n));
    if (bias) v = v_add(v, load_some(bias + i, n));
    if (n >= SF_LANES) {
      v_store(y + i, v);
    } else {
      v_store_tail(y + i, v, n);
    }
  }
}

#endif
