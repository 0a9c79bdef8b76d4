/* Dot products of rows with inputs, of every format.
 *
 * Each (row, input) pair has one accumulator vector, to which the row's vectors (plain formats) or groups of
 * sub-blocks (block formats) are added from first to last; at the end its lanes are summed. What follows only decides
 * which pairs are in flight together, so it changes no bit of a result.
 *
 * One input (dot_streams): bound by memory. Several rows are read side by side, far apart in the list: rows next to
 * each other share pages, and the processor's prefetcher, which follows one stream a page, then gives up (measured on
 * Zen 4 with Q8_0 from memory: 9 GB/s instead of 20). Scattered rows that come next are asked for along the way; rows
 * in order are what that prefetcher is made for, and asking for them too only costs (see SF_IN_ORDER).
 *
 * A few inputs of formats of bytes (dot_few): the same with each, a tile of rows at a time, which is then in cache.
 * Products of bytes have code of their own for several inputs (dot_bytes).
 *
 * Several inputs of integers (dot_batch): bound by arithmetic. Four rows, a chunk of their columns at a time, meet all
 * inputs while the chunk is in the first-quant cache; accumulators wait in memory between chunks. Floats: dot_floats,
 * which gives one input's bits too, or, for a few inputs, dot_few_floats. Prompts have products of their own where
 * those are faster: floats too, or dot_prompt. */
#ifndef SF_KERNELS_DOT_H
#define SF_KERNELS_DOT_H

#include "kernels/dot_batch_tmpl.h"
#include "kernels/dot_bytes_tmpl.h"
#include "kernels/dot_fields_tmpl.h"
#include "kernels/dot_floats_tmpl.h"
#include "kernels/dot_prompt_tmpl.h"
#include "kernels/products_tmpl.h"

/* Sums of `streams` rows of plain numbers with one input; the rows `next` are asked for if `asks` is 1. */
SF_INLINE void streams_plain(sf_format_index format, int streams, int asks, const uint8_t *const *row,
                             const uint8_t *const *next, const float *x, int32_t columns, vf *sum) {
  const size_t size = weight_bytes(format);
  const int32_t line = weights_in_line(format);
  int32_t c = 0;
  for (; c + line <= columns; c += line) {
    for (int r = 0; asks && r < streams; ++r) v_prefetch(next[r] + (size_t)c * size);
    for (int32_t k = 0; k < line; k += SF_LANES) {
      const vf v = v_load(x + c + k);
      for (int r = 0; r < streams; ++r)
        sum[r] = v_fma(load_weights(format, row[r] + (size_t)(c + k) * size), v, sum[r]);
    }
  }
  for (; line > SF_LANES && c + SF_LANES <= columns; c += SF_LANES) {
    const vf v = v_load(x + c);
    for (int r = 0; r < streams; ++r) sum[r] = v_fma(load_weights(format, row[r] + (size_t)c * size), v, sum[r]);
  }
  if (c < columns) {
    const vf v = v_load_tail(x + c, columns - c);
    for (int r = 0; r < streams; ++r) {
      sum[r] = v_fma(load_some_weights(format, row[r] + (size_t)c * size, columns - c), v, sum[r]);
    }
  }
}

/* The products of the rows' scales and the input's for a group of n sub-blocks; what offsets contribute needs no more
 * than the sums of the input's values and goes into the accumulators at once. */
SF_INLINE void streams_scales(sf_format_index format, int streams, const uint8_t *const *row, size_t at, int32_t n,
                              const float *x_scales, const float *x_sums, float (*scale)[GROUP_SIZE],
                              float (*min_scale)[GROUP_SIZE], vf *sum) {
  vf x_scale[GROUP_VECTORS], x_sum[GROUP_VECTORS];
  load_group(x_scales, n, x_scale);
  load_group(x_sums, n, x_sum);
  for (int r = 0; r < streams; ++r) {
    vf s[GROUP_VECTORS], min[GROUP_VECTORS], offset[GROUP_VECTORS];
    group_scales(format, row[r] + at, n, s, min);
    group_offsets(format, s, min, offset);
    if (has_offset(format)) sum[r] = take_offsets(sum[r], offset, x_sum);
    store_product(scale[r], s, x_scale);
    if (has_second(format)) store_product(min_scale[r], min, x_scale);
  }
}

/* Adds the products of sub-block s of a group: integer products, summed exactly, then scaled by both scales. */
SF_INLINE void streams_sub_block(sf_format_index format, int streams, int asks, const uint8_t *const *row,
                                 const uint8_t *const *next, size_t at, int s, const int16_t *x,
                                 float (*scale)[GROUP_SIZE], float (*min_scale)[GROUP_SIZE], vf *sum) {
  const sf_product product = product_of(format);
  const sub_block v = load_input(product, x + s * SF_BLOCK);
  for (int r = 0; asks && has_line(format, s) && r < streams; ++r) v_prefetch(next[r] + at + (size_t)s * LINE);
  for (int r = 0; r < streams; ++r) {
    sub_block w = load_row(format, row[r] + at, s);
    vb second = vb_high_bits(0); /* other products have one factor */
    if (has_second(format)) second = load_second(format, row[r] + at, s, w.wide);
    if (has_float_runs(format)) w.wide = vb_scale(w.wide, 1, 0);
    sum[r] = v_fma(dot_sub_block(product, w, v), v_set1(scale[r][s]), sum[r]);
    if (has_second(format)) sum[r] = v_fma(vb_dot(second, v.wide), v_set1(-min_scale[r][s]), sum[r]);
  }
}

/* Sums of `streams` rows of a block format with one input; the rows `next` are asked for if `asks` is 1. */
SF_INLINE void streams_blocks(sf_format_index format, int streams, int asks, const uint8_t *const *row,
                              const uint8_t *const *next, const sf_inputs *input, int32_t columns, vf *sum) {
  const int32_t blocks = columns / SF_BLOCK;
  for (int32_t g = 0; g < blocks; g += GROUP) {
    const int32_t n = blocks - g < GROUP ? blocks - g : GROUP;
    const size_t at = (size_t)(g / GROUP) * group_bytes(format);
    const int16_t *x = input->values + (size_t)g * SF_BLOCK;
    float scale[SF_STREAMS][GROUP_SIZE], min_scale[SF_STREAMS][GROUP_SIZE];
    if (n == GROUP / 2) { /* a constant: all there is of the rows of most predictors, of 128 columns */
      streams_scales(format, streams, row, at, GROUP / 2, input->scales + g, input->sums + g, scale, min_scale, sum);
    } else {
      streams_scales(format, streams, row, at, n, input->scales + g, input->sums + g, scale, min_scale, sum);
    }
    if (is_paired(format)) {
      for (int s = 0; s < GROUP; s += 2) {
        streams_sub_block(format, streams, asks, row, next, at, s & ~1, x, scale, min_scale, sum);
        streams_sub_block(format, streams, asks, row, next, at, s | 1, x, scale, min_scale, sum);
      }
    } else {
      for (int s = 0; s < n; ++s) streams_sub_block(format, streams, asks, row, next, at, s, x, scale, min_scale, sum);
    }
  }
}

/* Rows i + r · apart, r < streams (a constant), with one input; of these, rows from `last` on are the last one again.
 * `asks` is 1 to ask for the rows that come `ahead` of these. */
SF_INLINE void dot_streams(sf_format_index format, int streams, int asks, const sf_rows *rows, int32_t i, int32_t apart,
                           int32_t last, int32_t ahead, const sf_inputs *input, float *out) {
  const uint8_t *row[SF_STREAMS], *next[SF_STREAMS];
  int32_t id[SF_STREAMS];
  vf sum[SF_STREAMS];
  for (int r = 0; r < streams; ++r) {
    id[r] = i + r * apart < last ? i + r * apart : last;
    row[r] = sf_row_at(rows, id[r]);
    next[r] = asks ? sf_row_at(rows, id[r] + ahead) : row[r];
    sum[r] = v_set1(0);
  }
  if (is_plain(format)) {
    streams_plain(format, streams, asks, row, next, input->f32, rows->columns, sum);
  } else if (product_of(format) == PRODUCT_FIELDS) {
    streams_fields(format, streams, asks, row, next, input, rows->columns, sum);
  } else if (product_of(format) == PRODUCT_BYTES) {
    streams_bytes(format, streams, asks, row, next, input, rows->columns, sum);
  } else {
    streams_blocks(format, streams, asks, row, next, input, rows->columns, sum);
  }
  if (SF_SUM4) {
    float all[SF_STREAMS];
    store_sums(sum, streams, rows->scale, all);
    for (int r = 0; r < streams; ++r) out[id[r]] = all[r];
  } else {
    for (int r = 0; r < streams; ++r) out[id[r]] = v_sum(sum[r]) * rows->scale;
  }
}

/* All rows, `streams` of them at a time, with one input. */
SF_INLINE void dot_one(sf_format_index format, int streams, int asks, const sf_rows *rows, int32_t n_rows,
                       const sf_inputs *input, float *out) {
  const int32_t whole = n_rows / streams, groups = (n_rows + streams - 1) / streams;
  for (int32_t g = 0; g < groups; ++g) {
    const int left_over = g == whole; /* these are read side by side */
    const int32_t first = left_over ? whole * streams : g, apart = left_over ? 1 : whole;
    dot_streams(format, streams, asks, rows, first, apart, n_rows - 1, g + 1 < whole, input, out);
  }
}

enum { FEW_TILE = 1 << 16 }; /* bytes of rows that stay in the second-level cache while a few inputs meet them */

/* With up to so many inputs it costs less to read a tile of rows again for each of them, from cache and with dot
 * products of what is stored, than to bring the rows into the form that dot_batch shares: measured on Zen 4, where
 * bytes are multiplied in hardly more time than their integers of 16 bits are made in. What dot_batch has no product
 * for is read again for all. */
SF_INLINE int32_t few_inputs(sf_format_index format) {
  if (product_of(format) == PRODUCT_FIELDS) return INT32_MAX;
  return traits_of(format)->storage == SF_QUANTS_BYTES ? 4 : 1;
}

/* Some inputs, one after the other, with a tile of rows at a time. */
SF_INLINE void dot_few(sf_format_index format, const sf_rows *rows, int32_t n_rows, const sf_inputs *inputs,
                       int32_t n_inputs, float *out, size_t out_stride) {
  const int in_order = SF_IN_ORDER > 0 && is_contiguous(format, rows);
  int32_t tile = n_rows;
  if (!is_plain(format) && n_inputs > 1) {
    tile = (int32_t)((size_t)FEW_TILE * GROUP_COLUMNS / ((size_t)rows->columns * group_bytes(format)));
    tile = tile < SF_STREAMS ? SF_STREAMS : tile;
  }
  for (int32_t i = 0; i < n_rows; i += tile) {
    const int32_t n = n_rows - i < tile ? n_rows - i : tile;
    sf_rows some = *rows;
    some.data += rows->ids ? 0 : (size_t)i * rows->stride;
    some.ids += rows->ids ? i : 0;
    for (int32_t j = 0; j < n_inputs; ++j) {
      const sf_inputs input = n_inputs > 1 ? inputs_from(inputs, j, 0, rows->columns) : *inputs;
      float *to = out + (size_t)j * out_stride + i;
      if (in_order) {
        dot_one(format, SF_IN_ORDER, 0, &some, n, &input, to);
      } else {
        dot_one(format, SF_STREAMS, is_prefetched(format, rows->columns), &some, n, &input, to);
      }
    }
  }
}

SF_INLINE void dot_rows(sf_format_index format, const sf_rows *rows, int32_t n_rows, const sf_inputs *inputs,
                        int32_t n_inputs, float *out, size_t out_stride) {
  if (is_plain(format) ? n_inputs > 1 : SF_PROMPT_FLOATS && !inputs->values) {
    if (has_few() && n_inputs == 1) {
      dot_few_floats(format, 1, rows, n_rows, inputs->f32, 1, out, out_stride);
    } else if (has_few() && is_plain(format) && n_inputs == 2) {
      dot_few_floats(format, 2, rows, n_rows, inputs->f32, 2, out, out_stride);
    } else if (has_few() && is_plain(format) && n_inputs == 3) {
      dot_few_floats(format, 3, rows, n_rows, inputs->f32, 3, out, out_stride);
    } else if (has_few() && n_inputs <= FEW_INPUTS) {
      dot_few_floats(format, FEW_INPUTS, rows, n_rows, inputs->f32, n_inputs, out, out_stride);
    } else {
      dot_floats(format, rows, n_rows, inputs->f32, n_inputs, out, out_stride);
    }
#if SF_PROMPT_LANES
  } else if (inputs->prompt && has_lanes(format)) {
    dot_prompt(format, rows, n_rows, inputs, n_inputs, out, out_stride);
#endif
  } else if (product_of(format) == PRODUCT_BYTES && n_inputs > 1) {
    dot_bytes(format, rows, n_rows, inputs, n_inputs, out, out_stride);
  } else if (n_inputs > few_inputs(format)) {
    dot_batch(format, rows, n_rows, inputs, n_inputs, out, out_stride);
  } else {
    dot_few(format, rows, n_rows, inputs, n_inputs, out, out_stride);
  }
}

#endif
