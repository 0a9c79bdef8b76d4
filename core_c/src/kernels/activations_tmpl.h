/* Activation functions and softmax, on one exponential of non-positive arguments: nothing in it can overflow, so
 * every activation holds over the whole range of floats. */
#ifndef SF_KERNELS_ACTIVATIONS_H
#define SF_KERNELS_ACTIVATIONS_H

/* e^x for x ≤ 0, relative error below 2e-7; 0 below -87.7. x = n · ln 2 + r, |r| ≤ ln 2 / 2; the product of n and the
 * high part of ln 2 is exact; the polynomial is the minimax one for (e^r - 1 - r) / r². */
SF_INLINE vf exp_negative(vf x) {
  x = v_max(x, v_set1(-88.0f)); /* where n is -127 and v_pow2 gives 0 */
  const vi n = v_round(v_mul(x, v_set1(1.44269504f)));
  const vf nf = v_float(n);
  const vf r = v_fma(nf, v_set1(2.12194440e-4f), v_fma(nf, v_set1(-0.693359375f), x));
  vf p = v_fma(v_set1(1.38131446e-3f), r, v_set1(8.36941896e-3f));
  p = v_fma(p, r, v_set1(4.16684568e-2f));
  p = v_fma(p, r, v_set1(1.66665148e-1f));
  p = v_fma(p, r, v_set1(4.99999931e-1f));
  p = v_fma(v_mul(p, r), r, r);
  return v_mul(v_add(p, v_set1(1.0f)), v_pow2(n));
}

/* 1 / (1 + e^-v), computed from e^-|v| so that both ends come out as they should. */
SF_INLINE vf sigmoid(vf v) {
  const vf one = v_set1(1.0f), e = exp_negative(v_sub(v_set1(0), v_abs(v)));
  return v_div(v_select(v_less(v, v_set1(0)), e, one), v_add(one, e));
}

/* v/2 · (1 + tanh u) = v · sigmoid(2u), 2u = √(8/π) (v + 0.044715 v³). Beyond ±12 the sigmoid is 0 or 1. */
SF_INLINE vf gelu_tanh(vf v) {
  const vf t = v_min(v_max(v, v_set1(-12.0f)), v_set1(12.0f));
  const vf cubic = v_fma(v_mul(t, t), v_set1(0.0713548163f), v_set1(1.59576912f));
  return v_mul(v, sigmoid(v_mul(t, cubic)));
}

/* v/2 · (1 + erf(v/√2)) = max(v, 0) - |v|/2 · erfc(|v|/√2). erfc(z) = e^(-z²) · g(1 / (1 + 0.4 z)), g the minimax
 * polynomial of the scaled complement e^(z²) erfc(z), relative error 1e-7. */
SF_INLINE vf gelu_erf(vf v) {
  const vf magnitude = v_abs(v);
  const vf z = v_mul(v_min(magnitude, v_set1(14.0f)), v_set1(0.707106781f));
  const vf t = v_div(v_set1(1.0f), v_fma(z, v_set1(0.4f), v_set1(1.0f)));
  static const float g[] = {-3.88667498e-1f, 6.81468188e-1f, -3.83213126e-1f, 4.25614576e-1f,
                            1.27107819e-1f,  2.41333843e-1f, 2.23971309e-1f,  7.93631812e-5f};
  vf p = v_set1(7.23054252e-2f);
  for (int k = 0; k < 8; ++k) p = v_fma(p, t, v_set1(g[k]));
  const vf erfc = v_mul(p, exp_negative(v_sub(v_set1(0), v_mul(z, z))));
  return v_sub(v_max(v, v_set1(0)), v_mul(v_mul(magnitude, v_set1(0.5f)), erfc));
}

/* tanh z = sign(z) · (1 - e) / (1 + e), e = e^-2|z|, so nothing overflows. */
SF_INLINE vf softcap_of(vf cap, vf inverse, vf x) {
  const vf one = v_set1(1.0f), zero = v_set1(0);
  const vf e = exp_negative(v_mul(v_set1(-2.0f), v_abs(v_mul(x, inverse))));
  const vf capped = v_mul(cap, v_div(v_sub(one, e), v_add(one, e)));
  return v_select(v_less(x, zero), v_sub(zero, capped), capped);
}

SF_INLINE vf capped(vf cap, vf v) {
  return v_fma(v, v_set1(0), softcap_of(cap, v_div(v_set1(1.0f), cap), v)); /* NaN stays */
}

/* NaN gives NaN, so that damaged weights show. */
SF_INLINE vf activation_of(int32_t activation, vf parameter, vf v) {
  const vf zero = v_set1(0);
  /* In this order a NaN stays one; the sum makes -0, which machines treat differently, 0. */
  const vf positive = v_add(v_max(zero, v), zero);
  switch (activation) {
    case SF_RELU:
      return positive;
    case SF_RELU2:
      return v_mul(positive, positive);
    case SF_SILU:
      return v_mul(v, sigmoid(v));
    case SF_GELU_TANH:
      return gelu_tanh(v);
    case SF_GELU_ERF:
      return gelu_erf(v);
    case SF_FATRELU:
      return v_select(v_less(parameter, v), v, v_sub(positive, positive)); /* the last is 0 or NaN */
    case SF_SIGMOID:
      return sigmoid(v);
    case SF_SILU_CLAMPED: {
      const vf low = v_min(v_set1(7.0f), v);
      return v_mul(low, sigmoid(v_mul(low, v_set1(1.702f))));
    }
    case SF_CLAMPED:
      return v_add(v_max(v_set1(-7.0f), v_min(v_set1(7.0f), v)), v_set1(1.0f));
    case SF_SILU_LIMITED: {
      const vf low = v_min(parameter, v);
      return v_mul(low, sigmoid(low));
    }
    case SF_SILU_CAPPED:
      return v_min(parameter, v_mul(v, sigmoid(v)));
    case SF_LIMITED:
      return v_max(v_sub(zero, parameter), v_min(parameter, v));
    case SF_SITU:
      return v_mul(capped(parameter, v), sigmoid(v));
    case SF_CAPPED:
      return capped(parameter, v);
    default:
      return v;
  }
}

/* `activation` is a constant where this is inlined, so the loop holds no choice. */
SF_INLINE void activate_all(int32_t activation, float parameter, const float *x, int32_t count, float *y) {
  const vf threshold = v_set1(parameter);
  int32_t i = 0;
  for (; i + SF_LANES <= count; i += SF_LANES) v_store(y + i, activation_of(activation, threshold, v_load(x + i)));
  if (i < count) {
    v_store_tail(y + i, activation_of(activation, threshold, v_load_tail(x + i, count - i)), count - i);
  }
}

static void activate(int32_t activation, float parameter, const float *x, int32_t count, float *y) {
  switch (activation) {
    case SF_RELU:
      activate_all(SF_RELU, parameter, x, count, y);
      break;
    case SF_RELU2:
      activate_all(SF_RELU2, parameter, x, count, y);
      break;
    case SF_SILU:
      activate_all(SF_SILU, parameter, x, count, y);
      break;
    case SF_GELU_TANH:
      activate_all(SF_GELU_TANH, parameter, x, count, y);
      break;
    case SF_GELU_ERF:
      activate_all(SF_GELU_ERF, parameter, x, count, y);
      break;
    case SF_FATRELU:
      activate_all(SF_FATRELU, parameter, x, count, y);
      break;
    case SF_SILU_CLAMPED:
      activate_all(SF_SILU_CLAMPED, parameter, x, count, y);
      break;
    case SF_CLAMPED:
      activate_all(SF_CLAMPED, parameter, x, count, y);
      break;
    case SF_SILU_LIMITED:
      activate_all(SF_SILU_LIMITED, parameter, x, count, y);
      break;
    case SF_SILU_CAPPED:
      activate_all(SF_SILU_CAPPED, parameter, x, count, y);
      break;
    case SF_LIMITED:
      activate_all(SF_LIMITED, parameter, x, count, y);
      break;
    case SF_SITU:
      activate_all(SF_SITU, parameter, x, count, y);
      break;
    case SF_CAPPED:
      activate_all(SF_CAPPED, parameter, x, count, y);
      break;
    case SF_SIGMOID:
      activate_all(SF_SIGMOID, parameter, x, count, y);
      break;
    default:
      activate_all(SF_IDENTITY, parameter, x, count, y);
      break;
  }
}

static void softcap(float cap, float *x, int32_t count) {
  const vf most = v_set1(cap), inverse = v_set1(1.0f / cap);
  int32_t i = 0;
  for (; i + SF_LANES <= count; i += SF_LANES) v_store(x + i, softcap_of(most, inverse, v_load(x + i)));
  if (i < count) v_store_tail(x + i, softcap_of(most, inverse, v_load_tail(x + i, count - i)), count - i);
}

/* e^(x - max x) / Σ e^(x - max x). */
static void softmax(const float *x, int32_t count, float *y) {
  vf most = v_set1(-FLT_MAX);
  int32_t i = 0;
  for (; i + SF_LANES <= count; i += SF_LANES) most = v_max(most, v_load(x + i));
  float largest = v_largest(most);
  for (; i < count; ++i) largest = x[i] > largest ? x[i] : largest;

  vf sums = v_set1(0);
  const vf shift = v_set1(largest);
  for (i = 0; i + SF_LANES <= count; i += SF_LANES) {
    const vf e = exp_negative(v_sub(v_load(x + i), shift));
    v_store(y + i, e);
    sums = v_add(sums, e);
  }
  float sum = v_sum(sums);
  if (i < count) {
    float last[SF_LANES];
    /* Lanes past the end hold 0 - largest, which may be positive. */
    v_store(last, exp_negative(v_min(v_sub(v_load_tail(x + i, count - i), shift), v_set1(0))));
    for (int32_t k = 0; i + k < count; ++k) sum += y[i + k] = last[k];
  }

  const vf scale = v_set1(1.0f / sum);
  for (i = 0; i + SF_LANES <= count; i += SF_LANES) v_store(y + i, v_mul(v_load(y + i), scale));
  if (i < count) v_store_tail(y + i, v_mul(v_load_tail(y + i, count - i), scale), count - i);
}

/* x · 0 is 0 for every finite x, else NaN, and shows in the sum. */
static float weigh(float *x, int32_t count, float *most, float *sum) {
  const vf zero = v_set1(0);
  vf largest = v_set1(*most), sums = zero, odd = zero; /* odd: NaN if a score is */
  for (int32_t i = 0; i < count; i += SF_LANES) largest = v_max(largest, v_load(x + i));
  const float before = *most, after = v_largest(largest);
  const vf shift = v_set1(after);
  for (int32_t i = 0; i < count; i += SF_LANES) {
    const vf v = v_load(x + i), e = exp_negative(v_sub(v, shift));
    v_store(x + i, e);
    sums = v_add(sums, e);
    odd = v_fma(v, zero, odd);
  }
  float factor[SF_LANES];
  v_store(factor, exp_negative(v_set1(before - after)));
  *most = after;
  *sum = *sum * factor[0] + v_sum(v_add(sums, odd));
  return factor[0];
}

#endif
