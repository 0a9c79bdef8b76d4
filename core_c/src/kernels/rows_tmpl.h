/* Access to the rows of a weight matrix, shared by the dot and axpy kernels.
 *
 * Formats of plain numbers (F32, F16, BF16) are read as vectors of floats. Block formats are all read alike, 32
 * columns (a sub-block) at a time, as w = scale · (q - centre) - min, with q a vb of small integers; scales and mins
 * are read for a group of 8 sub-blocks at once. `format` is a constant wherever these functions are inlined. */
#ifndef SF_KERNELS_ROWS_H
#define SF_KERNELS_ROWS_H

/* What an instruction set has its own way for. */
#ifndef SF_HALVES_TAIL
#define SF_HALVES_TAIL 0 /* v_load_halves_tail */
#endif
#ifndef SF_K_SCALES
#define SF_K_SCALES 0 /* v_load_k_scales */
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

/* Start of row i (see sf_rows). */
SF_INLINE const uint8_t *row_at(const sf_rows *rows, int32_t i) {
  return rows->data + (size_t)(rows->ids ? rows->ids[i] : i) * rows->stride;
}

/* ---- Plain numbers ---- */

SF_INLINE int is_plain(sf_format_index format) { return format <= SF_FORMAT_BF16; }

/* Bytes of a weight. */
SF_INLINE size_t weight_bytes(sf_format_index format) { return format == SF_FORMAT_F32 ? 4 : 2; }

SF_INLINE vf load_weights(sf_format_index format, const uint8_t *p) {
  return format == SF_FORMAT_F16 ? v_load_f16(p) : format == SF_FORMAT_BF16 ? v_load_bf16(p) : v_load(p);
}

/* n ≤ SF_LANES of them, zeros above. */
SF_INLINE vf load_some_weights(sf_format_index format, const uint8_t *p, int32_t n) {
  if (n >= SF_LANES) return load_weights(format, p);
  return format == SF_FORMAT_F16    ? v_load_f16_tail(p, n)
         : format == SF_FORMAT_BF16 ? v_load_bf16_tail(p, n)
                                    : v_load_tail(p, n);
}

SF_INLINE vf load_some(const float *p, int32_t n) { return n >= SF_LANES ? v_load(p) : v_load_tail(p, n); }

enum { LINE = 64 }; /* bytes of a cache line: from one prefetch to the next */

SF_INLINE int32_t weights_in_line(sf_format_index format) { return format == SF_FORMAT_F32 ? LINE / 4 : LINE / 2; }

/* Whether rows, of which `columns` are read, are asked for ahead (see SF_FOLLOWED). */
SF_INLINE int is_asked_for(sf_format_index format, int32_t columns) {
  return !is_plain(format) || (size_t)columns * weight_bytes(format) < (size_t)SF_FOLLOWED;
}

/* ---- Blocks ---- */

/* Bytes of a group of 8 sub-blocks. */
SF_INLINE size_t group_bytes(sf_format_index format) {
  switch (format) {
    case SF_FORMAT_Q4_0:
      return (size_t)GROUP * Q4_0_BYTES;
    case SF_FORMAT_Q4_1:
      return (size_t)GROUP * Q4_1_BYTES;
    case SF_FORMAT_Q5_0:
      return (size_t)GROUP * Q5_0_BYTES;
    case SF_FORMAT_Q5_1:
      return (size_t)GROUP * Q5_1_BYTES;
    case SF_FORMAT_Q8_0:
      return (size_t)GROUP * Q8_0_BYTES;
    case SF_FORMAT_Q4_K:
      return Q4_K_BYTES;
    case SF_FORMAT_Q5_K:
      return Q5_K_BYTES;
    default:
      return Q6_K_BYTES;
  }
}

/* Whether the rows are all that lies there, one after the other, which is what a processor's prefetcher follows; those
 * of a bundle of matrices have the others' between them. */
SF_INLINE int lie_together(sf_format_index format, const sf_rows *rows) {
  const size_t columns = (size_t)rows->columns;
  const size_t bytes =
      is_plain(format) ? columns * weight_bytes(format) : columns / SF_BLOCK * group_bytes(format) / GROUP;
  return !rows->ids && rows->stride == bytes;
}

/* Of a group, a line is asked for at each of the first sub-blocks: whether at sub-block s there is one left. */
SF_INLINE int has_line(sf_format_index format, int s) { return (size_t)s * LINE < group_bytes(format); }

/* Whether there are mins. */
SF_INLINE int has_min(sf_format_index format) {
  return format == SF_FORMAT_Q4_1 || format == SF_FORMAT_Q5_1 || format == SF_FORMAT_Q4_K || format == SF_FORMAT_Q5_K;
}

/* Whether sub-blocks share bytes by twos, so that code which knows whether s is even is simpler. */
SF_INLINE int is_paired(sf_format_index format) { return format == SF_FORMAT_Q4_K || format == SF_FORMAT_Q5_K; }

/* What levels are counted from; Q6_K's and Q8_0's are signed as they come. */
SF_INLINE int centre_of(sf_format_index format) {
  return format == SF_FORMAT_Q4_0 ? 8 : format == SF_FORMAT_Q5_0 ? 16 : 0;
}

/* The lower halves of 32 bytes, or the upper ones. */
SF_INLINE vb half_bytes(const uint8_t *p, int upper) {
  return upper ? vb_shr(vb_load_u8(p), 4) : vb_and(vb_load_u8(p), 15);
}

/* The levels of sub-block s of the group at p. Those of Q6_K, which has two scales in 32 columns, come times these. */
SF_INLINE vb load_levels(sf_format_index format, const uint8_t *p, int s) {
  const size_t block = (size_t)s * (group_bytes(format) / GROUP);
  const uint8_t *nibbles = p;
  uint32_t fifths = 0;
  switch (format) {
    case SF_FORMAT_Q8_0:
      return vb_load_i8((const int8_t *)(p + block + 2));
    case SF_FORMAT_Q4_0:
      return vb_load_nibbles(p + block + 2);
    case SF_FORMAT_Q4_1:
      return vb_load_nibbles(p + block + 4);
    case SF_FORMAT_Q5_0:
    case SF_FORMAT_Q5_1:
      nibbles = p + block + (format == SF_FORMAT_Q5_0 ? 6 : 8);
      memcpy(&fifths, nibbles - 4, sizeof fifths);
      return vb_or(vb_load_nibbles(nibbles), vb_fifths(fifths));
    case SF_FORMAT_Q4_K:
      return half_bytes(p + Q4_K_NIBBLES + 32 * (s >> 1), s & 1);
    case SF_FORMAT_Q5_K: {
      const vb low = half_bytes(p + Q5_K_NIBBLES + 32 * (s >> 1), s & 1);
      return vb_or(low, vb_and(vb_shr(vb_scale(vb_load_u8(p + Q5_K_FIFTHS), 16, 16), s), 16));
    }
    default: {
      const int part = s / 4, in_part = s % 4;
      const vb low = vb_and(vb_shr(vb_load_u8(p + 64 * part + 32 * (in_part % 2)), 4 * (in_part / 2)), 15);
      const vb pairs = vb_scale(vb_load_u8(p + Q6_K_PAIRS + 32 * part), 16, 16);
      const int8_t *scales = (const int8_t *)(p + Q6_K_SCALES + 2 * s);
      return vb_scale(vb_add(vb_or(low, vb_and(vb_shr(pairs, 2 * in_part), 48)), -32), scales[0], scales[1]);
    }
  }
}

#if SF_HALF_FLOATS
/* The levels of a format of nibbles as floats, counted from the centre, which is exact. */
SF_INLINE void load_nibble_floats(sf_format_index format, const uint8_t *p, int s, vf *r) {
  enum { HALF = SF_BLOCK / SF_LANES / 2 };
  const vf centre = v_set1((float)centre_of(format));
  if (format == SF_FORMAT_Q4_K) {
    const uint8_t *nibbles = p + Q4_K_NIBBLES + 32 * (s >> 1);
    v_load_half_floats(nibbles, s & 1, r);
    v_load_half_floats(nibbles + 16, s & 1, r + HALF);
  } else {
    const uint8_t *block = p + (size_t)s * (group_bytes(format) / GROUP);
    v_load_half_floats(block + (format == SF_FORMAT_Q4_0 ? 2 : 4), 0, r);
    v_load_half_floats(block + (format == SF_FORMAT_Q4_0 ? 2 : 4), 1, r + HALF);
  }
  for (int k = 0; centre_of(format) && k < 2 * HALF; ++k) r[k] = v_sub(r[k], centre);
}
#endif

/* The same as floats, counted from the centre. */
SF_INLINE void load_level_floats(sf_format_index format, const uint8_t *p, int s, vf *r) {
  if (format == SF_FORMAT_Q8_0) {
    vb_load_floats((const int8_t *)(p + (size_t)s * Q8_0_BYTES + 2), r);
    return;
  }
#if SF_HALF_FLOATS
  if (format == SF_FORMAT_Q4_0 || format == SF_FORMAT_Q4_1 || format == SF_FORMAT_Q4_K) {
    load_nibble_floats(format, p, s, r);
    return;
  }
#endif
  const vb levels = load_levels(format, p, s);
  vb_floats(centre_of(format) ? vb_add(levels, -centre_of(format)) : levels, r);
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

/* Those of a block of Q4_K or Q5_K. */
SF_INLINE void k_scales(const uint8_t *p, vf *scale, vf *min) {
#if SF_K_SCALES
  v_load_k_scales(p, scale, min);
#else
  uint8_t unpacked[2 * GROUP];
  sf_unpack_k_scales(p + K_SCALES, unpacked);
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
  const size_t step = group_bytes(format) / GROUP;
  const vf zero = v_set1(0);
  for (int k = 0; k < GROUP_VECTORS; ++k) min[k] = zero;
  switch (format) {
    case SF_FORMAT_Q4_K:
    case SF_FORMAT_Q5_K:
      k_scales(p, scale, min);
      break;
    case SF_FORMAT_Q6_K:
      for (int k = 0; k < GROUP_VECTORS; ++k) scale[k] = v_set1(v_half(p + Q6_K_D));
      break;
    default:
      group_halves(p, step, n, scale);
      if (has_min(format)) group_halves(p + 2, step, n, min);
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

/* What a weight's level 0 stands below 0: the mins, or the centre times the scale; 0 for the formats without both. */
SF_INLINE void group_offsets(sf_format_index format, const vf *scale, const vf *min, vf *offset) {
  for (int k = 0; k < GROUP_VECTORS; ++k) {
    offset[k] = has_min(format) ? min[k] : v_mul(scale[k], v_set1((float)centre_of(format)));
  }
}

SF_INLINE int has_offset(sf_format_index format) { return has_min(format) || centre_of(format); }

/* sum - offset · x_sum: takes from a dot product what levels counted from 0 have put in too much. */
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
