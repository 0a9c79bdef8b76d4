/* Dot products of one input with rows in panels (see sf_dot_panels_fn), SF_PANEL rows at a time: the
 * lanes of a vector are rows. A block's products are summed exactly in each lane, and then scaled by both scales for
 * all of the vector's rows at once: nothing is gathered, and no lanes are summed, which take most of the time of rows
 * with few blocks. `format` is a constant wherever these functions are inlined. */
#ifndef SF_KERNELS_DOT_PANELS_H
#define SF_KERNELS_DOT_PANELS_H

#include "kernels/products_tmpl.h"

enum {
  PANEL_VECTORS = SF_PANEL / SF_LANES,
  UNITS_BYTES = SF_PANEL * SF_PANEL_UNIT, /* of one unit from every row of the panel */
  VECTOR_BYTES = SF_LANES * SF_PANEL_UNIT
};

/* sum[v] = the products of a block's 32 quants with the input's, whose scale comes before them. */
SF_INLINE void dot_panel_block(sf_format_index format, const uint8_t *p, const int16_t *x, vi *sum) {
  const int bytes = traits_of(format)->storage == SF_QUANTS_BYTES;
  const int units = bytes ? SF_BLOCK / 2 : SF_BLOCK / 4;
  for (int v = 0; v < PANEL_VECTORS; ++v) sum[v] = v_set1_int(0);
#if defined(__clang__) /* which would write out all of them, and gain nothing */
#pragma clang loop unroll(disable)
#endif
  for (int u = 0; u < units; ++u) {
    const uint8_t *unit = p + (1 + u) * UNITS_BYTES;
    const vi first = load_pair(x + 2 * u), second = load_pair(x + (bytes ? 0 : 16) + 2 * u);
    for (int v = 0; v < PANEL_VECTORS; ++v) {
      const uint8_t *quants = unit + v * VECTOR_BYTES;
      sum[v] = bytes ? v_dot_bytes(quants, first, sum[v]) : v_dot_nibbles(quants, first, second, sum[v]);
    }
  }
}

/* out[i] = row i · the input for `panels` times SF_PANEL rows. */
SF_INLINE void dot_panels(sf_format_index format, const uint8_t *data, int32_t panels, int32_t columns,
                          const sf_inputs *input, float *out) {
  const size_t block_bytes = group_bytes(format) / GROUP * SF_PANEL;
  for (int32_t i = 0; i < panels; ++i, out += SF_PANEL) {
    vf sum[PANEL_VECTORS];
    for (int v = 0; v < PANEL_VECTORS; ++v) sum[v] = v_set1(0);
    for (int32_t b = 0; b < columns / SF_BLOCK; ++b, data += block_bytes) {
      vi products[PANEL_VECTORS];
      dot_panel_block(format, data, input->values + (size_t)b * SF_BLOCK, products);
      const vf x_scale = v_set1(input->scales[b]), x_offset = v_set1((float)zero_point_of(format) * input->sums[b]);
      for (int v = 0; v < PANEL_VECTORS; ++v) {
        const vf scale = v_load_f16(data + v * VECTOR_BYTES);
        sum[v] = v_fma(v_float(products[v]), v_mul(scale, x_scale), sum[v]);
        if (zero_point_of(format)) sum[v] = v_sub(sum[v], v_mul(scale, x_offset));
      }
    }
    for (int v = 0; v < PANEL_VECTORS; ++v) v_store(out + v * SF_LANES, sum[v]);
  }
}

#endif
