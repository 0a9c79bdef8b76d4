/* Products of floats: rows of any format, whose weights are brought into floats, with inputs that are floats.
 *
 * Rows come in strips. A strip, a run of columns of some rows, is unpacked once and meets all inputs, a tile of rows
 * and inputs at a time: the strip and the inputs of a tile lie in the first-level cache, the accumulators of a tile in
 * registers. Between strips accumulators wait in memory. Each (row, input) pair has one accumulator vector, to which
 * the products of its columns are added from first to last, so its bits depend neither on the number of inputs nor on
 * that of rows. A format has no part in this but `unpack`.
 *
 * A few inputs (dot_few_floats) would not make up for storing a strip: their products are added in the same order, but
 * the weights stay in registers. */
#ifndef SF_KERNELS_DOT_FLOATS_H
#define SF_KERNELS_DOT_FLOATS_H

#include "kernels/unpack_tmpl.h"

#ifndef SF_PROMPT_FLOATS
#define SF_PROMPT_FLOATS 0 /* whether block formats come here too */
#endif
#ifndef SF_SUM4
#define SF_SUM4 0 /* v_sum4 */
#endif

enum {
  STRIP_ROWS = 8,
  STRIP_COLUMNS = 3 * GROUP_COLUMNS,
  STRIP_VECTORS = STRIP_COLUMNS / SF_LANES,
  STRIP_INPUTS = 64, /* whose accumulators are kept */
  FEW_INPUTS = 4,
  FEW_ROWS = SF_LANES > 8 ? 4 : 2, /* which share the inputs they meet, by the number of registers */
  FEW_VECTORS = SUB_BLOCK_VECTORS
};

/* A strip, in vectors so that none lies across cache lines. */
typedef vf float_strip[STRIP_ROWS][STRIP_VECTORS];
/* Accumulators, (input, row). */
typedef vf strip_sums[STRIP_INPUTS][STRIP_ROWS];

/* ---- Rows as floats ---- */

/* n plain numbers at p, zeros up to a whole vector. */
SF_INLINE void unpack_plain(sf_format_index format, const uint8_t *p, int32_t n, vf *floats) {
  const size_t step = SF_LANES * weight_bytes(format);
  int32_t c = 0;
  for (; c + SF_LANES <= n; c += SF_LANES, p += step) *floats++ = load_weights(format, p);
  if (c < n) *floats = load_some_weights(format, p, n - c);
}

/* A group of n sub-blocks at p. */
SF_INLINE void unpack_group(sf_format_index format, const uint8_t *p, int32_t n, vf *floats) {
  vf scale[GROUP_VECTORS], min[GROUP_VECTORS];
  float scales[GROUP_SIZE], mins[GROUP_SIZE];
  group_scales(format, p, n, scale, min);
  store_group(scales, scale);
  store_group(mins, min);
  if (is_paired(format)) { /* whole blocks */
    for (int s = 0; s < GROUP; s += 2) {
      unpack_sub_block(format, p, s & ~1, scales[s], mins[s], floats + s * SUB_BLOCK_VECTORS);
      unpack_sub_block(format, p, s | 1, scales[s + 1], mins[s + 1], floats + (s + 1) * SUB_BLOCK_VECTORS);
    }
    return;
  }
  for (int s = 0; s < n; ++s) unpack_sub_block(format, p, s, scales[s], mins[s], floats + s * SUB_BLOCK_VECTORS);
}

/* Columns c … c + n - 1 of a row, n ≤ STRIP_COLUMNS, c a multiple of a group. */
SF_INLINE void unpack_columns(sf_format_index format, const uint8_t *row, int32_t c, int32_t n, vf *floats) {
  if (is_plain(format)) {
    unpack_plain(format, row + (size_t)c * weight_bytes(format), n, floats);
    return;
  }
  const uint8_t *p = row + (size_t)(c / GROUP_COLUMNS) * group_bytes(format);
  for (; n > 0; n -= GROUP_COLUMNS, p += group_bytes(format), floats += GROUP_COLUMNS / SF_LANES) {
    unpack_group(format, p, n < GROUP_COLUMNS ? n / SF_BLOCK : GROUP, floats);
  }
}

/* Whether there is code for it: keys and values may have Q8_0 as their format. */
SF_INLINE int is_unpacked(sf_format_index format) {
  return is_plain(format) || format == SF_FORMAT_Q8_0 || SF_PROMPT_FLOATS;
}

SF_NOT_INLINE void unpack(sf_format_index format, const uint8_t *row, int32_t c, int32_t n, vf *floats) {
  switch (format) {
#define SF_FORMAT(NAME, name)                            \
  case SF_FORMAT_##NAME:                                 \
    if (!is_unpacked(SF_FORMAT_##NAME)) break;           \
    unpack_columns(SF_FORMAT_##NAME, row, c, n, floats); \
    break;
#include "formats/lists.h"
#undef SF_FORMAT
    default:
      break;
  }
}

static void unpack_floats(sf_format_index format, const uint8_t *row, int32_t c, int32_t n, float *floats) {
  unpack(format, row, c, n, (vf *)(void *)floats);
}

/* ---- A strip ---- */

/* Adds the products of n columns: rows r0 … of the strip with the inputs at x, x + columns, …; both counts are
 * constants where this is inlined, so that the accumulators are registers. */
SF_INLINE void float_tile(int n_rows, int n_inputs, float_strip strip, int32_t r0, int32_t n, const float *x,
                          int32_t columns, vf (*sums)[STRIP_ROWS]) {
  vf acc[SF_TILE_ROWS][SF_TILE_INPUTS];
  for (int r = 0; r < n_rows; ++r) {
    for (int j = 0; j < n_inputs; ++j) acc[r][j] = sums[j][r0 + r];
  }
  const vf *w = strip[r0];
  int32_t c = 0;
  for (; c + SF_LANES <= n; c += SF_LANES, ++w) {
    vf v[SF_TILE_INPUTS];
    for (int j = 0; j < n_inputs; ++j) v[j] = v_load(x + (size_t)j * (size_t)columns + c);
    for (int r = 0; r < n_rows; ++r) {
      const vf weights = w[r * STRIP_VECTORS];
      for (int j = 0; j < n_inputs; ++j) acc[r][j] = v_fma(weights, v[j], acc[r][j]);
    }
  }
  if (c < n) {
    for (int j = 0; j < n_inputs; ++j) {
      const vf v = v_load_tail(x + (size_t)j * (size_t)columns + c, n - c);
      for (int r = 0; r < n_rows; ++r) acc[r][j] = v_fma(w[r * STRIP_VECTORS], v, acc[r][j]);
    }
  }
  for (int r = 0; r < n_rows; ++r) {
    for (int j = 0; j < n_inputs; ++j) sums[j][r0 + r] = acc[r][j];
  }
}

/* All n_rows rows of a strip, up to a multiple of those of a tile, with n_inputs inputs (a constant number). */
SF_INLINE void strip_tiles(int n_inputs, float_strip strip, int32_t n_rows, int32_t n, const float *x, int32_t columns,
                           vf (*sums)[STRIP_ROWS]) {
  for (int32_t r = 0; r < n_rows; r += SF_TILE_ROWS) {
    float_tile(SF_TILE_ROWS, n_inputs, strip, r, n, x, columns, sums);
  }
}

/* Adds the products of a strip of n columns. */
SF_INLINE void strip_add(float_strip strip, int32_t n_rows, int32_t n, const float *x, int32_t n_inputs,
                         int32_t columns, strip_sums sums) {
  int32_t j = 0;
  for (; j + SF_TILE_INPUTS <= n_inputs; j += SF_TILE_INPUTS) {
    strip_tiles(SF_TILE_INPUTS, strip, n_rows, n, x + (size_t)j * (size_t)columns, columns, sums + j);
  }
  for (; j < n_inputs; ++j) strip_tiles(1, strip, n_rows, n, x + (size_t)j * (size_t)columns, columns, sums + j);
}

/* ---- Rows and inputs ---- */

/* Sums of n_rows ≤ STRIP_ROWS rows with n_inputs ≤ STRIP_INPUTS inputs. */
static void strip_products(sf_format_index format, const uint8_t *const *row, int32_t n_rows, const float *x,
                           int32_t n_inputs, int32_t columns, strip_sums sums) {
  float_strip strip;
  for (int32_t j = 0; j < n_inputs; ++j) {
    for (int r = 0; r < STRIP_ROWS; ++r) sums[j][r] = v_set1(0);
  }
  for (int32_t c = 0; c < columns; c += STRIP_COLUMNS) {
    const int32_t n = columns - c < STRIP_COLUMNS ? columns - c : STRIP_COLUMNS;
    for (int32_t r = 0; r < n_rows; ++r) unpack(format, row[r], c, n, strip[r]);
    strip_add(strip, n_rows, n, x + c, n_inputs, columns, sums);
  }
}

/* The sum of the lanes of each, times scale. */
SF_INLINE void store_sums(const vf *sums, int32_t n, float scale, float *out) {
  int32_t r = 0;
#if SF_SUM4
  for (; r + 4 <= n; r += 4) v_sum4(sums + r, out + r);
#endif
  for (; r < n; ++r) out[r] = v_sum(sums[r]);
  for (r = 0; r < n; ++r) out[r] *= scale;
}

/* ---- A few inputs ---- */

/* Adds the products of a vector of columns: one of each of `n_rows` rows with those of n_inputs inputs from column c
 * on, of which there are n. */
SF_INLINE void few_add(int n_rows, int n_inputs, const vf *weights, const float *const *x, int32_t c, int32_t n,
                       vf (*acc)[FEW_ROWS]) {
  for (int j = 0; j < n_inputs; ++j) {
    const vf v = load_some(x[j] + c, n);
    for (int r = 0; r < n_rows; ++r) acc[j][r] = v_fma(weights[r], v, acc[j][r]);
  }
}

SF_INLINE void few_plain(sf_format_index format, int n_rows, int n_inputs, const uint8_t *const *row,
                         const float *const *x, int32_t columns, vf (*acc)[FEW_ROWS]) {
  const size_t size = weight_bytes(format);
  vf weights[FEW_ROWS];
  int32_t c = 0;
  for (; c + SF_LANES <= columns; c += SF_LANES) {
    for (int r = 0; r < n_rows; ++r) weights[r] = load_weights(format, row[r] + (size_t)c * size);
    few_add(n_rows, n_inputs, weights, x, c, SF_LANES, acc);
  }
  if (c == columns) return;
  for (int r = 0; r < n_rows; ++r) weights[r] = load_some_weights(format, row[r] + (size_t)c * size, columns - c);
  few_add(n_rows, n_inputs, weights, x, c, columns - c, acc);
}

SF_INLINE void few_blocks(sf_format_index format, int n_rows, int n_inputs, const uint8_t *const *row,
                          const float *const *x, int32_t columns, vf (*acc)[FEW_ROWS]) {
  float scales[FEW_ROWS][GROUP_SIZE], mins[FEW_ROWS][GROUP_SIZE];
  for (int32_t c = 0; c < columns; c += GROUP_COLUMNS) {
    const int32_t rest = (columns - c) / SF_BLOCK, n = rest < GROUP ? rest : GROUP;
    const size_t at = (size_t)(c / GROUP_COLUMNS) * group_bytes(format);
    for (int r = 0; r < n_rows; ++r) {
      vf scale[GROUP_VECTORS], min[GROUP_VECTORS];
      group_scales(format, row[r] + at, n, scale, min);
      store_group(scales[r], scale);
      store_group(mins[r], min);
    }
    for (int s = 0; s < n; ++s) {
      vf floats[FEW_ROWS][FEW_VECTORS];
      for (int r = 0; r < n_rows; ++r) {
        unpack_sub_block(format, row[r] + at, s, scales[r][s], mins[r][s], floats[r]);
      }
      for (int k = 0; k < FEW_VECTORS; ++k) {
        vf weights[FEW_ROWS];
        for (int r = 0; r < n_rows; ++r) weights[r] = floats[r][k];
        few_add(n_rows, n_inputs, weights, x, c + s * SF_BLOCK + k * SF_LANES, SF_LANES, acc);
      }
    }
  }
}

/* Whether there is code for a few inputs: where vectors are short it would gain little, and WebAssembly modules have to
 * stay small. */
SF_INLINE int has_few(void) { return SF_LANES > 4; }

/* Every row with n_inputs inputs, computed as n_most ≤ FEW_INPUTS of them (a constant), of which the last come again.
 */
SF_INLINE void dot_few_floats(sf_format_index format, int n_most, const sf_rows *rows, int32_t n_rows, const float *x,
                              int32_t n_inputs, float *out, size_t out_stride) {
  const float *input[FEW_INPUTS];
  for (int32_t j = 0; j < n_most; ++j) input[j] = x + (size_t)(j < n_inputs ? j : n_inputs - 1) * (size_t)rows->columns;
  for (int32_t i = 0; i < n_rows; i += FEW_ROWS) {
    const uint8_t *row[FEW_ROWS];
    vf acc[FEW_INPUTS][FEW_ROWS];
    for (int r = 0; r < FEW_ROWS; ++r) {
      row[r] = sf_row_at(rows, i + r < n_rows ? i + r : n_rows - 1);
      for (int j = 0; j < n_most; ++j) acc[j][r] = v_set1(0);
    }
    if (is_plain(format)) {
      few_plain(format, FEW_ROWS, n_most, row, input, rows->columns, acc);
    } else {
      few_blocks(format, FEW_ROWS, n_most, row, input, rows->columns, acc);
    }
    const int32_t some = n_rows - i < FEW_ROWS ? n_rows - i : FEW_ROWS;
    for (int32_t j = 0; j < n_inputs; ++j) store_sums(acc[j], some, rows->scale, out + (size_t)j * out_stride + i);
  }
}

/* Every row with every input. */
SF_NOT_INLINE void dot_floats(sf_format_index format, const sf_rows *rows, int32_t n_rows, const float *x,
                              int32_t n_inputs, float *out, size_t out_stride) {
  strip_sums sums;
  for (int32_t i = 0; i < n_rows; i += STRIP_ROWS) {
    const uint8_t *row[STRIP_ROWS];
    const int32_t some = n_rows - i < STRIP_ROWS ? n_rows - i : STRIP_ROWS;
    const int32_t filled = (some + SF_TILE_ROWS - 1) / SF_TILE_ROWS * SF_TILE_ROWS; /* with the last row again */
    for (int32_t r = 0; r < filled; ++r) row[r] = sf_row_at(rows, i + (r < some ? r : some - 1));
    for (int32_t j0 = 0; j0 < n_inputs; j0 += STRIP_INPUTS) {
      const int32_t n = n_inputs - j0 < STRIP_INPUTS ? n_inputs - j0 : STRIP_INPUTS;
      const float *inputs = x + (size_t)j0 * (size_t)rows->columns;
      strip_products(format, row, filled, inputs, n, rows->columns, sums);
      for (int32_t j = 0; j < n; ++j) store_sums(sums[j], some, rows->scale, out + (size_t)(j0 + j) * out_stride + i);
    }
  }
}

#endif
