/* y += Σ alpha · row, several rows a pass, so that y is loaded and stored once for all of them. Every element of y sees
 * the same operations in the order of the rows, whatever the columns asked for and however rows are grouped. */
#ifndef SF_KERNELS_AXPY_H
#define SF_KERNELS_AXPY_H

#include "kernels/rows_tmpl.h"

/* n_rows (a constant) rows of plain numbers. */
SF_INLINE void axpy_plain(sf_format_index format, int n_rows, const uint8_t *const *row, const uint8_t *const *next,
                          const float *alpha, int32_t c0, int32_t c1, float *y) {
  const size_t size = weight_bytes(format);
  vf a[SF_STREAMS];
  for (int r = 0; r < n_rows; ++r) a[r] = v_set1(alpha[r]);
  const int asks = is_prefetched(format, c1 - c0);
  int32_t c = c0;
  for (; c + SF_LANES <= c1; c += SF_LANES) {
    vf sum = v_load(y + c);
    if (asks && c % weights_in_line(format) == 0) {
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

/* scale[r], min[r]: alpha · scale and alpha · min of row r for the n sub-blocks of a group. */
SF_INLINE void axpy_scales(sf_format_index format, int n_rows, const uint8_t *const *row, size_t at, int32_t n,
                           const float *alpha, float (*scale)[GROUP_SIZE], float (*min)[GROUP_SIZE]) {
  for (int r = 0; r < n_rows; ++r) {
    vf a[GROUP_VECTORS], s[GROUP_VECTORS], m[GROUP_VECTORS];
    for (int k = 0; k < GROUP_VECTORS; ++k) a[k] = v_set1(alpha[r]);
    group_scales(format, row[r] + at, n, s, m);
    store_product(scale[r], s, a);
    if (has_min(format) || has_second(format)) store_product(min[r], m, a);
  }
}

/* Sub-block s of a group, n_rows rows. */
SF_INLINE void axpy_sub_block(sf_format_index format, int n_rows, const uint8_t *const *row, size_t at, int32_t s,
                              float (*scale)[GROUP_SIZE], float (*min)[GROUP_SIZE], float *y) {
  enum { VECTORS = SF_BLOCK / SF_LANES };
  vf sum[VECTORS];
  for (int k = 0; k < VECTORS; ++k) sum[k] = v_load(y + k * SF_LANES);
  for (int r = 0; r < n_rows; ++r) {
    const vf a = v_set1(scale[r][s]), m = v_set1(has_min(format) ? min[r][s] : 0);
    const vf b = has_float_runs(format) ? v_set1(-min[r][s]) : a; /* of the second run */
    vf q[VECTORS];
    load_quant_floats(format, row[r] + at, s, q);
    for (int k = 0; k < VECTORS; ++k) {
      sum[k] = v_fma(k < VECTORS / 2 ? a : b, q[k], sum[k]);
      if (has_min(format)) sum[k] = v_sub(sum[k], m);
    }
    if (has_run_mins(format)) {
      const vf run_scale = v_set1(-min[r][s]);
      vf run_min[VECTORS];
      vb_floats(load_run_mins(format, row[r] + at, s), run_min);
      for (int k = 0; k < VECTORS; ++k) sum[k] = v_fma(run_scale, run_min[k], sum[k]);
    }
  }
  for (int k = 0; k < VECTORS; ++k) v_store(y + k * SF_LANES, sum[k]);
}

/* n_rows ≤ SF_STREAMS rows of a block format; c0 and c1 at sub-blocks. */
SF_INLINE void axpy_blocks(sf_format_index format, int n_rows, const uint8_t *const *row, const uint8_t *const *next,
                           const float *alpha, int32_t columns, int32_t c0, int32_t c1, float *y) {
  const int32_t end = c1 / SF_BLOCK;
  for (int32_t b = c0 / SF_BLOCK; b < end;) {
    const int32_t g = b / GROUP, rest = columns / SF_BLOCK - g * GROUP;
    const size_t at = (size_t)g * group_bytes(format);
    float scale[SF_STREAMS][GROUP_SIZE], min[SF_STREAMS][GROUP_SIZE];
    axpy_scales(format, n_rows, row, at, rest < GROUP ? rest : GROUP, alpha, scale, min);
    do {
      const int32_t s = b - g * GROUP;
      for (int r = 0; has_line(format, s) && r < n_rows; ++r) v_prefetch(next[r] + at + (size_t)s * LINE);
      if (is_paired(format) && s % 2 == 0) {
        axpy_sub_block(format, n_rows, row, at, s & ~1, scale, min, y + (size_t)b * SF_BLOCK);
      } else {
        axpy_sub_block(format, n_rows, row, at, is_paired(format) ? s | 1 : s, scale, min, y + (size_t)b * SF_BLOCK);
      }
    } while (++b % GROUP != 0 && b < end);
  }
}

/* Rows i … i + n_rows - 1 of all n; for plain formats a constant number. */
SF_INLINE void axpy_some(sf_format_index format, int n_rows, const sf_rows *rows, int32_t i, int32_t n,
                         const float *alpha, int32_t c0, int32_t c1, float *y) {
  const uint8_t *row[SF_STREAMS], *next[SF_STREAMS];
  float scaled[SF_STREAMS] = {0};
  for (int r = 0; r < SF_STREAMS; ++r) {
    row[r] = sf_row_at(rows, i + (r < n_rows ? r : 0));
    next[r] = i + n_rows + r < n ? sf_row_at(rows, i + n_rows + r) : row[r];
  }
  for (int r = 0; r < n_rows; ++r) scaled[r] = alpha[i + r] * rows->scale;
  if (is_plain(format)) {
    axpy_plain(format, n_rows, row, next, scaled, c0, c1, y);
  } else {
    axpy_blocks(format, n_rows, row, next, scaled, rows->columns, c0, c1, y);
  }
}

SF_INLINE void axpy_rows(sf_format_index format, const sf_rows *rows, int32_t n, const float *alpha, int32_t c0,
                         int32_t c1, float *y) {
  enum { FEWER = SF_STREAMS > 1 ? 2 : 1 };
  int32_t i = 0;
  if (!is_plain(format)) {
    for (; i < n; i += SF_STREAMS) {
      axpy_some(format, n - i < SF_STREAMS ? n - i : SF_STREAMS, rows, i, n, alpha, c0, c1, y);
    }
    return;
  }
  for (; i + SF_STREAMS <= n; i += SF_STREAMS) axpy_some(format, SF_STREAMS, rows, i, n, alpha, c0, c1, y);
  for (; i + FEWER <= n; i += FEWER) axpy_some(format, FEWER, rows, i, n, alpha, c0, c1, y);
  for (; i < n; ++i) axpy_some(format, 1, rows, i, n, alpha, c0, c1, y);
}

/* ---- Several sums of the same rows ---- */

enum { SHARED_SUMS = 4, SHARED_VECTORS = 4 }; /* which are in registers while all rows are added */

/* `vectors` vectors from column c on, of which the last one has `last` columns, of n_sums sums; the first and the last
 * of the counts are constants. */
SF_INLINE void axpy_shared_tile(sf_format_index format, int n_sums, int vectors, const sf_rows *rows, int32_t n,
                                const float *alpha, size_t alpha_stride, int32_t c, int32_t last, float *y,
                                size_t y_stride) {
  vf sums[SHARED_SUMS][SHARED_VECTORS];
  for (int k = 0; k < vectors; ++k) {
    const int32_t some = k + 1 < vectors ? SF_LANES : last;
    for (int j = 0; j < n_sums; ++j) sums[j][k] = load_some(y + (size_t)j * y_stride + c + k * SF_LANES, some);
  }
  for (int32_t i = 0; i < n; ++i) {
    const uint8_t *row = sf_row_at(rows, i) + (size_t)c * weight_bytes(format);
    vf a[SHARED_SUMS];
    for (int j = 0; j < n_sums; ++j) a[j] = v_set1(alpha[(size_t)j * alpha_stride + (size_t)i] * rows->scale);
    for (int k = 0; k < vectors; ++k) {
      const vf weights = load_some_weights(format, row + (size_t)(k * SF_LANES) * weight_bytes(format),
                                           k + 1 < vectors ? SF_LANES : last);
      for (int j = 0; j < n_sums; ++j) sums[j][k] = v_fma(a[j], weights, sums[j][k]);
    }
  }
  for (int k = 0; k < vectors; ++k) {
    for (int j = 0; j < n_sums; ++j) {
      float *to = y + (size_t)j * y_stride + c + k * SF_LANES;
      if (k + 1 < vectors || last == SF_LANES) {
        v_store(to, sums[j][k]);
      } else {
        v_store_tail(to, sums[j][k], last);
      }
    }
  }
}

/* n_sums (a constant) sums; the bits are those of axpy_rows for each. */
SF_INLINE void axpy_shared_some(sf_format_index format, int n_sums, const sf_rows *rows, int32_t n, const float *alpha,
                                size_t alpha_stride, float *y, size_t y_stride) {
  enum { WIDE = SHARED_VECTORS * SF_LANES };
  const int32_t columns = rows->columns;
  int32_t c = 0;
  for (; c + WIDE <= columns; c += WIDE) {
    axpy_shared_tile(format, n_sums, SHARED_VECTORS, rows, n, alpha, alpha_stride, c, SF_LANES, y, y_stride);
  }
  for (; c + SF_LANES <= columns; c += SF_LANES) {
    axpy_shared_tile(format, n_sums, 1, rows, n, alpha, alpha_stride, c, SF_LANES, y, y_stride);
  }
  if (c < columns) axpy_shared_tile(format, n_sums, 1, rows, n, alpha, alpha_stride, c, columns - c, y, y_stride);
}

SF_INLINE void axpy_shared(sf_format_index format, const sf_rows *rows, int32_t n, const float *alpha,
                           size_t alpha_stride, int32_t n_sums, float *y, size_t y_stride) {
  for (; n_sums >= 4; n_sums -= 4, alpha += 4 * alpha_stride, y += 4 * y_stride) {
    axpy_shared_some(format, 4, rows, n, alpha, alpha_stride, y, y_stride);
  }
  if (n_sums == 3) axpy_shared_some(format, 3, rows, n, alpha, alpha_stride, y, y_stride);
  if (n_sums == 2) axpy_shared_some(format, 2, rows, n, alpha, alpha_stride, y, y_stride);
  if (n_sums == 1) axpy_shared_some(format, 1, rows, n, alpha, alpha_stride, y, y_stride);
}

static void axpy_shared_f16(const sf_rows *rows, int32_t n_rows, const float *alpha, size_t alpha_stride,
                            int32_t n_sums, float *y, size_t y_stride) {
  axpy_shared(SF_FORMAT_F16, rows, n_rows, alpha, alpha_stride, n_sums, y, y_stride);
}

#endif
