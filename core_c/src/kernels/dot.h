/* Dot products of rows with inputs, of every format.
 *
 * Each (row, input) pair has one accumulator vector, to which the row's vectors (Q8_0: blocks) are added from first to
 * last; at the end its lanes are summed. What follows only decides which pairs are in flight together, so it changes
 * no bit of a result.
 *
 * One input (dot_streams): bound by memory. Several rows are read side by side, far apart in the list: rows next to
 * each other share pages, and the processor's prefetcher, which follows one stream a page, then gives up (measured on
 * Zen 4 with Q8_0 from memory: 9 GB/s instead of 20). The rows that come next are asked for along the way.
 *
 * Several inputs (dot_batch): bound by arithmetic. Four rows, a chunk of their columns at a time, meet all inputs
 * while the chunk is in the first-level cache; accumulators wait in memory between chunks. */
#ifndef SF_KERNELS_DOT_H
#define SF_KERNELS_DOT_H

#include "dot_batch.h"
#include "rows.h"

/* Sums of SF_STREAMS rows of floats or halves with one input. */
SF_INLINE void streams_float(sf_format_index format, const uint8_t *const *row, const uint8_t *const *next,
                             const float *x, int32_t columns, vf *sum) {
  const size_t size = weight_bytes(format);
  const int32_t line = weights_in_line(format);
  int32_t c = 0;
  for (; c + line <= columns; c += line) {
    for (int r = 0; r < SF_STREAMS; ++r) v_prefetch(next[r] + (size_t)c * size);
    for (int32_t k = 0; k < line; k += SF_LANES) {
      const vf v = v_load(x + c + k);
      for (int r = 0; r < SF_STREAMS; ++r)
        sum[r] = v_fma(load_weights(format, row[r] + (size_t)(c + k) * size), v, sum[r]);
    }
  }
  for (; line > SF_LANES && c + SF_LANES <= columns; c += SF_LANES) {
    const vf v = v_load(x + c);
    for (int r = 0; r < SF_STREAMS; ++r) sum[r] = v_fma(load_weights(format, row[r] + (size_t)c * size), v, sum[r]);
  }
  if (c < columns) {
    const vf v = v_load_tail(x + c, columns - c);
    for (int r = 0; r < SF_STREAMS; ++r) {
      sum[r] = v_fma(load_some_weights(format, row[r] + (size_t)c * size, columns - c), v, sum[r]);
    }
  }
}

/* Sums of SF_STREAMS rows of Q8_0 with one input: integer products within a block, summed exactly, then
 * scaled by both scales. */
SF_INLINE void streams_q8_0(const uint8_t *const *row, const uint8_t *const *next, const sf_inputs *input,
                            int32_t columns, vf *sum) {
  for (int32_t b = 0; b < columns / SF_BLOCK; ++b) {
    const size_t at = (size_t)b * Q8_0_BYTES;
    const vb x = vb_load_i16(input->values + (size_t)b * SF_BLOCK);
    vf factor[SCALE_VECTORS];
    float scale[ROW_SCALES];
    for (int k = 0; k < SCALE_VECTORS; ++k) factor[k] = v_set1(input->scales[b]);
    row_scales(row, at, factor, scale);
    if (b % 2 == 0) {
      for (int r = 0; r < SF_STREAMS; ++r) v_prefetch(next[r] + at);
    }
    for (int r = 0; r < SF_STREAMS; ++r) {
      const vb w = vb_load_i8((const int8_t *)(row[r] + at + 2));
      sum[r] = v_fma(vb_dot(w, x), v_set1(scale[r]), sum[r]);
    }
  }
}

/* Rows i + r · apart, r < SF_STREAMS (a constant), with one input; of these, rows from `last` on are the last one
 * again. `ahead`: by how many rows to look ahead for prefetching. */
SF_INLINE void dot_streams(sf_format_index format, const sf_rows *rows, int32_t i, int32_t apart, int32_t last,
                           int32_t ahead, const sf_inputs *input, float *out) {
  const uint8_t *row[SF_STREAMS], *next[SF_STREAMS];
  int32_t id[SF_STREAMS];
  vf sum[SF_STREAMS];
  for (int r = 0; r < SF_STREAMS; ++r) {
    id[r] = i + r * apart < last ? i + r * apart : last;
    row[r] = row_at(rows, id[r]);
    next[r] = row_at(rows, id[r] + ahead);
    sum[r] = v_set1(0);
  }
  if (format == SF_FORMAT_Q8_0) {
    streams_q8_0(row, next, input, rows->columns, sum);
  } else {
    streams_float(format, row, next, input->f32, rows->columns, sum);
  }
  for (int r = 0; r < SF_STREAMS; ++r) out[id[r]] = v_sum(sum[r]);
}

SF_INLINE void dot_rows(sf_format_index format, const sf_rows *rows, int32_t n_rows, const sf_inputs *inputs,
                        int32_t n_inputs, float *out, size_t out_stride) {
  if (n_inputs > 1) {
    dot_batch(format, rows, n_rows, inputs, n_inputs, out, out_stride);
    return;
  }
  const int32_t apart = n_rows / SF_STREAMS, last = n_rows - 1;
  for (int32_t i = 0; i < apart; ++i) {
    dot_streams(format, rows, i, apart, last, i + 1 < apart ? 1 : 0, inputs, out);
  }
  const int32_t done = apart * SF_STREAMS;
  if (done < n_rows) dot_streams(format, rows, done, 1, last, 0, inputs, out);
}

static void dot_rows_f32(const sf_rows *rows, int32_t n_rows, const sf_inputs *inputs, int32_t n_inputs, float *out,
                         size_t out_stride) {
  dot_rows(SF_FORMAT_F32, rows, n_rows, inputs, n_inputs, out, out_stride);
}

static void dot_rows_f16(const sf_rows *rows, int32_t n_rows, const sf_inputs *inputs, int32_t n_inputs, float *out,
                         size_t out_stride) {
  dot_rows(SF_FORMAT_F16, rows, n_rows, inputs, n_inputs, out, out_stride);
}

static void dot_rows_q8_0(const sf_rows *rows, int32_t n_rows, const sf_inputs *inputs, int32_t n_inputs, float *out,
                          size_t out_stride) {
  dot_rows(SF_FORMAT_Q8_0, rows, n_rows, inputs, n_inputs, out, out_stride);
}

#endif
