/* Access to the rows of a weight matrix, shared by the dot and axpy kernels. */
#ifndef SF_KERNELS_ROWS_H
#define SF_KERNELS_ROWS_H

/* Start of row i (see sf_rows). */
SF_INLINE const uint8_t *row_at(const sf_rows *rows, int32_t i) {
  return rows->data + (size_t)(rows->ids ? rows->ids[i] : i) * rows->stride;
}

/* Element c of a row of floats or halves. */
SF_INLINE const uint8_t *weight_at(sf_format_index format, const uint8_t *row, int32_t c) {
  return row + (size_t)c * (format == SF_FORMAT_F16 ? 2 : 4);
}

SF_INLINE vf load_weights(sf_format_index format, const uint8_t *p) {
  return format == SF_FORMAT_F16 ? v_load_f16(p) : v_load(p);
}

SF_INLINE vf load_weights_tail(sf_format_index format, const uint8_t *p, int32_t n) {
  return format == SF_FORMAT_F16 ? v_load_f16_tail(p, n) : v_load_tail(p, n);
}

enum { Q8_0_BYTES = 34 }; /* of a Q8_0 block: its scale as a half, then 32 signed bytes */

SF_INLINE uint16_t load_half(const uint8_t *p) {
  uint16_t half;
  memcpy(&half, p, sizeof half);
  return half;
}

#endif
