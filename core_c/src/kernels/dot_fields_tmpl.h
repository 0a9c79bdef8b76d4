/* Products of blocks of 256 ternary weights with one input. The bytes are multiplied as they are, once for each of
 * their fields (of two bits, or digits to the base of 3), with the input's integers in two bytes; a block's products
 * are summed exactly and take one scale. The input comes in the order of the fields (see split_tmpl.h). */
#ifndef SF_KERNELS_DOT_FIELDS_H
#define SF_KERNELS_DOT_FIELDS_H

#include "kernels/split_tmpl.h"

#if SF_DOT_FIELDS
/* The scales of a block of each of `streams` rows, times that of the input. */
SF_INLINE void fields_scales(sf_format_index format, int streams, const uint8_t *const *row, size_t at, float x_scale,
                             float *scale) {
  uint16_t halves[SF_STREAMS] = {0};
  for (int r = 0; r < streams; ++r) memcpy(&halves[r], row[r] + at + traits_of(format)->d, sizeof halves[r]);
  for (int r = 0; r < streams; r += GROUP) {
    v_store(scale + r, v_mul(v_load_halves((const uint8_t *)(halves + r), sizeof halves[0]), v_set1(x_scale)));
  }
}

/* As streams_blocks. */
SF_INLINE void streams_fields(sf_format_index format, int streams, int asks, const uint8_t *const *row,
                              const uint8_t *const *next, const sf_inputs *input, int32_t columns, vf *sum) {
  for (int32_t c = 0; c < columns; c += GROUP_COLUMNS) {
    const size_t at = (size_t)(c / GROUP_COLUMNS) * group_bytes(format);
    float scale[SF_STREAMS + SF_LANES];
    const v_fields *x = split_group(format, input, c / GROUP_COLUMNS);
    fields_scales(format, streams, row, at, input->scales[c / SF_BLOCK], scale);
    for (int r = 0; r < streams; ++r) {
      if (asks) v_prefetch(next[r] + at);
      const uint8_t *quants = row[r] + at + traits_of(format)->low.at;
      const vf products = v_float(v_dot_fields(fields_of(format), quants, x));
      sum[r] = v_fma(products, v_set1(scale[r]), sum[r]);
    }
  }
}
#else
SF_INLINE void streams_fields(sf_format_index format, int streams, int asks, const uint8_t *const *row,
                              const uint8_t *const *next, const sf_inputs *input, int32_t columns, vf *sum) {
  (void)format, (void)streams, (void)asks, (void)row, (void)next, (void)input, (void)columns, (void)sum;
}
#endif

#endif
