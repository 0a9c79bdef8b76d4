/* Products of quants of 4 or 8 bits with one input, whose integers of 16 bits are taken apart into two bytes each:
 * x = 256 · high + low, both -128 … 127. So products of bytes, of which a vector holds twice as many as of 16 bits, are
 * as exact. A group of 8 sub-blocks is a few accumulators of integers, each of several sub-blocks side by side with
 * 4 or 8 lanes for each; every one takes the scales of its sub-blocks once. What is common to the rows, the input's
 * bytes in the order of the quants, is made once for all of those that are read side by side. */
#ifndef SF_KERNELS_DOT_BYTES_H
#define SF_KERNELS_DOT_BYTES_H

#include "kernels/products_tmpl.h"

#if SF_DOT_BYTES
/* Lanes of a sub-block in an accumulator. The 16 bytes of one in halves are 4 lanes of two quants a byte; 32 bytes are
 * 8, or twice 4 where a vector has no more. */
SF_INLINE int lanes_of_sub_block(sf_format_index format) {
  return traits_of(format)->storage == SF_QUANTS_HALVES || SF_LANES < 8 ? 4 : 8;
}

/* Vectors of quants that one accumulator sums. */
SF_INLINE int vectors_of_sum(sf_format_index format) {
  return traits_of(format)->storage == SF_QUANTS_HALVES ? 2 : 8 / lanes_of_sub_block(format);
}

/* Sub-blocks of an accumulator, and accumulators of a group. */
SF_INLINE int blocks_of_sum(sf_format_index format) { return SF_LANES / lanes_of_sub_block(format); }

SF_INLINE int sums_of_group(sf_format_index format) { return GROUP / blocks_of_sum(format); }

/* How far apart the sub-blocks of an accumulator are: runs of two planes hold every other one. */
SF_INLINE int blocks_apart(sf_format_index format) { return traits_of(format)->storage == SF_QUANTS_PLANES ? 2 : 1; }

/* The first sub-block of accumulator a. */
SF_INLINE int first_of_sum(sf_format_index format, int a) {
  const int blocks = blocks_of_sum(format), apart = blocks_apart(format);
  return a / apart * apart * blocks + a % apart;
}

/* What is added to quants to make them what v_dot_split takes, and to be taken from the products. */
SF_INLINE int byte_zero_of(sf_format_index format) {
  const sf_traits *traits = traits_of(format);
  const int is_signed = traits->storage == SF_QUANTS_BYTES || traits->levels;
  return has_min(format) ? 0 : is_signed ? SF_BYTE_ZERO : zero_point_of(format);
}

/* An input's bytes, (accumulator, vector), and what the zero points come to in each lane. */
typedef struct {
  vq high[16], low[16];
  vi zero[8];
} bytes_input;

/* Of 256 columns at x, of which n sub-blocks count. */
SF_INLINE void load_bytes_input(sf_format_index format, const int16_t *x, int32_t n, bytes_input *r) {
  static const int16_t none[SF_BLOCK / 2] = {0};
  const int vectors = vectors_of_sum(format), apart = blocks_apart(format);
  for (int a = 0; a < sums_of_group(format); ++a) {
    vq *high = r->high + a * vectors, *low = r->low + a * vectors;
    for (int u = 0; u < vectors; ++u) {
      const int16_t *part[SF_LANES / 4];
      for (int k = 0; k < SF_LANES / 4; ++k) { /* 16 columns */
        const int whole = vectors == 1;        /* both halves of a sub-block are in one vector */
        const int s = first_of_sum(format, a) + (whole ? k / 2 : k) * apart;
        part[k] = s < n ? x + s * SF_BLOCK + (whole ? k % 2 : u) * SF_BLOCK / 2 : none;
      }
      vq_split(part, &high[u], &low[u]);
    }
    const vq zero_point = vq_set1(byte_zero_of(format)), zeros[2] = {zero_point, zero_point};
    r->zero[a] = v_set1_int(0);
    if (byte_zero_of(format)) r->zero[a] = v_sub_int(r->zero[a], v_dot_split(vectors, zeros, high, low, r->zero[a]));
  }
}

/* The quants of accumulator a of the group at p, of which n sub-blocks may be read. */
SF_INLINE void load_bytes(sf_format_index format, const uint8_t *p, int a, int32_t n, vq *r) {
  const sf_traits *traits = traits_of(format);
  const int s = first_of_sum(format, a);
  if (traits->storage == SF_QUANTS_HALVES) {
    const size_t step = (size_t)(halves_at(format, p, 1) - halves_at(format, p, 0));
    const vq bytes = vq_load(halves_at(format, p, s), step, SF_BLOCK / 2, n - s);
    r[0] = traits->levels ? vq_levels(vq_low(bytes), traits->levels) : vq_low(bytes);
    r[1] = traits->levels ? vq_levels(vq_high(bytes), traits->levels) : vq_high(bytes);
    return;
  }
  for (int u = 0; u < vectors_of_sum(format); ++u) {
    if (traits->storage == SF_QUANTS_BYTES) {
      const size_t step = group_bytes(format) / GROUP;
      r[u] = vq_signed(vq_load(block_at(format, p, s) + traits->low.at + u * SF_BLOCK / 2, step, SF_BLOCK, n - s));
    } else {
      const vq bytes = vq_load(p + sf_plane_run(traits->low, s) + u * SF_BLOCK / 2, SF_BLOCK, SF_BLOCK, GROUP);
      r[u] = sf_plane_shift(traits->low, s) ? vq_high(bytes) : vq_low(bytes);
    }
  }
}

/* Adds the products of a group of n sub-blocks of each of `streams` rows. */
SF_INLINE void bytes_group(sf_format_index format, int streams, int asks, const uint8_t *const *row,
                           const uint8_t *const *next, size_t at, int32_t n, const int16_t *values,
                           const float *x_scales, const float *x_sums, vf *sum) {
  const int vectors = vectors_of_sum(format);
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
    for (int a = 0; a < sums_of_group(format); ++a) {
      vq quants[2];
      if (first_of_sum(format, a) >= n) break;
      load_bytes(format, p, a, n, quants);
      const vi products = v_dot_split(vectors, quants, x.high + a * vectors, x.low + a * vectors, x.zero[a]);
      const vf scales = v_spread(scale, first_of_sum(format, a), blocks_apart(format), lanes_of_sub_block(format));
      sum[r] = v_fma(v_float(products), scales, sum[r]);
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
    bytes_group(format, streams, asks, row, next, (size_t)(whole / GROUP) * group_bytes(format), blocks - whole,
                input->values + (size_t)whole * SF_BLOCK, input->scales + whole, input->sums + whole, sum);
  }
}
#else
SF_INLINE void streams_bytes(sf_format_index format, int streams, int asks, const uint8_t *const *row,
                             const uint8_t *const *next, const sf_inputs *input, int32_t columns, vf *sum) {
  (void)format, (void)streams, (void)asks, (void)row, (void)next, (void)input, (void)columns, (void)sum;
}
#endif

#endif
