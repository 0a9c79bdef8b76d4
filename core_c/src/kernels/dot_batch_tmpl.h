/* Dot products of rows of a block format with several inputs of integers: see dot.h. Rows are brought into quants of 16
 * bits with their scales by code of their format; the rest exists once for all formats. */
#ifndef SF_KERNELS_DOT_BATCH_H
#define SF_KERNELS_DOT_BATCH_H

#include "kernels/products_tmpl.h"

enum {
  BATCH_ROWS = 4,                         /* rows of a group */
  BATCH_INPUTS = 32,                      /* inputs whose accumulators are kept */
  CHUNK = SF_BLOCK_GROUPS * GROUP_COLUMNS /* columns of a chunk */
};

/* A chunk of a row. */
typedef struct {
  union {
    int16_t quants[CHUNK];
    vf vectors[CHUNK / SF_LANES / 2]; /* so that none lies across cache lines */
  } buffer;
  float scales[SF_BLOCK_GROUPS][GROUP_SIZE], offsets[SF_BLOCK_GROUPS][GROUP_SIZE];
  float mins[SF_BLOCK_GROUPS][GROUP_SIZE];   /* the scales of second products, */
  int8_t run_mins[SF_BLOCK_GROUPS][SF_RUNS]; /* and the integers of the mins of runs */
} batch_chunk;

/* Accumulators, (input, row). */
typedef vf batch_sums[BATCH_INPUTS][BATCH_ROWS];

/* n columns of a block format at p, which is the start of a group. */
SF_INLINE void load_blocks(sf_format_index format, const uint8_t *p, int32_t n, batch_chunk *chunk) {
  for (int32_t g = 0; g * GROUP_COLUMNS < n; ++g, p += group_bytes(format)) {
    const int32_t rest = n / SF_BLOCK - g * GROUP, blocks = rest < GROUP ? rest : GROUP;
    vf scale[GROUP_VECTORS], min[GROUP_VECTORS], offset[GROUP_VECTORS];
    group_scales(format, p, blocks, scale, min);
    group_offsets(format, scale, min, offset);
    store_group(chunk->scales[g], scale);
    store_group(chunk->offsets[g], offset);
    if (has_second(format)) store_group(chunk->mins[g], min);
    if (has_run_mins(format)) {
      const sf_traits *traits = traits_of(format);
      for (int i = 0; i < SF_RUNS; ++i) chunk->run_mins[g][i] = (int8_t)traits->min_of(p, i);
    }
    for (int32_t s = 0; s < blocks; ++s) {
      vb_store(chunk->buffer.quants + g * GROUP_COLUMNS + s * SF_BLOCK, load_quants(format, p, s));
    }
  }
}

/* Columns c … c + n - 1 of a row, c a multiple of a group. */
SF_NOT_INLINE void batch_load(sf_format_index format, const uint8_t *row, int32_t c, int32_t n, batch_chunk *chunk) {
  switch (format) {
#define SF_FORMAT(NAME, name)                                           \
  case SF_FORMAT_##NAME:                                                \
    if (is_plain(SF_FORMAT_##NAME)) break;                              \
    row += (size_t)(c / GROUP_COLUMNS) * group_bytes(SF_FORMAT_##NAME); \
    load_blocks(SF_FORMAT_##NAME, row, n, chunk);                       \
    break;
#include "formats/lists.h"
#undef SF_FORMAT
    default:
      break;
  }
}

/* Adds the products of one group of the chunk, of n sub-blocks: rows chunk, chunk + 1, … with the inputs `some`; both
 * counts are constants where this is inlined, so that the accumulators are registers. */
SF_INLINE void tile_group(sf_product product, int n_rows, int n_inputs, const batch_chunk *chunk, int32_t g, int32_t n,
                          const sf_inputs *some, int32_t columns, vf (*acc)[SF_TILE_INPUTS]) {
  float scales[SF_TILE_ROWS][SF_TILE_INPUTS][GROUP_SIZE], min_scales[SF_TILE_ROWS][SF_TILE_INPUTS][GROUP_SIZE];
  for (int j = 0; j < n_inputs; ++j) {
    const size_t at = (size_t)j * (size_t)(columns / SF_BLOCK) + (size_t)(g * GROUP);
    vf x_scale[GROUP_VECTORS], x_sum[GROUP_VECTORS];
    load_group(some->scales + at, n, x_scale);
    load_group(some->sums + at, n, x_sum);
    for (int r = 0; r < n_rows; ++r) {
      vf scale[GROUP_VECTORS], offset[GROUP_VECTORS];
      for (int k = 0; k < GROUP_VECTORS; ++k) scale[k] = v_load(chunk[r].scales[g] + k * SF_LANES);
      for (int k = 0; k < GROUP_VECTORS; ++k) offset[k] = v_load(chunk[r].offsets[g] + k * SF_LANES);
      acc[r][j] = take_offsets(acc[r][j], offset, x_sum);
      store_product(scales[r][j], scale, x_scale);
      if (product == PRODUCT_16_MINS || product == PRODUCT_16_RUNS) {
        for (int k = 0; k < GROUP_VECTORS; ++k) scale[k] = v_load(chunk[r].mins[g] + k * SF_LANES);
        store_product(min_scales[r][j], scale, x_scale);
      }
    }
  }
  for (int32_t s = 0; s < n; ++s) {
    const size_t at = (size_t)g * GROUP_COLUMNS + (size_t)s * SF_BLOCK;
    sub_block v[SF_TILE_INPUTS];
    for (int j = 0; j < n_inputs; ++j) v[j] = load_input(product, some->values + (size_t)j * (size_t)columns + at);
    for (int r = 0; r < n_rows; ++r) {
      const int8_t *mins = chunk[r].run_mins[g] + 2 * s;
      sub_block w = load_unpacked(product, chunk[r].buffer.quants + at);
      vb second = vb_high_bits(0); /* other products have one factor */
      if (product == PRODUCT_16_MINS) second = both_runs(w.wide, mins[0], mins[1]);
      if (product == PRODUCT_16_RUNS) {
        second = vb_scale(w.wide, 0, 1);
        w.wide = vb_scale(w.wide, 1, 0);
      }
      for (int j = 0; j < n_inputs; ++j) {
        acc[r][j] = v_fma(dot_sub_block(product, w, v[j]), v_set1(scales[r][j][s]), acc[r][j]);
        if (product == PRODUCT_16_MINS || product == PRODUCT_16_RUNS) {
          acc[r][j] = v_fma(vb_dot(second, v[j].wide), v_set1(-min_scales[r][j][s]), acc[r][j]);
        }
      }
    }
  }
}

SF_INLINE void tile_blocks(sf_product product, int n_rows, int n_inputs, const batch_chunk *chunk, int r0, int32_t n,
                           const sf_inputs *some, int32_t columns, vf (*sums)[BATCH_ROWS]) {
  vf acc[SF_TILE_ROWS][SF_TILE_INPUTS];
  for (int r = 0; r < n_rows; ++r) {
    for (int j = 0; j < n_inputs; ++j) acc[r][j] = sums[j][r0 + r];
  }
  for (int32_t g = 0; g < SF_BLOCK_GROUPS && g * GROUP_COLUMNS < n; ++g) { /* of one group compilers make no loop */
    const int32_t rest = n / SF_BLOCK - g * GROUP;
    tile_group(product, n_rows, n_inputs, chunk + r0, g, rest < GROUP ? rest : GROUP, some, columns, acc);
  }
  for (int r = 0; r < n_rows; ++r) {
    for (int j = 0; j < n_inputs; ++j) sums[j][r0 + r] = acc[r][j];
  }
}

/* Inputs j, j + 1, … of `inputs` from column c on, a multiple of 32. */
SF_INLINE sf_inputs inputs_from(const sf_inputs *inputs, int32_t j, int32_t c, int32_t columns) {
  const size_t at = (size_t)j * (size_t)columns + (size_t)c;
  sf_inputs some = {
      .values = inputs->values + at, .scales = inputs->scales + at / SF_BLOCK, .sums = inputs->sums + at / SF_BLOCK};
#if SF_SPLITS
  for (int f = 0; f < SF_SPLIT_FORMS; ++f) {
    if (inputs->split[f]) some.split[f] = inputs->split[f] + (size_t)j * sf_split_bytes(columns);
  }
#endif
  return some;
}

/* All rows of the group with inputs j … j + n_inputs - 1 (a constant number), columns c … c + n - 1. The integers of
 * the inputs are `apart` from one another: if that is 0, input j comes again and again. */
SF_INLINE void batch_tiles(sf_product product, int n_inputs, const batch_chunk *chunk, const sf_inputs *inputs,
                           int32_t j, int32_t apart, int32_t c, int32_t n, int32_t columns, batch_sums sums) {
  const sf_inputs some = inputs_from(inputs, j, c, columns);
  for (int r = 0; r < BATCH_ROWS; r += SF_TILE_ROWS) {
    tile_blocks(product, SF_TILE_ROWS, n_inputs, chunk, r, n, &some, apart, sums + j);
  }
}

/* A chunk of four rows, columns c … c + n - 1, with n_inputs ≤ BATCH_INPUTS inputs. */
SF_INLINE void batch_columns(sf_product product, const batch_chunk *chunk, const sf_inputs *inputs, int32_t n_inputs,
                             int32_t c, int32_t n, int32_t columns, batch_sums sums) {
  int32_t j = 0;
  if (SF_BLOCK_INPUTS == 2) { /* WebAssembly, whose modules have to stay small: the last of an odd number comes twice */
    for (; j < n_inputs; j += 2) {
      batch_tiles(product, 2, chunk, inputs, j, j + 1 < n_inputs ? columns : 0, c, n, columns, sums);
    }
    return;
  }
  for (; j + SF_BLOCK_INPUTS <= n_inputs; j += SF_BLOCK_INPUTS) {
    batch_tiles(product, SF_BLOCK_INPUTS, chunk, inputs, j, columns, c, n, columns, sums);
  }
  for (; j < n_inputs; ++j) batch_tiles(product, 1, chunk, inputs, j, columns, c, n, columns, sums);
}

/* The same for formats whose runs have mins; apart, so that it takes no registers of the others. */
SF_NOT_INLINE void batch_columns_with_mins(const batch_chunk *chunk, const sf_inputs *inputs, int32_t n_inputs,
                                           int32_t c, int32_t n, int32_t columns, batch_sums sums) {
  batch_columns(PRODUCT_16_MINS, chunk, inputs, n_inputs, c, n, columns, sums);
}

/* The same for formats whose runs have floats as scales. */
SF_NOT_INLINE void batch_columns_by_runs(const batch_chunk *chunk, const sf_inputs *inputs, int32_t n_inputs, int32_t c,
                                         int32_t n, int32_t columns, batch_sums sums) {
  batch_columns(PRODUCT_16_RUNS, chunk, inputs, n_inputs, c, n, columns, sums);
}

static void batch_group(sf_format_index format, const uint8_t *const *row, const sf_inputs *inputs, int32_t n_inputs,
                        int32_t columns, batch_sums sums) {
  batch_chunk chunk[BATCH_ROWS];
  for (int32_t j = 0; j < BATCH_INPUTS && j <= n_inputs; ++j) {
    for (int r = 0; r < BATCH_ROWS; ++r) sums[j][r] = v_set1(0);
  }
  for (int32_t c = 0; c < columns; c += CHUNK) {
    const int32_t n = columns - c < CHUNK ? columns - c : CHUNK;
    for (int r = 0; r < BATCH_ROWS; ++r) batch_load(format, row[r], c, n, &chunk[r]);
    switch (product_of(format)) {
      case PRODUCT_16_MINS:
        batch_columns_with_mins(chunk, inputs, n_inputs, c, n, columns, sums);
        break;
      case PRODUCT_16_RUNS:
        batch_columns_by_runs(chunk, inputs, n_inputs, c, n, columns, sums);
        break;
      case PRODUCT_QUANTS8:
        if (SF_DOT8) batch_columns(PRODUCT_QUANTS8, chunk, inputs, n_inputs, c, n, columns, sums);
        break;
      case PRODUCT_SIGNED8:
        if (SF_DOT8) batch_columns(PRODUCT_SIGNED8, chunk, inputs, n_inputs, c, n, columns, sums);
        break;
      default:
        batch_columns(PRODUCT_16, chunk, inputs, n_inputs, c, n, columns, sums);
        break;
    }
  }
}

/* Every row with every input; in the last group, the last row fills up the four. */
SF_NOT_INLINE void dot_batch(sf_format_index format, const sf_rows *rows, int32_t n_rows, const sf_inputs *inputs,
                             int32_t n_inputs, float *out, size_t out_stride) {
  batch_sums sums;
  for (int32_t i = 0; i < n_rows; i += BATCH_ROWS) {
    const uint8_t *row[BATCH_ROWS];
    for (int r = 0; r < BATCH_ROWS; ++r) row[r] = sf_row_at(rows, i + r < n_rows ? i + r : n_rows - 1);
    for (int32_t j0 = 0; j0 < n_inputs; j0 += BATCH_INPUTS) {
      const int32_t n = n_inputs - j0 < BATCH_INPUTS ? n_inputs - j0 : BATCH_INPUTS;
      const sf_inputs some = inputs_from(inputs, j0, 0, rows->columns);
      batch_group(format, row, &some, n, rows->columns, sums);
      for (int32_t j = 0; j < n; ++j) {
        for (int32_t r = 0; r < BATCH_ROWS && i + r < n_rows; ++r) {
          out[(size_t)(j0 + j) * out_stride + (size_t)(i + r)] = v_sum(sums[j][r]) * rows->scale;
        }
      }
    }
  }
}

#endif
