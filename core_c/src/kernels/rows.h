/* Access to the rows of a weight matrix, shared by the dot and axpy kernels. */
#ifndef SF_KERNELS_ROWS_H
#define SF_KERNELS_ROWS_H

enum { Q8_0_BYTES = 34 }; /* of a Q8_0 block: its scale as a half, then 32 signed bytes */

/* Start of row i (see sf_rows). */
SF_INLINE const uint8_t *row_at(const sf_rows *rows, int32_t i) {
  return rows->data + (size_t)(rows->ids ? rows->ids[i] : i) * rows->stride;
}

/* Bytes of a weight in the formats that are plain numbers. */
SF_INLINE size_t weight_bytes(sf_format_index format) { return format == SF_FORMAT_F16 ? 2 : 4; }

SF_INLINE vf load_weights(sf_format_index format, const uint8_t *p) {
  return format == SF_FORMAT_F16 ? v_load_f16(p) : v_load(p);
}

/* n ≤ SF_LANES of them, zeros above. */
SF_INLINE vf load_some_weights(sf_format_index format, const uint8_t *p, int32_t n) {
  if (n >= SF_LANES) return load_weights(format, p);
  return format == SF_FORMAT_F16 ? v_load_f16_tail(p, n) : v_load_tail(p, n);
}

SF_INLINE vf load_some(const float *p, int32_t n) { return n >= SF_LANES ? v_load(p) : v_load_tail(p, n); }

/* Weights of a plain format in a cache line: from one prefetch to the next. */
SF_INLINE int32_t weights_in_line(sf_format_index format) { return format == SF_FORMAT_F16 ? 32 : 16; }

enum { ROW_SCALES = 16, SCALE_VECTORS = ROW_SCALES / SF_LANES }; /* SF_STREAMS, in whole vectors */

/* scale[r] = the half at row[r] + at, times factor[r], for SF_STREAMS rows of Q8_0. */
SF_INLINE void row_scales(const uint8_t *const *row, size_t at, const vf *factor, float *scale) {
  for (int k = 0; k < SF_STREAMS; k += SF_LANES) {
    v_store(scale + k, v_mul(v_load_halves(row + k, at), factor[k / SF_LANES]));
  }
}

#endif
