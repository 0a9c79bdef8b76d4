/* Products of quants of 4 or 8 bits with inputs, whose integers of 16 bits are taken apart into two bytes each:
 * x = 256 · high + low, both -128 … 127. So products of bytes, of which a vector holds twice as many as of 16 bits, are
 * as exact. A group of 8 sub-blocks is an accumulator of integers, or a few where vectors are short, with two lanes for
 * each sub-block; it takes the scales of its sub-blocks once.
 *
 * One input: what is common to the rows, the input's bytes in the order of the quants, is made once for all of those
 * that are read side by side. Several: see below. */
#ifndef SF_KERNELS_DOT_BYTES_H
#define SF_KERNELS_DOT_BYTES_H

#include "kernels/dot_batch_tmpl.h"
#include "kernels/dot_floats_tmpl.h"

#if SF_DOT_BYTES
enum {
  PAIR_VECTORS = 4,               /* of quants that an accumulator sums: both halves of two vectors' sub-blocks, */
  ONE_VECTORS = 2,                /* or of those of one, at the end of a row */
  BYTES_SUMS = 16 / SF_LANES,     /* accumulators of a group */
  BYTES_VECTORS = 64 / SF_LANES,  /* of a group's quants */
  BLOCKS_OF_VECTOR = SF_LANES / 4 /* 16 bytes of each */
};

/* How far apart the sub-blocks of a vector are: runs of two planes hold every other one. */
SF_INLINE int blocks_apart(sf_format_index format) { return traits_of(format)->storage == SF_QUANTS_PLANES ? 2 : 1; }

/* The first sub-block of vector k of a group. */
SF_INLINE int first_of_vector(sf_format_index format, int k) {
  const int apart = blocks_apart(format);
  return k / apart * apart * BLOCKS_OF_VECTOR + k % apart;
}

/* How many vectors accumulator a sums, in a group of n sub-blocks; 0 if it sums none. */
SF_INLINE int vectors_of_sum(sf_format_index format, int a, int32_t n) {
  if (first_of_vector(format, 2 * a) >= n) return 0;
  return first_of_vector(format, 2 * a + 1) < n ? PAIR_VECTORS : ONE_VECTORS;
}

/* What is added to quants to make them what v_dot_split takes, and to be taken from the products. */
SF_INLINE int byte_zero_of(sf_format_index format) {
  const sf_traits *traits = traits_of(format);
  const int is_signed = traits->storage == SF_QUANTS_BYTES || traits->levels;
  return has_min(format) ? 0 : is_signed ? SF_BYTE_ZERO : zero_point_of(format);
}

/* An input's bytes, (accumulator, vector), and what the zero points come to in each lane. */
typedef struct {
  vq high[BYTES_VECTORS], low[BYTES_VECTORS];
  vi zero[BYTES_SUMS];
} bytes_input;

/* The sum of the products of so many vectors, 2 or 4. */
SF_INLINE vi bytes_products(int vectors, const vq *quants, const vq *high, const vq *low, vi zero) {
  return vectors == PAIR_VECTORS ? v_dot_split(PAIR_VECTORS, quants, high, low, zero)
                                 : v_dot_split(ONE_VECTORS, quants, high, low, zero);
}

/* The bytes of columns 0 … 15 (`half` 0) or 16 … 31 of each sub-block of vector k. */
SF_INLINE void split_input(sf_format_index format, const int16_t *x, int k, int half, int32_t n, vq *high, vq *low) {
  static const int16_t none[SF_BLOCK / 2] = {0};
  const int16_t *part[BLOCKS_OF_VECTOR];
  for (int i = 0; i < BLOCKS_OF_VECTOR; ++i) {
    const int s = first_of_vector(format, k) + i * blocks_apart(format);
    part[i] = s < n ? x + s * SF_BLOCK + half * (SF_BLOCK / 2) : none;
  }
  vq_split(part, high, low);
}

/* Of 256 columns at x, of which n sub-blocks count. */
SF_INLINE void load_bytes_input(sf_format_index format, const int16_t *x, int32_t n, bytes_input *r) {
  const vq zero_point = vq_set1(byte_zero_of(format)), zeros[] = {zero_point, zero_point, zero_point, zero_point};
  for (int a = 0; a < BYTES_SUMS; ++a) {
    vq *high = r->high + a * PAIR_VECTORS, *low = r->low + a * PAIR_VECTORS;
    const int vectors = vectors_of_sum(format, a, n), apart = vectors / 2;
    if (!vectors) break;
    for (int half = 0; half < 2; ++half, high += apart, low += apart) {
      split_input(format, x, 2 * a, half, n, high, low);
      if (vectors == ONE_VECTORS) continue;
      split_input(format, x, 2 * a + 1, half, n, high + 1, low + 1);
      vq_pair(high, high + 1);
      vq_pair(low, low + 1);
    }
    high = r->high + a * PAIR_VECTORS, low = r->low + a * PAIR_VECTORS;
    r->zero[a] = v_set1_int(0);
    if (byte_zero_of(format)) r->zero[a] = v_sub_int(r->zero[a], bytes_products(vectors, zeros, high, low, r->zero[a]));
  }
}

/* 16 bytes of each sub-block of vector k of the group at p, of which n sub-blocks may be read: `half` 1 of the upper
 * columns, where these have bytes of their own. */
SF_INLINE vq load_some_bytes(sf_format_index format, const uint8_t *p, int k, int half, int32_t n) {
  const sf_traits *traits = traits_of(format);
  const int s = first_of_vector(format, k);
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

/* The scales of accumulator a, in its lanes. */
SF_INLINE vf spread_scales(sf_format_index format, const vf *scale, int a, int vectors) {
  const int first = first_of_vector(format, 2 * a), second = first_of_vector(format, 2 * a + 1);
  return vectors == PAIR_VECTORS ? v_spread(scale, first, second, blocks_apart(format))
                                 : v_spread(scale, first, first, blocks_apart(format));
}

/* Adds the products of a group of n sub-blocks of each of `streams` rows. */
SF_INLINE void bytes_group(sf_format_index format, int streams, int asks, const uint8_t *const *row,
                           const uint8_t *const *next, size_t at, int32_t n, const int16_t *values,
                           const float *x_scales, const float *x_sums, vf *sum) {
  vf x_scale[GROUP_VECTORS], x_sum[GROUP_VECTORS];
  bytes_input x;
  load_bytes_input(format, values, n, &x);
  load_group(x_scales, n, x_scale);
  load_group(x_sums, n, x_sum);
  for (int r = 0; r < streams; ++r) {
    const uint8_t *p = row[r] + at;
    vf scale[GROUP_VECTORS], min[GROUP_VECTORS];
    for (int s = 0; asks && s < GROUP && has_line(format, s); ++s) v_prefetch(next[r] + at + (size_t)s * LINE);
    group_scales(format, p, n, scale, min);
    if (has_min(format)) sum[r] = take_offsets(sum[r], min, x_sum);
    for (int k = 0; k < GROUP_VECTORS; ++k) scale[k] = v_mul(scale[k], x_scale[k]);
    for (int a = 0; a < BYTES_SUMS; ++a) {
      vq quants[PAIR_VECTORS];
      const int vectors = vectors_of_sum(format, a, n);
      if (!vectors) break;
      load_bytes(format, p, a, vectors, n, quants);
      const vi products =
          bytes_products(vectors, quants, x.high + a * PAIR_VECTORS, x.low + a * PAIR_VECTORS, x.zero[a]);
      sum[r] = v_fma(v_float(products), spread_scales(format, scale, a, vectors), sum[r]);
    }
  }
}

/* As streams_blocks. */
SF_INLINE void streams_bytes(sf_format_index format, int streams, int asks, const uint8_t *const *row,
                             const uint8_t *const *next, const sf_inputs *input, int32_t columns, vf *sum) {
  const int32_t blocks = columns / SF_BLOCK, whole = blocks / GROUP * GROUP;
  for (int32_t b = 0; b < whole; b += GROUP) {
    bytes_group(format, streams, asks, row, next, (size_t)(b / GROUP) * group_bytes(format), GROUP,
                input->values + (size_t)b * SF_BLOCK, input->scales + b, input->sums + b, sum);
  }
  if (whole < blocks) {
    const int32_t left = blocks - whole;
    const size_t at = (size_t)(whole / GROUP) * group_bytes(format);
    const int16_t *x = input->values + (size_t)whole * SF_BLOCK;
    const float *scales = input->scales + whole, *sums = input->sums + whole;
    if (left == GROUP / 2) { /* constants: of these, less is loaded */
      bytes_group(format, streams, asks, row, next, at, GROUP / 2, x, scales, sums, sum);
    } else if (left == GROUP / 4) {
      bytes_group(format, streams, asks, row, next, at, GROUP / 4, x, scales, sums, sum);
    } else {
      bytes_group(format, streams, asks, row, next, at, left, x, scales, sums, sum);
    }
  }
}
/* ---- Several inputs ----
 *
 * Some rows' accumulators wait in memory while a part of the inputs' columns, whose bytes are made once, meets these
 * rows. Of a row, the quants of a group are brought into bytes once, and stay in registers while they meet all inputs.
 * The order of additions is that of one input. */

enum {
  BYTES_ROWS = 32,  /* whose accumulators wait */
  BYTES_INPUTS = 8, /* that meet a row at once */
  BYTES_PART = 4,   /* groups of columns */
  BYTES_AHEAD = 4   /* how many rows before its turn a row is asked for */
};

/* A group of an input as it meets every row. */
typedef struct {
  bytes_input bytes;
  vf scales[BYTES_SUMS]; /* of each accumulator, in its lanes */
  vf sums[GROUP_VECTORS];
} bytes_columns;

/* Accumulators, (input, row); one row more, so that those of a row's inputs are not a power of two apart. */
typedef vf bytes_sums[BYTES_INPUTS][BYTES_ROWS + 1];

/* Sub-blocks b … b + n - 1 of an input. */
SF_INLINE void load_bytes_columns(sf_format_index format, const sf_inputs *input, int32_t b, int32_t n,
                                  bytes_columns *r) {
  vf scale[GROUP_VECTORS];
  load_bytes_input(format, input->values + (size_t)b * SF_BLOCK, n, &r->bytes);
  load_group(input->scales + b, n, scale);
  load_group(input->sums + b, n, r->sums);
  for (int a = 0; a < BYTES_SUMS && vectors_of_sum(format, a, n); ++a) {
    r->scales[a] = spread_scales(format, scale, a, vectors_of_sum(format, a, n));
  }
}

/* Adds the products of n sub-blocks of the group at p, which is of row i, with each of the inputs. */
SF_INLINE void bytes_row(sf_format_index format, const uint8_t *p, int32_t n, const bytes_columns *x, int32_t n_inputs,
                         int32_t i, bytes_sums sums) {
  vf scale[GROUP_VECTORS], min[GROUP_VECTORS], scales[BYTES_SUMS];
  vq quants[BYTES_VECTORS];
  group_scales(format, p, n, scale, min);
  for (int a = 0; a < BYTES_SUMS; ++a) {
    const int vectors = vectors_of_sum(format, a, n);
    vq *of_sum = quants + a * PAIR_VECTORS;
    for (int u = vectors; u < PAIR_VECTORS; ++u) of_sum[u] = vq_set1(0);
    scales[a] = v_set1(0);
    if (!vectors) continue;
    load_bytes(format, p, a, vectors, n, of_sum);
    scales[a] = spread_scales(format, scale, a, vectors);
  }
  for (int32_t j = 0; j < n_inputs; ++j, ++x) {
    vf sum = sums[j][i];
    if (has_min(format)) sum = take_offsets(sum, min, x->sums);
    for (int a = 0; a < BYTES_SUMS; ++a) {
      const vq *high = x->bytes.high + a * PAIR_VECTORS, *low = x->bytes.low + a * PAIR_VECTORS;
      const int vectors = vectors_of_sum(format, a, n);
      if (!vectors) break;
      const vi products = bytes_products(vectors, quants + a * PAIR_VECTORS, high, low, x->bytes.zero[a]);
      sum = v_fma(v_float(products), v_mul(scales[a], x->scales[a]), sum);
    }
    sums[j][i] = sum;
  }
}

/* Adds the products of the rows i < n_rows with n sub-blocks of the inputs, of which x has the first from sub-block
 * `first` on; `left` rows are in the list from the first one on. */
SF_INLINE void bytes_part(sf_format_index format, const sf_rows *rows, int32_t n_rows, int32_t left, int32_t first,
                          int32_t n, bytes_columns (*x)[BYTES_INPUTS], int32_t n_inputs, bytes_sums sums) {
  const size_t at = (size_t)(first / GROUP) * group_bytes(format);
  for (int32_t i = 0; i < n_rows; ++i) {
    const uint8_t *p = sf_row_at(rows, i) + at;
    const uint8_t *next = sf_row_at(rows, i + BYTES_AHEAD < left ? i + BYTES_AHEAD : left - 1) + at;
    int32_t b = 0;
    for (; b + GROUP <= n; b += GROUP, p += group_bytes(format), next += group_bytes(format)) {
      for (int s = 0; s < GROUP && has_line(format, s); ++s) v_prefetch(next + (size_t)s * LINE);
      bytes_row(format, p, GROUP, x[b / GROUP], n_inputs, i, sums);
    }
    if (b < n) bytes_row(format, p, n - b, x[b / GROUP], n_inputs, i, sums);
  }
}

/* n_rows ≤ BYTES_ROWS rows with n_inputs ≤ BYTES_INPUTS inputs; `left` as above. */
SF_INLINE void bytes_tile(sf_format_index format, const sf_rows *rows, int32_t n_rows, int32_t left,
                          const sf_inputs *inputs, int32_t n_inputs, float *out, size_t out_stride) {
  enum { MOST = BYTES_PART * GROUP };
  const int32_t blocks = rows->columns / SF_BLOCK;
  bytes_columns x[BYTES_PART][BYTES_INPUTS];
  bytes_sums sums;
  for (int32_t j = 0; j < n_inputs; ++j) {
    for (int32_t i = 0; i < n_rows; ++i) sums[j][i] = v_set1(0);
  }
  for (int32_t first = 0; first < blocks; first += MOST) {
    const int32_t n = blocks - first < MOST ? blocks - first : MOST;
    for (int32_t b = 0; b < n; b += GROUP) {
      for (int32_t j = 0; j < n_inputs; ++j) {
        const sf_inputs input = inputs_from(inputs, j, 0, rows->columns);
        load_bytes_columns(format, &input, first + b, n - b < GROUP ? n - b : GROUP, &x[b / GROUP][j]);
      }
    }
    bytes_part(format, rows, n_rows, left, first, n, x, n_inputs, sums);
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
