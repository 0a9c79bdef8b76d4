/* The kernels over rows of weights, dot and axpy: every format and instruction set against double-precision loops, and
 * bit by bit against themselves where blocking must not matter. With --time [NAME], times them instead. */
#include "matrix/panels.h"
#include "rows.h"
#include "time_kernels.h"

enum { MOST_ROWS = 37, MOST_INPUTS = 11 };

/* Rows of a test: few of the long ones, which take most of the time, and for one width more than one tile of rows. */
static int32_t most_rows(int32_t columns) { return columns > 2000 ? 8 : columns == 512 ? MOST_ROWS : 21; }

/* A permutation-like choice of `count` rows out of `rows`. */
static void scatter(int32_t *ids, int32_t count, int32_t rows) {
  for (int32_t i = 0; i < count; ++i) ids[i] = (i * 7 + 3) % rows;
}

/* The weights of all rows, and the magnitudes of what kernels compute with (see rows_level), read once. */
typedef struct {
  double *weights, *levels; /* (rows, columns) */
} readings;

static readings read_rows(const test_rows *w) {
  const size_t columns = (size_t)w->columns, count = (size_t)w->rows * columns;
  readings r = {check_alloc(count * sizeof(double), 0), check_alloc(count * sizeof(double), 0)};
  for (int32_t i = 0; i < w->rows; ++i) {
    for (int32_t c = 0; c < w->columns; ++c) {
      r.weights[(size_t)i * columns + (size_t)c] = rows_weight(w, i, c);
      r.levels[(size_t)i * columns + (size_t)c] = rows_level(w, i, c);
    }
  }
  return r;
}

static void free_readings(readings *r) {
  check_free(r->weights, 0);
  check_free(r->levels, 0);
}

/* ---- Dot ---- */

/* out (n_inputs, MOST_ROWS + 1): the kernel's results and, in the last column, what it must leave alone. */
typedef float dot_results[MOST_INPUTS][MOST_ROWS + 1];

static void run_dot(const sf_kernels *kernels, const test_rows *w, const int32_t *ids, int32_t n_rows,
                    const test_inputs *x, int32_t n_inputs, dot_results out) {
  const sf_rows rows = rows_view(w, ids);
  const sf_inputs inputs = inputs_view(x, 0);
  for (int32_t j = 0; j < MOST_INPUTS; ++j) {
    for (int32_t i = 0; i <= MOST_ROWS; ++i) out[j][i] = 12345.0f;
  }
  kernels->dot_rows[sf_format_find(w->format)->index](&rows, n_rows, &inputs, n_inputs, out[0], MOST_ROWS + 1);
}

/* Whether the product for prompts takes the integers in a format: see sf_prepare. */
static int takes_prompts(const sf_kernels *kernels, int32_t format) {
  return kernels->prompt_lanes && (!kernels->split || kernels->lanes_of(sf_format_find(format)->index));
}

/* The products of all rows with all inputs, and the magnitudes that bound their rounding errors, computed once. */
typedef struct {
  double *sums, *magnitudes; /* (rows, inputs) */
} products;

static products multiply(const test_rows *w, const readings *r, const test_inputs *x) {
  const size_t columns = (size_t)w->columns, n = (size_t)x->n, count = (size_t)w->rows * n;
  products p = {check_alloc(count * sizeof(double), 0), check_alloc(count * sizeof(double), 0)};
  double *input = check_alloc(columns * sizeof *input, 0);
  for (size_t j = 0; j < n; ++j) {
    for (size_t c = 0; c < columns; ++c) input[c] = inputs_value(x, w->format, (int32_t)j, (int32_t)c);
    for (size_t i = 0; i < (size_t)w->rows; ++i) {
      double sum = 0, magnitude = 0;
      for (size_t c = 0; c < columns; ++c) {
        sum += r->weights[i * columns + c] * input[c];
        magnitude += r->levels[i * columns + c] * fabs(input[c]);
      }
      p.sums[i * n + j] = sum;
      p.magnitudes[i * n + j] = magnitude;
    }
  }
  check_free(input, 0);
  return p;
}

static void free_products(products *p) {
  check_free(p->sums, 0);
  check_free(p->magnitudes, 0);
}

/* One product, of a row with input j. */
static void check_dot_value(const char *what, const test_rows *w, const products *p, int32_t row, const test_inputs *x,
                            int32_t j, double found) {
  const size_t at = (size_t)row * (size_t)x->n + (size_t)j;
  CHECK(fabs(found - p->sums[at]) <= (8 + w->columns / 8.0) * 6e-8 * p->magnitudes[at],
        "%s, format %d, %d columns, row %d of %d, input %d: %.9g, not %.9g", what, w->format, w->columns, row, w->rows,
        j, found, p->sums[at]);
}

static void check_dot_values(const test_rows *w, const products *p, const int32_t *ids, int32_t n_rows,
                             const test_inputs *x, int32_t n_inputs, dot_results out) {
  for (int32_t j = 0; j < n_inputs; ++j) {
    for (int32_t i = 0; i < n_rows; ++i) {
      check_dot_value("dot", w, p, ids ? ids[i] : i, x, j, (double)out[j][i]);
    }
    for (int32_t i = n_rows; i <= MOST_ROWS; ++i) CHECK(out[j][i] == 12345.0f, "dot wrote beyond its rows");
  }
}

/* Each (row, input) alone gives the bits that it gave among others. */
static void check_dot_blocking(const sf_kernels *kernels, const test_rows *w, const int32_t *ids, int32_t n_rows,
                               const test_inputs *x, int32_t n_inputs, dot_results out) {
  for (int32_t j = 0; j < n_inputs; ++j) {
    const sf_inputs input = inputs_view(x, j);
    for (int32_t i = 0; i < n_rows; ++i) {
      sf_rows row = rows_view(w, NULL);
      float alone;
      row.data += (size_t)(ids ? ids[i] : i) * row.stride;
      kernels->dot_rows[sf_format_find(w->format)->index](&row, 1, &input, 1, &alone, 1);
      CHECK(memcmp(&alone, &out[j][i], sizeof alone) == 0,
            "dot, format %d, %d columns: row %d of %d depends on its company", w->format, w->columns, i, n_rows);
    }
  }
}

enum { AS_DECODED, AS_FLOATS, AS_PROMPT };

static void test_dot(const sf_kernels *kernels, int32_t format, int32_t columns, int product) {
  static const int32_t shapes[][2] = {{1, 1}, {1, 11}, {2, 3},  {3, 2},  {4, 1},  {5, 5},
                                      {7, 4}, {9, 1},  {13, 8}, {21, 7}, {37, 3}, {37, 9}};
  test_rows w = rows_make(format, most_rows(columns), columns, columns % 3 ? 5 : 0, (size_t)(columns % 4));
  test_inputs x = inputs_make(MOST_INPUTS, columns, columns % 2 ? 4 : 8);
  x.floats = product == AS_FLOATS;
  x.prompt = product == AS_PROMPT;
  inputs_fit(&x, kernels, format);
  readings r = read_rows(&w);
  products p = multiply(&w, &r, &x);
  int32_t ids[MOST_ROWS];
  scatter(ids, w.rows, w.rows);
  for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; ++s) {
    const int32_t n_rows = shapes[s][0], n_inputs = shapes[s][1], *chosen = s % 2 ? ids : NULL;
    if (n_rows > w.rows) continue;
    dot_results out, reference;
    run_dot(kernels, &w, chosen, n_rows, &x, n_inputs, out);
    check_dot_values(&w, &p, chosen, n_rows, &x, n_inputs, out);
    check_dot_blocking(kernels, &w, chosen, n_rows, &x, n_inputs, out);
    if (same_bits_as(kernels)) {
      run_dot(same_bits_as(kernels), &w, chosen, n_rows, &x, n_inputs, reference);
      CHECK(memcmp(out, reference, sizeof out) == 0, "dot, format %d, %d columns: not the scalar bits", format,
            columns);
    }
  }
  free_products(&p);
  free_readings(&r);
  rows_free(&w);
  inputs_free(&x);
}

/* More inputs of a prompt than accumulators are kept for: each gives the bits that it gives alone. */
static void test_long_prompt(const sf_kernels *kernels, int32_t format) {
  enum { ROWS = 19, COLUMNS = 544, INPUTS = 131 };
  test_rows w = rows_make(format, ROWS, COLUMNS, 0, 0);
  test_inputs x = inputs_make(INPUTS, COLUMNS, 0);
  float all[INPUTS][ROWS], one[ROWS];
  const sf_rows rows = rows_view(&w, NULL);
  x.prompt = 1;
  inputs_fit(&x, kernels, format);
  const sf_inputs inputs = inputs_view(&x, 0);
  kernels->dot_rows[sf_format_find(format)->index](&rows, ROWS, &inputs, INPUTS, all[0], ROWS);
  for (int32_t j = 0; j < INPUTS; ++j) {
    const sf_inputs some = inputs_view(&x, j);
    kernels->dot_rows[sf_format_find(format)->index](&rows, ROWS, &some, 1, one, ROWS);
    CHECK(memcmp(all[j], one, sizeof one) == 0, "format %d: input %d of a prompt differs", format, j);
  }
  rows_free(&w);
  inputs_free(&x);
}

/* Rows as floats, times each unit vector, are what sf_dequantize reads; only zeros may have another sign. */
static void test_unpacked(const sf_kernels *kernels, int32_t format) {
  enum { ROWS = 21 };
  static const int32_t widths[] = {1095, 1088, 1024}; /* several strips, of which the last has a rest of a group */
  int32_t k = 0;
  while (!sf_format_row_bytes(format, widths[k])) ++k;
  const int32_t columns = widths[k];
  const size_t count = (size_t)columns;
  test_rows w = rows_make(format, ROWS, columns, 0, 0);
  float *units = check_alloc(count * count * sizeof *units, 0);
  float *read = check_alloc(ROWS * count * sizeof *read, 0), *out = check_alloc(ROWS * count * sizeof *out, 0);
  memset(units, 0, count * count * sizeof *units);
  for (size_t c = 0; c < count; ++c) units[c * count + c] = 1;
  CHECK(sf_dequantize(format, w.data, w.stride * ROWS, ROWS, columns, read) == SF_OK, "dequantize");
  const sf_rows rows = rows_view(&w, NULL);
  const sf_inputs inputs = {.f32 = units};
  kernels->dot_rows[sf_format_find(format)->index](&rows, ROWS, &inputs, columns, out, ROWS);
  for (size_t c = 0; c < count; ++c) {
    for (size_t i = 0; i < ROWS; ++i) {
      CHECK(out[c * ROWS + i] == read[i * count + c], "format %d, row %d, column %d: unpacked as %.9g, not %.9g",
            format, (int)i, (int)c, (double)out[c * ROWS + i], (double)read[i * count + c]);
    }
  }
  check_free(units, 0);
  check_free(read, 0);
  check_free(out, 0);
  rows_free(&w);
}

/* ---- Rows in panels ---- */

/* The rows from `first` on, with every input. */
static void check_panels(const sf_kernels *kernels, const test_rows *w, const products *p, const test_inputs *x,
                         int32_t first) {
  sf_context context = {.kernels = kernels};
  const sf_matrix matrix = {
      w->data, w->stride, sf_format_row_bytes(w->format, w->columns), sf_format_find(w->format), w->rows, w->columns,
      1.0f,    NULL};
  const sf_inputs inputs = inputs_view(x, 0);
  const int32_t count = w->rows - first;
  float *out = check_alloc((size_t)(x->n * count) * sizeof *out, 4);
  sf_panels panels = {NULL, NULL, 0, 0, 0};
  CHECK(sf_panels_make(&panels, &context, &matrix) == SF_OK && panels.data, "panels");
  context.pool = sf_pool_open(1);
  sf_multiply_panels(&context, &panels, first, &inputs, x->n, out, (size_t)count);
  for (int32_t j = 0; j < x->n; ++j) {
    for (int32_t i = 0; i < count; ++i) {
      check_dot_value("panels", w, p, first + i, x, j, (double)out[j * count + i]);
    }
  }
  sf_panels_close(&panels);
  sf_pool_close(context.pool);
  check_free(out, 4);
}

static void test_panels(const sf_kernels *kernels, int32_t format, int32_t columns) {
  static const int32_t counts[] = {1, 15, 16, 17, 53}, firsts[] = {0, 1, 15, 16, 17, 40};
  const sf_format_index index = sf_format_find(format)->index;
  if (!kernels->dot_panels[index]) return;
  for (size_t k = 0; k < sizeof counts / sizeof counts[0]; ++k) {
    test_rows w = rows_make(format, counts[k], columns, k % 2 ? 6 : 0, (size_t)(columns % 4));
    test_inputs x = inputs_make(2, columns, 4);
    readings r = read_rows(&w);
    products p = multiply(&w, &r, &x);
    for (size_t f = 0; f < sizeof firsts / sizeof firsts[0]; ++f) {
      if (firsts[f] < counts[k]) check_panels(kernels, &w, &p, &x, firsts[f]);
    }
    free_products(&p);
    free_readings(&r);
    rows_free(&w);
    inputs_free(&x);
  }
}

/* The same bits as the scalar kernels, where dot products give them too. */
static void test_panel_bits(const sf_kernels *kernels, sf_format_index format, size_t block_bytes) {
  enum { COLUMNS = 96 };
  uint8_t panel[SF_PANEL * 34 * COLUMNS / 32];
  float out[SF_PANEL], reference[SF_PANEL];
  test_inputs x = inputs_make(1, COLUMNS, 4);
  const sf_inputs input = inputs_view(&x, 0);
  for (size_t k = 0; k < sizeof panel; ++k) panel[k] = (uint8_t)(random_bits() >> 24);
  for (size_t b = 0; b < COLUMNS / 32; ++b) {
    for (size_t i = 0; i < SF_PANEL; ++i) {
      const uint16_t half = random_half();
      memcpy(panel + b * block_bytes * SF_PANEL + 2 * i, &half, sizeof half);
    }
  }
  if (same_bits_as(kernels)) {
    kernels->dot_panels[format](panel, 1, COLUMNS, &input, out);
    same_bits_as(kernels)->dot_panels[format](panel, 1, COLUMNS, &input, reference);
    CHECK(memcmp(out, reference, sizeof out) == 0, "panels, format %d: not the scalar bits", (int)format);
  }
  inputs_free(&x);
}

/* ---- Axpy ---- */

static float *random_floats(int32_t count) {
  float *y = check_alloc((size_t)count * sizeof *y, 4);
  for (int32_t i = 0; i < count; ++i) y[i] = random_unit();
  return y;
}

static float *copy_floats(const float *y, int32_t count) {
  float *copy = check_alloc((size_t)count * sizeof *copy, 4);
  memcpy(copy, y, (size_t)count * sizeof *copy);
  return copy;
}

static int equal_floats(const float *a, const float *b, int32_t count) {
  return memcmp(a, b, (size_t)count * sizeof *a) == 0;
}

static void check_axpy_values(const test_rows *w, const readings *r, const int32_t *ids, int32_t n_rows,
                              const float *alpha, const float *before, const float *after) {
  for (int32_t c = 0; c < w->columns; ++c) {
    double sum = (double)before[c], magnitude = fabs(sum);
    for (int32_t i = 0; i < n_rows; ++i) {
      const size_t at = (size_t)(ids ? ids[i] : i) * (size_t)w->columns + (size_t)c;
      sum += (double)alpha[i] * r->weights[at];
      magnitude += fabs((double)alpha[i]) * r->levels[at];
    }
    CHECK(fabs((double)after[c] - sum) <= (n_rows + 4) * 6e-8 * magnitude,
          "axpy, format %d, %d rows, column %d of %d: %.9g, not %.9g", w->format, n_rows, c, w->columns,
          (double)after[c], sum);
  }
}

/* In pieces, or one row at a time, gives the same bits. */
static void check_axpy_pieces(sf_axpy_rows_fn *axpy, const test_rows *w, const int32_t *ids, int32_t n_rows,
                              const float *alpha, const float *before, const float *after) {
  const int32_t columns = w->columns;
  const sf_rows rows = rows_view(w, ids);
  const int32_t step = columns > 2000 ? 1056 : columns > 500 ? 352 : 32;
  for (int32_t split = 0; split < columns; split += step) {
    float *y = copy_floats(before, columns);
    axpy(&rows, n_rows, alpha, 0, split, y);
    CHECK(equal_floats(y + split, before + split, columns - split), "axpy wrote beyond column %d", split);
    CHECK(equal_floats(y, after, split), "axpy, format %d: columns up to %d of %d differ", w->format, split, columns);
    axpy(&rows, n_rows, alpha, split, columns, y);
    CHECK(equal_floats(y, after, columns), "axpy, format %d: split at %d of %d differs", w->format, split, columns);
    check_free(y, 4);
  }
  float *y = copy_floats(before, columns);
  for (int32_t i = 0; i < n_rows; ++i) {
    sf_rows row = rows_view(w, NULL);
    row.data += (size_t)(ids ? ids[i] : i) * row.stride;
    axpy(&row, 1, alpha + i, 0, columns, y);
  }
  CHECK(equal_floats(y, after, columns), "axpy, format %d, %d rows: row by row differs", w->format, n_rows);
  check_free(y, 4);
}

/* Several sums of the same rows, in F16, have the bits of each alone. */
static void check_axpy_shared(const sf_kernels *kernels, const test_rows *w, const int32_t *ids, int32_t n_rows) {
  enum { MOST_SUMS = 7 };
  const sf_rows rows = rows_view(w, ids);
  const int32_t stride = w->columns + 3, floats = MOST_SUMS * stride;
  float *before = random_floats(floats), *alpha = random_floats(MOST_SUMS * MOST_ROWS);
  for (int32_t sums = 1; sums <= MOST_SUMS; ++sums) {
    float *alone = copy_floats(before, floats), *shared = copy_floats(before, floats);
    for (int32_t j = 0; j < sums; ++j) {
      kernels->axpy_rows[SF_FORMAT_F16](&rows, n_rows, alpha + j * MOST_ROWS, 0, w->columns, alone + j * stride);
    }
    kernels->axpy_shared_f16(&rows, n_rows, alpha, MOST_ROWS, sums, shared, (size_t)stride);
    CHECK(equal_floats(shared, alone, floats), "axpy, %d sums of %d rows, %d columns: not the bits of each alone", sums,
          n_rows, w->columns);
    check_free(alone, 4);
    check_free(shared, 4);
  }
  check_free(before, 4);
  check_free(alpha, 4);
}

static void test_axpy(const sf_kernels *kernels, int32_t format, int32_t columns) {
  static const int32_t counts[] = {0, 1, 2, 3, 7, 8, 13, 21};
  sf_axpy_rows_fn *axpy = kernels->axpy_rows[sf_format_find(format)->index];
  test_rows w = rows_make(format, most_rows(columns), columns, columns % 3 ? 3 : 0, (size_t)(columns % 4));
  readings r = read_rows(&w);
  float *before = random_floats(columns), *alpha = random_floats(w.rows);
  int32_t ids[MOST_ROWS];
  scatter(ids, w.rows, w.rows);
  for (size_t s = 0; s < sizeof counts / sizeof counts[0]; ++s) {
    const int32_t n_rows = counts[s], *chosen = s % 2 ? ids : NULL;
    if (n_rows > w.rows) continue;
    const sf_rows rows = rows_view(&w, chosen);
    float *after = copy_floats(before, columns);
    axpy(&rows, n_rows, alpha, 0, columns, after);
    check_axpy_values(&w, &r, chosen, n_rows, alpha, before, after);
    check_axpy_pieces(axpy, &w, chosen, n_rows, alpha, before, after);
    if (format == SF_F16 && kernels->axpy_shared_f16) check_axpy_shared(kernels, &w, chosen, n_rows);
    if (same_bits_as(kernels)) {
      float *reference = copy_floats(before, columns);
      same_bits_as(kernels)->axpy_rows[sf_format_find(format)->index](&rows, n_rows, alpha, 0, columns, reference);
      CHECK(equal_floats(after, reference, columns), "axpy, format %d, %d columns: not the scalar bits", format,
            columns);
      check_free(reference, 4);
    }
    check_free(after, 4);
  }
  check_free(before, 4);
  check_free(alpha, 4);
  free_readings(&r);
  rows_free(&w);
}

/* Every half, and every byte, times one, arrives exactly. */
static void test_exact_weights(const sf_kernels *kernels) {
  enum { HALVES = 65536 };
  const float one = 1;
  static double values[HALVES];
  if (values[1] == 0) {
    for (uint32_t half = 0; half < HALVES; ++half) values[half] = half_value(half);
  }
  uint16_t *halves = check_alloc(HALVES * sizeof *halves, 2);
  float *y = check_alloc(HALVES * sizeof *y, 0);
  for (int32_t first = 0; first < 20; ++first) { /* so that each half is met in every lane and in the tail */
    for (int32_t i = 0; i < HALVES; ++i) {
      halves[i] = (uint16_t)(i + first);
      y[i] = 0;
    }
    const int32_t columns = HALVES - first;
    const sf_rows rows = {(const uint8_t *)halves, 0, NULL, columns, 1.0f};
    kernels->axpy_rows[SF_FORMAT_F16](&rows, 1, &one, 0, columns, y);
    for (int32_t i = 0; i < columns; ++i) {
      const double value = values[halves[i]];
      CHECK(isnan(value) ? isnan(y[i]) : (double)y[i] == value, "half %04x gave %.9g", halves[i], (double)y[i]);
    }
  }
  uint8_t blocks[8 * 34];
  for (int b = 0; b < 8; ++b) {
    blocks[34 * b] = 0, blocks[34 * b + 1] = 0x3c; /* the half 1.0 */
    for (int k = 0; k < 32; ++k) blocks[34 * b + 2 + k] = (uint8_t)(32 * b + k);
  }
  const sf_rows rows = {blocks, 0, NULL, 256, 1.0f};
  memset(y, 0, 256 * sizeof *y);
  kernels->axpy_rows[SF_FORMAT_Q8_0](&rows, 1, &one, 0, 256, y);
  for (int i = 0; i < 256; ++i) CHECK(y[i] == (float)(i < 128 ? i : i - 256), "byte %d gave %g", i, (double)y[i]);
  check_free(halves, 2);
  check_free(y, 0);
}

/* The largest integers that a block can hold do not overflow its sum, decoding or in a prompt. */
static void test_extreme_block(const sf_kernels *kernels, int prompt) {
  uint8_t block[34] = {0, 0x3c};
  int16_t values[32];
  const float scale = 1;
  float out = 0;
  memset(block + 2, 0x80, 32);
  const int32_t most = prompt ? 32767 : kernels->input_most(SF_FORMAT_Q8_0);
  for (int k = 0; k < 32; ++k) values[k] = (int16_t)most;
  const sf_rows rows = {block, 34, NULL, 32, 1.0f};
  sf_inputs inputs = {.values = values, .scales = &scale, .sums = &scale, .prompt = prompt};
  uint8_t *split = inputs_split(kernels, SF_FORMAT_Q8_0, 1, 32, &inputs);
  kernels->dot_rows[SF_FORMAT_Q8_0](&rows, 1, &inputs, 1, &out, 1);
  sf_free(split);
  CHECK(fabs((double)out + 32.0 * 128 * most) <= 16, "the largest block gave %.9g", (double)out);
}

/* Nor do they in blocks of ternary weights of which all are `weight`. In fields of two bits quants should be 0 … 2, but
 * can be 3: weights of 2. */
static void test_extreme_ternary(const sf_kernels *kernels, sf_format_index format, size_t bytes, double weight) {
  const int32_t most = kernels->input_most(format), numbers[] = {most, -most, 127, 128, -128, -129};
  uint8_t block[66];
  memset(block, 0xff, sizeof block);
  block[bytes - 2] = 0, block[bytes - 1] = 0x3c;
  for (size_t k = 0; k < sizeof numbers / sizeof numbers[0]; ++k) {
    int16_t values[256];
    float scales[8], sums[8], out = 0;
    for (int c = 0; c < 256; ++c) values[c] = (int16_t)numbers[k];
    for (int b = 0; b < 8; ++b) scales[b] = 1, sums[b] = 32 * (float)numbers[k];
    const sf_rows rows = {block, bytes, NULL, 256, 1.0f};
    sf_inputs inputs = {.values = values, .scales = scales, .sums = sums};
    uint8_t *split = inputs_split(kernels, format, 1, 256, &inputs);
    kernels->dot_rows[format](&rows, 1, &inputs, 1, &out, 1);
    sf_free(split);
    CHECK(fabs((double)out - 256 * weight * numbers[k]) <= 4, "256 times %d in ternary gave %.9g", numbers[k],
          (double)out);
  }
}

/* Makes 256 columns whose quants are all 0 or, with `most` 1, the largest, with scales of 1 and mins of 0. Returns the
 * weight of each. */
static double fill_extreme(sf_format_index format, int most, uint8_t *p) {
  static const uint8_t packed[12] = {1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1};
  uint8_t *d = p + (format == SF_FORMAT_Q6_K ? 208 : 0);
  memset(p, most ? 0xff : 0, 256);
  if (format == SF_FORMAT_Q4_0) {
    for (int b = 0; b < 8; ++b) p[18 * b] = 0, p[18 * b + 1] = 0x3c; /* the half 1.0 */
    return most ? 7 : -8;
  }
  d[0] = 0, d[1] = 0x3c;
  if (format == SF_FORMAT_Q6_K) {
    memset(p + 192, 1, 16);
    return most ? 31 : -32;
  }
  p[2] = 0, p[3] = 0;
  memcpy(p + 4, packed, sizeof packed);
  return !most ? 0 : format == SF_FORMAT_Q5_K ? 31 : 15;
}

/* Nor in blocks whose quants are all the same. */
static void test_extreme_quants(const sf_kernels *kernels, sf_format_index format, int which) {
  const int32_t most = kernels->input_most(format), numbers[] = {most, -most, 127, 128, -128, -129};
  uint8_t row[256];
  const double weight = fill_extreme(format, which, row);
  for (size_t k = 0; k < sizeof numbers / sizeof numbers[0]; ++k) {
    int16_t values[256];
    float scales[8], sums[8], out = 0;
    for (int c = 0; c < 256; ++c) values[c] = (int16_t)numbers[k];
    for (int b = 0; b < 8; ++b) scales[b] = 1, sums[b] = 32 * (float)numbers[k];
    const sf_rows rows = {row, sizeof row, NULL, 256, 1.0f};
    sf_inputs inputs = {.values = values, .scales = scales, .sums = sums};
    uint8_t *split = inputs_split(kernels, format, 1, 256, &inputs);
    kernels->dot_rows[format](&rows, 1, &inputs, 1, &out, 1);
    sf_free(split);
    const double wanted = 256 * weight * numbers[k];
    CHECK(fabs((double)out - wanted) <= 64, "format %d, 256 times %d in weights %g gave %.9g", (int)format, numbers[k],
          weight, (double)out);
  }
}

/* Rows that end after any number of sub-blocks, in the formats that are multiplied in groups of these. */
static void test_groups(const sf_kernels *kernels) {
  for (int f = 0; f < ALL_FORMATS; ++f) {
    const sf_format *format = sf_format_find(format_rows[f].format);
    if (sf_is_plain(format->traits) || kernels->input_most(format->index) == 32767) continue;
    for (int32_t columns = 32; columns <= 512; columns += 32) {
      if (sf_format_row_bytes(format->format, columns)) test_dot(kernels, format->format, columns, AS_DECODED);
    }
  }
  static const sf_format_index of_nibbles[] = {SF_FORMAT_Q4_0, SF_FORMAT_Q4_K, SF_FORMAT_Q5_K, SF_FORMAT_Q6_K};
  for (size_t f = 0; f < sizeof of_nibbles / sizeof of_nibbles[0]; ++f) {
    test_extreme_quants(kernels, of_nibbles[f], 0);
    test_extreme_quants(kernels, of_nibbles[f], 1);
  }
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "--time") == 0) {
    time_kernels(argc > 2 ? argv[2] : "");
    return 0;
  }
  for (int32_t isa = 0; isa < sf_isa_count(); ++isa) {
    const sf_kernels *kernels = sf_isa_kernels(isa);
    if (sf_isa_tiles(isa)) continue; /* whose kernels are another's: see test_tiles.c */
    if (!check_isa(sf_isa_supported(isa))) continue;
    check_section(kernels->name);
    for (int f = 0; f < ALL_FORMATS; ++f) {
      const int plain = sf_is_plain(sf_format_find(format_rows[f].format)->traits);
      if (plain || kernels->prompt_floats) test_unpacked(kernels, format_rows[f].format);
      const int wide = sf_format_row_bytes(format_rows[f].format, 4160) > 0;
      for (int32_t columns = 1; columns < 4200; ++columns) {
        if (columns == 131) columns = 191;
        if (columns == 192) columns = 256;
        if (columns == 257) columns = 544; /* a chunk of blocks and one more */
        if (columns == 545) columns = 768;
        if (columns == 769) columns = 1024 + 7;
        if (columns == 1032) columns = 4160; /* more than a stretch of columns; super-blocks: 4352 */
        if (columns == 4161 && wide) break;
        if (columns == 4161) columns = 4352;
        if (columns == 4353) break;
        if (!sf_format_row_bytes(format_rows[f].format, columns)) continue;
        test_dot(kernels, format_rows[f].format, columns, AS_DECODED);
        if (!plain && kernels->prompt_floats) test_dot(kernels, format_rows[f].format, columns, AS_FLOATS);
        if (!plain && takes_prompts(kernels, format_rows[f].format))
          test_dot(kernels, format_rows[f].format, columns, AS_PROMPT);
        test_axpy(kernels, format_rows[f].format, columns);
        if (columns <= 576) test_panels(kernels, format_rows[f].format, columns);
      }
    }
    test_exact_weights(kernels);
    test_extreme_block(kernels, 0);
    if (kernels->prompt_lanes) test_extreme_block(kernels, 1);
    if (kernels->prompt_lanes) test_long_prompt(kernels, SF_Q4_1);
    if (kernels->prompt_lanes) test_long_prompt(kernels, SF_Q8_0);
    test_extreme_ternary(kernels, SF_FORMAT_TQ1_0, 54, 1);
    test_extreme_ternary(kernels, SF_FORMAT_TQ2_0, 66, 2);
    test_panel_bits(kernels, SF_FORMAT_Q4_0, 18);
    test_panel_bits(kernels, SF_FORMAT_Q8_0, 34);
    test_groups(kernels);
  }
  check_section(sf_kernels_scalar_bytes.name);
  test_groups(&sf_kernels_scalar_bytes);
  check_section(sf_kernels_scalar_byte_rows.name);
  test_groups(&sf_kernels_scalar_byte_rows);
  return check_result();
}
