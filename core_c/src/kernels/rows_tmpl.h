/* Access to the rows of a weight matrix, shared by the dot and axpy kernels.
 *
 * Formats of plain numbers (F32, F16, BF16) are read as vectors of floats. Block formats are all read alike, 32
 * columns (a sub-block) at a time, as w = scale · (q - zero point) - min, with q a vb of small integers; scales and
 * mins are read for a group of 8 sub-blocks at once. `format` is a constant wherever these functions are inlined. */
#ifndef SF_KERNELS_ROWS_H
#define SF_KERNELS_ROWS_H

#include "formats/half.h"
#include "formats/lists.h"
#include "formats/packed_scales.h"
#include "formats/trits.h"

/* Optional overrides of an instruction set. */
#ifndef SF_HALVES_TAIL
#define SF_HALVES_TAIL 0 /* v_load_halves_tail */
#endif
#ifndef SF_K_SCALES
#define SF_K_SCALES 0 /* v_load_k_scales */
#endif
#ifndef SF_LOAD_POWERS
#define SF_LOAD_POWERS 0 /* v_load_powers */
#endif
#ifndef SF_LOAD_FIELDS
#define SF_LOAD_FIELDS 0 /* vb_load_fields */
#endif
#ifndef SF_HALF_FLOATS
#define SF_HALF_FLOATS 0 /* v_load_half_floats */
#endif

enum {
  GROUP = 8, /* sub-blocks of a group: 256 columns, a whole block of the K formats */
  GROUP_COLUMNS = GROUP * SF_BLOCK,
  GROUP_VECTORS = GROUP > SF_LANES ? GROUP / SF_LANES : 1, /* vectors of a number for each sub-block, 0 above */
  GROUP_SIZE = GROUP_VECTORS * SF_LANES                    /* and what they take as floats */
};

/* What the format is made of; a constant where the format is one. */
SF_INLINE const sf_traits *traits_of(sf_format_index format) {
#define SF_FORMAT(NAME, name) [SF_FORMAT_##NAME] = &sf_traits_##name,
  static const sf_traits *const all[SF_FORMATS] = {
#include "formats/lists.h"
  };
#undef SF_FORMAT
  return all[format];
}

/* ---- Plain numbers ---- */

SF_INLINE int is_plain(sf_format_index format) { return sf_is_plain(traits_of(format)); }

/* Bytes of a weight. */
SF_INLINE size_t weight_bytes(sf_format_index format) { return (size_t)traits_of(format)->block_bytes; }

SF_INLINE vf load_weights(sf_format_index format, const uint8_t *p) {
  const sf_storage storage = traits_of(format)->storage;
  return storage == SF_FLOATS_16 ? v_load_f16(p) : storage == SF_FLOATS_B16 ? v_load_bf16(p) : v_load(p);
}

/* n ≤ SF_LANES of them, zeros above. */
SF_INLINE vf load_some_weights(sf_format_index format, const uint8_t *p, int32_t n) {
  if (n >= SF_LANES) return load_weights(format, p);
  const sf_storage storage = traits_of(format)->storage;
  return storage == SF_FLOATS_16    ? v_load_f16_tail(p, n)
         : storage == SF_FLOATS_B16 ? v_load_bf16_tail(p, n)
                                    : v_load_tail(p, n);
}

SF_INLINE vf load_some(const float *p, int32_t n) { return n >= SF_LANES ? v_load(p) : v_load_tail(p, n); }

enum { LINE = 64 }; /* bytes of a cache line: from one prefetch to the next */

SF_INLINE int32_t weights_in_line(sf_format_index format) { return LINE / (int32_t)weight_bytes(format); }

/* Whether rows, of which `columns` are read, are prefetched (see SF_FOLLOWED). */
SF_INLINE int is_prefetched(sf_format_index format, int32_t columns) {
  return !is_plain(format) || (size_t)columns * weight_bytes(format) < (size_t)SF_FOLLOWED;
}

/* ---- Blocks ---- */

/* Bytes of a group of 8 sub-blocks. */
SF_INLINE size_t group_bytes(sf_format_index format) {
  const sf_traits *traits = traits_of(format);
  return (size_t)(GROUP_COLUMNS / traits->block_columns * traits->block_bytes);
}

/* Whether the rows are all that lies there, one after the other, which is what a processor's prefetcher follows; those
 * of a bundle of matrices have the others' between them. */
SF_INLINE int is_contiguous(sf_format_index format, const sf_rows *rows) {
  const size_t columns = (size_t)rows->columns;
  const size_t bytes =
      is_plain(format) ? columns * weight_bytes(format) : columns / SF_BLOCK * group_bytes(format) / GROUP;
  return !rows->ids && rows->stride == bytes;
}

/* Of a group, a line is asked for at each of the first sub-blocks: whether at sub-block s there is one left. */
SF_INLINE int has_line(sf_format_index format, int s) { return (size_t)s * LINE < group_bytes(format); }

/* Whether each sub-block has a min. */
SF_INLINE int has_min(sf_format_index format) {
  const sf_traits *traits = traits_of(format);
  return traits->m != SF_NO_MIN && traits->scales != SF_SCALES_RUNS;
}

/* Whether each run of 16 columns has a min, m times a small integer. */
SF_INLINE int has_run_mins(sf_format_index format) {
  const sf_traits *traits = traits_of(format);
  return traits->m != SF_NO_MIN && traits->scales == SF_SCALES_RUNS;
}

/* Whether each run of 16 columns has a float as its scale. */
SF_INLINE int has_float_runs(sf_format_index format) { return traits_of(format)->scales == SF_SCALES_FLOAT_RUNS; }

/* Whether a sub-block takes a second product, which is subtracted: with the mins of its runs, or with its second run,
 * whose scale is less than 0 then. */
SF_INLINE int has_second(sf_format_index format) { return has_run_mins(format) || has_float_runs(format); }

/* Whether sub-blocks share bytes by twos, so that code which knows whether s is even is simpler. */
SF_INLINE int is_paired(sf_format_index format) {
  const sf_traits *traits = traits_of(format);
  return traits->storage == SF_QUANTS_PLANES && traits->low.bits == 4 && traits->low.apart == 1;
}

/* Whether quants are multiplied as they are stored, in bytes that several share. */
SF_INLINE int has_shared_bytes(sf_format_index format) {
  const sf_traits *traits = traits_of(format);
  const int fields = traits->storage == SF_QUANTS_HALVES || traits->storage == SF_QUANTS_PLANES;
  return fields && traits->high.bits == 0 && traits->scales != SF_SCALES_RUNS && !traits->levels;
}

/* Whether these are nibbles. */
SF_INLINE int has_nibbles(sf_format_index format) {
  return has_shared_bytes(format) && traits_of(format)->low.bits == 4;
}

/* The zero point of the quants that load_quants gives: it has subtracted that of formats whose runs have scales. */
SF_INLINE int zero_point_of(sf_format_index format) {
  const sf_traits *traits = traits_of(format);
  return traits->scales == SF_SCALES_RUNS ? 0 : traits->zero_point;
}

/* The block of sub-block s of the group at p, of formats with blocks of one sub-block. */
SF_INLINE const uint8_t *block_at(sf_format_index format, const uint8_t *p, int s) {
  return p + (size_t)s * (group_bytes(format) / GROUP);
}

/* The digits of sub-block s of a block of SF_QUANTS_TRITS. */
SF_INLINE vb load_trits(const uint8_t *trits, int s) {
  vb fractions;
  if (s < SF_TRIT_FIRST) {
    const int power = sf_power_of_3(s);
    fractions = vb_scale(vb_load_u8(trits), power, power);
  } else {
    uint8_t bytes[SF_BLOCK];
    int first, last;
    sf_trits_gather(trits, s, bytes, &first, &last);
    fractions = vb_scale(vb_load_u8(bytes), first, last);
  }
  return vb_shr(vb_scale(vb_and(fractions, 255), 3, 3), 8);
}

/* The bytes of sub-block s of the group at p, of formats with SF_QUANTS_HALVES. */
SF_INLINE const uint8_t *halves_at(sf_format_index format, const uint8_t *p, int s) {
  const sf_traits *traits = traits_of(format);
  return traits->low.at + (traits->block_columns == SF_BLOCK ? block_at(format, p, s) : p + s * (SF_BLOCK / 2));
}

/* The quants of sub-block s of a block of planes. */
SF_INLINE vb load_planes(sf_format_index format, const uint8_t *p, int s) {
  const sf_traits *traits = traits_of(format);
  const sf_plane low = traits->low, high = traits->high;
#if SF_LOAD_FIELDS
  if (high.bits) {
    return vb_load_fields(p + sf_plane_run(low, s), sf_plane_shift(low, s), low.bits, p + sf_plane_run(high, s),
                          sf_plane_shift(high, s), high.bits);
  }
#endif
  const vb bytes = vb_load_u8(p + sf_plane_run(low, s));
  const int shift = sf_plane_shift(low, s), mask = (1 << low.bits) - 1;
  vb quants;
  if (is_paired(format)) {
    quants = shift ? vb_shr(bytes, 4) : vb_and(bytes, mask);
  } else {
    quants = vb_and(vb_shr(bytes, shift), mask);
  }
  if (high.bits) {
    const int unit = 1 << low.bits;
    const vb above = vb_scale(vb_load_u8(p + sf_plane_run(high, s)), unit, unit);
    quants = vb_or(quants, vb_and(vb_shr(above, sf_plane_shift(high, s)), ((1 << high.bits) - 1) * unit));
  }
  return quants;
}

/* The quants of sub-block s of the group at p, of formats with SF_QUANTS_POINTS. */
SF_INLINE vb load_points(sf_format_index format, const uint8_t *p, int s) {
  uint64_t words[SF_BLOCK / 8];
  traits_of(format)->quants_of(p, s, words);
  return vb_load_i8((const int8_t *)(const void *)words);
}

/* The quants of sub-block s of the group at p, or the levels that they stand for. Those of formats whose runs of 16
 * columns have scales come without the zero point, times these scales. */
SF_INLINE vb load_quants(sf_format_index format, const uint8_t *p, int s) {
  const sf_traits *traits = traits_of(format);
  if (traits->storage == SF_QUANTS_BYTES) return vb_load_i8((const int8_t *)(block_at(format, p, s) + traits->low.at));
  if (traits->storage == SF_QUANTS_HALVES) {
    const uint8_t *halves = halves_at(format, p, s);
    if (traits->levels) return vb_load_levels(halves, traits->levels);
    const vb low = vb_load_nibbles(halves);
    if (!traits->high.bits) return low;
    uint32_t high;
    memcpy(&high, block_at(format, p, s) + traits->high.at, sizeof high);
    return vb_or(low, vb_high_bits(high));
  }
  if (traits->storage == SF_QUANTS_TRITS) return load_trits(p + traits->low.at, s);
  const vb quants = traits->storage == SF_QUANTS_POINTS ? load_points(format, p, s) : load_planes(format, p, s);
  if (traits->scales != SF_SCALES_RUNS) return quants;
  return vb_scale(vb_add(quants, -traits->zero_point), traits->scale_of(p, 2 * s), traits->scale_of(p, 2 * s + 1));
}

/* A sub-block of small integers, one for each of its two runs. */
SF_INLINE vb both_runs(vb any, int first, int second) { return vb_scale(vb_add(vb_and(any, 0), 1), first, second); }

/* The integers of the mins of sub-block s of the group at p, for each column. */
SF_INLINE vb load_run_mins(sf_format_index format, const uint8_t *p, int s) {
  const sf_traits *traits = traits_of(format);
  return both_runs(vb_load_u8(p), traits->min_of(p, 2 * s), traits->min_of(p, 2 * s + 1));
}

/* What the second product is with, given the quants of sub-block s of the group at p. */
SF_INLINE vb load_second(sf_format_index format, const uint8_t *p, int s, vb quants) {
  return has_run_mins(format) ? load_run_mins(format, p, s) : vb_scale(quants, 0, 1);
}

#if SF_HALF_FLOATS
/* The quants of a format of nibbles as floats, less the zero point, which is exact. */
SF_INLINE void load_nibble_floats(sf_format_index format, const uint8_t *p, int s, vf *r) {
  enum { HALF = SF_BLOCK / SF_LANES / 2 };
  const sf_traits *traits = traits_of(format);
  const vf zero_point = v_set1((float)zero_point_of(format));
  if (traits->storage == SF_QUANTS_PLANES) {
    const uint8_t *nibbles = p + sf_plane_run(traits->low, s);
    const int upper = sf_plane_shift(traits->low, s) != 0;
    v_load_half_floats(nibbles, upper, r);
    v_load_half_floats(nibbles + 16, upper, r + HALF);
  } else {
    const uint8_t *nibbles = halves_at(format, p, s);
    v_load_half_floats(nibbles, 0, r);
    v_load_half_floats(nibbles, 1, r + HALF);
  }
  for (int k = 0; zero_point_of(format) && k < 2 * HALF; ++k) r[k] = v_sub(r[k], zero_point);
}
#endif

/* The same as floats, less the zero point. */
SF_INLINE void load_quant_floats(sf_format_index format, const uint8_t *p, int s, vf *r) {
  const sf_traits *traits = traits_of(format);
  if (traits->storage == SF_QUANTS_BYTES) {
    vb_load_floats((const int8_t *)(block_at(format, p, s) + traits->low.at), r);
    return;
  }
#if SF_HALF_FLOATS
  if (has_nibbles(format)) {
    load_nibble_floats(format, p, s, r);
    return;
  }
#endif
  const vb quants = load_quants(format, p, s);
  vb_floats(zero_point_of(format) ? vb_add(quants, -zero_point_of(format)) : quants, r);
}

/* The halves at p, p + step, … of n ≤ 8 sub-blocks; above, the last one again, or 0. */
SF_INLINE void group_halves(const uint8_t *p, size_t step, int32_t n, vf *r) {
  if (n == GROUP) { /* with places that the compiler knows */
    for (int k = 0; k < GROUP_VECTORS; ++k) r[k] = v_load_halves(p + (size_t)k * SF_LANES * step, step);
    return;
  }
#if SF_HALVES_TAIL /* the instruction set's own way: all in one vector */
  r[0] = v_load_halves_tail(p, step, n);
#else
  for (int k = 0; k < GROUP_VECTORS; ++k) {
    uint16_t some[GROUP];
    if (k * SF_LANES >= n) {
      r[k] = v_set1(0);
      continue;
    }
    for (int i = 0; i < GROUP; ++i) { /* no branch for each: whether there are n + 1 is not known */
      const int32_t s = k * SF_LANES + i < n ? k * SF_LANES + i : n - 1;
      memcpy(&some[i], p + (size_t)s * step, sizeof some[i]);
    }
    r[k] = v_load_halves((const uint8_t *)some, sizeof some[0]);
  }
#endif
}

/* 2^(d - 128) of the bytes d at p, p + step, … of n ≤ 8 sub-blocks; above, the last one again, or 0. */
SF_INLINE void group_powers(const uint8_t *p, size_t step, int32_t n, vf *r) {
#if SF_LOAD_POWERS
  if (n == GROUP) {
    r[0] = v_load_powers(p, step);
    return;
  }
#endif
  float some[GROUP_SIZE] = {0};
  for (int32_t s = 0; s < GROUP; ++s) some[s] = sf_half_power(p[(size_t)(s < n ? s : n - 1) * step]);
  for (int k = 0; k < GROUP_VECTORS; ++k) r[k] = v_load(some + k * SF_LANES);
}

/* d, with its unit. */
SF_INLINE float block_d(sf_format_index format, const uint8_t *p) {
  const sf_traits *traits = traits_of(format);
  const uint16_t bits = sf_d_bits(traits, p);
  return traits->finer ? v_half(&bits) * sf_d_unit(traits) : v_half(&bits);
}

/* The scales of the first runs of n ≤ 8 sub-blocks, and those of the second runs, less than 0; above, the last one's.
 */
SF_INLINE void group_float_runs(sf_format_index format, const uint8_t *p, int32_t n, vf *scale, vf *min) {
  enum { RUNS_OF_BLOCK = SF_BLOCK / SF_RUN };
  const sf_traits *traits = traits_of(format);
  const int blocks = traits->block_columns / SF_BLOCK; /* sub-blocks of a block */
  float first[GROUP_SIZE] = {0}, second[GROUP_SIZE] = {0};
  for (int32_t s = 0; s < GROUP; ++s) {
    const int32_t of = s < n ? s : n - 1;
    const uint8_t *block = p + (size_t)(of / blocks) * (size_t)traits->block_bytes;
    first[s] = traits->float_of(block, RUNS_OF_BLOCK * (of % blocks));
    second[s] = -traits->float_of(block, RUNS_OF_BLOCK * (of % blocks) + 1);
  }
  for (int k = 0; k < GROUP_VECTORS; ++k) {
    scale[k] = v_load(first + k * SF_LANES);
    min[k] = v_load(second + k * SF_LANES);
  }
}

/* d times the integers of the sub-blocks. */
SF_INLINE void group_integers(sf_format_index format, const uint8_t *p, vf *r) {
  const sf_traits *traits = traits_of(format);
  if (traits->scales_of) {
    uint8_t bytes[GROUP];
    const uint64_t all = traits->scales_of(p);
    memcpy(bytes, &all, sizeof bytes);
    v_load_u8(bytes, r);
    for (int k = 0; k < GROUP_VECTORS; ++k) r[k] = v_mul(v_sub(r[k], v_set1(128)), v_set1(block_d(format, p)));
    return;
  }
  float some[GROUP_SIZE] = {0};
  for (int s = 0; s < GROUP; ++s) some[s] = (float)traits->scale_of(p, s);
  for (int k = 0; k < GROUP_VECTORS; ++k) r[k] = v_mul(v_load(some + k * SF_LANES), v_set1(block_d(format, p)));
}

/* The scales and mins of a block with packed ones, d and m being its first two halves. */
SF_INLINE void k_scales(const uint8_t *p, vf *scale, vf *min) {
#if SF_K_SCALES
  v_load_k_scales(p, scale, min);
#else
  uint8_t unpacked[2 * GROUP];
  sf_unpack_6bit_scales(p, unpacked);
  v_load_u8(unpacked, scale);
  v_load_u8(unpacked + GROUP, min);
  for (int k = 0; k < GROUP_VECTORS; ++k) {
    scale[k] = v_mul(scale[k], v_set1(v_half(p)));
    min[k] = v_mul(min[k], v_set1(v_half(p + 2)));
  }
#endif
}

/* The scales and mins (0 for formats without them) of the first n ≤ 8 sub-blocks of the group at p; above, any of
 * these, or 0. */
SF_INLINE void group_scales(sf_format_index format, const uint8_t *p, int32_t n, vf *scale, vf *min) {
  const sf_traits *traits = traits_of(format);
  const size_t step = group_bytes(format) / GROUP;
  const vf zero = v_set1(0);
  for (int k = 0; k < GROUP_VECTORS; ++k) min[k] = zero;
  switch (traits->scales) {
    case SF_SCALES_6BIT:
      k_scales(p, scale, min);
      break;
    case SF_SCALES_POWER:
      group_powers(p + traits->d, step, n, scale);
      break;
    case SF_SCALES_SUB_BLOCKS:
      group_integers(format, p, scale);
      break;
    case SF_SCALES_FLOAT_RUNS:
      group_float_runs(format, p, n, scale, min);
      break;
    case SF_SCALES_RUNS:
      for (int k = 0; k < GROUP_VECTORS; ++k) scale[k] = v_set1(block_d(format, p));
      for (int k = 0; has_run_mins(format) && k < GROUP_VECTORS; ++k) min[k] = v_set1(v_half(p + traits->m));
      break;
    default:
      if (traits->block_columns == GROUP_COLUMNS) {
        for (int k = 0; k < GROUP_VECTORS; ++k) scale[k] = v_set1(v_half(p + traits->d));
        break;
      }
      group_halves(p + traits->d, step, n, scale);
      if (has_min(format)) group_halves(p + traits->m, step, n, min);
      for (int k = 0; has_min(format) && k < GROUP_VECTORS; ++k) min[k] = v_sub(zero, min[k]);
      break;
  }
}

/* n ≤ 8 floats, one for each sub-block, 0 above. */
SF_INLINE void load_group(const float *p, int32_t n, vf *r) {
  for (int k = 0; k < GROUP_VECTORS; ++k) {
    const int32_t rest = n - k * SF_LANES;
    r[k] = rest > 0 ? load_some(p + k * SF_LANES, rest) : v_set1(0);
  }
}

/* What a weight's quant 0 stands below 0: the mins, or the zero point times the scale; 0 for the formats without both.
 */
SF_INLINE void group_offsets(sf_format_index format, const vf *scale, const vf *min, vf *offset) {
  for (int k = 0; k < GROUP_VECTORS; ++k) {
    offset[k] = has_min(format) ? min[k] : v_mul(scale[k], v_set1((float)zero_point_of(format)));
  }
}

SF_INLINE int has_offset(sf_format_index format) { return has_min(format) || zero_point_of(format); }

/* sum - offset · x_sum: takes from a dot product what quants counted from 0 have put in too much. */
SF_INLINE vf take_offsets(vf sum, const vf *offset, const vf *x_sum) {
  vf off = v_mul(offset[0], x_sum[0]);
  for (int k = 1; k < GROUP_VECTORS; ++k) off = v_fma(offset[k], x_sum[k], off);
  return v_sub(sum, off);
}

SF_INLINE void store_group(float *p, const vf *a) {
  for (int k = 0; k < GROUP_VECTORS; ++k) v_store(p + k * SF_LANES, a[k]);
}

SF_INLINE void store_product(float *p, const vf *a, const vf *b) {
  for (int k = 0; k < GROUP_VECTORS; ++k) v_store(p + k * SF_LANES, v_mul(a[k], b[k]));
}

#endif
