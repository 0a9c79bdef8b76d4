/* Dot products of F32 and F16 rows with float inputs.
 *
 * Every (row, input) pair has two accumulators: vector v of its columns is added to accumulator v mod 2, a partial last
 * vector to accumulator 0, and at the end accumulator 1 to 0 and the lanes of that. Blocking only decides how many
 * pairs are in flight, so it changes no bit of a result. */
#ifndef SF_KERNELS_DOT_H
#define SF_KERNELS_DOT_H

#include "rows.h"

enum { DOT_ROWS = 4, DOT_INPUTS = 4 }; /* the largest tile */

/* One tile: n_rows × n_inputs pairs, both constants where this is inlined, so that accumulators are registers. */
SF_INLINE void dot_tile(sf_format_index format, int n_rows, int n_inputs, const uint8_t *const *row, const float *x,
                        int32_t columns, float *out, size_t out_stride) {
  vf acc[2][DOT_ROWS][DOT_INPUTS];
  for (int r = 0; r < n_rows; ++r) {
    for (int j = 0; j < n_inputs; ++j) acc[0][r][j] = acc[1][r][j] = v_set1(0);
  }
  int32_t c = 0;
  for (; c + 2 * SF_LANES <= columns; c += 2 * SF_LANES) {
    for (int k = 0; k < 2; ++k) {
      vf xs[DOT_INPUTS];
      for (int j = 0; j < n_inputs; ++j) xs[j] = v_load(x + (size_t)j * (size_t)columns + c + k * SF_LANES);
      for (int r = 0; r < n_rows; ++r) {
        const vf w = load_weights(format, weight_at(format, row[r], c + k * SF_LANES));
        for (int j = 0; j < n_inputs; ++j) acc[k][r][j] = v_fma(w, xs[j], acc[k][r][j]);
      }
    }
  }
  for (; c < columns; c += SF_LANES) {
    const int32_t n = columns - c;
    for (int r = 0; r < n_rows; ++r) {
      const uint8_t *p = weight_at(format, row[r], c);
      const vf w = n < SF_LANES ? load_weights_tail(format, p, n) : load_weights(format, p);
      for (int j = 0; j < n_inputs; ++j) {
        const float *xp = x + (size_t)j * (size_t)columns + c;
        acc[0][r][j] = v_fma(w, n < SF_LANES ? v_load_tail(xp, n) : v_load(xp), acc[0][r][j]);
      }
    }
  }
  for (int r = 0; r < n_rows; ++r) {
    for (int j = 0; j < n_inputs; ++j)
      out[(size_t)j * out_stride + (size_t)r] = v_sum(v_add(acc[0][r][j], acc[1][r][j]));
  }
}

/* n_rows (a constant) rows with every input. */
SF_INLINE void dot_group(sf_format_index format, int n_rows, const uint8_t *const *row, const sf_inputs *inputs,
                         int32_t n_inputs, int32_t columns, float *out, size_t out_stride) {
  const float *x = inputs->f32;
  int32_t j = 0;
  for (; j + DOT_INPUTS <= n_inputs; j += DOT_INPUTS) {
    dot_tile(format, n_rows, DOT_INPUTS, row, x + (size_t)j * (size_t)columns, columns, out + (size_t)j * out_stride,
             out_stride);
  }
  for (; j < n_inputs; ++j) {
    dot_tile(format, n_rows, 1, row, x + (size_t)j * (size_t)columns, columns, out + (size_t)j * out_stride,
             out_stride);
  }
}

SF_INLINE void dot_rows(sf_format_index format, const sf_rows *rows, int32_t n_rows, const sf_inputs *inputs,
                        int32_t n_inputs, float *out, size_t out_stride) {
  const uint8_t *row[DOT_ROWS];
  int32_t i = 0;
  for (; i + DOT_ROWS <= n_rows; i += DOT_ROWS) {
    for (int r = 0; r < DOT_ROWS; ++r) row[r] = row_at(rows, i + r);
    dot_group(format, DOT_ROWS, row, inputs, n_inputs, rows->columns, out + i, out_stride);
  }
  for (; i < n_rows; ++i) {
    row[0] = row_at(rows, i);
    dot_group(format, 1, row, inputs, n_inputs, rows->columns, out + i, out_stride);
  }
}

static void dot_rows_f32(const sf_rows *rows, int32_t n_rows, const sf_inputs *inputs, int32_t n_inputs, float *out,
                         size_t out_stride) {
  dot_rows(SF_FORMAT_F32, rows, n_rows, inputs, n_inputs, out, out_stride);
}

static void dot_rows_f16(const sf_rows *rows, int32_t n_rows, const sf_inputs *inputs, int32_t n_inputs, float *out,
                         size_t out_stride) {
  dot_rows(SF_FORMAT_F16, rows, n_rows, inputs, n_inputs, out, out_stride);
}

#endif
