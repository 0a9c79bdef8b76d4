/* Inputs whose integers of 16 bits are taken apart into two bytes each, x = 256 · high + low, both -128 … 127, in the
 * order in which rows hold their quants: what products of bytes (dot_bytes_tmpl.h, dot_fields_tmpl.h) take of an input.
 * It is made once a product, for all rows and threads. Formats with the same order and the same zero point share a
 * form. */
#ifndef SF_KERNELS_SPLIT_H
#define SF_KERNELS_SPLIT_H

#include "base/check.h"
#include "kernels/products_tmpl.h"

enum {
  FORM_RUNS, /* sub-blocks one after the other; quants from 0, */
  FORM_RUNS_8,
  FORM_RUNS_128, /* and with a zero point */
  FORM_PLANES,   /* sub-blocks that share bytes by twos */
  FORM_FIELDS_4, /* blocks of ternary quants */
  FORM_FIELDS_5,
  FORMS,
  NO_FORM = -1
};
SF_CHECK(forms_fit, (int)FORMS == (int)SF_SPLIT_FORMS);

#if SF_DOT_BYTES
enum {
  BYTE_ROWS = SF_BYTE_ROWS,
  PAIR_VECTORS = 4, /* of quants that an accumulator sums: both halves of two vectors' sub-blocks, of one row or two, */
  ONE_VECTORS = 2,  /* or of those of one, at the end of a row */
  SUM_INPUTS = PAIR_VECTORS / BYTE_ROWS,   /* vectors of the input that these meet: of high bytes, of low ones */
  BYTES_SUMS = 16 * BYTE_ROWS / SF_LANES,  /* accumulators of a group of so many rows, */
  JOINED_SUMS = BYTE_ROWS > 1 ? 4 : 1,     /* of which so many make a vector of products for each row */
  BYTES_FLOATS = BYTES_SUMS / JOINED_SUMS, /* and these vectors */
  BYTES_VECTORS = 64 / SF_LANES,           /* of a group's bytes */
  BLOCKS_OF_VECTOR = SF_LANES / 4          /* 16 bytes of each */
};

/* A group of an input as it meets every row: bytes, (accumulator, vector), what the zero points come to in each lane,
 * the scales of each vector of products in its lanes, and the sums of the sub-blocks. For two rows together, both kinds
 * of vectors have high bytes in their first halves and low ones in their second. */
typedef struct {
  vq high[BYTES_VECTORS], low[BYTES_VECTORS];
  vi zero[BYTES_SUMS];
  vf scales[BYTES_FLOATS];
  vf sums[GROUP_VECTORS];
} bytes_columns;
SF_CHECK(group_fits, sizeof(bytes_columns) <= SF_SPLIT_BYTES);

/* How far apart the sub-blocks of a vector are: runs of two planes hold every other one. */
SF_INLINE int blocks_apart(sf_format_index format) { return traits_of(format)->storage == SF_QUANTS_PLANES ? 2 : 1; }

/* The first sub-block of vector k of a group. */
SF_INLINE int first_of_vector(int apart, int k) { return k / apart * apart * BLOCKS_OF_VECTOR + k % apart; }

/* How many vectors accumulator a sums, in a group of n sub-blocks; 0 if it sums none. */
SF_INLINE int vectors_of_sum(int apart, int a, int32_t n) {
  if (BYTE_ROWS > 1) return a < n ? PAIR_VECTORS : 0;
  if (first_of_vector(apart, 2 * a) >= n) return 0;
  return first_of_vector(apart, 2 * a + 1) < n ? PAIR_VECTORS : ONE_VECTORS;
}

/* What is added to quants to make them what v_dot_split takes, and to be taken from the products. */
SF_INLINE int byte_zero_of(sf_format_index format) {
  const sf_traits *traits = traits_of(format);
  const int is_signed = traits->storage == SF_QUANTS_BYTES || traits->levels;
  return has_min(format) ? 0 : is_signed ? SF_BYTE_ZERO : zero_point_of(format);
}

/* The sum of the products of so many vectors, 2 or 4. */
SF_INLINE vi bytes_products(int vectors, const vq *quants, const vq *high, const vq *low, vi zero) {
  return vectors == PAIR_VECTORS ? v_dot_split(PAIR_VECTORS, quants, high, low, zero)
                                 : v_dot_split(ONE_VECTORS, quants, high, low, zero);
}

/* The scales of vector a of products, in its lanes. */
SF_INLINE vf spread_scales(int apart, const vf *scale, int a, int vectors) {
#if SF_BYTE_ROWS > 1
  (void)apart, (void)vectors; /* which are sub-blocks */
  return scale[a];
#else
  const int first = first_of_vector(apart, 2 * a), second = first_of_vector(apart, 2 * a + 1);
  return vectors == PAIR_VECTORS ? v_spread(scale, first, second, apart) : v_spread(scale, first, first, apart);
#endif
}

/* The bytes of columns 0 … 15 (`half` 0) or 16 … 31 of each sub-block of vector k. */
SF_INLINE void split_vector(int apart, const int16_t *x, int k, int half, int32_t n, vq *high, vq *low) {
  static const int16_t none[SF_BLOCK / 2] = {0};
  const int16_t *part[BLOCKS_OF_VECTOR];
  for (int i = 0; i < BLOCKS_OF_VECTOR; ++i) {
    const int s = first_of_vector(apart, k) + i * apart;
    part[i] = s < n ? x + s * SF_BLOCK + half * (SF_BLOCK / 2) : none;
  }
  vq_split(part, high, low);
}

/* Accumulator a of 256 columns at x, of which n sub-blocks count. */
SF_INLINE void split_sum(int apart, int zero_point, const int16_t *x, int a, int32_t n, bytes_columns *r) {
  const vq zero = vq_set1(zero_point), zeros[] = {zero, zero, zero, zero};
  const int vectors = vectors_of_sum(apart, a, n), step = vectors / 2;
  vq *high = r->high + a * SUM_INPUTS, *low = r->low + a * SUM_INPUTS;
  for (int half = 0; BYTE_ROWS > 1 && half < 2; ++half) {
    split_vector(apart, x, a, half, n, high + half, low + half);
    vq_pair(high + half, low + half);
  }
  for (int half = 0; BYTE_ROWS == 1 && half < 2; ++half, high += step, low += step) {
    split_vector(apart, x, 2 * a, half, n, high, low);
    if (vectors == ONE_VECTORS) continue;
    split_vector(apart, x, 2 * a + 1, half, n, high + 1, low + 1);
    vq_pair(high, high + 1);
    vq_pair(low, low + 1);
  }
  high = r->high + a * SUM_INPUTS, low = r->low + a * SUM_INPUTS;
  r->zero[a] = v_set1_int(0);
  if (zero_point) r->zero[a] = v_sub_int(r->zero[a], bytes_products(vectors, zeros, high, low, r->zero[a]));
}

SF_INLINE void split_bytes(int apart, int zero_point, const sf_inputs *input, int32_t columns, uint8_t *to) {
  for (int32_t b = 0; b < columns / SF_BLOCK; b += GROUP, to += SF_SPLIT_BYTES) {
    const int32_t left = columns / SF_BLOCK - b, n = left < GROUP ? left : GROUP;
    bytes_columns *group = (bytes_columns *)(void *)to;
    vf scale[GROUP_VECTORS];
    load_group(input->scales + b, n, scale);
    load_group(input->sums + b, n, group->sums);
    for (int a = 0; a < BYTES_SUMS && vectors_of_sum(apart, a, n); ++a) {
      split_sum(apart, zero_point, input->values + (size_t)b * SF_BLOCK, a, n, group);
    }
    for (int f = 0; f < BYTES_FLOATS && vectors_of_sum(apart, f * JOINED_SUMS, n); ++f) {
      group->scales[f] = spread_scales(apart, scale, f, vectors_of_sum(apart, f * JOINED_SUMS, n));
    }
  }
}
#endif

#if SF_DOT_FIELDS
SF_CHECK(fields_fit, sizeof(v_fields) <= SF_SPLIT_BYTES);

SF_INLINE void split_fields(int fields, const sf_inputs *input, int32_t columns, uint8_t *to) {
  for (int32_t c = 0; c < columns; c += GROUP_COLUMNS, to += SF_SPLIT_BYTES) {
    v_load_fields(fields, input->values + c, 1, (v_fields *)(void *)to);
  }
}
#endif

#if SF_SPLITS
static int32_t split_form(sf_format_index format) {
  const sf_product product = product_of(format);
  if (product == PRODUCT_FIELDS) return fields_of(format) == 4 ? FORM_FIELDS_4 : FORM_FIELDS_5;
  if (product != PRODUCT_BYTES) return NO_FORM;
#if SF_DOT_BYTES
  if (blocks_apart(format) > 1) return FORM_PLANES;
  if (byte_zero_of(format)) return byte_zero_of(format) == 8 ? FORM_RUNS_8 : FORM_RUNS_128;
#endif
  return FORM_RUNS;
}

static void split(int32_t form, const sf_inputs *input, int32_t columns, uint8_t *to) {
  switch (form) {
#if SF_DOT_FIELDS
    case FORM_FIELDS_4:
      split_fields(4, input, columns, to);
      break;
    case FORM_FIELDS_5:
      split_fields(5, input, columns, to);
      break;
#endif
#if SF_DOT_BYTES
    case FORM_PLANES:
      split_bytes(2, 0, input, columns, to);
      break;
    default:
      split_bytes(1, form == FORM_RUNS_8 ? 8 : form == FORM_RUNS_128 ? 128 : 0, input, columns, to);
      break;
#endif
  }
}

/* Group g of one input as rows of a format meet it. */
SF_INLINE const void *split_group(sf_format_index format, const sf_inputs *input, int32_t g) {
  return input->split[split_form(format)] + (size_t)g * SF_SPLIT_BYTES;
}
#endif

#endif
