/* Inputs whose integers of 16 bits are taken apart into two bytes each, x = 256 · high + low, both -128 … 127, in the
 * order in which rows hold their quants: what products of bytes (dot_bytes_tmpl.h, dot_fields_tmpl.h) take of an input.
 * It is made once a product, for all rows and threads. Formats with the same order and the same zero point share a
 * form. */
#ifndef SF_KERNELS_SPLIT_H
#define SF_KERNELS_SPLIT_H

#include "base/check.h"
#include "kernels/products_tmpl.h"

enum {
  FORM_RUNS, /* sub-blocks one after the other; quants from 0, which Q4_1 alone has (see has_half_pairs), */
  FORM_RUNS_8,
  FORM_RUNS_128, /* and with a zero point */
  FORM_PLANES,   /* sub-blocks that share bytes by twos, */
  FORM_HALVES,   /* and with a scale for each half, and the zero point 32 */
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
  ONE_VECTORS = 2,  /* or of those of one, at the end of a row, or where halves have scales */
  BYTES_SUMS = 16 * BYTE_ROWS / SF_LANES,  /* accumulators of a group of so many rows, twice these for halves, */
  JOINED_SUMS = BYTE_ROWS > 1 ? 4 : 1,     /* of which so many make a vector of products for each row */
  BYTES_FLOATS = BYTES_SUMS / JOINED_SUMS, /* and these vectors */
  BYTES_VECTORS = 64 / SF_LANES,           /* of a group's bytes */
  BLOCKS_OF_VECTOR = SF_LANES / 4,         /* 16 bytes of each */
  HALF_VECTORS = SF_RUNS / SF_LANES        /* of a number for each half of a group's sub-blocks */
};
SF_CHECK(halves_fill_vectors, (int)SF_RUNS % (int)SF_LANES == 0);

/* A group of an input as it meets every row: bytes, (accumulator, vector), what the zero points come to in each lane,
 * the scales of each vector of products in its lanes, and the sums of the sub-blocks. For two rows together, both kinds
 * of vectors have high bytes in their first halves and low ones in their second. */
typedef struct {
  vq high[BYTES_VECTORS], low[BYTES_VECTORS];
  vi zero[2 * BYTES_SUMS];
  vf scales[2 * BYTES_FLOATS];
  vf sums[GROUP_VECTORS];
} bytes_columns;
SF_CHECK(group_fits, sizeof(bytes_columns) <= SF_SPLIT_BYTES);

/* How the sub-blocks of a group lie in vectors. */
typedef enum {
  IN_ORDER,  /* one after the other */
  IN_PLANES, /* the lower halves of runs of bytes in one vector, the upper ones in the next; a run has two neighbours */
  IN_HALVES  /* the same, a run having sub-blocks two apart; and each half of a sub-block has a scale */
} bytes_order;

SF_INLINE bytes_order order_of(sf_format_index format) {
  const sf_traits *traits = traits_of(format);
  return traits->storage != SF_QUANTS_PLANES ? IN_ORDER : traits->scales == SF_SCALES_RUNS ? IN_HALVES : IN_PLANES;
}

/* Sub-block i of vector k of a group. */
SF_INLINE int block_of_vector(bytes_order order, int k, int i) {
  const int run = k / 2 * BLOCKS_OF_VECTOR + i;
  if (order == IN_ORDER || BLOCKS_OF_VECTOR == 1) return k * BLOCKS_OF_VECTOR + i;
  return order == IN_PLANES ? 2 * run + k % 2 : run / 2 * 4 + k % 2 * 2 + run % 2;
}

/* Accumulators of a group, and the vectors of products that they make. */
SF_INLINE int sums_of(bytes_order order) { return order == IN_HALVES ? 2 * BYTES_SUMS : BYTES_SUMS; }

SF_INLINE int floats_of(bytes_order order) { return sums_of(order) / JOINED_SUMS; }

/* The vectors of quants that an accumulator sums at most, and those of the input that these meet: of high bytes, of low
 * ones. */
SF_INLINE int most_vectors(bytes_order order) { return order == IN_HALVES ? ONE_VECTORS : PAIR_VECTORS; }

SF_INLINE int inputs_of_sum(bytes_order order) { return most_vectors(order) / BYTE_ROWS; }

/* How many vectors accumulator a sums, in a group of n sub-blocks; 0 if it sums none. */
SF_INLINE int vectors_of_sum(bytes_order order, int a, int32_t n) {
  if (order == IN_HALVES) return ONE_VECTORS; /* whose blocks are groups */
  if (BYTE_ROWS > 1) return a < n ? PAIR_VECTORS : 0;
  if (block_of_vector(order, 2 * a, 0) >= n) return 0;
  return block_of_vector(order, 2 * a + 1, 0) < n ? PAIR_VECTORS : ONE_VECTORS;
}

/* What is added to quants to make them what v_dot_split takes, and to be taken from the products. */
SF_INLINE int byte_zero_of(sf_format_index format) {
  const sf_traits *traits = traits_of(format);
  const int is_signed = traits->storage == SF_QUANTS_BYTES || traits->levels;
  return has_min(format) ? 0 : is_signed ? SF_BYTE_ZERO : traits->zero_point;
}

/* Whether a sub-block's scale and min come together, as two lanes of one vector. */
SF_INLINE int has_half_pairs(sf_format_index format) {
  const sf_traits *traits = traits_of(format);
  return SF_HALF_PAIRS && traits->block_bytes == 20 && traits->d == 0 && traits->m == 2;
}

/* The sum of the products of so many vectors, 2 or 4. */
SF_INLINE vi bytes_products(int vectors, const vq *quants, const vq *high, const vq *low, vi zero) {
  return vectors == PAIR_VECTORS ? v_dot_split(PAIR_VECTORS, quants, high, low, zero)
                                 : v_dot_split(ONE_VECTORS, quants, high, low, zero);
}

/* The scales of vector f of products in its lanes, given those of sub-blocks, or with `halves` 1 of halves; `lanes` of
 * `scale` are for each sub-block. */
SF_INLINE vf spread_scales(bytes_order order, int halves, int lanes, const vf *scale, int f, int vectors) {
  int from[SF_LANES / 2]; /* of two lanes each */
  if (BYTE_ROWS > 1) {
    if (halves == (order == IN_HALVES)) return scale[f]; /* the lanes are what has scales */
    SF_UNROLLED for (int i = 0; i < SF_LANES / 2; ++i) from[i] = SF_LANES / 2 * f + i;
    return v_spread(scale, from);
  }
  SF_UNROLLED for (int i = 0; i < BLOCKS_OF_VECTOR; ++i) {
    const int first = order == IN_HALVES ? f : 2 * f, second = vectors == PAIR_VECTORS ? first + 1 : first;
    from[2 * i] = block_of_vector(order, first, i) * lanes;
    from[2 * i + 1] = block_of_vector(order, second, i) * lanes + halves;
  }
  return v_spread(scale, from);
}

/* The bytes of columns 0 … 15 (`half` 0) or 16 … 31 of each sub-block of vector k. */
SF_INLINE void split_vector(bytes_order order, const int16_t *x, int k, int half, int32_t n, vq *high, vq *low) {
  static const int16_t none[SF_BLOCK / 2] = {0};
  const int16_t *part[BLOCKS_OF_VECTOR];
  for (int i = 0; i < BLOCKS_OF_VECTOR; ++i) {
    const int s = block_of_vector(order, k, i);
    part[i] = s < n ? x + s * SF_BLOCK + half * (SF_BLOCK / 2) : none;
  }
  vq_split(part, high, low);
}

/* The bytes that meet the quants of accumulator a, for one row: in pairs of vectors, but for the last of a row. */
SF_INLINE void split_for_row(bytes_order order, const int16_t *x, int a, int32_t n, vq *high, vq *low) {
  const int vectors = vectors_of_sum(order, a, n), halves = order == IN_HALVES, apart = halves ? 1 : vectors / 2;
  for (int u = 0; u < vectors; ++u) {
    split_vector(order, x, (halves ? a : 2 * a) + u % apart, u / apart, n, high + u, low + u);
  }
  for (int u = 0; u < vectors && vectors == most_vectors(order); u += 2) {
    vq_pair(high + u, high + u + 1);
    vq_pair(low + u, low + u + 1);
  }
}

/* The same for two rows. */
SF_INLINE void split_for_rows(bytes_order order, const int16_t *x, int a, int32_t n, vq *high, vq *low) {
  for (int u = 0; u < inputs_of_sum(order); ++u) {
    const int halves = order == IN_HALVES;
    split_vector(order, x, halves ? a / 2 : a, halves ? a % 2 : u, n, high + u, low + u);
    vq_pair(high + u, low + u);
  }
}

/* Accumulator a of 256 columns at x, of which n sub-blocks count. */
SF_INLINE void split_sum(bytes_order order, int zero_point, const int16_t *x, int a, int32_t n, bytes_columns *r) {
  const vq zero = vq_set1(zero_point), zeros[] = {zero, zero, zero, zero};
  vq *high = r->high + a * inputs_of_sum(order), *low = r->low + a * inputs_of_sum(order);
  if (BYTE_ROWS > 1) {
    split_for_rows(order, x, a, n, high, low);
  } else {
    split_for_row(order, x, a, n, high, low);
  }
  r->zero[a] = v_set1_int(0);
  if (!zero_point) return;
  r->zero[a] = v_sub_int(r->zero[a], bytes_products(vectors_of_sum(order, a, n), zeros, high, low, r->zero[a]));
}

SF_INLINE void split_bytes(int32_t form, bytes_order order, int zero_point, const sf_inputs *input, int32_t columns,
                           uint8_t *to) {
  for (int32_t b = 0; b < columns / SF_BLOCK; b += GROUP, to += SF_SPLIT_BYTES) {
    const int32_t left = columns / SF_BLOCK - b, n = left < GROUP ? left : GROUP;
    bytes_columns *group = (bytes_columns *)(void *)to;
    vf scale[GROUP_VECTORS];
    load_group(input->scales + b, n, scale);
    if (SF_HALF_PAIRS && form == FORM_RUNS) { /* beside the mins; nothing beside the scales */
      float pairs[2 * GROUP] = {0};
      for (int32_t s = 0; s < n; ++s) pairs[2 * s + 1] = input->sums[b + s];
      load_group(pairs, 2 * GROUP, group->sums);
    } else {
      load_group(input->sums + b, n, group->sums);
    }
    for (int a = 0; a < sums_of(order) && vectors_of_sum(order, a, n); ++a) {
      split_sum(order, zero_point, input->values + (size_t)b * SF_BLOCK, a, n, group);
    }
    for (int f = 0; f < floats_of(order) && vectors_of_sum(order, f * JOINED_SUMS, n); ++f) {
      group->scales[f] = spread_scales(order, 0, 1, scale, f, vectors_of_sum(order, f * JOINED_SUMS, n));
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
/* The form of a format's inputs; a constant where the format is one. */
SF_INLINE int32_t form_of(sf_format_index format) {
  const sf_product product = product_of(format);
  if (product == PRODUCT_FIELDS) return fields_of(format) == 4 ? FORM_FIELDS_4 : FORM_FIELDS_5;
  if (product != PRODUCT_BYTES) return NO_FORM;
#if SF_DOT_BYTES
  if (order_of(format) != IN_ORDER) return order_of(format) == IN_PLANES ? FORM_PLANES : FORM_HALVES;
  if (byte_zero_of(format)) return byte_zero_of(format) == 8 ? FORM_RUNS_8 : FORM_RUNS_128;
#endif
  return FORM_RUNS;
}

static int32_t split_form(sf_format_index format) { return form_of(format); }

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
      split_bytes(form, IN_PLANES, 0, input, columns, to);
      break;
    case FORM_HALVES:
      split_bytes(form, IN_HALVES, 32, input, columns, to);
      break;
    default:
      split_bytes(form, IN_ORDER, form == FORM_RUNS_8 ? 8 : form == FORM_RUNS_128 ? 128 : 0, input, columns, to);
      break;
#endif
  }
}

/* Group g of one input as rows of a format meet it. */
SF_INLINE const void *split_group(sf_format_index format, const sf_inputs *input, int32_t g) {
  return input->split[form_of(format)] + (size_t)g * SF_SPLIT_BYTES;
}
#endif

#endif
