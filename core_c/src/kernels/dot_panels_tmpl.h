/* Dot products of one input with rows in panels (see sf_dot_panels_fn), SF_PANEL rows at a time: the
 * lanes of a vector are rows. A block's products are summed exactly in each lane, and then scaled by both scales for
 * all of the vector's rows at once: nothing is gathered, and no lanes are summed, which take most of the time of rows
 * with few blocks. Several panels, far apart, are read side by side, block by block, as rows are (dot_tmpl.h): weights
 * that are not in cache come faster so. `format` is a constant wherever these functions are inlined. */
#ifndef SF_KERNELS_DOT_PANELS_H
#define SF_KERNELS_DOT_PANELS_H

#include "kernels/products_tmpl.h"

enum {
  PANEL_STREAMS = 8, /* panels that are read side by side */
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

/* Adds the products of a block, whose scales come before the quants, with the input's block b. */
SF_INLINE void add_panel_block(sf_format_index format, const uint8_t *p, const sf_inputs *input, int32_t b, vf *sum) {
  vi products[PANEL_VECTORS];
  dot_panel_block(format, p, input->values + (size_t)b * SF_BLOCK, products);
  const vf x_scale = v_set1(input->scales[b]), x_offset = v_set1((float)zero_point_of(format) * input->sums[b]);
  for (int v = 0; v < PANEL_VECTORS; ++v) {
    const vf scale = v_load_f16(p + v * VECTOR_BYTES);
    sum[v] = v_fma(v_float(products[v]), v_mul(scale, x_scale), sum[v]);
    if (zero_point_of(format)) sum[v] = v_sub(sum[v], v_mul(scale, x_offset));
  }
}

/* out[i] = row i · the input for `panels` times SF_PANEL rows. */
SF_INLINE void dot_panels(sf_format_index format, const uint8_t *data, int32_t panels, int32_t columns,
                          const sf_inputs *input, float *out) {
  const int32_t blocks = columns / SF_BLOCK, apart = (panels + PANEL_STREAMS - 1) / PANEL_STREAMS;
  const size_t block_bytes = group_bytes(format) / GROUP * SF_PANEL, panel_bytes = (size_t)blocks * block_bytes;
  for (int32_t i = 0; i < apart; ++i) {
    vf sums[PANEL_STREAMS][PANEL_VECTORS];
    for (int k = 0; k < PANEL_STREAMS; ++k) {
      for (int v = 0; v < PANEL_VECTORS; ++v) sums[k][v] = v_set1(0);
    }
    for (int32_t b = 0; b < blocks; ++b) {
      for (int32_t panel = i, k = 0; panel < panels; panel += apart, ++k) {
        add_panel_block(format, data + (size_t)panel * panel_bytes + (size_t)b * block_bytes, input, b, sums[k]);
      }
    }
    for (int32_t panel = i, k = 0; panel < panels; panel += apart, ++k) {
      for (int v = 0; v < PANEL_VECTORS; ++v) v_store(out + panel * SF_PANEL + v * SF_LANES, sums[k][v]);
    }
  }
}

#endif
