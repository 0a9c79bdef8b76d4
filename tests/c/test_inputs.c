/* Products that leave out inputs, on every instruction set of this machine, against loops in double precision over the
 * same rounded inputs; and the sites of a model. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "reference.h"
#include "sparsefire.h"

enum { MOST_ROWS = 500, MOST_COLUMNS = 320 };

typedef struct {
  void *data;
  float *floats;
  sf_matrix *matrix;
} weights;

static weights make_weights(int32_t format, int32_t rows, int32_t columns, size_t gap) {
  size_t count = (size_t)rows * (size_t)columns, row = sf_format_row_bytes(format, columns), stride = row + gap;
  weights w = {check_alloc(stride * (size_t)rows, 2), check_alloc(count * sizeof(float), 0), NULL};
  for (size_t i = 0; i < count; i++) w.floats[i] = random_unit();
  for (int32_t i = 0; i < rows; i++) {
    uint8_t *packed = (uint8_t *)w.data + (size_t)i * stride;
    float *floats = w.floats + (size_t)i * (size_t)columns;
    CHECK(sf_quantize(format, floats, 1, columns, packed, row) == SF_OK, "quantise");
    CHECK(sf_dequantize(format, packed, row, 1, columns, floats) == SF_OK, "dequantise");
  }
  int32_t status = sf_matrix_open(&w.matrix, w.data, stride * (size_t)rows - gap, format, rows, columns, stride);
  CHECK(status == SF_OK, "open: %d", status);
  return w;
}

static void free_weights(weights *w) {
  sf_matrix_close(w->matrix);
  check_free(w->data, 2);
  check_free(w->floats, 0);
}

/* What is multiplied of x: nothing below the limit, and the rest in steps of a 127th of the largest of its 32. */
static int32_t rounded(const float *x, int32_t columns, float limit, double *out) {
  int32_t count = 0;
  for (int32_t b = 0; b < columns; b += 32) {
    double most = 0;
    for (int32_t i = b; i < b + 32; i++) {
      if (fabsf(x[i]) >= limit && fabs((double)x[i]) > most) most = fabs((double)x[i]);
    }
    for (int32_t i = b; i < b + 32; i++) {
      int32_t chosen = fabsf(x[i]) >= limit;
      out[i] = chosen && most > 0 ? round((double)x[i] / most * 127) * most / 127 : 0;
      count += chosen;
    }
  }
  return count;
}

static void check_product(sf_context *context, sf_context *threaded, const weights *w, int32_t rows, int32_t columns,
                          float limit, double scale) {
  static float x[MOST_COLUMNS], y[MOST_ROWS + 1], again[MOST_ROWS];
  static double used[MOST_COLUMNS];
  for (int32_t i = 0; i < columns; i++)
    x[i] = i % 64 < 40 ? random_unit() : random_unit() * 1e-3f; /* some blocks empty */
  int32_t count = rounded(x, columns, limit, used);
  y[rows] = 42;
  CHECK(sf_matrix_multiply_above(context, w->matrix, x, limit, y) == count, "%d inputs", count);
  CHECK(sf_matrix_multiply_above(threaded, w->matrix, x, limit, again) == count, "%d inputs", count);
  CHECK(memcmp(y, again, (size_t)rows * sizeof(float)) == 0, "%d × %d: threads differ", rows, columns);
  CHECK(y[rows] == 42, "%d rows: written beyond", rows);
  for (int32_t i = 0; i < rows; i++) {
    double expected = 0, size = 1e-30;
    for (int32_t c = 0; c < columns; c++) {
      double product = scale * (double)w->floats[i * columns + c] * used[c];
      expected += product, size += fabs(product);
    }
    /* A value in the middle between two steps may be rounded either way. */
    CHECK(fabs((double)y[i] - expected) <= 1e-5 * size + 1e-2 * scale / 127, "%d × %d, limit %g, row %d: %g, not %g",
          rows, columns, (double)limit, i, (double)y[i], expected);
  }
}

static void test_products(sf_context *context, sf_context *threaded) {
  const int32_t rows[] = {1, 63, 64, 65, 127, 128, 129, 300, MOST_ROWS}, columns[] = {32, 96, MOST_COLUMNS};
  const float limits[] = {0, 1e-9f, 0.2f, 0.7f, 2};
  for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
    for (size_t c = 0; c < sizeof columns / sizeof columns[0]; c++) {
      weights w = make_weights(SF_Q4_0, rows[r], columns[c], r % 2 ? 0 : 6);
      float scale = r % 3 == 1 ? 0.5f : 1;
      size_t padded = ((size_t)rows[r] + 127) / 128 * 128;
      CHECK(sf_matrix_set_scale(w.matrix, scale) == SF_OK && sf_matrix_column_bytes(w.matrix) == 0, "no columns yet");
      CHECK(sf_matrix_add_columns(w.matrix) == SF_OK && sf_matrix_add_columns(w.matrix) == SF_OK, "columns");
      CHECK(sf_matrix_column_bytes(w.matrix) == padded * sf_format_row_bytes(SF_Q4_0, columns[c]), "bytes");
      for (size_t l = 0; l < sizeof limits / sizeof limits[0]; l++) {
        check_product(context, threaded, &w, rows[r], columns[c], limits[l], (double)scale);
      }
      free_weights(&w);
    }
  }
}

static void test_errors(sf_context *context) {
  float x[32] = {0}, y[2];
  weights w = make_weights(SF_Q4_0, 2, 32, 0), other = make_weights(SF_Q8_0, 2, 32, 0);
  CHECK(sf_matrix_add_columns(other.matrix) == SF_ERROR_UNSUPPORTED, "Q8_0");
  CHECK(sf_matrix_add_columns(NULL) == SF_ERROR_ARGUMENT && sf_matrix_column_bytes(NULL) == 0, "no matrix");
  CHECK(sf_matrix_multiply_above(context, w.matrix, x, 0, y) == SF_ERROR_UNSUPPORTED, "no columns");
  CHECK(sf_matrix_add_columns(w.matrix) == SF_OK, "columns");
  CHECK(sf_matrix_multiply_above(context, w.matrix, x, 0, y) == 32 && y[0] == 0 && y[1] == 0, "zeros");
  CHECK(sf_matrix_multiply_above(context, w.matrix, x, 1, y) == 0 && y[0] == 0 && y[1] == 0, "nothing");
  CHECK(sf_matrix_multiply_above(context, w.matrix, x, -1, y) == SF_ERROR_ARGUMENT, "limit");
  CHECK(sf_matrix_multiply_above(context, w.matrix, x, NAN, y) == SF_ERROR_ARGUMENT, "limit");
  CHECK(sf_matrix_multiply_above(context, w.matrix, NULL, 0, y) == SF_ERROR_ARGUMENT, "no x");
  x[5] = 1e-41f; /* a subnormal, whose inverse is infinite */
  CHECK(sf_matrix_multiply_above(context, w.matrix, x, 0, y) == 32 && y[0] == 0, "subnormal");
  x[5] = INFINITY;
  CHECK(sf_matrix_multiply_above(context, w.matrix, x, 0, y) == SF_ERROR_NOT_FINITE, "infinity");
  CHECK(sf_context_set_column_cost(context, 0, 0) == SF_ERROR_ARGUMENT, "no cost");
  CHECK(sf_context_set_column_cost(context, 1, -1) == SF_ERROR_ARGUMENT, "negative cost");
  CHECK(sf_context_set_column_cost(NULL, 1, 0) == SF_ERROR_ARGUMENT, "no context");
  free_weights(&w), free_weights(&other);
}

/* ---- Sites of a model ---- */

enum { VOCAB = 40, D = 64, HIDDEN = 160, EMBEDDING = 0, SQUARE, UP, GATE, DOWN, MATRICES };

typedef struct {
  weights w[MATRICES];
  sf_ffn *ffn;
  sf_model *model;
  int32_t products, layer, head; /* steps */
} test_model;

static int32_t add(sf_model *model, int32_t kind, const int32_t *arguments, int32_t count, const float *number) {
  int32_t step = sf_model_add_step(model, kind, arguments, count, number, number ? 1 : 0);
  CHECK(step >= 0, "step %d: %d", kind, step);
  return step;
}

/* logits = embedding · (x + ffn(x)), x = square · embedding of the token. */
static test_model make_model(sf_context *context) {
  const int32_t rows[] = {VOCAB, D, HIDDEN, HIDDEN, D}, columns[] = {D, D, D, D, HIDDEN};
  const float one = 1;
  test_model m = {.ffn = NULL};
  CHECK(sf_model_open(&m.model, context, VOCAB, D) == SF_OK, "model");
  int32_t ids[MATRICES], x = sf_model_add_buffer(m.model, D), y = sf_model_add_buffer(m.model, D);
  int32_t z = sf_model_add_buffer(m.model, D);
  random_state = 11;
  for (int32_t k = 0; k < MATRICES; k++) {
    m.w[k] = make_weights(SF_Q4_0, rows[k], columns[k], 0);
    ids[k] = sf_model_add_matrix(m.model, m.w[k].matrix);
  }
  int32_t status =
      sf_ffn_open(&m.ffn, context, m.w[GATE].matrix, m.w[UP].matrix, m.w[DOWN].matrix, SF_DOWN_BY_OUTPUT, SF_SILU, 0);
  CHECK(status == SF_OK && sf_model_add_ffn(m.model, m.ffn) == 0, "layer");
  const int32_t embed[] = {x, ids[EMBEDDING]}, square[] = {x, ids[SQUARE], -1, y}, ffn[] = {0, y, -1, z};
  const int32_t sum[] = {y, z, y, SF_TILE}, head[] = {y, ids[EMBEDDING], -1, 0};
  add(m.model, SF_STEP_EMBED, embed, 2, &one);
  m.products = add(m.model, SF_STEP_PRODUCTS, square, 4, NULL);
  m.layer = add(m.model, SF_STEP_FFN, ffn, 4, NULL);
  add(m.model, SF_STEP_ADD, sum, 4, NULL);
  add(m.model, SF_STEP_PICK, &y, 1, NULL);
  m.head = add(m.model, SF_STEP_PRODUCTS, head, 4, NULL);
  return m;
}

static void free_model(test_model *m) {
  sf_model_close(m->model);
  sf_ffn_close(m->ffn);
  for (int32_t k = 0; k < MATRICES; k++) free_weights(&m->w[k]);
}

enum { TOKENS = 9 };

/* Logits of some tokens, in calls of `step`; of inputs[2] the counts. */
static void eval(const test_model *m, int32_t mode, int32_t phase, int32_t step, float *logits, int32_t *inputs) {
  const int32_t tokens[TOKENS] = {3, 1, 4, 1, 5, 9, 2, 6, 5};
  sf_session *session;
  CHECK(sf_session_open(&session, m->model, TOKENS) == SF_OK, "session");
  for (int32_t i = 0; i < TOKENS; i += step) {
    CHECK(sf_session_eval(session, tokens + i, step, mode, phase, logits + i * VOCAB, step) == SF_OK, "eval");
  }
  CHECK(sf_session_input_counts(session, &inputs[0], &inputs[1]) == SF_OK, "counts");
  sf_session_close(session);
}

static void set_limits(const test_model *m, float products, float in, float down) {
  CHECK(sf_model_set_input_limit(m->model, m->products, SF_SITE_IN, products) == SF_OK, "limit of products");
  CHECK(sf_model_set_input_limit(m->model, m->layer, SF_SITE_IN, in) == SF_OK, "limit of gate and up");
  CHECK(sf_model_set_input_limit(m->model, m->layer, SF_SITE_DOWN, down) == SF_OK, "limit of down");
}

static float largest_difference(const float *a, const float *b) {
  float most = 0;
  for (int32_t i = 0; i < TOKENS * VOCAB; i++) {
    if (fabsf(a[i] - b[i]) > most) most = fabsf(a[i] - b[i]);
  }
  return most;
}

static void test_sites(sf_context *context, sf_context *threaded) {
  static float dense[TOKENS * VOCAB], some[TOKENS * VOCAB], other[TOKENS * VOCAB], zeros[TOKENS * VOCAB];
  test_model m = make_model(context), t = make_model(threaded);
  int32_t inputs[2];
  CHECK(sf_model_set_input_limit(m.model, m.products, SF_SITE_IN, 1) == SF_ERROR_UNSUPPORTED, "no columns");
  CHECK(sf_model_set_input_limit(m.model, m.layer, SF_SITE_DOWN, 1) == SF_ERROR_UNSUPPORTED, "no columns");
  for (int32_t k = 0; k < MATRICES; k++) {
    CHECK(sf_matrix_add_columns(m.w[k].matrix) == SF_OK && sf_matrix_add_columns(t.w[k].matrix) == SF_OK, "columns");
  }
  eval(&m, SF_DENSE, SF_DECODE, 1, dense, inputs);
  CHECK(inputs[0] == 0 && inputs[1] == 0, "no limits, and %d inputs", inputs[0]);
  CHECK(sf_context_set_column_cost(context, 1e-3f, 0) == SF_OK, "columns always");
  CHECK(sf_context_set_column_cost(threaded, 1e-3f, 0) == SF_OK, "columns always");
  set_limits(&m, 1e-9f, 1e-9f, 1e-9f); /* all but zeros, rounded to 8 bits */
  eval(&m, SF_SPARSE, SF_DECODE, 1, some, inputs);
  CHECK(inputs[0] == TOKENS * (2 * D + HIDDEN) && inputs[1] <= inputs[0], "%d inputs", inputs[0]);
  float apart = largest_difference(dense, some), size = largest_difference(dense, zeros);
  CHECK(apart > 0 && apart < 0.03f * size, "all inputs: %g of %g apart", (double)apart, (double)size);
  set_limits(&m, 0.3f, 0.5f, 0.1f), set_limits(&t, 0.3f, 0.5f, 0.1f);
  eval(&m, SF_SPARSE, SF_DECODE, 1, some, inputs);
  CHECK(inputs[1] > 0 && inputs[1] < inputs[0], "%d of %d inputs", inputs[1], inputs[0]);
  eval(&m, SF_SPARSE, SF_DECODE, TOKENS, other, inputs);
  CHECK(memcmp(some, other, sizeof some) == 0, "tokens together differ from tokens alone");
  eval(&t, SF_SPARSE, SF_DECODE, 3, other, inputs);
  CHECK(memcmp(some, other, sizeof some) == 0, "threads differ");
  eval(&m, SF_DENSE, SF_DECODE, 1, other, inputs);
  CHECK(memcmp(dense, other, sizeof dense) == 0 && inputs[0] == 0, "dense mode has limits");
  eval(&m, SF_DENSE, SF_PROMPT, TOKENS, some, inputs);
  eval(&m, SF_SPARSE, SF_PROMPT, TOKENS, other, inputs);
  CHECK(memcmp(some, other, sizeof some) == 0 && inputs[0] == 0, "prompts have limits");
  CHECK(sf_context_set_column_cost(context, 1e3f, 0) == SF_OK, "rows always");
  eval(&m, SF_SPARSE, SF_DECODE, 1, other, inputs);
  CHECK(inputs[1] == inputs[0] && largest_difference(dense, other) < 1e-4f * size, "rows, where these are faster");
  free_model(&m), free_model(&t);
}

static void test_records(sf_context *context) {
  static float logits[TOKENS * VOCAB], x[3 * D], hidden[2 * HIDDEN + 1];
  test_model m = make_model(context);
  int32_t inputs[2];
  hidden[2 * HIDDEN] = 42;
  CHECK(sf_model_record_inputs(m.model, m.products, SF_SITE_IN, x, 3 * D) == SF_OK, "record");
  CHECK(sf_model_record_inputs(m.model, m.layer, SF_SITE_DOWN, hidden, 2 * HIDDEN) == SF_OK, "record");
  eval(&m, SF_DENSE, SF_PROMPT, TOKENS, logits, inputs);
  for (int32_t i = 0; i < D; i++) {
    CHECK(x[i] == m.w[EMBEDDING].floats[3 * D + i] && x[2 * D + i] == m.w[EMBEDDING].floats[4 * D + i], "input %d", i);
  }
  CHECK(hidden[0] != 0 && hidden[2 * HIDDEN - 1] != 0 && hidden[2 * HIDDEN] == 42, "two tokens, and no more");
  CHECK(sf_model_record_inputs(m.model, m.products, SF_SITE_IN, NULL, 0) == SF_OK, "stop");
  CHECK(sf_model_record_inputs(m.model, m.products, SF_SITE_DOWN, x, 1) == SF_ERROR_ARGUMENT, "no such site");
  CHECK(sf_model_record_inputs(m.model, 0, SF_SITE_IN, x, 1) == SF_ERROR_ARGUMENT, "no site of a step");
  CHECK(sf_model_set_input_limit(m.model, m.head, SF_SITE_IN, 0) == SF_ERROR_ARGUMENT, "after the pick");
  CHECK(sf_model_set_input_limit(m.model, m.layer, 2, 0) == SF_ERROR_ARGUMENT, "no such site");
  CHECK(sf_model_set_input_limit(m.model, 99, 0, 0) == SF_ERROR_ARGUMENT, "no such step");
  CHECK(sf_model_set_input_limit(m.model, m.layer, 0, -1) == SF_ERROR_ARGUMENT, "negative limit");
  CHECK(sf_model_set_input_limit(NULL, 0, 0, 0) == SF_ERROR_ARGUMENT, "no model");
  CHECK(sf_session_input_counts(NULL, inputs, inputs) == SF_ERROR_ARGUMENT, "no session");
  free_model(&m);
}

#if defined(__wasm__)
enum { HAS_COLUMNS = 0 };
#else
enum { HAS_COLUMNS = 1 };
#endif

static void test_refused(void) {
  weights w = make_weights(SF_Q4_0, 2, 32, 0);
  CHECK(sf_matrix_add_columns(w.matrix) == SF_ERROR_UNSUPPORTED, "columns");
  free_weights(&w);
}
int main(int argc, char **argv) {
  (void)argc, (void)argv;
  for (int32_t isa = 0; isa < sf_isa_count(); isa++) {
    if (!check_isa(sf_isa_supported(isa))) continue;
    check_section(sf_isa_name(isa));
    sf_context *context = NULL, *threaded = NULL, *even = NULL;
    CHECK(sf_context_open(&context, isa, 1) == SF_OK && sf_context_open(&threaded, isa, 3) == SF_OK, "context");
    CHECK(sf_context_open(&even, isa, 4) == SF_OK, "context");
    if (HAS_COLUMNS) {
      test_products(context, threaded);
      test_products(context, even);
      test_errors(context);
      test_sites(context, threaded);
    } else {
      test_refused();
    }
    test_records(context);
    sf_context_close(context), sf_context_close(threaded), sf_context_close(even);
  }
  return check_result();
}
