/* One token of a recurrence of outer products. */
#ifndef SF_KERNELS_RECURRENCE_H
#define SF_KERNELS_RECURRENCE_H

/* SF_LANES columns of the state, from column `at` on, of which `n` are there. */
SF_INLINE void recur_columns(const sf_recurrence *r, int32_t at, int32_t n, float *state, float *out) {
  const vf v = load_some(r->v + at, n), zero = v_set1(0);
  vf seen = zero, sum = zero;
  float *row = state + at;
  for (int32_t k = 0; r->a && k < r->keys; ++k, row += r->values) {
    seen = v_fma(v_set1(r->a[k]), load_some(row, n), seen);
  }
  row = state + at;
  for (int32_t k = 0; k < r->keys; ++k, row += r->values) {
    const vf old = load_some(row, n), q = v_set1(r->q[k]);
    if (r->before) sum = v_fma(q, old, sum);
    vf next = v_fma(v_set1(r->k[k]), v, v_mul(v_set1(r->decay[k * r->decay_step]), old));
    if (r->a) next = v_fma(v_set1(r->b[k]), seen, next);
    if (!r->before) sum = v_fma(q, next, sum);
    if (n >= SF_LANES) {
      v_store(row, next);
    } else {
      v_store_tail(row, next, n);
    }
  }
  if (n >= SF_LANES) {
    v_store(out + at, sum);
  } else {
    v_store_tail(out + at, sum, n);
  }
}

static void recur(const sf_recurrence *r, float *state, float *out) {
  for (int32_t at = 0; at < r->values; at += SF_LANES) recur_columns(r, at, r->values - at, state, out);
}

#endif
