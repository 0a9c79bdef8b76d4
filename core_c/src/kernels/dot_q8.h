/* Dot products of Q8_0 rows with inputs in I16 form: integer products within a block of 32, summed exactly, then
 * scaled by both scales and added in floating point, block after block. */
#ifndef SF_KERNELS_DOT_Q8_H
#define SF_KERNELS_DOT_Q8_H

#include "rows.h"

enum { Q8_ROWS = 4, Q8_INPUTS = 4, Q8_CHUNK = 16 }; /* the largest tile; blocks whose scales are made together */

/* scales[k] = scale of block k of the row, k < n ≤ Q8_CHUNK; 0 above. */
SF_INLINE void q8_scales(const uint8_t *block, int32_t n, float *scales) {
  uint16_t half[Q8_CHUNK] = {0};
  for (int32_t k = 0; k < n; ++k) half[k] = load_half(block + (size_t)k * Q8_0_BYTES);
  for (int k = 0; k < Q8_CHUNK; k += SF_LANES) v_store(scales + k, v_load_f16(half + k));
}

/* scales[r][j][k] = scale of block k of row r · scale of block k of input j. */
SF_INLINE void q8_pair_scales(int n_rows, int n_inputs, const uint8_t *const *row, size_t offset,
                              const float *const *x_scales, int32_t n, float scales[Q8_ROWS][Q8_INPUTS][Q8_CHUNK]) {
  for (int r = 0; r < n_rows; ++r) {
    float own[Q8_CHUNK];
    q8_scales(row[r] + offset, n, own);
    for (int j = 0; j < n_inputs; ++j) {
      for (int k = 0; k < Q8_CHUNK; k += SF_LANES) {
        const int32_t left = n - k;
        const vf xs = left >= SF_LANES ? v_load(x_scales[j] + k) : v_load_tail(x_scales[j] + k, left > 0 ? left : 0);
        v_store(scales[r][j] + k, v_mul(v_load(own + k), xs));
      }
    }
  }
}

/* One tile: n_rows × n_inputs pairs, both constants where this is inlined. */
SF_INLINE void q8_tile(int n_rows, int n_inputs, const uint8_t *const *row, const int16_t *values, const float *x_scale,
                       int32_t columns, float *out, size_t out_stride) {
  const int32_t blocks = columns / SF_BLOCK;
  vf acc[Q8_ROWS][Q8_INPUTS];
  for (int r = 0; r < n_rows; ++r) {
    for (int j = 0; j < n_inputs; ++j) acc[r][j] = v_set1(0);
  }
  for (int32_t b0 = 0; b0 < blocks; b0 += Q8_CHUNK) {
    const int32_t n = blocks - b0 < Q8_CHUNK ? blocks - b0 : Q8_CHUNK;
    const size_t offset = (size_t)b0 * Q8_0_BYTES;
    const float *x_scales[Q8_INPUTS];
    float scales[Q8_ROWS][Q8_INPUTS][Q8_CHUNK];
    for (int j = 0; j < n_inputs; ++j) x_scales[j] = x_scale + (size_t)j * (size_t)blocks + b0;
    q8_pair_scales(n_rows, n_inputs, row, offset, x_scales, n, scales);
    for (int32_t k = 0; k < n; ++k) {
      const size_t at = offset + (size_t)k * Q8_0_BYTES + 2;
      vb x[Q8_INPUTS];
      for (int j = 0; j < n_inputs; ++j) {
        x[j] = vb_load_i16(values + (size_t)j * (size_t)columns + (size_t)(b0 + k) * SF_BLOCK);
      }
      for (int r = 0; r < n_rows; ++r) {
        const vb w = vb_load_i8((const int8_t *)(row[r] + at));
        for (int j = 0; j < n_inputs; ++j) acc[r][j] = v_fma(vb_dot(w, x[j]), v_set1(scales[r][j][k]), acc[r][j]);
      }
    }
  }
  for (int r = 0; r < n_rows; ++r) {
    for (int j = 0; j < n_inputs; ++j) out[(size_t)j * out_stride + (size_t)r] = v_sum(acc[r][j]);
  }
}

/* n_rows (a constant) rows with every input. */
SF_INLINE void q8_group(int n_rows, const uint8_t *const *row, const sf_inputs *inputs, int32_t n_inputs,
                        int32_t columns, float *out, size_t out_stride) {
  const size_t blocks = (size_t)(columns / SF_BLOCK);
  int32_t j = 0;
  for (; j + Q8_INPUTS <= n_inputs; j += Q8_INPUTS) {
    q8_tile(n_rows, Q8_INPUTS, row, inputs->values + (size_t)j * (size_t)columns, inputs->scales + (size_t)j * blocks,
            columns, out + (size_t)j * out_stride, out_stride);
  }
  for (; j < n_inputs; ++j) {
    q8_tile(n_rows, 1, row, inputs->values + (size_t)j * (size_t)columns, inputs->scales + (size_t)j * blocks, columns,
            out + (size_t)j * out_stride, out_stride);
  }
}

static void dot_rows_q8_0(const sf_rows *rows, int32_t n_rows, const sf_inputs *inputs, int32_t n_inputs, float *out,
                          size_t out_stride) {
  const uint8_t *row[Q8_ROWS];
  int32_t i = 0;
  for (; i + Q8_ROWS <= n_rows; i += Q8_ROWS) {
    for (int r = 0; r < Q8_ROWS; ++r) row[r] = row_at(rows, i + r);
    q8_group(Q8_ROWS, row, inputs, n_inputs, rows->columns, out + i, out_stride);
  }
  for (; i < n_rows; ++i) {
    row[0] = row_at(rows, i);
    q8_group(1, row, inputs, n_inputs, rows->columns, out + i, out_stride);
  }
}

#endif
