/* Products of quants of 4 or 8 bits with inputs, whose integers of 16 bits are taken apart into two bytes each (see
 * split_tmpl.h). So products of bytes, of which a vector holds twice as many as of 16 bits, are as exact. A group of 8
 * sub-blocks is an accumulator of integers, or a few where vectors are short, with two lanes for each sub-block; it
 * takes the scales of its sub-blocks once. Where an instruction multiplies two rows at a time (SF_BYTE_ROWS), a
 * sub-block of both is an accumulator, with two lanes for each row, and four of these make a vector of products for
 * each row. One input is here, several are below. */
#ifndef SF_KERNELS_DOT_BYTES_H
#define SF_KERNELS_DOT_BYTES_H

#include "kernels/dot_batch_tmpl.h"
#include "kernels/dot_floats_tmpl.h"
#include "kernels/split_tmpl.h"

#if SF_DOT_BYTES
SF_CHECK(rows_come_together, SF_STREAMS % BYTE_ROWS == 0 && SF_IN_ORDER % BYTE_ROWS == 0);

/* 16 bytes of each sub-block of vector k of the group at p, of which n sub-blocks may be read: `half` 1 of the upper
 * columns, where these have bytes of their own. Those that sub-blocks share are as they are stored. */
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
  return vq_load(p + sf_plane_run(traits->low, s) + half * SF_BLOCK / 2, SF_BLOCK, GROUP);
}

/* The quants of vector k in such bytes. */
SF_INLINE vq quants_in(sf_format_index format, vq bytes, int k) {
  const sf_traits *traits = traits_of(format);
  if (traits->storage != SF_QUANTS_PLANES) return bytes;
  return sf_plane_shift(traits->low, first_of_vector(blocks_apart(format), k)) ? vq_high(bytes) : vq_low(bytes);
}

/* The quants of `vectors` vectors of accumulator a of the groups at rows p: of a row's vectors k and l, or of vector k
 * of two rows. */
SF_INLINE void load_bytes(sf_format_index format, const uint8_t *const *p, int a, int vectors, int32_t n, vq *r) {
  const sf_traits *traits = traits_of(format);
  const uint8_t *q = p[BYTE_ROWS - 1];
  const int both = vectors == PAIR_VECTORS, k = BYTE_ROWS > 1 ? a : 2 * a, l = BYTE_ROWS > 1 ? a : 2 * a + 1;
  if (traits->storage == SF_QUANTS_HALVES) {
    vq bytes[2] = {load_some_bytes(format, p[0], k, 0, n), vq_set1(0)};
    if (both) bytes[1] = load_some_bytes(format, q, l, 0, n);
    if (both) vq_pair(&bytes[0], &bytes[1]);
    for (int of = 0; of <= both; ++of, ++r) {
      r[0] = traits->levels ? vq_levels(vq_low(bytes[of]), traits->levels) : vq_low(bytes[of]);
      r[1 + both] = traits->levels ? vq_levels(vq_high(bytes[of]), traits->levels) : vq_high(bytes[of]);
    }
    return;
  }
  for (int half = 0; half < 2; ++half, r += 1 + both) {
    r[0] = load_some_bytes(format, p[0], k, half, n);
    if (both) r[1] = load_some_bytes(format, q, l, half, n);
    if (BYTE_ROWS > 1) vq_pair(&r[0], &r[1]); /* which halves what is left to do for vectors that share bytes */
    r[0] = quants_in(format, r[0], k);
    if (both) r[1] = quants_in(format, r[1], l);
    if (BYTE_ROWS == 1 && both) vq_pair(&r[0], &r[1]);
  }
}

/* The products of each row, given those accumulators that make a vector of them. */
SF_INLINE void join_sums(const vi *sums, vi *products) {
#if SF_BYTE_ROWS > 1
  v_join(sums, products);
#else
  products[0] = sums[0];
#endif
}

/* Adds the products of a group of n sub-blocks of each of `streams` rows with the input's. */
SF_INLINE void bytes_group(sf_format_index format, int streams, int asks, const uint8_t *const *row,
                           const uint8_t *const *next, size_t at, int32_t n, const bytes_columns *x, vf *sum) {
  const int apart = blocks_apart(format);
  for (int r = 0; r < streams; r += BYTE_ROWS) {
    const uint8_t *p[BYTE_ROWS];
    vf scale[BYTE_ROWS][GROUP_VECTORS], min[GROUP_VECTORS];
    for (int i = 0; i < BYTE_ROWS; ++i) {
      p[i] = row[r + i] + at;
      for (int s = 0; asks && s < GROUP && has_line(format, s); ++s) v_prefetch(next[r + i] + at + (size_t)s * LINE);
      group_scales(format, p[i], n, scale[i], min);
      if (has_min(format)) sum[r + i] = take_offsets(sum[r + i], min, x->sums);
    }
    for (int f = 0; f < BYTES_FLOATS; ++f) {
      vi sums[JOINED_SUMS], products[BYTE_ROWS];
      const int some = vectors_of_sum(apart, f * JOINED_SUMS, n);
      if (!some) break;
      for (int k = 0; k < JOINED_SUMS; ++k) {
        const int a = f * JOINED_SUMS + k, vectors = vectors_of_sum(apart, a, n);
        vq quants[PAIR_VECTORS];
        sums[k] = v_set1_int(0);
        if (!vectors) continue;
        load_bytes(format, p, a, vectors, n, quants);
        sums[k] = bytes_products(vectors, quants, x->high + a * SUM_INPUTS, x->low + a * SUM_INPUTS, x->zero[a]);
      }
      join_sums(sums, products);
      for (int i = 0; i < BYTE_ROWS; ++i) {
        const vf scales = v_mul(spread_scales(apart, scale[i], f, some), x->scales[f]);
        sum[r + i] = v_fma(v_float(products[i]), scales, sum[r + i]);
      }
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
 * Of a row, the quants of a group (of two rows together, those of half a group) are brought into bytes once, and stay
 * in registers while they meet all inputs. The order of additions is that of one input. */

enum {
  BYTES_ROWS = 32,                              /* whose accumulators wait, a multiple of BYTE_ROWS */
  BYTES_INPUTS = 8,                             /* that meet a row at once */
  BYTES_PART = 4,                               /* groups of columns */
  BYTES_AHEAD = 4,                              /* how many rows before its turn a row is asked for */
  ROW_FLOATS = BYTE_ROWS > 1 ? 1 : BYTES_FLOATS /* vectors of products whose quants are in registers together */
};

/* Accumulators, (input, row); one row more, so that those of a row's inputs are not a power of two apart. */
typedef vf bytes_sums[BYTES_INPUTS][BYTES_ROWS + 1];

/* The quants of n sub-blocks of the groups at rows p, for ROW_FLOATS vectors of products from `first` on, and the
 * scales of these. */
SF_INLINE void load_row_bytes(sf_format_index format, const uint8_t *const *p, int first, int32_t n,
                              vf (*scale)[GROUP_VECTORS], vf (*scales)[BYTE_ROWS], vq *quants) {
  const int apart = blocks_apart(format);
  for (int k = 0; k < ROW_FLOATS * JOINED_SUMS; ++k, quants += PAIR_VECTORS) {
    const int a = first * JOINED_SUMS + k, f = k / JOINED_SUMS, vectors = vectors_of_sum(apart, a, n);
    for (int u = vectors; u < PAIR_VECTORS; ++u) quants[u] = vq_set1(0);
    if (vectors) load_bytes(format, p, a, vectors, n, quants);
    for (int r = 0; k % JOINED_SUMS == 0 && r < BYTE_ROWS; ++r) {
      scales[f][r] = vectors ? spread_scales(apart, scale[r], first + f, vectors) : v_set1(0);
    }
  }
}

/* Adds their products with an input's. */
SF_INLINE void add_row_bytes(sf_format_index format, int first, int32_t n, vf (*scales)[BYTE_ROWS], const vq *quants,
                             const bytes_columns *x, vf *sum) {
  for (int f = first; f < first + ROW_FLOATS; ++f, ++scales) {
    vi sums[JOINED_SUMS], products[BYTE_ROWS];
    if (!vectors_of_sum(blocks_apart(format), f * JOINED_SUMS, n)) break;
    for (int k = 0; k < JOINED_SUMS; ++k, quants += PAIR_VECTORS) {
      const int a = f * JOINED_SUMS + k, vectors = vectors_of_sum(blocks_apart(format), a, n);
      const vq *high = x->high + a * SUM_INPUTS, *low = x->low + a * SUM_INPUTS;
      sums[k] = vectors ? bytes_products(vectors, quants, high, low, x->zero[a]) : v_set1_int(0);
    }
    join_sums(sums, products);
    for (int r = 0; r < BYTE_ROWS; ++r) sum[r] = v_fma(v_float(products[r]), v_mul(scales[0][r], x->scales[f]), sum[r]);
  }
}

/* Adds the products of n sub-blocks of the groups at p, which are of row i and, where two are multiplied together, of
 * the next, with those of each of the inputs, the first of which is at x. */
SF_INLINE void bytes_row(sf_format_index format, const uint8_t *const *p, int32_t n, const uint8_t *x, size_t x_stride,
                         int32_t n_inputs, int32_t i, bytes_sums sums) {
  vf scale[BYTE_ROWS][GROUP_VECTORS], min[BYTE_ROWS][GROUP_VECTORS];
  for (int r = 0; r < BYTE_ROWS; ++r) group_scales(format, p[r], n, scale[r], min[r]);
  for (int first = 0; first < BYTES_FLOATS; first += ROW_FLOATS) {
    vf scales[ROW_FLOATS][BYTE_ROWS];
    vq quants[ROW_FLOATS * JOINED_SUMS * PAIR_VECTORS];
    load_row_bytes(format, p, first, n, scale, scales, quants);
    for (int32_t j = 0; j < n_inputs; ++j) {
      const bytes_columns *group = (const bytes_columns *)(const void *)(x + (size_t)j * x_stride);
      vf sum[BYTE_ROWS];
      for (int r = 0; r < BYTE_ROWS; ++r) {
        sum[r] = sums[j][i + r];
        if (has_min(format) && !first) sum[r] = take_offsets(sum[r], min[r], group->sums);
      }
      add_row_bytes(format, first, n, scales, quants, group, sum);
      for (int r = 0; r < BYTE_ROWS; ++r) sums[j][i + r] = sum[r];
    }
  }
}

/* Adds the products of the rows i < n_rows with n sub-blocks of the inputs from group g on; `left` rows are in the list
 * from the first one on. */
SF_INLINE void bytes_part(sf_format_index format, const sf_rows *rows, int32_t n_rows, int32_t left, int32_t g,
                          int32_t n, const sf_inputs *inputs, int32_t n_inputs, bytes_sums sums) {
  const size_t at = (size_t)g * group_bytes(format), stride = sf_split_bytes(rows->columns);
  for (int32_t i = 0; i < n_rows; i += BYTE_ROWS) {
    const uint8_t *p[BYTE_ROWS], *next[BYTE_ROWS], *x = split_group(format, inputs, g);
    for (int r = 0; r < BYTE_ROWS; ++r) {
      p[r] = sf_row_at(rows, i + r < n_rows ? i + r : n_rows - 1) + at;
      next[r] = sf_row_at(rows, i + r + BYTES_AHEAD < left ? i + r + BYTES_AHEAD : left - 1) + at;
    }
    for (int32_t b = 0; b < n; b += GROUP, x += SF_SPLIT_BYTES) {
      for (int s = 0; b + GROUP <= n && s < GROUP && has_line(format, s); ++s) {
        for (int r = 0; r < BYTE_ROWS; ++r) v_prefetch(next[r] + (size_t)s * LINE);
      }
      if (b + GROUP <= n) {
        bytes_row(format, p, GROUP, x, stride, n_inputs, i, sums);
      } else {
        bytes_row(format, p, n - b, x, stride, n_inputs, i, sums);
      }
      for (int r = 0; r < BYTE_ROWS; ++r) p[r] += group_bytes(format), next[r] += group_bytes(format);
    }
  }
}

/* n_rows ≤ BYTES_ROWS rows with n_inputs ≤ BYTES_INPUTS inputs; `left` as above. */
SF_INLINE void bytes_tile(sf_format_index format, const sf_rows *rows, int32_t n_rows, int32_t left,
                          const sf_inputs *inputs, int32_t n_inputs, float *out, size_t out_stride) {
  enum { MOST = BYTES_PART * GROUP };
  const int32_t blocks = rows->columns / SF_BLOCK;
  bytes_sums sums;
  for (int32_t j = 0; j < n_inputs; ++j) {
    for (int32_t i = 0; i < n_rows + BYTE_ROWS - 1; ++i) sums[j][i] = v_set1(0);
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
