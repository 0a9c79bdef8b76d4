/* Random weights in every format, with an independent, double-precision reading of them. Used by the tests of the
 * kernels, by their timing, and nowhere in the core. */
#ifndef SF_ROWS_H
#define SF_ROWS_H

#include <math.h>
#include <string.h>

#include "check.h"
#include "formats/formats.h"
#include "kernels/isa.h"
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

/* Every format, in the order of their numbers. */
static const int32_t all_formats[] = {SF_F32,  SF_F16,  SF_Q4_0, SF_Q4_1, SF_Q5_0, SF_Q5_1, SF_Q8_0,
                                      SF_Q2_K, SF_Q3_K, SF_Q4_K, SF_Q5_K, SF_Q6_K, SF_BF16};
enum { ALL_FORMATS = sizeof all_formats / sizeof all_formats[0] };

static inline const char *format_name(int32_t format) {
  static const char *const names[] = {"f32",  "f16",  "q4_0", "q4_1", "q5_0", "q5_1", "q8_0",
                                      "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "bf16"};
  for (int f = 0; f < ALL_FORMATS; ++f) {
    if (all_formats[f] == format) return names[f];
  }
  return "?";
}

/* rows × columns random weights of a format: packed rows, each followed by `gap` bytes. */
typedef struct {
  int32_t format, rows, columns;
  size_t stride, offset;
  uint8_t *data;
} test_rows;

/* Where the halves of a block are: two places, the second -1 where there is only one. */
static inline void half_places(int32_t format, int *first, int *second) {
  const int two = format == SF_Q4_1 || format == SF_Q5_1 || format == SF_Q4_K || format == SF_Q5_K;
  *first = format == SF_Q6_K ? 208 : format == SF_Q3_K ? 108 : format == SF_Q2_K ? 80 : 0;
  *second = format == SF_Q2_K ? 82 : two ? 2 : -1;
}

static inline test_rows rows_make(int32_t format, int32_t rows, int32_t columns, size_t gap, size_t offset) {
  const size_t row_bytes = sf_format_row_bytes(format, columns),
               block = (size_t)sf_format_find(format)->traits->block_bytes;
  test_rows w = {format, rows, columns, row_bytes + gap, offset, NULL};
  w.data = check_alloc(w.stride * (size_t)(rows - 1) + row_bytes, offset); /* no gap after the last row */
  for (int32_t i = 0; i < rows; ++i) {
    uint8_t *p = w.data + (size_t)i * w.stride;
    for (size_t at = 0; at < row_bytes; at += block) {
      int first, second;
      half_places(format, &first, &second);
      const uint16_t halves[2] = {random_half(), random_half()};
      const float value = random_unit();
      for (size_t k = 0; k < block; ++k) p[at + k] = (uint8_t)(random_bits() >> 24);
      if (format == SF_F32) memcpy(p + at, &value, 4);
      if (format == SF_BF16) memcpy(p + at, (const uint8_t *)&value + 2, 2);
      if (format != SF_F32 && format != SF_BF16) memcpy(p + at + first, &halves[0], 2);
      if (second >= 0) memcpy(p + at + second, &halves[1], 2);
    }
  }
  return w;
}

static inline void rows_free(test_rows *w) { check_free(w->data, w->offset); }

static inline double half_at(const uint8_t *p) { return half_value((uint32_t)p[0] | (uint32_t)p[1] << 8); }

static inline int signed_byte(uint8_t byte) { return byte - (byte > 127 ? 256 : 0); }

/* Weight c of a block of 32 at p. */
static inline double weight_of_32(int32_t format, const uint8_t *p, int c) {
  const double d = half_at(p);
  if (format == SF_Q8_0) return d * signed_byte(p[2 + c]);
  const int with_min = format == SF_Q4_1 || format == SF_Q5_1, five = format == SF_Q5_0 || format == SF_Q5_1;
  const uint8_t *fifths = p + (with_min ? 4 : 2), *nibbles = fifths + (five ? 4 : 0);
  int q = c < 16 ? nibbles[c] % 16 : nibbles[c - 16] / 16;
  if (five) q += fifths[c / 8] >> c % 8 & 1 ? 16 : 0;
  return with_min ? d * q + half_at(p + 2) : d * (q - (five ? 16 : 8));
}

/* Weight c of a block of Q4_K or Q5_K at p. */
static inline double weight_of_k(int32_t format, const uint8_t *p, int c) {
  const int s = c / 32, k = c % 32, five = format == SF_Q5_K;
  const uint8_t *packed = p + 4, *nibbles = p + (five ? 48 : 16);
  int scale = packed[s % 4] % 64, min = packed[s % 4 + 4] % 64;
  if (s >= 4) {
    scale = packed[s % 4 + 8] % 16 + packed[s % 4] / 64 * 16;
    min = packed[s % 4 + 8] / 16 + packed[s % 4 + 4] / 64 * 16;
  }
  int q = s % 2 ? nibbles[s / 2 * 32 + k] / 16 : nibbles[s / 2 * 32 + k] % 16;
  if (five) q += p[16 + k] >> s & 1 ? 16 : 0;
  return half_at(p) * scale * q - half_at(p + 2) * min;
}

/* Weight c of a block of Q6_K at p. */
static inline double weight_of_q6_k(const uint8_t *p, int c) {
  const int part = c / 128, k = c % 128;
  const uint8_t *nibbles = p + 64 * part, *pairs = p + 128 + 32 * part;
  const int low = k < 64 ? nibbles[k] % 16 : nibbles[k - 64] / 16, high = pairs[k % 32] >> k / 32 * 2 & 3;
  return half_at(p + 208) * signed_byte(p[192 + c / 16]) * (low + 16 * high - 32);
}

/* Weight c of a block of Q2_K at p. */
static inline double weight_of_q2_k(const uint8_t *p, int c) {
  const int q = p[16 + c / 128 * 32 + c % 32] >> c % 128 / 32 * 2 & 3;
  return half_at(p + 80) * (p[c / 16] % 16) * q - half_at(p + 82) * (p[c / 16] / 16);
}

/* Weight c of a block of Q3_K at p. */
static inline double weight_of_q3_k(const uint8_t *p, int c) {
  const int i = c / 16, q = p[32 + c / 128 * 32 + c % 32] >> c % 128 / 32 * 2 & 3;
  const int low = i < 8 ? p[96 + i] % 16 : p[96 + i - 8] / 16, high = p[104 + i % 4] >> i / 4 * 2 & 3;
  return half_at(p + 108) * (low + 16 * high - 32) * (q - (p[c % 32] >> c / 32 & 1 ? 0 : 4));
}

static inline double rows_weight(const test_rows *w, int32_t row, int32_t column) {
  const sf_format *format = sf_format_find(w->format);
  const uint8_t *p = w->data + (size_t)row * w->stride +
                     (size_t)(column / format->traits->block_columns * format->traits->block_bytes);
  uint8_t bytes[4] = {0, 0, 0, 0};
  float value;
  switch (w->format) {
    case SF_F32:
    case SF_BF16:
      memcpy(bytes + (w->format == SF_BF16 ? 2 : 0), p, w->format == SF_BF16 ? 2 : 4);
      memcpy(&value, bytes, 4);
      return (double)value;
    case SF_F16:
      return half_at(p);
    case SF_Q4_K:
    case SF_Q5_K:
      return weight_of_k(w->format, p, column % 256);
    case SF_Q2_K:
      return weight_of_q2_k(p, column % 256);
    case SF_Q3_K:
      return weight_of_q3_k(p, column % 256);
    case SF_Q6_K:
      return weight_of_q6_k(p, column % 256);
    default:
      return weight_of_32(w->format, p, column % 32);
  }
}

/* The magnitude of what the kernels compute with for that weight: where levels are counted from 0, scale times level
 * plus offset, which may be more than the weight. The bound of rounding errors grows with it. */
static inline double rows_level(const test_rows *w, int32_t row, int32_t column) {
  const sf_format *format = sf_format_find(w->format);
  const uint8_t *p = w->data + (size_t)row * w->stride +
                     (size_t)(column / format->traits->block_columns * format->traits->block_bytes);
  const double weight = fabs(rows_weight(w, row, column));
  switch (w->format) {
    case SF_Q4_0:
      return weight + 16 * fabs(half_at(p));
    case SF_Q5_0:
      return weight + 32 * fabs(half_at(p));
    case SF_Q4_1:
    case SF_Q5_1:
      return weight + 2 * fabs(half_at(p + 2));
    case SF_Q2_K:
      return weight + 2 * 15 * fabs(half_at(p + 82));
    case SF_Q4_K:
    case SF_Q5_K:
      return weight + 2 * 63 * fabs(half_at(p + 2));
    default:
      return weight;
  }
}

static inline sf_rows rows_view(const test_rows *w, const int32_t *ids) {
  const sf_rows view = {w->data, w->stride, ids, w->columns};
  return view;
}

/* n inputs in both forms; the floats may be NULL where only the I16 form matters. */
typedef struct {
  int32_t n, columns;
  size_t offset;
  float *f32, *scales, *sums;
  int16_t *values;
} test_inputs;

static inline test_inputs inputs_make(int32_t n, int32_t columns, size_t offset) {
  const size_t count = (size_t)n * (size_t)columns;
  test_inputs x = {n, columns, offset, NULL, NULL, NULL, NULL};
  x.f32 = check_alloc(count * sizeof *x.f32, offset);
  x.values = check_alloc(count * sizeof *x.values, offset);
  x.scales = check_alloc(count / 32 * sizeof *x.scales, offset);
  x.sums = check_alloc(count / 32 * sizeof *x.sums, offset);
  for (size_t i = 0; i < count; ++i) {
    x.f32[i] = random_unit();
    x.values[i] = (int16_t)(random_bits() >> 16);
    if (x.values[i] == INT16_MIN) x.values[i] = INT16_MAX;
    if (i < count / 32) x.scales[i] = random_unit();
  }
  for (size_t b = 0; b < count / 32; ++b) {
    int32_t sum = 0;
    for (size_t k = 0; k < 32; ++k) sum += x.values[b * 32 + k];
    x.sums[b] = x.scales[b] * (float)sum;
  }
  return x;
}

static inline void inputs_free(test_inputs *x) {
  check_free(x->f32, x->offset);
  check_free(x->values, x->offset);
  check_free(x->scales, x->offset);
  check_free(x->sums, x->offset);
}

/* Value c of input j, as rows of the format see it. */
static inline double inputs_value(const test_inputs *x, int32_t format, int32_t j, int32_t c) {
  const size_t i = (size_t)j * (size_t)x->columns + (size_t)c;
  const int integers = !sf_is_plain(sf_format_find(format)->traits);
  return integers ? (double)x->values[i] * (double)x->scales[i / 32] : (double)x->f32[i];
}

/* Inputs first … of x. */
static inline sf_inputs inputs_view(const test_inputs *x, int32_t first) {
  const size_t i = (size_t)first * (size_t)x->columns;
  const sf_inputs view = {x->f32 + i, x->values + i, x->scales + i / 32, x->sums + i / 32};
  return view;
}

/* The scalar kernels when `kernels` promises their very bits, else NULL. */
static inline const sf_kernels *same_bits_as(const sf_kernels *kernels) {
  const int same = strcmp(kernels->name, "sse41") == 0 || strcmp(kernels->name, "wasm128") == 0;
  return same ? &sf_kernels_scalar : NULL;
}

#endif
