/* Conversions that take everything from a format's traits: quants in and out of blocks, and blocks to floats. */
#ifndef SF_QUANTS_H
#define SF_QUANTS_H

#include "formats/half.h"
#include "formats/packed_scales.h"
#include "formats/traits.h"
#include "formats/trits.h"

/* Where the bits of a column are: a byte of the block, and the lowest bit in it. */
static inline const uint8_t *column_byte(const sf_traits *traits, sf_plane plane, int column, int *shift,
                                         const uint8_t *block) {
  const int s = column / SF_BLOCK, k = column % SF_BLOCK;
  if (traits->storage == SF_QUANTS_PLANES) {
    *shift = sf_plane_shift(plane, s);
    return block + sf_plane_run(plane, s) + k;
  }
  if (plane.bits == 1) { /* the high bits */
    *shift = k % 8;
    return block + plane.at + k / 8;
  }
  *shift = plane.bits * (k / 16);
  return block + plane.at + SF_BLOCK / 2 * s + k % 16;
}

static inline int32_t get_bits(const sf_traits *traits, sf_plane plane, const uint8_t *block, int column) {
  int shift;
  const uint8_t *byte = column_byte(traits, plane, column, &shift, block);
  return *byte >> shift & ((1 << plane.bits) - 1);
}

static inline void put_bits(const sf_traits *traits, sf_plane plane, uint8_t *block, int column, int32_t bits) {
  int shift;
  const uint8_t *byte = column_byte(traits, plane, column, &shift, block);
  block[byte - block] |= (uint8_t)((bits & ((1 << plane.bits) - 1)) << shift);
}

/* What a quant that counts from 0 stands for, in steps of the scale. */
static inline int32_t value_of_quant(const sf_traits *traits, int32_t quant) {
  return traits->levels ? traits->levels[quant] : quant - traits->zero_point;
}

/* The quant of a column, less the zero point, or its level; not of points, which are unpacked by sub-block. */
static inline int32_t get_quant(const sf_traits *traits, const uint8_t *block, int column) {
  if (traits->storage == SF_QUANTS_BYTES) return ((const int8_t *)block)[traits->low.at + column];
  if (traits->storage == SF_QUANTS_TRITS) {
    return value_of_quant(traits, sf_trit(block + traits->low.at, column));
  }
  int32_t quant = get_bits(traits, traits->low, block, column);
  if (traits->high.bits) quant |= get_bits(traits, traits->high, block, column) << traits->low.bits;
  return value_of_quant(traits, quant);
}

/* Adds a quant ≥ 0 to a block of zeros. */
static inline void put_quant(const sf_traits *traits, uint8_t *block, int column, int32_t quant) {
  put_bits(traits, traits->low, block, column, quant);
  if (traits->high.bits) put_bits(traits, traits->high, block, column, quant >> traits->low.bits);
}

/* The largest quant that counts from 0. */
static inline int32_t most_quant(const sf_traits *traits) { return (1 << (traits->low.bits + traits->high.bits)) - 1; }

static inline float get_d(const sf_traits *traits, const uint8_t *block) {
  if (traits->scales == SF_SCALES_FLOAT_RUNS) return 1;
  if (traits->scales == SF_SCALES_POWER) return sf_half_power(block[traits->d]);
  return sf_half_to_float(sf_d_bits(traits, block)) * sf_d_unit(traits);
}

/* The scale and the min (subtracted; 0 without one) of each run of columns: 1, 4, 8 or 16 of them. Returns how many. */
static inline int get_scales(const sf_traits *traits, const uint8_t *block, float *scales, float *mins) {
  const float d = get_d(traits, block);
  const float m = traits->m == SF_NO_MIN ? 0 : sf_get_half(block + traits->m);
  uint8_t unpacked[2 * SF_SUB_BLOCKS];
  switch (traits->scales) {
    case SF_SCALES_BLOCK:
    case SF_SCALES_POWER:
      scales[0] = d;
      mins[0] = -m;
      return 1;
    case SF_SCALES_6BIT:
      sf_unpack_6bit_scales(block, unpacked);
      for (int s = 0; s < SF_SUB_BLOCKS; ++s) {
        scales[s] = d * (float)unpacked[s];
        mins[s] = m * (float)unpacked[SF_SUB_BLOCKS + s];
      }
      return SF_SUB_BLOCKS;
    case SF_SCALES_SUB_BLOCKS:
      for (int s = 0; s < SF_SUB_BLOCKS; ++s) {
        scales[s] = d * (float)traits->scale_of(block, s);
        mins[s] = 0;
      }
      return SF_SUB_BLOCKS;
    case SF_SCALES_FLOAT_RUNS:
      for (int i = 0; i < traits->block_columns / SF_RUN; ++i) {
        scales[i] = traits->float_of(block, i);
        mins[i] = 0;
      }
      return traits->block_columns / SF_RUN;
    default:
      for (int i = 0; i < SF_RUNS; ++i) {
        scales[i] = d * (float)traits->scale_of(block, i);
        mins[i] = traits->min_of ? m * (float)traits->min_of(block, i) : 0;
      }
      return SF_RUNS;
  }
}

static inline void dequantize_block(const sf_traits *traits, const uint8_t *block, float *dst) {
  float scales[SF_RUNS], mins[SF_RUNS];
  const int runs = get_scales(traits, block, scales, mins), run = traits->block_columns / runs;
  const int points = traits->storage == SF_QUANTS_POINTS;
  uint64_t words[SF_SUPER_BLOCK / 8];
  int8_t unpacked[SF_SUPER_BLOCK];
  if (points) {
    for (int s = 0; s < traits->block_columns / SF_BLOCK; ++s) traits->quants_of(block, s, words + s * (SF_BLOCK / 8));
    memcpy(unpacked, words, (size_t)traits->block_columns);
  }
  for (int i = 0; i < runs; ++i) {
    for (int k = i * run; k < (i + 1) * run; ++k) {
      const float value = scales[i] * (float)(points ? unpacked[k] : get_quant(traits, block, k));
      dst[k] = traits->m == SF_NO_MIN ? value : value - mins[i];
    }
  }
}

/* Bit for bit as GGUF's reference does it. `traits` is a constant where this is inlined. */
static inline void dequantize(const sf_traits *traits, const uint8_t *src, size_t blocks, float *dst) {
  if (traits->storage == SF_FLOATS_32) {
    memcpy(dst, src, blocks * sizeof *dst);
    return;
  }
  for (size_t b = 0; b < blocks; ++b, src += traits->block_bytes, dst += traits->block_columns) {
    if (!sf_is_plain(traits)) {
      dequantize_block(traits, src, dst);
    } else if (traits->storage == SF_FLOATS_16) {
      *dst = sf_get_half(src);
    } else {
      uint16_t bfloat;
      memcpy(&bfloat, src, sizeof bfloat);
      *dst = sf_bfloat_to_float(bfloat);
    }
  }
}

#endif
