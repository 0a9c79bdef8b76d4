/* Products of quants of 4 or 8 bits with inputs, whose integers of 16 bits are taken apart into two bytes each (see
 * split_tmpl.h). So products of bytes, of which a vector holds twice as many as of 16 bits, are as exact. A group of 8
 * sub-blocks is an accumulator of integers, or a few where vectors are short, with two lanes for each sub-block; it
 * takes the scales of its sub-blocks once. One input is here, several are below. */
#ifndef SF_KERNELS_DOT_BYTES_H
#define SF_KERNELS_DOT_BYTES_H

#include "kernels/dot_batch_tmpl.h"
#include "kernels/dot_floats_tmpl.h"
#include "kernels/split_tmpl.h"

#if SF_DOT_BYTES
/* 16 bytes of each sub-block of vector k of the group at p, of which n sub-blocks may be read: `half` 1 of the upper
 * columns, where these have bytes of their own. */
SF_INLINE vq load_some_bytes(sf_format_index format, const uint8_t *p, int k, int half, int32_t n) {
  const sf_traits *traits = traits_of(format);
  const int s = first_of_vector(blocks_apart(format), k);
  if (traits->storage == SF_QUANTS_HALVES) {
    const size_t step = (size_t)(halves_at(format, p, 1) - halves_at(format, p, 0));
    return vq_load(halves_at(format, p, s), step, n - s);
  }
  if (traits->storage == SF_QUANTS_BYTES) {
    const uint8_t *bytes = block_at(format, p, s) + traits->low.at + half * SF_BLOCK / 2;
    return vq_signed(vq_load(bytes, group_bytes(format) / GROUP, n - s));
  }
  const vq bytes = vq_load(p + sf_plane_run(traits->low, s) + half * SF_BLOCK / 2, SF_BLOCK, GROUP);
  return sf_plane_shift(traits->low, s) ? vq_high(bytes) : vq_low(bytes);
}

/* The quants of `vectors` vectors of accumulator a. */
SF_INLINE void load_bytes(sf_format_index format, const uint8_t *p, int a, int vectors, int32_t n, vq *r) {
  const sf_traits *traits = traits_of(format);
  const int both = vectors == PAIR_VECTORS;
  if (traits->storage == SF_QUANTS_HALVES) {
    vq bytes[2] = {load_some_bytes(format, p, 2 * a, 0, n), vq_set1(0)};
    if (both) bytes[1] = load_some_bytes(format, p, 2 * a + 1, 0, n);
    if (both) vq_pair(&bytes[0], &bytes[1]);
    for (int of = 0; of <= both; ++of, ++r) {
      r[0] = traits->levels ? vq_levels(vq_low(bytes[of]), traits->levels) : vq_low(bytes[of]);
      r[1 + both] = traits->levels ? vq_levels(vq_high(bytes[of]), traits->levels) : vq_high(bytes[of]);
    }
    return;
  }
  for (int half = 0; half < 2; ++half, r += 1 + both) {
    r[0] = load_some_bytes(format, p, 2 * a, half, n);
    if (both) r[1] = load_some_bytes(format, p, 2 * a + 1, half, n);
    if (both) vq_pair(&r[0], &r[1]);
  }
}

/* Adds the products of a group of n sub-blocks of each of `streams` rows with the input's. */
SF_INLINE void bytes_group(sf_format_index format, int streams, int asks, const uint8_t *const *row,
                           const uint8_t *const *next, size_t at, int32_t n, const bytes_columns *x, vf *sum) {
  const int apart = blocks_apart(format);
  for (int r = 0; r < streams; ++r) {
    const uint8_t *p = row[r] + at;
    vf scale[GROUP_VECTORS], min[GROUP_VECTORS];
    for (int s = 0; asks && s < GROUP && has_line(format, s); ++s) v_prefetch(next[r] + at + (size_t)s * LINE);
    group_scales(format, p, n, scale, min);
    if (has_min(format)) sum[r] = take_offsets(sum[r], min, x->sums);
    for (int a = 0; a < BYTES_SUMS; ++a) {
      vq quants[PAIR_VECTORS];
      const int vectors = vectors_of_sum(apart, a, n);
      if (!vectors) break;
      load_bytes(format, p, a, vectors, n, quants);
      const vi products =
          bytes_products(vectors, quants, x->high + a * PAIR_VECTORS, x->low + a * PAIR_VECTORS, x->zero[a]);
      sum[r] = v_fma(v_float(products), v_mul(spread_scales(apart, scale, a, vectors), x->scales[a]), sum[r]);
    }
  }
}

/* As streams_blocks. */
SF_INLINE void streams_bytes(sf_format_index format, int streams, int asks, const uint8_t *const *row,
                             const uint8_t *const *next, const sf_inputs *input, int32_t columns, vf *sum) {
  const int32_t blocks = columns / SF_BLOCK, whole = blocks / GROUP, left = blocks % GROUP;
  const size_t at = (size_t)whole * group_bytes(format);
  for (int32_t g = 0; g < whole; ++g) {
    bytes_group(format, streams, asks, row, next, (size_t)g * group_bytes(format), GROUP, split_group(format, input, g),
                sum);
  }
  if (!left) return;
  const bytes_columns *x = split_group(format, input, whole);
  if (left == GROUP / 2) { /* constants: of these, less is loaded */
    bytes_group(format, streams, asks, row, next, at, GROUP / 2, x, sum);
  } else if (left == GROUP / 4) {
    bytes_group(format, streams, asks, row, next, at, GROUP / 4, x, sum);
  } else {
    bytes_group(format, streams, asks, row, next, at, left, x, sum);
  }
}

/* ---- Several inputs ----
 *
 * Some rows' accumulators wait in memory while a part of the inputs' columns, which stays in cache, meets these rows.
 * Of a row, the quants of a group are brought into bytes once, and stay in registers while they meet all inputs. The
 * order of additions is that of one input. */

enum {
  BYTES_ROWS = 32,  /* whose accumulators wait */
  BYTES_INPUTS = 8, /* that meet a row at once */
  BYTES_PART = 4,   /* groups of columns */
  BYTES_AHEAD = 4   /* how many rows before its turn a row is asked for */
};

/* Accumulators, (input, row); one row more, so that those of a row's inputs are not a power of two apart. */
typedef vf bytes_sums[BYTES_INPUTS][BYTES_ROWS + 1];

/* Adds the products of n sub-blocks of the group at p, which is of row i, with those of each of the inputs, the first
 * of which is at x. */
SF_INLINE void bytes_row(sf_format_index format, const uint8_t *p, int32_t n, const uint8_t *x, size_t x_stride,
                         int32_t n_inputs, int32_t i, bytes_sums sums) {
  const int apart = blocks_apart(format);
  vf scale[GROUP_VECTORS], min[GROUP_VECTORS], scales[BYTES_SUMS];
  vq quants[BYTES_VECTORS];
  group_scales(format, p, n, scale, min);
  for (int a = 0; a < BYTES_SUMS; ++a) {
    const int vectors = vectors_of_sum(apart, a, n);
    vq *of_sum = quants + a * PAIR_VECTORS;
    for (int u = vectors; u < PAIR_VECTORS; ++u) of_sum[u] = vq_set1(0);
    scales[a] = v_set1(0);
    if (!vectors) continue;
    load_bytes(format, p, a, vectors, n, of_sum);
    scales[a] = spread_scales(apart, scale, a, vectors);
  }
  for (int32_t j = 0; j < n_inputs; ++j, x += x_stride) {
    const bytes_columns *group = (const bytes_columns *)(const void *)x;
    vf sum = sums[j][i];
    if (has_min(format)) sum = take_offsets(sum, min, group->sums);
    for (int a = 0; a < BYTES_SUMS; ++a) {
      const vq *high = group->high + a * PAIR_VECTORS, *low = group->low + a * PAIR_VECTORS;
      const int vectors = vectors_of_sum(apart, a, n);
      if (!vectors) break;
      const vi products = bytes_products(vectors, quants + a * PAIR_VECTORS, high, low, group->zero[a]);
      sum = v_fma(v_float(products), v_mul(scales[a], group->scales[a]), sum);
    }
    sums[j][i] = sum;
  }
}

/* Adds the products of the rows i < n_rows with n sub-blocks of the inputs from group g on; `left` rows are in the list
 * from the first one on. */
SF_INLINE void bytes_part(sf_format_index format, const sf_rows *rows, int32_t n_rows, int32_t left, int32_t g,
                          int32_t n, const sf_inputs *inputs, int32_t n_inputs, bytes_sums sums) {
  const size_t at = (size_t)g * group_bytes(format), stride = sf_split_bytes(rows->columns);
  for (int32_t i = 0; i < n_rows; ++i) {
    const uint8_t *p = sf_row_at(rows, i) + at, *x = split_group(format, inputs, g);
    const uint8_t *next = sf_row_at(rows, i + BYTES_AHEAD < left ? i + BYTES_AHEAD : left - 1) + at;
    int32_t b = 0;
    for (; b + GROUP <= n; b += GROUP, p += group_bytes(format), next += group_bytes(format), x += SF_SPLIT_BYTES) {
      for (int s = 0; s < GROUP && has_line(format, s); ++s) v_prefetch(next + (size_t)s * LINE);
      bytes_row(format, p, GROUP, x, stride, n_inputs, i, sums);
    }
    if (b < n) bytes_row(format, p, n - b, x, stride, n_inputs, i, sums);
  }
}

/* n_rows ≤ BYTES_ROWS rows with n_inputs ≤ BYTES_INPUTS inputs; `left` as above. */
SF_INLINE void bytes_tile(sf_format_index format, const sf_rows *rows, int32_t n_rows, int32_t left,
                          const sf_inputs *inputs, int32_t n_inputs, float *out, size_t out_stride) {
  enum { MOST = BYTES_PART * GROUP };
  const int32_t blocks = rows->columns / SF_BLOCK;
  bytes_sums sums;
  for (int32_t j = 0; j < n_inputs; ++j) {
    for (int32_t i = 0; i < n_rows; ++i) sums[j][i] = v_set1(0);
  }
  for (int32_t first = 0; first < blocks; first += MOST) {
    const int32_t n = blocks - first < MOST ? blocks - first : MOST;
    bytes_part(format, rows, n_rows, left, first / GROUP, n, inputs, n_inputs, sums);
  }
  for (int32_t j = 0; j < n_inputs; ++j) store_sums(sums[j], n_rows, rows->scale, out + (size_t)j * out_stride);
}

/* Every row with every input. */
SF_INLINE void bytes_tiles(sf_format_index format, const sf_rows *rows, int32_t n_rows, const sf_inputs *inputs,
                           int32_t n_inputs, float *out, size_t out_stride) {
  for (int32_t i = 0; i < n_rows; i += BYTES_ROWS) {
    sf_rows some = *rows;
    some.data += rows->ids ? 0 : (size_t)i * rows->stride;
    some.ids += rows->ids ? i : 0;
    for (int32_t j = 0; j < n_inputs; j += BYTES_INPUTS) {
      const sf_inputs from = inputs_from(inputs, j, 0, rows->columns);
      bytes_tile(format, &some, n_rows - i < BYTES_ROWS ? n_rows - i : BYTES_ROWS, n_rows - i, &from,
                 n_inputs - j < BYTES_INPUTS ? n_inputs - j : BYTES_INPUTS, out + (size_t)j * out_stride + i,
                 out_stride);
    }
  }
}

/* The same, apart from the rest, so that one input alone needs no room for all that. */
SF_NOT_INLINE void dot_bytes(sf_format_index format, const sf_rows *rows, int32_t n_rows, const sf_inputs *inputs,
                             int32_t n_inputs, float *out, size_t out_stride) {
  switch (format) {
#define SF_FORMAT(NAME, name)                                                       \
  case SF_FORMAT_##NAME:                                                            \
    if (product_of(SF_FORMAT_##NAME) != PRODUCT_BYTES) break;                       \
    bytes_tiles(SF_FORMAT_##NAME, rows, n_rows, inputs, n_inputs, out, out_stride); \
    break;
#include "formats/lists.h"
#undef SF_FORMAT
    default:
      break;
  }
}
#else
SF_INLINE void streams_bytes(sf_format_index format, int streams, int asks, const uint8_t *const *row,
                             const uint8_t *const *next, const sf_inputs *input, int32_t columns, vf *sum) {
  (void)format, (void)streams, (void)asks, (void)row, (void)next, (void)input, (void)columns, (void)sum;
}
SF_INLINE void dot_bytes(sf_format_index format, const sf_rows *rows, int32_t n_rows, const sf_inputs *inputs,
                         int32_t n_inputs, float *out, size_t out_stride) {
  (void)format, (void)rows, (void)n_rows, (void)inputs, (void)n_inputs, (void)out, (void)out_stride;
}
#endif

#endif
