/* Products of a sub-block's levels with those of an input: of 16 bits, or, where the instruction set has a dot product
 * for them (SF_DOT8), of 8 bits for the formats whose levels have no more. `product` and `format` are constants
 * wherever these functions are inlined. Within a sub-block every sum is exact. */
#ifndef SF_KERNELS_PRODUCTS_H
#define SF_KERNELS_PRODUCTS_H

#include "kernels/rows_tmpl.h"

#ifndef SF_DOT8
#define SF_DOT8 0
#endif

typedef enum {
  PRODUCT_FLOATS,  /* not of integers */
  PRODUCT_16,      /* any levels; inputs up to 32767 */
  PRODUCT_LEVELS8, /* levels 0 … 63; inputs up to 127 */
  PRODUCT_SIGNED8  /* levels -128 … 127; inputs up to 63 */
} sf_product;

SF_INLINE sf_product product_of(sf_format_index format) {
  if (is_plain(format)) return PRODUCT_FLOATS;
  if (!SF_DOT8) return PRODUCT_16;
  switch (format) {
    case SF_FORMAT_Q4_0:
    case SF_FORMAT_Q4_1:
    case SF_FORMAT_Q4_K:
      return PRODUCT_LEVELS8;
    case SF_FORMAT_Q8_0:
      return PRODUCT_SIGNED8;
    default:
      return PRODUCT_16;
  }
}

static int32_t input_most(sf_format_index format) {
  const sf_product product = product_of(format);
  return product == PRODUCT_LEVELS8 ? 127 : product == PRODUCT_SIGNED8 ? 63 : 32767;
}

#if SF_DOT8
typedef union {
  vb wide;
  v8 narrow;
} sub_block;
#else
typedef union {
  vb wide;
} sub_block;
#endif

/* 32 integers of an input. */
SF_INLINE sub_block load_input(sf_product product, const int16_t *x) {
  sub_block r;
#if SF_DOT8
  if (product != PRODUCT_16) {
    r.narrow = product == PRODUCT_SIGNED8 ? v8_add_64(v8_load_i16(x)) : v8_load_i16(x);
    return r;
  }
#endif
  (void)product;
  r.wide = vb_load_i16(x);
  return r;
}

/* The levels of sub-block s of the group at p (see load_levels). */
SF_INLINE sub_block load_row(sf_format_index format, const uint8_t *p, int s) {
  sub_block r;
#if SF_DOT8
  const uint8_t *block = p + (size_t)s * (group_bytes(format) / GROUP);
  switch (format) {
    case SF_FORMAT_Q8_0:
      r.narrow = v8_load(block + 2);
      return r;
    case SF_FORMAT_Q4_0:
      r.narrow = v8_load_nibbles(block + 2);
      return r;
    case SF_FORMAT_Q4_1:
      r.narrow = v8_load_nibbles(block + 4);
      return r;
    case SF_FORMAT_Q4_K:
      r.narrow = v8_nibble(v8_load(p + Q4_K_NIBBLES + 32 * (s / 2)), s % 2);
      return r;
    default:
      break;
  }
#endif
  r.wide = load_levels(format, p, s);
  return r;
}

/* Levels that are 16-bit integers in memory. */
SF_INLINE sub_block load_unpacked(sf_product product, const int16_t *levels) {
  sub_block r;
#if SF_DOT8
  if (product != PRODUCT_16) {
    r.narrow = v8_load_i16(levels);
    return r;
  }
#endif
  (void)product;
  r.wide = vb_load_i16(levels);
  return r;
}

/* Their dot product, over the lanes of a vector. */
SF_INLINE vf dot_sub_block(sf_product product, sub_block levels, sub_block x) {
#if SF_DOT8
  if (product == PRODUCT_LEVELS8) return v8_dot_levels(levels.narrow, x.narrow);
  if (product == PRODUCT_SIGNED8) return v8_dot_signed(levels.narrow, x.narrow);
#endif
  (void)product;
  return vb_dot(levels.wide, x.wide);
}

#endif
