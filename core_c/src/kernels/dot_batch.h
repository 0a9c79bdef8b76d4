/* Dot products of rows with several inputs: see dot.h. */
#ifndef SF_KERNELS_DOT_BATCH_H
#define SF_KERNELS_DOT_BATCH_H

#include "rows.h"

enum {
  BATCH_ROWS = 4,                 /* rows of a group */
  BATCH_INPUTS = 32,              /* inputs whose accumulators are kept */
  CHUNK_BLOCKS = 16,              /* columns of a chunk, in blocks */
  CHUNK = CHUNK_BLOCKS * SF_BLOCK /* and in numbers */
};

/* A chunk of the rows of a group. */
typedef struct {
  const uint8_t *weights[BATCH_ROWS]; /* floats; Q8_0: blocks */
  float scales[BATCH_ROWS][CHUNK_BLOCKS];
  float floats[BATCH_ROWS][CHUNK]; /* halves, converted */
} batch_chunk;

/* Accumulators, (input, row). */
typedef vf batch_sums[BATCH_INPUTS][BATCH_ROWS];

/* Columns c … c + n - 1 of the rows. */
SF_INLINE void batch_load(sf_format_index format, const uint8_t *const *row, int32_t c, int32_t n, batch_chunk *chunk) {
  for (int r = 0; r < BATCH_ROWS; ++r) {
    if (format == SF_FORMAT_F32) {
      chunk->weights[r] = row[r] + (size_t)c * sizeof(float);
    } else if (format == SF_FORMAT_F16) {
      const uint8_t *p = row[r] + (size_t)c * 2;
      int32_t k = 0;
      for (; k + SF_LANES <= n; k += SF_LANES) v_store(chunk->floats[r] + k, v_load_f16(p + (size_t)k * 2));
      if (k < n) v_store(chunk->floats[r] + k, v_load_f16_tail(p + (size_t)k * 2, n - k));
      chunk->weights[r] = (const uint8_t *)chunk->floats[r];
    } else {
      chunk->weights[r] = row[r] + (size_t)(c / SF_BLOCK) * Q8_0_BYTES;
      for (int32_t b = 0; b < n / SF_BLOCK; ++b) chunk->scales[r][b] = v_half(chunk->weights[r] + b * Q8_0_BYTES);
    }
  }
}

/* Adds the products of n columns: rows r0 … with inputs at x, x + columns, …; both counts are constants where this is
 * inlined, so that the accumulators are registers. */
SF_INLINE void tile_float(int n_rows, int n_inputs, const batch_chunk *chunk, int r0, int32_t n, const float *x,
                          int32_t columns, vf (*sums)[BATCH_ROWS]) {
  vf acc[SF_TILE_ROWS][SF_TILE_INPUTS];
  for (int r = 0; r < n_rows; ++r) {
    for (int j = 0; j < n_inputs; ++j) acc[r][j] = sums[j][r0 + r];
  }
  int32_t c = 0;
  for (; c + SF_LANES <= n; c += SF_LANES) {
    vf v[SF_TILE_INPUTS];
    for (int j = 0; j < n_inputs; ++j) v[j] = v_load(x + (size_t)j * (size_t)columns + c);
    for (int r = 0; r < n_rows; ++r) {
      const vf w = v_load(chunk->weights[r0 + r] + (size_t)c * sizeof(float));
      for (int j = 0; j < n_inputs; ++j) acc[r][j] = v_fma(w, v[j], acc[r][j]);
    }
  }
  if (c < n) {
    for (int j = 0; j < n_inputs; ++j) {
      const vf v = v_load_tail(x + (size_t)j * (size_t)columns + c, n - c);
      for (int r = 0; r < n_rows; ++r) {
        acc[r][j] = v_fma(v_load_tail(chunk->weights[r0 + r] + (size_t)c * sizeof(float), n - c), v, acc[r][j]);
      }
    }
  }
  for (int r = 0; r < n_rows; ++r) {
    for (int j = 0; j < n_inputs; ++j) sums[j][r0 + r] = acc[r][j];
  }
}

/* The same for Q8_0 and n columns in whole blocks; `blocks` scales from input to input. */
SF_INLINE void tile_q8_0(int n_rows, int n_inputs, const batch_chunk *chunk, int r0, int32_t n, const int16_t *values,
                         const float *x_scales, int32_t columns, vf (*sums)[BATCH_ROWS]) {
  const size_t blocks = (size_t)(columns / SF_BLOCK);
  vf acc[SF_TILE_ROWS][SF_TILE_INPUTS];
  float scales[SF_TILE_ROWS][SF_TILE_INPUTS][CHUNK_BLOCKS];
  for (int r = 0; r < n_rows; ++r) {
    for (int j = 0; j < n_inputs; ++j) {
      acc[r][j] = sums[j][r0 + r];
      for (int32_t b = 0; b < n / SF_BLOCK; b += SF_LANES) {
        const vf scale =
            v_mul(v_load(chunk->scales[r0 + r] + b), load_some(x_scales + (size_t)j * blocks + b, n / SF_BLOCK - b));
        v_store(scales[r][j] + b, scale);
      }
    }
  }
  for (int32_t b = 0; b < n / SF_BLOCK; ++b) {
    vb v[SF_TILE_INPUTS];
    for (int j = 0; j < n_inputs; ++j) v[j] = vb_load_i16(values + (size_t)j * (size_t)columns + b * SF_BLOCK);
    for (int r = 0; r < n_rows; ++r) {
      const vb w = vb_load_i8((const int8_t *)(chunk->weights[r0 + r] + b * Q8_0_BYTES + 2));
      for (int j = 0; j < n_inputs; ++j) acc[r][j] = v_fma(vb_dot(w, v[j]), v_set1(scales[r][j][b]), acc[r][j]);
    }
  }
  for (int r = 0; r < n_rows; ++r) {
    for (int j = 0; j < n_inputs; ++j) sums[j][r0 + r] = acc[r][j];
  }
}

/* All rows of the group with inputs j … j + n_inputs - 1 (a constant number), columns c … c + n - 1. */
SF_INLINE void batch_tiles(sf_format_index format, int n_inputs, const batch_chunk *chunk, const sf_inputs *inputs,
                           int32_t j, int32_t c, int32_t n, int32_t columns, batch_sums sums) {
  const size_t at = (size_t)j * (size_t)columns + (size_t)c;
  for (int r = 0; r < BATCH_ROWS; r += SF_TILE_ROWS) {
    if (format == SF_FORMAT_Q8_0) {
      tile_q8_0(SF_TILE_ROWS, n_inputs, chunk, r, n, inputs->values + at, inputs->scales + at / SF_BLOCK, columns,
                sums + j);
    } else {
      tile_float(SF_TILE_ROWS, n_inputs, chunk, r, n, inputs->f32 + at, columns, sums + j);
    }
  }
}

/* Inputs j, j + 1, … of `inputs`, in the form that the format has. */
SF_INLINE sf_inputs inputs_from(sf_format_index format, const sf_inputs *inputs, int32_t j, int32_t columns) {
  const size_t at = (size_t)j * (size_t)columns;
  sf_inputs some = {NULL, NULL, NULL};
  if (format == SF_FORMAT_Q8_0) {
    some.values = inputs->values + at;
    some.scales = inputs->scales + at / SF_BLOCK;
  } else {
    some.f32 = inputs->f32 + at;
  }
  return some;
}

/* Four rows with n_inputs ≤ BATCH_INPUTS inputs. */
SF_INLINE void batch_group(sf_format_index format, const uint8_t *const *row, const sf_inputs *inputs, int32_t n_inputs,
                           int32_t columns, batch_sums sums) {
  batch_chunk chunk;
  memset(chunk.scales, 0, sizeof chunk.scales);
  for (int32_t j = 0; j < n_inputs; ++j) {
    for (int r = 0; r < BATCH_ROWS; ++r) sums[j][r] = v_set1(0);
  }
  for (int32_t c = 0; c < columns; c += CHUNK) {
    const int32_t n = columns - c < CHUNK ? columns - c : CHUNK;
    batch_load(format, row, c, n, &chunk);
    int32_t j = 0;
    for (; j + SF_TILE_INPUTS <= n_inputs; j += SF_TILE_INPUTS) {
      batch_tiles(format, SF_TILE_INPUTS, &chunk, inputs, j, c, n, columns, sums);
    }
    for (; j < n_inputs; ++j) batch_tiles(format, 1, &chunk, inputs, j, c, n, columns, sums);
  }
}

/* Every row with every input; in the last group, the last row fills up the four. */
SF_INLINE void dot_batch(sf_format_index format, const sf_rows *rows, int32_t n_rows, const sf_inputs *inputs,
                         int32_t n_inputs, float *out, size_t out_stride) {
  batch_sums sums;
  for (int32_t i = 0; i < n_rows; i += BATCH_ROWS) {
    const uint8_t *row[BATCH_ROWS];
    for (int r = 0; r < BATCH_ROWS; ++r) row[r] = row_at(rows, i + r < n_rows ? i + r : n_rows - 1);
    for (int32_t j0 = 0; j0 < n_inputs; j0 += BATCH_INPUTS) {
      const int32_t n = n_inputs - j0 < BATCH_INPUTS ? n_inputs - j0 : BATCH_INPUTS;
      const sf_inputs some = inputs_from(format, inputs, j0, rows->columns);
      batch_group(format, row, &some, n, rows->columns, sums);
      for (int32_t j = 0; j < n; ++j) {
        for (int32_t r = 0; r < BATCH_ROWS && i + r < n_rows; ++r) {
          out[(size_t)(j0 + j) * out_stride + (size_t)(i + r)] = v_sum(sums[j][r]);
        }
      }
    }
  }
}

#endif
