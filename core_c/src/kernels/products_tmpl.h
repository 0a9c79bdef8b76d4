/* Products of a sub-block's quants with those of an input: of 16 bits, or, where the instruction set has a dot product
 * for them (SF_DOT8), of 8 bits for the formats whose quants have no more. `product` and `format` are constants
 * wherever these functions are inlined. Within a sub-block every sum is exact. */
#ifndef SF_KERNELS_PRODUCTS_H
#define SF_KERNELS_PRODUCTS_H

#include "kernels/rows_tmpl.h"

#ifndef SF_DOT8
#define SF_DOT8 0
#endif
#ifndef SF_DOT_FIELDS
#define SF_DOT_FIELDS 0 /* v_dot_fields */
#endif
#ifndef SF_DOT_BYTES
#define SF_DOT_BYTES 0 /* v_dot_split: 1 for quants 0 … 63, 2 for levels too, 3 for signed bytes too */
#endif
#ifndef SF_HALF_PAIRS
#define SF_HALF_PAIRS 0 /* v_load_half_pairs */
#endif
#ifndef SF_BYTE_ROWS
#define SF_BYTE_ROWS 1 /* whose quants v_dot_split takes together: 1, or 2 where vectors have four lanes */
#endif
#define SF_SPLITS (SF_DOT_BYTES || SF_DOT_FIELDS) /* whether formats take inputs in bytes, see split_tmpl.h */

typedef enum {
  PRODUCT_FLOATS,  /* not of integers: see dot_floats_tmpl.h */
  PRODUCT_16,      /* any quants; inputs up to 32767 */
  PRODUCT_16_MINS, /* the same, and another product with the mins of runs */
  PRODUCT_16_RUNS, /* one for each of the two runs */
  PRODUCT_QUANTS8, /* quants 0 … 63; inputs up to 127 */
  PRODUCT_SIGNED8, /* quants -128 … 127; inputs up to 63 */
  PRODUCT_FIELDS,  /* ternary quants, 256 at a time; inputs up to 32639, see dot_fields_tmpl.h */
  PRODUCT_BYTES    /* quants of 4 … 6 or 8 bits, 256 at a time; inputs up to 32639, see dot_bytes_tmpl.h */
} sf_product;

/* How many fields the bytes of a block have, all with one scale: four of two bits, or five digits to the base of 3; 0
 * for other formats. */
SF_INLINE int fields_of(sf_format_index format) {
  const sf_traits *traits = traits_of(format);
  if (traits->scales != SF_SCALES_BLOCK || traits->m != SF_NO_MIN) return 0;
  if (traits->storage == SF_QUANTS_TRITS) return 5;
  return traits->storage == SF_QUANTS_PLANES && traits->low.bits == 2 && !traits->high.bits ? 4 : 0;
}

/* Whether quants are multiplied with inputs in two bytes. */
SF_INLINE int has_byte_products(sf_format_index format) {
  const sf_traits *traits = traits_of(format);
  if (traits->storage == SF_QUANTS_BYTES) return SF_DOT_BYTES >= 3;
  if (traits->storage == SF_QUANTS_HALVES && traits->levels) {
    return SF_DOT_BYTES >= 2 && !traits->high.bits && traits->scales != SF_SCALES_FLOAT_RUNS;
  }
  if (traits->storage == SF_QUANTS_PLANES) return SF_DOT_BYTES >= 1 && traits->low.bits == 4;
  return SF_DOT_BYTES >= 1 && has_nibbles(format);
}

SF_INLINE sf_product product_of(sf_format_index format) {
  if (is_plain(format)) return PRODUCT_FLOATS;
  if (has_run_mins(format)) return PRODUCT_16_MINS;
  if (has_float_runs(format)) return PRODUCT_16_RUNS;
  if (SF_DOT_FIELDS && fields_of(format)) return PRODUCT_FIELDS;
  if (has_byte_products(format)) return PRODUCT_BYTES;
  if (!SF_DOT8) return PRODUCT_16;
  if (traits_of(format)->storage == SF_QUANTS_BYTES) return PRODUCT_SIGNED8;
  return has_shared_bytes(format) ? PRODUCT_QUANTS8 : PRODUCT_16;
}

/* Whether the integers have 16 bits. */
SF_INLINE int is_wide(sf_product product) {
  return product == PRODUCT_16 || product == PRODUCT_16_MINS || product == PRODUCT_16_RUNS;
}

static int32_t input_most(sf_format_index format) {
  const sf_product product = product_of(format);
  if (product == PRODUCT_FIELDS || product == PRODUCT_BYTES) return 32639;
  return product == PRODUCT_QUANTS8 ? 127 : product == PRODUCT_SIGNED8 ? 63 : 32767;
}

static int32_t input_shared(sf_format_index format) {
  return product_of(format) == PRODUCT_FIELDS ? GROUP_COLUMNS : SF_BLOCK;
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
  if (!is_wide(product)) {
    r.narrow = product == PRODUCT_SIGNED8 ? v8_add_64(v8_load_i16(x)) : v8_load_i16(x);
    return r;
  }
#endif
  (void)product;
  r.wide = vb_load_i16(x);
  return r;
}

/* Two numbers of an input, for every lane. */
SF_INLINE vi load_pair(const int16_t *x) {
  int32_t both;
  memcpy(&both, x, sizeof both);
  return v_set1_int(both);
}

/* The quants of sub-block s of the group at p (see load_quants). */
SF_INLINE sub_block load_row(sf_format_index format, const uint8_t *p, int s) {
  sub_block r;
#if SF_DOT8
  const sf_traits *traits = traits_of(format);
  if (!is_wide(product_of(format))) {
    if (traits->storage == SF_QUANTS_PLANES) {
      r.narrow = v8_field(v8_load(p + sf_plane_run(traits->low, s)), sf_plane_shift(traits->low, s), traits->low.bits);
    } else if (traits->storage == SF_QUANTS_HALVES) {
      r.narrow = v8_load_nibbles(halves_at(format, p, s));
    } else {
      r.narrow = v8_load(block_at(format, p, s) + traits->low.at);
    }
    return r;
  }
#endif
  r.wide = load_quants(format, p, s);
  return r;
}

/* Quants that are 16-bit integers in memory. */
SF_INLINE sub_block load_unpacked(sf_product product, const int16_t *quants) {
  sub_block r;
#if SF_DOT8
  if (!is_wide(product)) {
    r.narrow = v8_load_i16(quants);
    return r;
  }
#endif
  (void)product;
  r.wide = vb_load_i16(quants);
  return r;
}

/* Their dot product, over the lanes of a vector. */
SF_INLINE vf dot_sub_block(sf_product product, sub_block quants, sub_block x) {
#if SF_DOT8
  if (product == PRODUCT_QUANTS8) return v8_dot_quants(quants.narrow, x.narrow);
  if (product == PRODUCT_SIGNED8) return v8_dot_signed(quants.narrow, x.narrow);
#endif
  (void)product;
  return vb_dot(quants.wide, x.wide);
}

#endif
