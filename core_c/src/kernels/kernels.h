/* The table of kernels that each instruction set fills: kernels_tmpl.c is compiled once per instruction set and exports
 * one constant table. Kernels are single-threaded, check nothing and allocate nothing: callers pass sound sizes. */
#ifndef SF_KERNELS_H
#define SF_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "formats/formats.h"

/* Forms of an input as bytes, which some kernels take: see split_tmpl.h. */
enum {
  SF_SPLIT_FORMS = 7,
  SF_SPLIT_COLUMNS = 256, /* of a group, the last of which may have fewer, */
  SF_SPLIT_BYTES = 896    /* and bytes of a group */
};

static inline size_t sf_split_bytes(int32_t columns) {
  return ((size_t)columns + SF_SPLIT_COLUMNS - 1) / SF_SPLIT_COLUMNS * SF_SPLIT_BYTES;
}

/* n input vectors in one of the forms, or several. Vector j starts at f32 + j * columns; in I16 form at values +
 * j * columns, scales + j * (columns / 32) and sums + j * (columns / 32), where values[i] ≈ x[i] / scales[i / 32],
 * |values[i]| ≤ 32767 (see input_most), and sums[b] is the sum of the values of block b, times its scale.
 * The same as bytes in form f begins at split[f] + j * sf_split_bytes(columns), where it was made. */
typedef struct {
  const float *f32;
  const int16_t *values;
  const float *scales;
  const float *sums;
  const uint8_t *split[SF_SPLIT_FORMS];
  const uint16_t *tiles; /* all of them, see tiles.h, or NULL */
  int32_t prompt;        /* 1: integers of a prompt where the kernels have a product for these (prompt_lanes) */
} sf_inputs;

/* Rows of weights: row i at data + ids[i] * stride, or data + i * stride when ids is NULL. All are times `scale`. */
typedef struct {
  const uint8_t *data;
  size_t stride;
  const int32_t *ids;
  int32_t columns;
  float scale;
} sf_rows;

static inline const uint8_t *sf_row_at(const sf_rows *rows, int32_t i) {
  return rows->data + (size_t)(rows->ids ? rows->ids[i] : i) * rows->stride;
}

/* floats[k] = column c + k of the row, k < n, and zeros up to a multiple of SF_LANES; `floats` is aligned to 64 bytes,
 * c a multiple of 256, and n of 32 for block formats. */
typedef void sf_unpack_fn(sf_format_index format, const uint8_t *row, int32_t c, int32_t n, float *floats);
/* out[j * out_stride + i] = scale · dot(row i, input j), i < n_rows, j < n_inputs. Rows of block formats are multiplied
 * as integers where the inputs have the I16 form, else as floats. The order of additions for one (row, input) pair
 * depends on nothing but that and `columns`. Integers of formats with a split_form are taken in that form. */
typedef void sf_dot_rows_fn(const sf_rows *rows, int32_t n_rows, const sf_inputs *inputs, int32_t n_inputs, float *out,
                            size_t out_stride);
/* y[c] += Σ_i scale · alpha[i] · row_i[c] for c0 ≤ c < c1, added in order of i; c0 is a multiple of 32, and c1 is one
 * too, or equals columns. y points at column 0. */
typedef void sf_axpy_rows_fn(const sf_rows *rows, int32_t n_rows, const float *alpha, int32_t c0, int32_t c1, float *y);
/* The same for all columns of n_sums sums, alpha (n_sums, alpha_stride) and y (n_sums, y_stride), with the same bits:
 * rows are read once. */
typedef void sf_axpy_shared_fn(const sf_rows *rows, int32_t n_rows, const float *alpha, size_t alpha_stride,
                               int32_t n_sums, float *y, size_t y_stride);

/* Rows in panels of SF_PANEL, whose bytes are interleaved by twos: bytes 2u and 2u + 1 of row i of a panel, whose rows
 * have `bytes` each, at panel · SF_PANEL · bytes + (u · SF_PANEL + i) · 2. */
enum {
  SF_PANEL = 16,    /* rows */
  SF_PANEL_UNIT = 2 /* bytes */
};
/* out[i] = dot(row i, input), i < panels · SF_PANEL; the order of additions is another one than that of dot_rows. */
typedef void sf_dot_panels_fn(const uint8_t *data, int32_t panels, int32_t columns, const sf_inputs *input, float *out);

/* Rows of Q4_0 in column order, in groups of SF_COLUMN_ROWS, the last of which zeros fill: of each block of 32 columns
 * the scales of all rows, and then column by column the quants of all rows, two a byte. Byte p of a column's 64 of a
 * group has the quant of row p / 8 % 2 · 32 + p / 16 · 8 + p % 8 of the group in its lower half, and in its upper half
 * that of the row 64 further on: where instructions put them that interleave 16 bytes each of two columns. */
enum { SF_COLUMN_ROWS = 128 };
/* The inputs of a block that are multiplied, in 8 bits with a scale of their own. An odd number of them is followed by
 * one more with the value 0. */
typedef struct {
  int32_t count, sum; /* of the values */
  float scale;
  uint8_t ids[SF_BLOCK];
  int8_t values[SF_BLOCK];
} sf_chosen;
/* out[i] = row first + i of `rows` · the chosen inputs (blocks), i < count; rows, first and count are multiples of
 * SF_COLUMN_ROWS. Blocks are added in their order. */
typedef void sf_dot_columns_fn(const uint8_t *data, int32_t rows, int32_t first, int32_t count, int32_t blocks,
                               const sf_chosen *chosen, float *out);

/* One token of one head of SF_STEP_RECURRENCE, see sparsefire.h: q, k (keys), v (values), a and b (keys) or NULL. The
 * decay of key i is decay[i · decay_step]. */
typedef struct {
  int32_t keys, values, before;
  int32_t decay_step; /* 0: all keys have the same; or 1 */
  const float *q, *k, *v, *decay, *a, *b;
} sf_recurrence;

/* Products of matrices of floats, c = a · b, of which the right one, b (k, n), serves many rows of a. Each element is
 * the sum over k from first to last, whatever m and n. */
typedef struct {
  /* Floats that a (m, k) and b (k, n) take as they are laid out; of row m of a, where it begins if m is a multiple of
   * 16. */
  size_t (*left_floats)(int32_t m, int32_t k);
  size_t (*right_floats)(int32_t k, int32_t n);
  /* Lays out a (m, k), in `room` or as it is; room is aligned to 64 bytes. */
  const float *(*lay_left)(const float *a, int32_t m, int32_t k, float *room);
  /* Lays out b, which is x (k, n) or, with `across` 1, the transpose of x (n, k), whose rows are `stride` apart;
   * `right` is aligned to 64 bytes. */
  void (*lay_right)(const float *x, size_t stride, int32_t k, int32_t n, int32_t across, float *right);
  /* c (m, n), whose rows are c_stride apart; with `adds` 1 the products are added to it. Rows and columns up to a
   * multiple of 16 may be written. */
  void (*multiply)(const float *left, int32_t m, const float *right, int32_t k, int32_t n, int32_t adds, float *c,
                   size_t c_stride);
} sf_products;

typedef struct {
  const char *name;
  sf_products products;
  sf_dot_rows_fn *dot_rows[SF_FORMATS];
  sf_axpy_rows_fn *axpy_rows[SF_FORMATS];
  sf_axpy_shared_fn *axpy_shared_f16;       /* NULL where vectors are short and it would gain little */
  sf_dot_panels_fn *dot_panels[SF_FORMATS]; /* NULL for formats without one */
  sf_dot_columns_fn *dot_columns;           /* of Q4_0; NULL in WebAssembly */
  int32_t prompt_floats; /* 1: prompts are multiplied as floats in block formats too, which is faster here */
  int32_t prompt_lanes;  /* 1: as integers of 16 bits, by a product of their own (see dot_prompt_tmpl.h), */
  int32_t (*lanes_of)(sf_format_index format); /* in the formats for which this is 1 */
  sf_unpack_fn *unpack; /* of these formats where they are; of plain formats and Q8_0 everywhere */
  /* The largest magnitude of an input's integers that dot_rows of a block format takes: 32767, or less where the
   * products are of 8 bits. */
  int32_t (*input_most)(sf_format_index format);
  /* How many columns of an input have one scale for it: 32, or 256, whose blocks of 32 then have equal scales.
   * Inputs with the least input_most and the largest input_shared of several formats serve all of them. */
  int32_t (*input_shared)(sf_format_index format);
  /* values of magnitude `most` at most, scales and sums of one vector; columns a multiple of 32, of which `shared` have
   * one scale. Where all of these are 0 the scale is 0, where NaN or infinity is among them NaN. */
  void (*quantize_i16)(const float *x, int32_t columns, int32_t most, int32_t shared, int16_t *values, float *scales,
                       float *sums);
  /* The form of inputs as bytes that dot_rows of a format takes, or -1 where it takes the integers. NULL: all do. */
  int32_t (*split_form)(sf_format_index format);
  /* Brings an input's integers, scales and sums into a form: sf_split_bytes(columns), aligned to 64 bytes. */
  void (*split)(int32_t form, const sf_inputs *input, int32_t columns, uint8_t *to);
  /* y = activation(x), an sf_activation or SF_SIGMOID, see sparsefire.h; y may be x. */
  void (*activate)(int32_t activation, float parameter, const float *x, int32_t count, float *y);
  void (*multiply)(const float *a, const float *b, int32_t count, float *y); /* y = a · b, y may be a or b */
  void (*add)(const float *a, const float *b, int32_t count, float *y);      /* y = a + b, y may be a or b */
  void (*rms_norm)(const float *x, const float *weight, int32_t d, float epsilon, float *y);
  /* y = (x - mean x) / √(variance x + epsilon) · weight + bias; bias may be NULL. */
  void (*layer_norm)(const float *x, const float *weight, const float *bias, int32_t d, float epsilon, float *y);
  void (*softmax)(const float *x, int32_t count, float *y);
  /* A part of a softmax, of which `most` is the largest number so far and `sum` that of e^(x - most): x (count) becomes
   * e^(x - most), with the new `most`, and what was added up before is to be taken times the result. count is a
   * multiple of 16; -FLT_MAX gives 0. */
  float (*weigh)(float *x, int32_t count, float *most, float *sum);
  void (*halves)(const float *x, int32_t count, uint8_t *y); /* y = x in half precision, as sf_float_to_half */
  void (*scale)(float factor, float *x, int32_t count);      /* x = factor · x */
  void (*softcap)(float cap, float *x, int32_t count);       /* x = cap · tanh(x / cap), in place */
  /* Rotates pairs of x, i < pairs, by the angles whose cosine and sine are given: cos_sin (pairs, 2). A pair is
   * (2i, 2i + 1) or, with `halves` 1, (i, i + pairs). */
  void (*rope)(float *x, const float *cos_sin, int32_t pairs, int32_t halves);
  /* Changes state (keys, values) by a token, and writes out (values). */
  void (*recur)(const sf_recurrence *r, float *state, float *out);
  void (*prefetch)(const uint8_t *from, size_t bytes);  /* these are read soon */
  int32_t (*all_finite)(const float *x, int32_t count); /* 1 when no NaN or infinity */
  /* How many of x (count ≤ 2²⁴) are above `limit`, which may be infinite. NaN is not. */
  int32_t (*count_above)(const float *x, int32_t count, float limit);
  /* Multiplications and additions of a repeat of `peak`, which does nothing else, in registers: SF_PEAK_FLOATS or
   * SF_PEAK_INTEGERS. Its result says nothing. */
  int32_t (*peak_operations)(int32_t kind);
  float (*peak)(int32_t kind, int32_t repeats);
  float (*read_floats)(const float *x, size_t count); /* their sum, but for some of the last */
} sf_kernels;

/* Filled tables, one per compiled instruction set (isa.c lists them), and those of simd/scalar_bytes.h, which tests
 * compile. */
extern const sf_kernels sf_kernels_scalar, sf_kernels_scalar_bytes, sf_kernels_scalar_byte_rows, sf_kernels_sse41,
    sf_kernels_avx2, sf_kernels_avx2_vnni, sf_kernels_avx512, sf_kernels_avx512_vnni, sf_kernels_neon,
    sf_kernels_neon_dot, sf_kernels_neon_i8mm, sf_kernels_wasm128, sf_kernels_relaxed128;

#endif
