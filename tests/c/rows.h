/* Random weights in every format, with an independent, double-precision reading of them. Used by the tests of the
 * kernels, by their timing, and nowhere in the core. */
#ifndef SF_ROWS_H
#define SF_ROWS_H

#include <math.h>
#include <string.h>

#include "check.h"
#include "formats.h"
#include "isa.h"
#include "reference.h"

/* The value of a half, from the definition. */
static inline double half_value(uint32_t half) {
  const int exponent = (int)(half >> 10) & 31, mantissa = (int)half & 1023;
  double v;
  if (exponent == 31) {
    v = mantissa ? (double)NAN : (double)INFINITY;
  } else {
    v = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
  }
  return half & 0x8000 ? -v : v;
}

/* A half of a magnitude below 2^-5, one in 256 a subnormal, as among real weights. */
static inline uint16_t random_half(void) {
  const uint32_t bits = random_bits();
  const uint32_t exponent = bits % 256 == 0 ? 0 : 1 + (bits >> 4) % 9;
  return (uint16_t)((bits >> 16 & 0x83ff) | exponent << 10);
}

/* rows × columns random weights of a format: packed rows, each followed by `gap` bytes. */
typedef struct {
  int32_t format, rows, columns;
  size_t stride, offset;
  uint8_t *data;
} test_rows;

static inline test_rows rows_make(int32_t format, int32_t rows, int32_t columns, size_t gap, size_t offset) {
  const size_t row_bytes = sf_format_row_bytes(format, columns);
  test_rows w = {format, rows, columns, row_bytes + gap, offset, NULL};
  w.data = check_alloc(w.stride * (size_t)(rows - 1) + row_bytes, offset); /* no gap after the last row */
  for (int32_t i = 0; i < rows; ++i) {
    uint8_t *p = w.data + (size_t)i * w.stride;
    for (int32_t c = 0; c < columns; ++c) {
      const uint16_t half = random_half();
      const float value = random_unit();
      const int8_t level = (int8_t)(random_bits() >> 24);
      if (format == SF_F32) memcpy(p + 4 * c, &value, 4);
      if (format == SF_F16) memcpy(p + 2 * c, &half, 2);
      if (format == SF_Q8_0 && c % 32 == 0) memcpy(p + c / 32 * 34, &half, 2);
      if (format == SF_Q8_0) memcpy(p + c / 32 * 34 + 2 + c % 32, &level, 1);
    }
  }
  return w;
}

static inline void rows_free(test_rows *w) { check_free(w->data, w->offset); }

static inline double rows_weight(const test_rows *w, int32_t row, int32_t column) {
  const uint8_t *p = w->data + (size_t)row * w->stride;
  float value;
  uint16_t half;
  if (w->format == SF_F32) {
    memcpy(&value, p + 4 * column, 4);
    return (double)value;
  }
  if (w->format == SF_F16) {
    memcpy(&half, p + 2 * column, 2);
    return half_value(half);
  }
  p += column / 32 * 34;
  memcpy(&half, p, 2);
  return half_value(half) * (p[2 + column % 32] - (p[2 + column % 32] > 127 ? 256 : 0));
}

static inline sf_rows rows_view(const test_rows *w, const int32_t *ids) {
  const sf_rows view = {w->data, w->stride, ids, w->columns};
  return view;
}

/* n inputs in both forms; the floats may be NULL where only the I16 form matters. */
typedef struct {
  int32_t n, columns;
  size_t offset;
  float *f32, *scales;
  int16_t *values;
} test_inputs;

static inline test_inputs inputs_make(int32_t n, int32_t columns, size_t offset) {
  const size_t count = (size_t)n * (size_t)columns;
  test_inputs x = {n, columns, offset, NULL, NULL, NULL};
  x.f32 = check_alloc(count * sizeof *x.f32, offset);
  x.values = check_alloc(count * sizeof *x.values, offset);
  x.scales = check_alloc(count / 32 * sizeof *x.scales, offset);
  for (size_t i = 0; i < count; ++i) {
    x.f32[i] = random_unit();
    x.values[i] = (int16_t)(random_bits() >> 16);
    if (x.values[i] == INT16_MIN) x.values[i] = INT16_MAX;
    if (i < count / 32) x.scales[i] = random_unit();
  }
  return x;
}

static inline void inputs_free(test_inputs *x) {
  check_free(x->f32, x->offset);
  check_free(x->values, x->offset);
  check_free(x->scales, x->offset);
}

/* Value c of input j, as rows of the format see it. */
static inline double inputs_value(const test_inputs *x, int32_t format, int32_t j, int32_t c) {
  const size_t i = (size_t)j * (size_t)x->columns + (size_t)c;
  return format == SF_Q8_0 ? (double)x->values[i] * (double)x->scales[i / 32] : (double)x->f32[i];
}

/* Inputs first … of x. */
static inline sf_inputs inputs_view(const test_inputs *x, int32_t first) {
  const size_t i = (size_t)first * (size_t)x->columns;
  const sf_inputs view = {x->f32 + i, x->values + i, x->scales + i / 32};
  return view;
}

/* The scalar kernels when `kernels` promises their very bits, else NULL. */
static inline const sf_kernels *same_bits_as(const sf_kernels *kernels) {
  const int same = strcmp(kernels->name, "sse41") == 0 || strcmp(kernels->name, "wasm128") == 0;
  return same ? &sf_kernels_scalar : NULL;
}

#endif
