/* Products of quants of 4 … 6 or 8 bits with inputs, whose integers of 16 bits are taken apart into two bytes each (see
 * split_tmpl.h). So products of bytes, of which a vector holds twice as many as of 16 bits, are as exact. A group of 8
 * sub-blocks is an accumulator of integers, or a few where vectors are short, with two lanes for each sub-block; it
 * takes the scales of its sub-blocks once. Where each half of a sub-block has a scale, there are twice as many
 * accumulators, with two lanes for each half. Where an instruction multiplies two rows at a time (SF_BYTE_ROWS), a
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
  const int s = block_of_vector(order_of(format), k, 0);
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

/* The bytes that hold these quants' high bits, in formats of planes that have such. */
SF_INLINE vq load_high_bytes(sf_format_index format, const uint8_t *p, int k, int half) {
  const sf_plane plane = traits_of(format)->high;
  const bytes_order order = order_of(format);
  if (!plane.bits) return vq_set1(0);
  const int first = sf_plane_run(plane, block_of_vector(order, k, 0));
  const int third = sf_plane_run(plane, block_of_vector(order, k, 2)); /* of four */
  return vq_load_twos(p + first + half * SF_BLOCK / 2, BLOCKS_OF_VECTOR > 2 ? (size_t)(third - first) : 0);
}

/* The quants of vector k in such bytes. */
SF_INLINE vq quants_in(sf_format_index format, vq bytes, vq above, int k) {
  const sf_traits *traits = traits_of(format);
  const bytes_order order = order_of(format);
  if (traits->storage != SF_QUANTS_PLANES) return bytes;
  const int upper = sf_plane_shift(traits->low, block_of_vector(order, k, 0)) != 0;
  const vq quants = upper ? vq_high(bytes) : vq_low(bytes);
  if (!traits->high.bits) return quants;
  int left[BLOCKS_OF_VECTOR];
  SF_UNROLLED for (int i = 0; i < BLOCKS_OF_VECTOR; ++i) {
    left[i] = traits->low.bits - sf_plane_shift(traits->high, block_of_vector(order, k, i));
  }
  return vq_put(quants, above, left, ((1 << traits->high.bits) - 1) << traits->low.bits);
}

/* Two vectors of quants, paired: half `first` of vector k of the group at p, half `second` of vector l of that at q. */
SF_INLINE void load_pair_of(sf_format_index format, const uint8_t *p, int k, int first, const uint8_t *q, int l,
                            int second, int32_t n, vq *r) {
  vq above[2] = {load_high_bytes(format, p, k, first), load_high_bytes(format, q, l, second)};
  r[0] = load_some_bytes(format, p, k, first, n);
  r[1] = load_some_bytes(format, q, l, second, n);
  if (k == l) { /* which halves what is left to do for vectors that share bytes */
    vq_pair(&r[0], &r[1]);
    vq_pair(&above[0], &above[1]);
  }
  r[0] = quants_in(format, r[0], above[0], k);
  r[1] = quants_in(format, r[1], above[1], l);
  if (k != l) vq_pair(&r[0], &r[1]);
}

/* The quants of `vectors` vectors of accumulator a of the groups at rows p: of a row's vectors k and l, or of vector k
 * of two rows. */
SF_INLINE void load_bytes(sf_format_index format, const uint8_t *const *p, int a, int vectors, int32_t n, vq *r) {
  const sf_traits *traits = traits_of(format);
  const uint8_t *q = p[BYTE_ROWS - 1];
  const int both = vectors == PAIR_VECTORS, k = BYTE_ROWS > 1 ? a : 2 * a, l = BYTE_ROWS > 1 ? a : 2 * a + 1;
  if (order_of(format) == IN_HALVES) {
    const int of = BYTE_ROWS > 1 ? a / 2 : a, half = BYTE_ROWS > 1 ? a % 2 : 1;
    load_pair_of(format, p[0], of, BYTE_ROWS > 1 ? half : 0, q, of, half, n, r);
    return;
  }
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
  for (int half = 0; half < 2; ++half) {
    if (both) {
      load_pair_of(format, p[0], k, half, q, l, half, n, r + 2 * half);
    } else {
      r[half] = quants_in(format, load_some_bytes(format, p[0], k, half, n), load_high_bytes(format, p[0], k, half), k);
    }
  }
}

/* The scales of a group of n sub-blocks or, where these have scales of their own, of their halves, and mins as
 * group_scales. */
SF_INLINE void bytes_scales(sf_format_index format, const uint8_t *p, int32_t n, vf *scale, vf *min) {
  const sf_traits *traits = traits_of(format);
#if SF_HALF_PAIRS
  if (has_half_pairs(format)) {
    scale[0] = min[0] = v_load_half_pairs(p, n);
    return;
  }
#endif
  group_scales(format, p, n, scale, min);
  if (order_of(format) != IN_HALVES) return;
  const vf d = scale[0];
  int8_t integers[SF_RUNS];
  for (int i = 0; i < SF_RUNS; ++i) integers[i] = (int8_t)traits->scale_of(p, i);
  v_load_i8(integers, scale);
  for (int k = 0; k < HALF_VECTORS; ++k) scale[k] = v_mul(scale[k], d);
}

/* The scales of vector f of products, in its lanes, given those of the group. */
SF_INLINE vf bytes_spread(sf_format_index format, const vf *scale, int f, int vectors) {
  const int halves = order_of(format) == IN_HALVES, lanes = halves || has_half_pairs(format) ? 2 : 1;
  return spread_scales(order_of(format), halves, lanes, scale, f, vectors);
}

/* Adds what the mins of a group come to. */
SF_INLINE vf add_mins(sf_format_index format, vf sum, const vf *min, const vf *x_sums) {
  if (!has_min(format)) return sum;
  return has_half_pairs(format) ? v_fma(min[0], x_sums[0], sum) : take_offsets(sum, min, x_sums);
}

/* The number that the products of accumulator a begin with: a constant where quants have no zero point. */
SF_INLINE vi bytes_zero(sf_format_index format, const bytes_columns *x, int a) {
  return byte_zero_of(format) ? x->zero[a] : v_set1_int(0);
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
  const bytes_order order = order_of(format);
  for (int r = 0; r < streams; r += BYTE_ROWS) {
    const uint8_t *p[BYTE_ROWS];
    vf scale[BYTE_ROWS][HALF_VECTORS], min[GROUP_VECTORS];
    for (int i = 0; i < BYTE_ROWS; ++i) {
      p[i] = row[r + i] + at;
      for (int s = 0; asks && s < GROUP && has_line(format, s); ++s) v_prefetch(next[r + i] + at + (size_t)s * LINE);
      bytes_scales(format, p[i], n, scale[i], min);
      sum[r + i] = add_mins(format, sum[r + i], min, x->sums);
    }
    SF_UNROLLED for (int f = 0; f < floats_of(order); ++f) {
      vi sums[JOINED_SUMS], products[BYTE_ROWS];
      const int some = vectors_of_sum(order, f * JOINED_SUMS, n);
      if (!some) break;
      SF_UNROLLED for (int k = 0; k < JOINED_SUMS; ++k) {
        const int a = f * JOINED_SUMS + k, vectors = vectors_of_sum(order, a, n), first = a * inputs_of_sum(order);
        vq quants[PAIR_VECTORS];
        sums[k] = v_set1_int(0);
        if (!vectors) continue;
        load_bytes(format, p, a, vectors, n, quants);
        sums[k] = bytes_products(vectors, quants, x->high + first, x->low + first, bytes_zero(format, x, a));
      }
      join_sums(sums, products);
      for (int i = 0; i < BYTE_ROWS; ++i) {
        const vf scales = v_mul(bytes_spread(format, scale[i], f, some), x->scales[f]);
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
  BYTES_ROWS = 32,  /* whose accumulators wait, a multiple of BYTE_ROWS */
  BYTES_INPUTS = 8, /* that meet a row at once */
  BYTES_PART = 4,   /* groups of columns */
  BYTES_AHEAD = 8,  /* how many rows before its turn a row is asked for */
  ROW_QUANTS = (BYTE_ROWS > 1 ? JOINED_SUMS : BYTES_SUMS) * PAIR_VECTORS /* vectors that are in registers together */
};

/* The vectors of products that these make. */
SF_INLINE int row_floats(bytes_order order) { return BYTE_ROWS > 1 ? 1 : floats_of(order); }

/* Accumulators, (input, row); one row more, so that those of a row's inputs are not a power of two apart. */
typedef vf bytes_sums[BYTES_INPUTS][BYTES_ROWS + 1];

/* The quants of n sub-blocks of the groups at rows p, for row_floats vectors of products from `first` on, and the
 * scales of these. */
SF_INLINE void load_row_bytes(sf_format_index format, const uint8_t *const *p, int first, int32_t n,
                              vf (*scale)[HALF_VECTORS], vf (*scales)[BYTE_ROWS], vq *quants) {
  const bytes_order order = order_of(format);
  SF_UNROLLED for (int k = 0; k < row_floats(order) * JOINED_SUMS; ++k, quants += most_vectors(order)) {
    const int a = first * JOINED_SUMS + k, f = k / JOINED_SUMS, vectors = vectors_of_sum(order, a, n);
    for (int u = vectors; u < most_vectors(order); ++u) quants[u] = vq_set1(0);
    if (vectors) load_bytes(format, p, a, vectors, n, quants);
    for (int r = 0; k % JOINED_SUMS == 0 && r < BYTE_ROWS; ++r) {
      scales[f][r] = vectors ? bytes_spread(format, scale[r], first + f, vectors) : v_set1(0);
    }
  }
}

/* Adds their products with an input's. */
SF_INLINE void add_row_bytes(sf_format_index format, int first, int32_t n, vf (*scales)[BYTE_ROWS], const vq *quants,
                             const bytes_columns *x, vf *sum) {
  const bytes_order order = order_of(format);
  SF_UNROLLED for (int f = first; f < first + row_floats(order); ++f, ++scales) {
    vi sums[JOINED_SUMS], products[BYTE_ROWS];
    if (!vectors_of_sum(order, f * JOINED_SUMS, n)) break;
    SF_UNROLLED for (int k = 0; k < JOINED_SUMS; ++k, quants += most_vectors(order)) {
      const int a = f * JOINED_SUMS + k, vectors = vectors_of_sum(order, a, n);
      const vq *high = x->high + a * inputs_of_sum(order), *low = x->low + a * inputs_of_sum(order);
      sums[k] = vectors ? bytes_products(vectors, quants, high, low, bytes_zero(format, x, a)) : v_set1_int(0);
    }
    join_sums(sums, products);
    for (int r = 0; r < BYTE_ROWS; ++r) sum[r] = v_fma(v_float(products[r]), v_mul(scales[0][r], x->scales[f]), sum[r]);
  }
}

/* Adds the products of n sub-blocks of the groups at p, which are of row i and, where two are multiplied together, of
 * the next, with those of each of the inputs, the first of which is at x. */
SF_INLINE void bytes_row(sf_format_index format, const uint8_t *const *p, int32_t n, const uint8_t *x, size_t x_stride,
                         int32_t n_inputs, int32_t i, bytes_sums sums) {
  const bytes_order order = order_of(format);
  vf scale[BYTE_ROWS][HALF_VECTORS], min[BYTE_ROWS][GROUP_VECTORS];
  for (int r = 0; r < BYTE_ROWS; ++r) bytes_scales(format, p[r], n, scale[r], min[r]);
  SF_UNROLLED for (int first = 0; first < floats_of(order); first += row_floats(order)) {
    vf scales[2 * BYTES_FLOATS][BYTE_ROWS];
    vq quants[ROW_QUANTS];
    load_row_bytes(format, p, first, n, scale, scales, quants);
    for (int32_t j = 0; j < n_inputs; ++j) {
      const bytes_columns *group = (const bytes_columns *)(const void *)(x + (size_t)j * x_stride);
      vf sum[BYTE_ROWS];
      for (int r = 0; r < BYTE_ROWS; ++r) {
        sum[r] = sums[j][i + r];
        if (!first) sum[r] = add_mins(format, sum[r], min[r], group->sums);
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
