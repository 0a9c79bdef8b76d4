/* Products of the rows of a block format with the inputs of a prompt, of integers of 16 bits (SF_PROMPT_LANES): where
 * vectors are short, or have an instruction for products of pairs and their sums.
 *
 * The lanes of a vector are rows, as in panels (dot_panels_tmpl.h). A chunk of LANE_ROWS rows is brought into quants of
 * 16 bits, of which two neighbours of each row lie side by side, and meets all inputs while it is in the first-level
 * cache: a tile of LANE_INPUTS inputs has its integer sums in registers. A sub-block's products are summed exactly, in
 * 32 bits, and then scaled by both scales for all rows of a vector at once: a quarter of the conversions and
 * multiplications that sums over the lanes of each pair take, and no lanes to sum at the end. Each (row, input) pair
 * has one accumulator, to which sub-blocks are added from first to last, so its bits depend on nothing else. */
#ifndef SF_KERNELS_DOT_PROMPT_H
#define SF_KERNELS_DOT_PROMPT_H

#include "kernels/dot_batch_tmpl.h"

#ifndef SF_PROMPT_LANES
#define SF_PROMPT_LANES 0 /* vb_lanes, v_dot_pairs */
#endif
#ifndef SF_LANE_INPUTS
#define SF_LANE_INPUTS 2 /* of a tile, whose accumulators and a few vectors more are registers */
#endif

/* Formats whose sub-blocks are one product, and the 32 numbers of it small enough for a sum of 32 bits: not those whose
 * quants come times the scales of runs. */
SF_INLINE int has_lanes(sf_format_index format) {
  return SF_PROMPT_LANES && !is_plain(format) && !has_second(format) && traits_of(format)->scales != SF_SCALES_RUNS;
}

static int32_t lanes_of(sf_format_index format) { return has_lanes(format); }

#if SF_PROMPT_LANES
enum {
  LANE_VECTORS = 4, /* of rows */
  LANE_ROWS = LANE_VECTORS * SF_LANES,
  LANE_PAIRS = SF_BLOCK / 2,                           /* of a sub-block's columns */
  LANE_COLUMNS = SF_LANES > 4 ? GROUP_COLUMNS : CHUNK, /* of a chunk, which stays in the first-level cache */
  LANE_BLOCKS = LANE_COLUMNS / SF_BLOCK,
  LANE_INPUTS = SF_LANE_INPUTS,
  LANE_BATCH = 128 /* inputs whose accumulators are kept */
};

/* A chunk of LANE_ROWS rows. */
typedef struct {
  vi quants[LANE_BLOCKS][LANE_PAIRS][LANE_VECTORS];
  float scales[LANE_BLOCKS][LANE_ROWS], mins[LANE_BLOCKS][LANE_ROWS];
} lane_chunk;

/* Accumulators of an input. */
typedef vf lane_sums[LANE_VECTORS];

/* Columns c … c + n - 1 of the rows. */
static void lanes_load(sf_format_index format, const uint8_t *const *row, int32_t c, int32_t n, lane_chunk *to) {
  const int zero_point = zero_point_of(format);
  for (int v = 0; v < LANE_VECTORS; ++v) {
    batch_chunk some[SF_LANES];
    for (int r = 0; r < SF_LANES; ++r) batch_load(format, row[v * SF_LANES + r], c, n, &some[r]);
    for (int32_t b = 0; b < n / SF_BLOCK; ++b) {
      vb quants[SF_LANES];
      for (int r = 0; r < SF_LANES; ++r) {
        quants[r] = vb_add(vb_load_i16(some[r].buffer.quants + b * SF_BLOCK), -zero_point);
        to->scales[b][v * SF_LANES + r] = some[r].scales[b / GROUP][b % GROUP];
        to->mins[b][v * SF_LANES + r] = some[r].offsets[b / GROUP][b % GROUP];
      }
      vb_lanes(quants, LANE_VECTORS, to->quants[b][0] + v);
    }
  }
}

/* Takes the mins of a chunk's sub-blocks from the sums of an input. */
static void lanes_mins(const lane_chunk *chunk, int32_t blocks, const float *x_sums, lane_sums sums) {
  for (int32_t b = 0; b < blocks; ++b) {
    for (int v = 0; v < LANE_VECTORS; ++v) {
      sums[v] = v_sub(sums[v], v_mul(v_load(chunk->mins[b] + v * SF_LANES), v_set1(x_sums[b])));
    }
  }
}

/* Adds the products of a chunk with LANE_INPUTS inputs. */
static void lanes_tile(const lane_chunk *chunk, int32_t blocks, const int16_t *const *x, const float *const *scales,
                       lane_sums *sums) {
  const vi *quants = chunk->quants[0][0];
  const int16_t *pairs[LANE_INPUTS]; /* which move on, so that WebAssembly computes no addresses from u */
  for (int j = 0; j < LANE_INPUTS; ++j) pairs[j] = x[j];
  for (int32_t b = 0; b < blocks; ++b) {
    vi products[LANE_INPUTS][LANE_VECTORS];
    for (int j = 0; j < LANE_INPUTS; ++j) {
      for (int v = 0; v < LANE_VECTORS; ++v) products[j][v] = v_set1_int(0);
    }
#if defined(__clang__) /* which would write out all of them, and gain nothing */
#pragma clang loop unroll(disable)
#endif
    for (int u = 0; u < LANE_PAIRS; ++u, quants += LANE_VECTORS) {
      for (int j = 0; j < LANE_INPUTS; ++j) {
        const vi pair = load_pair(pairs[j]);
        for (int v = 0; v < LANE_VECTORS; ++v) products[j][v] = v_dot_pairs(quants[v], pair, products[j][v]);
        pairs[j] += 2;
      }
    }
    for (int j = 0; j < LANE_INPUTS; ++j) {
      const vf x_scale = v_set1(scales[j][b]);
      for (int v = 0; v < LANE_VECTORS; ++v) {
        const vf scale = v_mul(v_load(chunk->scales[b] + v * SF_LANES), x_scale);
        sums[j][v] = v_fma(v_float(products[j][v]), scale, sums[j][v]);
      }
    }
  }
}

/* Adds the products of columns c … c + n - 1; where inputs do not fill a tile the last one comes again. */
static void lanes_columns(sf_format_index format, const lane_chunk *chunk, const sf_inputs *inputs, int32_t n_inputs,
                          int32_t c, int32_t n, int32_t columns, lane_sums *sums) {
  for (int32_t j = 0; j < n_inputs; j += LANE_INPUTS) {
    const int16_t *x[LANE_INPUTS];
    const float *scales[LANE_INPUTS];
    for (int32_t k = 0; k < LANE_INPUTS; ++k) {
      const sf_inputs one = inputs_from(inputs, j + k < n_inputs ? j + k : n_inputs - 1, c, columns);
      x[k] = one.values;
      scales[k] = one.scales;
      if (has_min(format)) lanes_mins(chunk, n / SF_BLOCK, one.sums, sums[j + k]);
    }
    lanes_tile(chunk, n / SF_BLOCK, x, scales, sums + j);
  }
}

/* Every row with every input; in the last group, the last row fills up the vectors. */
SF_NOT_INLINE void dot_prompt(sf_format_index format, const sf_rows *rows, int32_t n_rows, const sf_inputs *inputs,
                              int32_t n_inputs, float *out, size_t out_stride) {
  lane_sums sums[LANE_BATCH + LANE_INPUTS - 1];
  lane_chunk chunk;
  const vf scale = v_set1(rows->scale);
  for (int32_t i = 0; i < n_rows; i += LANE_ROWS) {
    const uint8_t *row[LANE_ROWS];
    for (int r = 0; r < LANE_ROWS; ++r) row[r] = sf_row_at(rows, i + r < n_rows ? i + r : n_rows - 1);
    for (int32_t j0 = 0; j0 < n_inputs; j0 += LANE_BATCH) {
      const int32_t n = n_inputs - j0 < LANE_BATCH ? n_inputs - j0 : LANE_BATCH;
      const sf_inputs some = inputs_from(inputs, j0, 0, rows->columns);
      memset(sums, 0, (size_t)(n + LANE_INPUTS - 1) * sizeof *sums);
      for (int32_t c = 0; c < rows->columns; c += LANE_COLUMNS) {
        const int32_t rest = rows->columns - c < LANE_COLUMNS ? rows->columns - c : LANE_COLUMNS;
        lanes_load(format, row, c, rest, &chunk);
        lanes_columns(format, &chunk, &some, n, c, rest, rows->columns, sums);
      }
      for (int32_t j = 0; j < n; ++j) {
        float *to = out + (size_t)(j0 + j) * out_stride + i;
        for (int32_t r = 0; r < LANE_ROWS && i + r < n_rows; r += SF_LANES) {
          const int32_t left = n_rows - i - r;
          const vf sum = v_mul(sums[j][r / SF_LANES], scale);
          if (left < SF_LANES) {
            v_store_tail(to + r, sum, left);
          } else {
            v_store(to + r, sum);
          }
        }
      }
    }
  }
}
#endif

#endif
