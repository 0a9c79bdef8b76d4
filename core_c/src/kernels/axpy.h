/* y += Σ alpha · row, several rows a pass, so that y is loaded and stored once for all of them. Every element of y sees
 * the same operations in the order of the rows, whatever the columns asked for and however rows are grouped. */
#ifndef SF_KERNELS_AXPY_H
#define SF_KERNELS_AXPY_H

#include "rows.h"

/* n_rows (a constant) rows of floats or halves. */
SF_INLINE void axpy_float(sf_format_index format, int n_rows, const uint8_t *const *row, const uint8_t *const *next,
                          const float *alpha, int32_t c0, int32_t c1, float *y) {
  const size_t size = weight_bytes(format);
  vf a[SF_STREAMS];
  for (int r = 0; r < n_rows; ++r) a[r] = v_set1(alpha[r]);
  int32_t c = c0;
  for (; c + SF_LANES <= c1; c += SF_LANES) {
    vf sum = v_load(y + c);
    if (c % weights_in_line(format) == 0) {
      for (int r = 0; r < n_rows; ++r) v_prefetch(next[r] + (size_t)c * size);
    }
    for (int r = 0; r < n_rows; ++r) sum = v_fma(a[r], load_weights(format, row[r] + (size_t)c * size), sum);
    v_store(y + c, sum);
  }
  if (c < c1) {
    const int32_t n = c1 - c;
    vf sum = v_load_tail(y + c, n);
    for (int r = 0; r < n_rows; ++r) {
      sum = v_fma(a[r], load_some_weights(format, row[r] + (size_t)c * size, n), sum);
    }
    v_store_tail(y + c, sum, n);
  }
}

/* n_rows (a constant) rows of Q8_0, of SF_STREAMS valid pointers; c0 and c1 at blocks. */
SF_INLINE void axpy_q8_0(int n_rows, const uint8_t *const *row, const uint8_t *const *next, const float *alpha,
                         int32_t c0, int32_t c1, float *y) {
  enum { VECTORS = SF_BLOCK / SF_LANES };
  float factors[ROW_SCALES] = {0};
  for (int r = 0; r < n_rows; ++r) factors[r] = alpha[r];
  vf factor[SCALE_VECTORS];
  for (int k = 0; k < SCALE_VECTORS; ++k) factor[k] = v_load(factors + k * SF_LANES);
  for (int32_t b = c0 / SF_BLOCK; b < c1 / SF_BLOCK; ++b) {
    const size_t at = (size_t)b * Q8_0_BYTES;
    float *block = y + (size_t)b * SF_BLOCK, scale[ROW_SCALES];
    vf sum[VECTORS];
    if (b % 2 == 0) {
      for (int r = 0; r < n_rows; ++r) v_prefetch(next[r] + at);
    }
    row_scales(row, at, factor, scale);
    for (int k = 0; k < VECTORS; ++k) sum[k] = v_load(block + k * SF_LANES);
    for (int r = 0; r < n_rows; ++r) {
      const vf a = v_set1(scale[r]);
      for (int k = 0; k < VECTORS; k += 2) {
        vf w[2];
        v_load_i8((const int8_t *)(row[r] + at + 2 + k * SF_LANES), w);
        sum[k] = v_fma(a, w[0], sum[k]);
        sum[k + 1] = v_fma(a, w[1], sum[k + 1]);
      }
    }
    for (int k = 0; k < VECTORS; ++k) v_store(block + k * SF_LANES, sum[k]);
  }
}

/* Rows i … i + n_rows - 1 (a constant number) of all n. */
SF_INLINE void axpy_some(sf_format_index format, int n_rows, const sf_rows *rows, int32_t i, int32_t n,
                         const float *alpha, int32_t c0, int32_t c1, float *y) {
  const uint8_t *row[SF_STREAMS], *next[SF_STREAMS];
  for (int r = 0; r < SF_STREAMS; ++r) {
    row[r] = row_at(rows, i + (r < n_rows ? r : 0));
    next[r] = i + n_rows + r < n ? row_at(rows, i + n_rows + r) : row[r];
  }
  if (format == SF_FORMAT_Q8_0) {
    axpy_q8_0(n_rows, row, next, alpha + i, c0, c1, y);
  } else {
    axpy_float(format, n_rows, row, next, alpha + i, c0, c1, y);
  }
}

SF_INLINE void axpy_rows(sf_format_index format, const sf_rows *rows, int32_t n, const float *alpha, int32_t c0,
                         int32_t c1, float *y) {
  enum { FEWER = SF_STREAMS > 1 ? 2 : 1 };
  int32_t i = 0;
  for (; i + SF_STREAMS <= n; i += SF_STREAMS) axpy_some(format, SF_STREAMS, rows, i, n, alpha, c0, c1, y);
  for (; i + FEWER <= n; i += FEWER) axpy_some(format, FEWER, rows, i, n, alpha, c0, c1, y);
  for (; i < n; ++i) axpy_some(format, 1, rows, i, n, alpha, c0, c1, y);
}

static void axpy_rows_f32(const sf_rows *rows, int32_t n, const float *alpha, int32_t c0, int32_t c1, float *y) {
  axpy_rows(SF_FORMAT_F32, rows, n, alpha, c0, c1, y);
}

static void axpy_rows_f16(const sf_rows *rows, int32_t n, const float *alpha, int32_t c0, int32_t c1, float *y) {
  axpy_rows(SF_FORMAT_F16, rows, n, alpha, c0, c1, y);
}

static void axpy_rows_q8_0(const sf_rows *rows, int32_t n, const float *alpha, int32_t c0, int32_t c1, float *y) {
  axpy_rows(SF_FORMAT_Q8_0, rows, n, alpha, c0, c1, y);
}

#endif
