/* Random weights in every format, with an independent, double-precision reading of them. Used by the tests of the
 * kernels, by their timing, and nowhere in the core. */
#ifndef SF_ROWS_H
#define SF_ROWS_H

#include <math.h>
#include <string.h>

#include "base/memory.h"
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

/* Every format, in the order of their numbers, with its name, the places of
 * the halves in a block (-1: none), and how far from what it was a weight may be that is written and read, as a share
 * of the largest in 256 columns: half a step, but where the largest is one end of the levels and there is one level
 * less at the other, a whole one; and what rounding scales may add. Formats that are only read have no share. */
typedef struct {
  int32_t format;
  const char *name;
  int halves[2];
  double share;
} format_row;
static const format_row format_rows[] = {
    {SF_F32, "f32", {-1, -1}, 0},
    {SF_F16, "f16", {0, -1}, 0x1p-11},
    {SF_Q4_0, "q4_0", {0, -1}, 1 / 8.0},
    {SF_Q4_1, "q4_1", {0, 2}, 1 / 14.0},
    {SF_Q5_0, "q5_0", {0, -1}, 1 / 16.0},
    {SF_Q5_1, "q5_1", {0, 2}, 1 / 30.0},
    {SF_Q8_0, "q8_0", {0, -1}, 1 / 220.0},
    {SF_Q2_K, "q2_k", {80, 82}, 1 / 1.8},
    {SF_Q3_K, "q3_k", {108, -1}, 1 / 3.0},
    {SF_Q4_K, "q4_k", {0, 2}, 1 / 7.0},
    {SF_Q5_K, "q5_k", {0, 2}, 1 / 12.0},
    {SF_Q6_K, "q6_k", {208, -1}, 1 / 25.0},
    {SF_IQ4_NL, "iq4_nl", {0, -1}, 1 / 6.0},
    {SF_IQ4_XS, "iq4_xs", {0, -1}, 1 / 5.0},
    {SF_BF16, "bf16", {-1, -1}, 0x1p-8},
    {SF_TQ1_0, "tq1_0", {52, -1}, 0.501},
    {SF_TQ2_0, "tq2_0", {64, -1}, 0.501},
    {SF_MXFP4, "mxfp4", {-1, -1}, 1 / 3.9},
    {SF_IQ2_XXS, "iq2_xxs", {0, -1}, 0},
    {SF_IQ2_XS, "iq2_xs", {0, -1}, 0},
    {SF_IQ2_S, "iq2_s", {0, -1}, 0},
    {SF_IQ3_XXS, "iq3_xxs", {0, -1}, 0},
    {SF_IQ3_S, "iq3_s", {0, -1}, 0},
    {SF_IQ1_S, "iq1_s", {0, -1}, 0},
    {SF_IQ1_M, "iq1_m", {-1, -1}, 0},
    {SF_NVFP4, "nvfp4", {-1, -1}, 0},
};
enum { ALL_FORMATS = sizeof format_rows / sizeof format_rows[0] };

static inline const format_row *format_row_of(int32_t format) {
  for (int f = 0; f < ALL_FORMATS; ++f) {
    if (format_rows[f].format == format) return &format_rows[f];
  }
  return NULL;
}

static inline const char *format_name(int32_t format) { return format_row_of(format)->name; }

/* rows × columns random weights of a format: packed rows, each followed by `gap` bytes. */
typedef struct {
  int32_t format, rows, columns;
  size_t stride, offset;
  uint8_t *data;
  float *read; /* of formats that are only read: what sf_dequantize reads, which tests of Python compare */
} test_rows;

static inline test_rows rows_make(int32_t format, int32_t rows, int32_t columns, size_t gap, size_t offset) {
  const size_t row_bytes = sf_format_row_bytes(format, columns),
               block = (size_t)sf_format_find(format)->traits->block_bytes;
  test_rows w = {format, rows, columns, row_bytes + gap, offset, NULL, NULL};
  w.data = check_alloc(w.stride * (size_t)(rows - 1) + row_bytes, offset); /* no gap after the last row */
  for (int32_t i = 0; i < rows; ++i) {
    uint8_t *p = w.data + (size_t)i * w.stride;
    for (size_t at = 0; at < row_bytes; at += block) {
      const uint16_t halves[2] = {random_half(), random_half()};
      const float value = random_unit();
      const int *places = format_row_of(format)->halves;
      for (size_t k = 0; k < block; ++k) p[at + k] = (uint8_t)(random_bits() >> 24);
      if (format == SF_F32) memcpy(p + at, &value, 4);
      if (format == SF_BF16) memcpy(p + at, (const uint8_t *)&value + 2, 2);
      if (format == SF_MXFP4) p[at] = (uint8_t)(114 + p[at] % 8); /* 2^-14 … 2^-7 */
      if (format == SF_IQ1_M) {                                   /* d is in the upper halves of four bytes */
        for (size_t k = 0; k < 4; ++k) {
          p[at + 49 + 2 * k] = (uint8_t)(p[at + 49 + 2 * k] % 16 | (halves[0] >> 4 * k & 15) << 4);
        }
      }
      for (int k = 0; k < 2; ++k) {
        if (places[k] >= 0) memcpy(p + at + places[k], &halves[k], 2);
      }
    }
  }
  if (!sf_format_find(format)->quantize) {
    w.read = check_alloc((size_t)rows * (size_t)columns * sizeof *w.read, 0);
    for (int32_t i = 0; i < rows; ++i) {
      float *row = w.read + (size_t)i * (size_t)columns;
      CHECK(sf_dequantize(format, w.data + (size_t)i * w.stride, row_bytes, 1, columns, row) == SF_OK, "read a row");
    }
  }
  return w;
}

static inline void rows_free(test_rows *w) {
  check_free(w->data, w->offset);
  if (w->read) check_free(w->read, 0);
}

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

/* What a half of a byte stands for in IQ4_NL and IQ4_XS: column c of 32 from 16 bytes. */
static inline int level_of_iq4(const uint8_t *nibbles, int c) {
  static const int levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  return levels[c < 16 ? nibbles[c] % 16 : nibbles[c - 16] / 16];
}

/* Weight c of a block of IQ4_XS at p. */
static inline double weight_of_iq4_xs(const uint8_t *p, int c) {
  const int s = c / 32, low = s % 2 ? p[4 + s / 2] / 16 : p[4 + s / 2] % 16, high = (p[2] | p[3] << 8) >> 2 * s & 3;
  return half_at(p) * (low + 16 * high - 32) * level_of_iq4(p + 8 + 16 * s, c % 32);
}

/* Weight c of a block of TQ1_0 at p: a byte is a fraction of 256, to the base of 3. */
static inline double weight_of_tq1_0(const uint8_t *p, int c) {
  const int byte = c < 160 ? c % 32 : c < 240 ? 32 + c % 16 : 48 + c % 4;
  int digit = c < 160 ? c / 32 : c < 240 ? (c - 160) / 16 : (c - 240) / 4, power = 3;
  while (digit-- > 0) power *= 3;
  return half_at(p + 52) * (p[byte] * power / 256 % 3 - 1);
}

/* Weight c of a block of TQ2_0 at p. */
static inline double weight_of_tq2_0(const uint8_t *p, int c) {
  return half_at(p + 64) * ((p[c / 128 * 32 + c % 32] >> c % 128 / 32 * 2 & 3) - 1);
}

/* Weight c of a block of MXFP4 at p: of four bits, sign, two of exponent with a bias of 1, and one of mantissa. */
static inline double weight_of_mxfp4(const uint8_t *p, int c) {
  const int q = c < 16 ? p[1 + c] % 16 : p[1 + c - 16] / 16, exponent = q / 2 % 4, mantissa = q % 2;
  const double value = exponent ? ldexp(2 + mantissa, exponent - 2) : mantissa / 2.0;
  return ldexp(q / 8 ? -value : value, p[0] - 127);
}

static inline double rows_weight(const test_rows *w, int32_t row, int32_t column) {
  const sf_format *format = sf_format_find(w->format);
  const uint8_t *p = w->data + (size_t)row * w->stride +
                     (size_t)(column / format->traits->block_columns * format->traits->block_bytes);
  uint8_t bytes[4] = {0, 0, 0, 0};
  float value;
  if (w->read) return (double)w->read[(size_t)row * (size_t)w->columns + (size_t)column];
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
    case SF_IQ4_NL:
      return half_at(p) * level_of_iq4(p + 2, column % 32);
    case SF_IQ4_XS:
      return weight_of_iq4_xs(p, column % 256);
    case SF_TQ1_0:
      return weight_of_tq1_0(p, column % 256);
    case SF_TQ2_0:
      return weight_of_tq2_0(p, column % 256);
    case SF_MXFP4:
      return weight_of_mxfp4(p, column % 32);
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
    case SF_TQ1_0:
      return weight + 2 * fabs(half_at(p + 52));
    case SF_TQ2_0:
      return weight + 2 * fabs(half_at(p + 64));
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
  const sf_rows view = {w->data, w->stride, ids, w->columns, 1.0f};
  return view;
}

/* n inputs in all forms; the floats may be NULL where only the I16 form matters. */
typedef struct {
  int32_t n, columns;
  int floats; /* 1: rows of block formats are multiplied as floats too */
  int prompt; /* 1: as those of a prompt */
  size_t offset;
  float *f32, *scales, *sums;
  int16_t *values;
  uint8_t *split; /* in form `form`, if that is not -1 */
  int32_t form;
} test_inputs;

static inline void inputs_sum(test_inputs *x) {
  const size_t blocks = (size_t)x->n * (size_t)x->columns / 32;
  for (size_t b = 0; b < blocks; ++b) {
    int32_t sum = 0;
    for (size_t k = 0; k < 32; ++k) sum += x->values[b * 32 + k];
    x->sums[b] = x->scales[b] * (float)sum;
  }
}

static inline test_inputs inputs_make(int32_t n, int32_t columns, size_t offset) {
  const size_t count = (size_t)n * (size_t)columns;
  test_inputs x = {n, columns, 0, 0, offset, NULL, NULL, NULL, NULL, NULL, -1};
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
  inputs_sum(&x);
  return x;
}

/* Inputs (n, columns) as bytes in the form that the kernels take for rows of this format, if they take one; freed by
 * sf_free. */
static inline uint8_t *inputs_split(const sf_kernels *kernels, sf_format_index format, int32_t n, int32_t columns,
                                    sf_inputs *inputs) {
  const int32_t form = kernels->split ? kernels->split_form(format) : -1;
  const size_t bytes = sf_split_bytes(columns);
  if (form < 0) return NULL;
  uint8_t *split = sf_array((size_t)n, bytes);
  for (int32_t j = 0; split && j < n; ++j) {
    const size_t i = (size_t)j * (size_t)columns;
    const sf_inputs one = {
        .values = inputs->values + i, .scales = inputs->scales + i / 32, .sums = inputs->sums + i / 32};
    kernels->split(form, &one, columns, split + (size_t)j * bytes);
  }
  inputs->split[form] = split;
  return split;
}

/* Makes the integers what the kernels take for rows of this format. */
static inline void inputs_fit(test_inputs *x, const sf_kernels *kernels, int32_t format) {
  const sf_format_index index = sf_format_find(format)->index;
  const int32_t most = x->prompt ? 32767 : kernels->input_most(index), shared = kernels->input_shared(index);
  sf_inputs all = {.values = x->values, .scales = x->scales, .sums = x->sums};
  x->form = -1;
  if (sf_is_plain(sf_format_find(format)->traits) || x->columns % shared) return;
  for (int32_t i = 0; i < x->n * x->columns; ++i) {
    if (abs(x->values[i]) > most) x->values[i] = (int16_t)(x->values[i] > 0 ? most : -most);
    x->scales[i / 32] = x->scales[i / shared * shared / 32];
  }
  inputs_sum(x);
  sf_free(x->split);
  x->split = inputs_split(kernels, index, x->n, x->columns, &all);
  x->form = x->split ? kernels->split_form(index) : -1;
}

static inline void inputs_free(test_inputs *x) {
  check_free(x->f32, x->offset);
  check_free(x->values, x->offset);
  check_free(x->scales, x->offset);
  check_free(x->sums, x->offset);
  sf_free(x->split);
}

/* Value c of input j, as rows of the format see it. */
static inline double inputs_value(const test_inputs *x, int32_t format, int32_t j, int32_t c) {
  const size_t i = (size_t)j * (size_t)x->columns + (size_t)c;
  const int integers = !x->floats && !sf_is_plain(sf_format_find(format)->traits);
  return integers ? (double)x->values[i] * (double)x->scales[i / 32] : (double)x->f32[i];
}

/* Inputs first … of x. */
static inline sf_inputs inputs_view(const test_inputs *x, int32_t first) {
  const size_t i = (size_t)first * (size_t)x->columns;
  sf_inputs view = {.f32 = x->f32 + i, .values = x->values + i, .scales = x->scales + i / 32, .sums = x->sums + i / 32};
  view.prompt = x->prompt;
  if (x->form >= 0) view.split[x->form] = x->split + (size_t)first * sf_split_bytes(x->columns);
  const sf_inputs floats = {.f32 = x->f32 + i};
  return x->floats ? floats : view;
}

/* The scalar kernels when `kernels` promises their very bits, else NULL. */
static inline const sf_kernels *same_bits_as(const sf_kernels *kernels) {
  const int same = strcmp(kernels->name, "sse41") == 0 || strcmp(kernels->name, "wasm128") == 0;
  return same ? &sf_kernels_scalar : NULL;
}

#endif
