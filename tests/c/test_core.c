/* The upper half of the core: selection, predictor, feed-forward layer, model and session, for every instruction set
 * of this machine, against plain double-precision loops. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "matrix/matrix.h"
#include "reference.h"

static float *random_floats(int32_t count) {
  float *values = sf_alloc((size_t)count * sizeof(float));
  for (int32_t i = 0; i < count; i++) values[i] = random_unit();
  return values;
}

/* Random weights in a format, and the same weights as floats. */
typedef struct {
  void *data;
  float *floats;
  sf_matrix *matrix;
  int32_t rows, columns;
} weights;

static weights random_weights(int32_t format, int32_t rows, int32_t columns) {
  weights w = {NULL, random_floats(rows * columns), NULL, rows, columns};
  size_t bytes = sf_format_row_bytes(format, columns) * (size_t)rows;
  w.data = sf_alloc(bytes);
  CHECK(sf_quantize(format, w.floats, rows, columns, w.data, bytes) == SF_OK, "quantise");
  CHECK(sf_dequantize(format, w.data, bytes, rows, columns, w.floats) == SF_OK, "dequantise");
  CHECK(sf_matrix_open(&w.matrix, w.data, bytes, format, rows, columns, 0) == SF_OK, "open");
  return w;
}

static void free_weights(weights *w) {
  sf_matrix_close(w->matrix);
  sf_free(w->data);
  sf_free(w->floats);
}

static double dot(const float *a, const float *b, int32_t n) {
  double sum = 0;
  for (int32_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
  return sum;
}

/* ---- Selection ---- */

/* Top k by definition: a score is chosen when fewer than k others come before it. */
static int32_t reference_top_k(const float *scores, int32_t count, int32_t k, int32_t *ids) {
  int32_t chosen = 0;
  for (int32_t i = 0; i < count; i++) {
    int32_t before = 0;
    for (int32_t j = 0; j < count; j++) before += scores[j] > scores[i] || (scores[j] == scores[i] && j < i);
    if (!isnan(scores[i]) && before < k) ids[chosen++] = i;
  }
  return chosen;
}

static void test_select(sf_context *context) {
  enum { MOST = 300 };
  float scores[MOST];
  int32_t ids[MOST], expected[MOST];
  const uint32_t before = random_state; /* the tests that follow see the same numbers with it and without */
  for (int32_t round = 0; round < 200; round++) {
    int32_t count = 1 + round % MOST, k = (int32_t)((random_unit() + 1) * (float)count * 0.6f);
    for (int32_t i = 0; i < count; i++) {
      scores[i] = round % 3 == 0 ? floorf(random_unit() * 4) : random_unit(); /* every third round with ties */
      if (round % 5 == 0 && i % 7 == 0) scores[i] = NAN;
      if (round % 7 == 0 && i % 5 == 0) scores[i] = i % 2 ? INFINITY : -INFINITY;
      if (round % 3 == 0 && i % 4 == 0) scores[i] = i % 8 ? 0.0f : -0.0f;
    }
    int32_t n = sf_select_top_k(context, scores, count, k, ids);
    CHECK(n == reference_top_k(scores, count, k, expected), "top %d of %d: %d", k, count, n);
    CHECK(memcmp(ids, expected, (size_t)n * sizeof(int32_t)) == 0, "top %d of %d: ids", k, count);
    n = sf_select_threshold(context, scores, count, 0.25f, 0, count, ids);
    int32_t above = 0;
    for (int32_t i = 0; i < count; i++) {
      if (scores[i] > 0.25f) CHECK(ids[above++] == i, "threshold: id %d", i);
    }
    CHECK(n == above, "threshold: %d of %d", n, above);
    n = sf_select_threshold(context, scores, count, INFINITY, k < count ? k : count, count, ids);
    CHECK(n == reference_top_k(scores, count, k, expected), "least %d: %d", k, n);
    n = sf_select_threshold(context, scores, count, -FLT_MAX, 0, k, ids);
    CHECK(n <= k, "most");
  }
  CHECK(sf_select_top_k(context, scores, 10, 0, ids) == 0 && sf_select_top_k(context, scores, 0, 5, ids) == 0,
        "nothing to select");
  CHECK(sf_select_threshold(context, scores, 10, NAN, 0, 1, ids) == SF_ERROR_ARGUMENT, "NaN threshold");
  CHECK(sf_select_threshold(context, scores, 10, 0, 2, 1, ids) == SF_ERROR_ARGUMENT, "least above most");
  random_state = before;
}

/* ---- Predictor ---- */

static void test_predictor(sf_context *context, int32_t format) {
  int32_t d = 96, rank = 32, hidden = 131, ids[131];
  weights p = random_weights(format, rank, d), q = random_weights(format, hidden, rank);
  float *x = random_floats(d), *bias = random_floats(hidden), *scores = random_floats(hidden);
  for (int32_t relu = 0; relu < 2; relu++) {
    sf_predictor *predictor;
    CHECK(sf_predictor_open(&predictor, context, p.matrix, q.matrix, bias, relu) == SF_OK, "open");
    CHECK(sf_predictor_scores(predictor, x, 1, scores) == SF_OK, "scores");
    for (int32_t i = 0; i < hidden; i++) {
      double score = bias[i];
      for (int32_t r = 0; r < rank; r++) {
        double z = dot(p.floats + r * d, x, d);
        if (relu && z < 0) z = 0;
        score += z * (double)q.floats[i * rank + r];
      }
      CHECK(fabs(score - (double)scores[i]) < 2e-3, "score %d: %g, expected %g", i, (double)scores[i], score);
    }
    CHECK(sf_predictor_set_rule(predictor, SF_RULE_THRESHOLD, 0.5f, 0, hidden, 10) == SF_OK, "rule");
    int32_t n = sf_predictor_predict(predictor, x, ids), expected = 0;
    for (int32_t i = 0; i < hidden; i++) {
      if (i < 10 || scores[i] > 0.5f) CHECK(expected < n && ids[expected++] == i, "neuron %d is selected", i);
    }
    CHECK(n == expected, "%d selected, expected %d", n, expected);
    CHECK(sf_predictor_set_rule(predictor, SF_RULE_TOP_K, 0, 0, 20, hidden) == SF_OK, "all hot");
    CHECK(sf_predictor_predict(predictor, x, ids) == hidden, "all hot");
    CHECK(sf_predictor_set_rule(predictor, SF_RULE_TOP_K, 0, 0, 20, 5) == SF_OK, "top k");
    CHECK(sf_predictor_predict(predictor, x, ids) == 25, "top k beside the hot ones");
    CHECK(sf_predictor_set_rule(predictor, SF_RULE_TOP_K, 0, 0, 20, hidden + 1) == SF_ERROR_ARGUMENT, "too many hot");
    x[3] = NAN;
    CHECK(sf_predictor_predict(predictor, x, ids) == SF_ERROR_NOT_FINITE, "NaN");
    x[3] = 0.5f;
    sf_predictor_close(predictor);
  }
  sf_predictor *mismatched;
  CHECK(sf_predictor_open(&mismatched, context, q.matrix, q.matrix, NULL, 0) == SF_ERROR_SHAPE, "shapes");
  sf_free(x), sf_free(bias), sf_free(scores);
  free_weights(&p), free_weights(&q);
}

static void test_sign_predictor(sf_context *context) {
  enum { SIGN_D = 75, SIGN_HIDDEN = 40 };
  weights gate = random_weights(SF_F16, SIGN_HIDDEN, SIGN_D);
  float *x = random_floats(SIGN_D), scores[SIGN_HIDDEN];
  sf_predictor *predictor;
  CHECK(sf_predictor_open_sign(&predictor, context, gate.matrix, 1.5f) == SF_OK, "open");
  CHECK(sf_predictor_scores(predictor, x, 1, scores) == SF_OK, "scores");
  for (int32_t i = 0; i < SIGN_HIDDEN; i++) {
    int32_t negative = 0;
    for (int32_t j = 0; j < SIGN_D; j++) negative += gate.floats[i * SIGN_D + j] * x[j] < 0;
    float expected = 1.5f * (float)(SIGN_D - negative) - (float)negative;
    CHECK(scores[i] == expected, "neuron %d: %g, expected %g", i, (double)scores[i], (double)expected);
  }
  sf_predictor_close(predictor);
  CHECK(sf_predictor_open_sign(&predictor, context, gate.matrix, NAN) == SF_ERROR_ARGUMENT, "NaN alpha");
  free_weights(&gate);
  sf_free(x);
}

/* ---- Feed-forward layer ---- */

typedef struct {
  weights gate, up, down; /* down by neuron */
  float *gate_bias, *up_bias, *down_bias;
  int32_t activation, gated;
  float parameter;
} layer;

static int32_t beside_activation(int32_t activation) {
  if (activation == SF_SILU_CLAMPED) return SF_CLAMPED;
  if (activation == SF_SITU) return SF_CAPPED;
  return activation == SF_SILU_LIMITED || activation == SF_SILU_CAPPED ? SF_LIMITED : SF_IDENTITY;
}

/* y (d_out) of the neurons for which use (hidden) is not 0 (NULL: all). Returns by how much an output may differ since
 * FATReLU jumps at its threshold, and rounding decides on which side a value next to it is. */
static double reference_ffn(const layer *l, const float *x, const uint8_t *use, double *y) {
  int32_t d = l->up.columns, out = l->down.columns;
  double doubt = 0;
  for (int32_t c = 0; c < out; c++) y[c] = l->down_bias[c];
  for (int32_t i = 0; i < l->up.rows; i++) {
    if (use && !use[i]) continue;
    double up = dot(l->up.floats + i * d, x, d) + (double)l->up_bias[i];
    double gate = l->gated ? dot(l->gate.floats + i * d, x, d) + (double)l->gate_bias[i] : up;
    double beside = reference_activation(beside_activation(l->activation), (double)l->parameter, up);
    double factor = l->gated ? beside : 1;
    double value = factor * reference_activation(l->activation, (double)l->parameter, gate);
    int at_jump = l->activation == SF_FATRELU && fabs(gate - (double)l->parameter) < 1e-3;
    double largest = 0;
    for (int32_t c = 0; c < out; c++) {
      y[c] += value * (double)l->down.floats[i * out + c];
      largest = fmax(largest, fabs((double)l->down.floats[i * out + c]));
    }
    if (at_jump) doubt += fabs(factor) * (double)l->parameter * largest;
  }
  return doubt;
}

static void check_close(const float *y, const double *expected, int32_t count, double doubt, const char *what) {
  double largest = 1e-3, worst = 0;
  for (int32_t i = 0; i < count; i++) {
    largest = fmax(largest, fabs(expected[i]));
    worst = fmax(worst, fabs((double)y[i] - expected[i]));
  }
  CHECK(worst <= 2e-4 * largest + doubt, "%s: error %g of %g", what, worst, largest);
}

static void test_ffn_layer(sf_context *context, sf_context *threaded, const layer *l) {
  enum { N = 3 };
  int32_t d = l->up.columns, out = l->down.columns, hidden = l->up.rows;
  float *x = random_floats(N * d), *y = random_floats(N * out), *again = random_floats(N * out);
  double *expected = malloc((size_t)(N * out) * sizeof(double)); /* the same in every mode */
  double doubt[N];
  int32_t selected[N], active[N];
  sf_ffn *ffn, *other;
  const sf_matrix *gate = l->gated ? l->gate.matrix : NULL;
  CHECK(sf_ffn_open(&ffn, context, gate, l->up.matrix, l->down.matrix, SF_DOWN_BY_NEURON, l->activation,
                    l->parameter) == SF_OK,
        "open");
  CHECK(sf_ffn_open(&other, threaded, gate, l->up.matrix, l->down.matrix, SF_DOWN_BY_NEURON, l->activation,
                    l->parameter) == SF_OK,
        "open");
  CHECK(sf_ffn_set_bias(ffn, l->gated ? l->gate_bias : NULL, l->up_bias, l->down_bias) == SF_OK, "bias");
  CHECK(sf_ffn_set_bias(other, l->gated ? l->gate_bias : NULL, l->up_bias, l->down_bias) == SF_OK, "bias");
  for (int32_t j = 0; j < N; j++) doubt[j] = reference_ffn(l, x + j * d, NULL, expected + j * out);
  for (int32_t mode = SF_DENSE; mode <= SF_SPARSE; mode++) {
    CHECK(sf_ffn_forward(ffn, mode, x, N, y, selected, active) == SF_OK, "forward");
    for (int32_t j = 0; j < N; j++) {
      check_close(y + j * out, expected + j * out, out, doubt[j], "forward");
      CHECK(selected[j] == hidden && active[j] <= hidden && active[j] >= 0, "counts");
      CHECK(sf_ffn_forward(ffn, mode, x + j * d, 1, again, NULL, NULL) == SF_OK, "alone");
      CHECK(memcmp(again, y + j * out, (size_t)out * sizeof(float)) == 0, "alone and in a batch differ");
    }
    CHECK(sf_ffn_forward(other, mode, x, N, again, NULL, NULL) == SF_OK, "threads");
    CHECK(memcmp(again, y, (size_t)(N * out) * sizeof(float)) == 0, "mode %d differs with threads", mode);
  }
  uint8_t *use = calloc((size_t)hidden, 1);
  int32_t *ids = malloc((size_t)hidden * sizeof(int32_t)), count = 0;
  for (int32_t i = 0; i < hidden; i++) {
    if (random_unit() > 0.4f) use[i] = 1, ids[count++] = i;
  }
  int32_t used = sf_ffn_forward_active(ffn, ids, count, x, y);
  CHECK(used >= 0 && used <= count, "active");
  doubt[0] = reference_ffn(l, x, use, expected);
  check_close(y, expected, out, doubt[0], "active");
  CHECK(sf_ffn_forward_active(ffn, NULL, 0, x, y) == 0, "none active");
  CHECK(memcmp(y, l->down_bias, (size_t)out * sizeof(float)) == 0, "none active: the bias");
  ids[0] = hidden;
  CHECK(sf_ffn_forward_active(ffn, ids, 1, x, y) == SF_ERROR_ARGUMENT, "id out of range");
  x[0] = INFINITY;
  CHECK(sf_ffn_forward(ffn, SF_EXACT, x, 1, y, NULL, NULL) == SF_ERROR_NOT_FINITE, "infinity");
  free(use), free(ids), free(expected);
  sf_free(x), sf_free(y), sf_free(again);
  sf_ffn_close(ffn), sf_ffn_close(other);
}

/* With every `step`-th activation, with and without a gate. */
static void test_ffn(sf_context *context, sf_context *threaded, int32_t format, int32_t hidden, int32_t d,
                     int32_t step) {
  layer l = {random_weights(format, hidden, d),
             random_weights(format, hidden, d),
             random_weights(format, hidden, d),
             random_floats(hidden),
             random_floats(hidden),
             random_floats(d),
             0,
             0,
             0.25f};
  for (l.activation = SF_IDENTITY; l.activation <= SF_FATRELU; l.activation += step) {
    for (l.gated = 0; l.gated < 2; l.gated++) test_ffn_layer(context, threaded, &l);
  }
  const uint32_t state = random_state; /* the layers that follow keep their numbers */
  const int32_t clamped[] = {SF_SILU_CLAMPED, SF_SILU_LIMITED, SF_SILU_CAPPED, SF_SITU};
  for (int32_t i = 0; i < 4; i++) {
    l.activation = clamped[i];
    for (l.gated = 0; l.gated < 2; l.gated++) test_ffn_layer(context, threaded, &l);
  }
  random_state = state;
  sf_ffn *ffn;
  CHECK(sf_ffn_open(&ffn, context, NULL, l.up.matrix, l.down.matrix, SF_DOWN_BY_NEURON, 99, 0) == SF_ERROR_ARGUMENT,
        "activation");
  CHECK(sf_ffn_open(&ffn, context, NULL, l.up.matrix, l.down.matrix, SF_DOWN_BY_OUTPUT, SF_RELU, 0) == SF_ERROR_SHAPE,
        "layout");
  free_weights(&l.gate), free_weights(&l.up), free_weights(&l.down);
  sf_free(l.gate_bias), sf_free(l.up_bias), sf_free(l.down_bias);
}

/* With the same cutoffs, layers with down in one layout or in both leave the same neurons out. a: by output, b: by
 * neuron. */
static void test_cutoffs_by_output(sf_ffn *a, sf_ffn *b, sf_matrix *by_neuron, sf_matrix *by_output, const float *x) {
  enum { HIDDEN = 64, OUT = 29 };
  float y[2 * OUT], expected[2 * OUT];
  int32_t active[2], wanted[2], some[3] = {1, 2, 40};
  CHECK(sf_ffn_forward_active(a, some, 3, x, y) == SF_ERROR_UNSUPPORTED, "a list by output");
  for (int32_t second = 0; second < 2; second++) {
    for (float cutoff = 0; cutoff < 4; cutoff += 0.25f) {
      CHECK(sf_ffn_set_cutoff(a, SF_CUTOFF_PRODUCT, cutoff) == SF_OK, "cutoff by output");
      CHECK(sf_ffn_set_cutoff(b, SF_CUTOFF_PRODUCT, cutoff) == SF_OK, "cutoff by neuron");
      for (int32_t n = 1; n < 3; n++) {
        CHECK(sf_ffn_forward(a, SF_EXACT, x, n, y, NULL, active) == SF_OK, "exact by output");
        CHECK(sf_ffn_forward(b, SF_EXACT, x, n, expected, NULL, wanted) == SF_OK, "exact by neuron");
        for (int32_t i = 0; i < n * OUT; i++) CHECK(fabsf(y[i] - expected[i]) < 1e-4f, "output %d", i);
        for (int32_t j = 0; j < n; j++) CHECK(active[j] == wanted[j], "%d and %d active", active[j], wanted[j]);
      }
    }
    CHECK(sf_ffn_set_second_down(a, by_neuron) == SF_OK, "by neuron too");
    CHECK(sf_ffn_set_second_down(b, by_output) == SF_OK, "by output too");
  }
  CHECK(sf_ffn_set_cutoff(a, SF_CUTOFF_PRODUCT, 0) == SF_OK, "no cutoff");
  CHECK(sf_ffn_forward_active(a, some, 3, x, y) == 3, "a list, by neuron");
  CHECK(sf_ffn_set_second_down(a, by_output) == SF_ERROR_SHAPE, "the wrong layout");
  CHECK(sf_ffn_set_second_down(a, NULL) == SF_OK && sf_ffn_set_second_down(b, NULL) == SF_OK, "none again");
  CHECK(sf_ffn_set_second_down(NULL, NULL) == SF_ERROR_ARGUMENT, "no layer");
}

/* Down as files store it: the same numbers as by neuron, up to the order of additions. */
static void test_down_by_output(sf_context *context) {
  enum { HIDDEN = 64, D = 37, OUT = 29 };
  weights up = random_weights(SF_F32, HIDDEN, D), by_output = random_weights(SF_F32, OUT, HIDDEN);
  float transposed[HIDDEN * OUT], *x = random_floats(2 * D), y[2 * OUT], expected[2 * OUT];
  for (int32_t i = 0; i < HIDDEN; i++) {
    for (int32_t c = 0; c < OUT; c++) transposed[i * OUT + c] = by_output.floats[c * HIDDEN + i];
  }
  sf_matrix *by_neuron;
  sf_ffn *a, *b;
  CHECK(sf_matrix_open(&by_neuron, transposed, sizeof transposed, SF_F32, HIDDEN, OUT, 0) == SF_OK, "open");
  CHECK(sf_ffn_open(&a, context, NULL, up.matrix, by_output.matrix, SF_DOWN_BY_OUTPUT, SF_SILU, 0) == SF_OK, "open");
  CHECK(sf_ffn_open(&b, context, NULL, up.matrix, by_neuron, SF_DOWN_BY_NEURON, SF_SILU, 0) == SF_OK, "open");
  CHECK(sf_ffn_forward(a, SF_DENSE, x, 2, y, NULL, NULL) == SF_OK, "by output");
  CHECK(sf_ffn_forward(b, SF_DENSE, x, 2, expected, NULL, NULL) == SF_OK, "by neuron");
  for (int32_t i = 0; i < 2 * OUT; i++) CHECK(fabsf(y[i] - expected[i]) < 1e-4f, "output %d", i);
  test_cutoffs_by_output(a, b, by_neuron, by_output.matrix, x);
  CHECK(sf_ffn_set_cutoff(b, SF_CUTOFF_PRODUCT, 1e9f) == SF_OK, "cutoff");
  CHECK(sf_ffn_forward(b, SF_EXACT, x, 2, y, NULL, NULL) == SF_OK && y[0] == 0 && y[2 * OUT - 1] == 0, "all left out");
  CHECK(sf_ffn_set_cutoff(b, SF_CUTOFF_GATE, -1) == SF_ERROR_ARGUMENT, "negative cutoff");
  CHECK(sf_ffn_set_cutoff(b, 2, 0) == SF_ERROR_ARGUMENT, "kind of cutoff");
  CHECK(sf_context_set_costs(context, SF_F32, 0, 1) == SF_ERROR_ARGUMENT, "no cost");
  CHECK(sf_context_set_costs(context, 99, 1, 1) == SF_ERROR_FORMAT, "format");
  sf_ffn_close(a), sf_ffn_close(b);
  sf_matrix_close(by_neuron);
  free_weights(&up), free_weights(&by_output);
  sf_free(x);
}

/* Matrices of several formats, multiplied with the same inputs, whose runs of 32 are of different sizes: an error is a
 * share of the magnitudes that are added. */
static void test_formats_together(sf_context *context) {
  enum { ROWS = 9, COLUMNS = 512, N = 2 };
  static const int32_t formats[SF_EACH] = {SF_Q4_0, SF_TQ2_0, SF_F32, SF_Q8_0, SF_Q4_K};
  const sf_matrix *matrices[SF_EACH];
  weights w[SF_EACH];
  float *x = random_floats(N * COLUMNS), *ys[SF_EACH];
  for (int32_t i = 0; i < N * COLUMNS; i++) x[i] = ldexpf(x[i], i / 32 % 4 * 2);
  for (int32_t k = 0; k < SF_EACH; k++) {
    w[k] = random_weights(formats[k], ROWS, COLUMNS);
    matrices[k] = w[k].matrix;
    ys[k] = random_floats(N * ROWS);
  }
  sf_pool_lock(context->pool);
  CHECK(sf_multiply_each(context, SF_DECODE, matrices, SF_EACH, x, N, ys) == SF_OK, "several matrices");
  sf_pool_unlock(context->pool);
  for (int32_t k = 0; k < SF_EACH; k++) {
    for (int32_t i = 0; i < N * ROWS; i++) {
      const float *row = w[k].floats + i % ROWS * COLUMNS, *input = x + i / ROWS * COLUMNS;
      double all = 0, error = fabs((double)ys[k][i] - dot(row, input, COLUMNS));
      for (int32_t c = 0; c < COLUMNS; c++) all += fabs((double)row[c] * (double)input[c]);
      CHECK(error < 0.01 * all, "format %d among others: off by %g of %g", formats[k], error, all);
    }
    free_weights(&w[k]);
    sf_free(ys[k]);
  }
  sf_free(x);
}

static void test_peaks(sf_context *context) {
  enum { COUNT = 6144 };
  float *x = check_alloc(COUNT * sizeof *x, 0), out = 0;
  for (int32_t i = 0; i < COUNT; i++) x[i] = 1;
  for (int32_t kind = SF_PEAK_FLOATS; kind <= SF_PEAK_TILES; kind++) {
    const int32_t operations = sf_peak_operations(context, kind);
    CHECK(kind == SF_PEAK_TILES ? operations >= 0 : operations > 0, "%d operations", operations);
    CHECK(sf_peak_run(context, kind, 2, &out) == (operations ? SF_OK : SF_ERROR_UNSUPPORTED), "peak %d", kind);
  }
  CHECK(sf_peak_read(context, x, COUNT, &out) == SF_OK && out == (float)COUNT, "read %g", (double)out);
  CHECK(sf_peak_read(context, x, 0, &out) == SF_OK && out == 0, "nothing to read");
  CHECK(sf_peak_operations(context, 3) == SF_ERROR_ARGUMENT, "no such peak");
  CHECK(sf_peak_operations(NULL, SF_PEAK_FLOATS) == SF_ERROR_ARGUMENT, "no context");
  CHECK(sf_peak_run(context, SF_PEAK_FLOATS, 0, &out) == SF_ERROR_ARGUMENT, "no repeats");
  CHECK(sf_peak_run(context, SF_PEAK_FLOATS, 1, NULL) == SF_ERROR_ARGUMENT, "no result");
  CHECK(sf_peak_read(context, NULL, 1, &out) == SF_ERROR_ARGUMENT, "no floats");
  check_free(x, 0);
}

/* Work is cut into as many parts for each thread, or into no more parts than there are threads. */
static void test_parts(void) {
  for (int32_t most = 1; most <= 5; most++) {
    sf_context context = {.pool = sf_pool_open(most)};
    const int32_t threads = sf_pool_threads(context.pool); /* 1 where there are none */
    int32_t before = 1;
    for (size_t bytes = 0; bytes < (size_t)4 << 20; bytes += 1000) {
      const int32_t parts = sf_parts(&context, bytes);
      CHECK(parts >= before, "%d threads, %zu bytes: fewer parts than of less work", threads, bytes);
      CHECK(parts <= threads || parts % threads == 0, "%d threads, %zu bytes: %d parts", threads, bytes, parts);
      before = parts;
    }
    CHECK(threads == 1 ? before == 1 : before > threads, "%d threads: %d parts at most", threads, before);
    sf_pool_close(context.pool);
  }
}

int main(int argc, char **argv) {
  (void)argc, (void)argv;
  test_parts();
  for (int32_t isa = 0; isa < sf_isa_count(); isa++) {
    if (!check_isa(sf_isa_supported(isa))) continue;
    check_section(sf_isa_name(isa));
    sf_context *context = NULL, *threaded = NULL;
    CHECK(sf_context_open(&context, isa, 1) == SF_OK && sf_context_open(&threaded, isa, 3) == SF_OK, "context");
    test_select(context);
    test_peaks(context), test_peaks(threaded);
    test_formats_together(context), test_formats_together(threaded);
    const int32_t formats[] = {SF_F32,  SF_F16,  SF_Q8_0, SF_Q4_0,   SF_Q4_1,
                               SF_Q5_0, SF_Q5_1, SF_BF16, SF_IQ4_NL, SF_MXFP4};
    for (size_t f = 0; f < sizeof formats / sizeof formats[0]; f++) {
      test_predictor(context, formats[f]);
      test_ffn(context, threaded, formats[f], 97, 64, f ? 2 : 1);      /* an activation does not know the format */
      if (f < 3) test_ffn(context, threaded, formats[f], 260, 320, 6); /* of which two threads take parts */
    }
    const int32_t k_formats[] = {SF_Q2_K, SF_Q3_K, SF_Q4_K, SF_Q5_K, SF_Q6_K, SF_IQ4_XS, SF_TQ1_0, SF_TQ2_0};
    for (size_t f = 0; f < sizeof k_formats / sizeof k_formats[0]; f++) {
      test_ffn(context, threaded, k_formats[f], 41, 256, 2);
    }
    test_sign_predictor(context);
    test_ffn(context, threaded, SF_F32, 33, 77, 1);
    test_down_by_output(context);
    sf_context_close(context), sf_context_close(threaded);
  }
  return check_result();
}
