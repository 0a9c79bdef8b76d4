/* y += Σ alpha · row, several rows a pass, so that y is loaded and stored once for all of them. Every element of y sees
 * the same operations in the order of the rows, whatever the columns asked for and however rows are grouped. */
#ifndef SF_KERNELS_AXPY_H
#define SF_KERNELS_AXPY_H

#include "rows.h"

enum { AXPY_ROWS = 8 }; /* of a pass */

/* n_rows (a constant) rows of F32 or F16 weights. */
SF_INLINE void axpy_group(sf_format_index format, int n_rows, const uint8_t *const *row, const float *alpha, int32_t c0,
                          int32_t c1, float *y) {
  vf a[AXPY_ROWS];
  for (int r = 0; r < n_rows; ++r) a[r] = v_set1(alpha[r]);
  int32_t c = c0;
  for (; c + 2 * SF_LANES <= c1; c += 2 * SF_LANES) {
    vf sum0 = v_load(y + c), sum1 = v_load(y + c + SF_LANES);
    for (int r = 0; r < n_rows; ++r) {
      sum0 = v_fma(a[r], load_weights(format, weight_at(format, row[r], c)), sum0);
      sum1 = v_fma(a[r], load_weights(format, weight_at(format, row[r], c + SF_LANES)), sum1);
    }
    v_store(y + c, sum0);
    v_store(y + c + SF_LANES, sum1);
  }
  for (; c < c1; c += SF_LANES) {
    const int32_t n = c1 - c < SF_LANES ? c1 - c : SF_LANES;
    vf sum = n < SF_LANES ? v_load_tail(y + c, n) : v_load(y + c);
    for (int r = 0; r < n_rows; ++r) {
      const uint8_t *p = weight_at(format, row[r], c);
      sum = v_fma(a[r], n < SF_LANES ? load_weights_tail(format, p, n) : load_weights(format, p), sum);
    }
    if (n < SF_LANES) {
      v_store_tail(y + c, sum, n);
    } else {
      v_store(y + c, sum);
    }
  }
}

/* n_rows (a constant) rows of Q8_0 weights; c0 and c1 at blocks. */
SF_INLINE void axpy_group_q8_0(int n_rows, const uint8_t *const *row, const float *alpha, int32_t c0, int32_t c1,
                               float *y) {
  enum { SCALES = 16 }; /* AXPY_ROWS, in whole vectors */
  float alphas[SCALES] = {0}, scales[SCALES];
  for (int r = 0; r < n_rows; ++r) alphas[r] = alpha[r];
  for (int32_t c = c0; c < c1; c += SF_BLOCK) {
    const size_t at = (size_t)(c / SF_BLOCK) * Q8_0_BYTES;
    uint16_t half[SCALES] = {0};
    for (int r = 0; r < n_rows; ++r) half[r] = load_half(row[r] + at);
    for (int k = 0; k < n_rows; k += SF_LANES) v_store(scales + k, v_mul(v_load(alphas + k), v_load_f16(half + k)));
    for (int k = 0; k < SF_BLOCK; k += 2 * SF_LANES) {
      vf sum0 = v_load(y + c + k), sum1 = v_load(y + c + k + SF_LANES);
      for (int r = 0; r < n_rows; ++r) {
        const int8_t *w = (const int8_t *)(row[r] + at + 2 + k);
        sum0 = v_fma(v_set1(scales[r]), v_load_i8(w), sum0);
        sum1 = v_fma(v_set1(scales[r]), v_load_i8(w + SF_LANES), sum1);
      }
      v_store(y + c + k, sum0);
      v_store(y + c + k + SF_LANES, sum1);
    }
  }
}

SF_INLINE void axpy_some(sf_format_index format, int n_rows, const sf_rows *rows, int32_t i, const float *alpha,
                         int32_t c0, int32_t c1, float *y) {
  const uint8_t *row[AXPY_ROWS];
  for (int r = 0; r < n_rows; ++r) row[r] = row_at(rows, i + r);
  if (format == SF_FORMAT_Q8_0) {
    axpy_group_q8_0(n_rows, row, alpha + i, c0, c1, y);
  } else {
    axpy_group(format, n_rows, row, alpha + i, c0, c1, y);
  }
}

SF_INLINE void axpy_rows(sf_format_index format, const sf_rows *rows, int32_t n_rows, const float *alpha, int32_t c0,
                         int32_t c1, float *y) {
  int32_t i = 0;
  for (; i + AXPY_ROWS <= n_rows; i += AXPY_ROWS) axpy_some(format, AXPY_ROWS, rows, i, alpha, c0, c1, y);
  for (; i + 2 <= n_rows; i += 2) axpy_some(format, 2, rows, i, alpha, c0, c1, y);
  for (; i < n_rows; ++i) axpy_some(format, 1, rows, i, alpha, c0, c1, y);
}

static void axpy_rows_f32(const sf_rows *rows, int32_t n_rows, const float *alpha, int32_t c0, int32_t c1, float *y) {
  axpy_rows(SF_FORMAT_F32, rows, n_rows, alpha, c0, c1, y);
}

static void axpy_rows_f16(const sf_rows *rows, int32_t n_rows, const float *alpha, int32_t c0, int32_t c1, float *y) {
  axpy_rows(SF_FORMAT_F16, rows, n_rows, alpha, c0, c1, y);
}

static void axpy_rows_q8_0(const sf_rows *rows, int32_t n_rows, const float *alpha, int32_t c0, int32_t c1, float *y) {
  axpy_rows(SF_FORMAT_Q8_0, rows, n_rows, alpha, c0, c1, y);
}

#endif
