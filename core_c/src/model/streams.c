/* Steps on several streams of a token: products of their heads, shares of them, and sums with such shares; and marks of
 * what a token has chosen. */
#include <math.h>
#include <string.h>

#include "model/session.h"

/* ---- head_dots: a (heads, dim), b (heads, dim), out (heads) ---- */

static int32_t check_head_dots(const sf_model *model, const sf_step *step) {
  if (step->arguments[0] == step->arguments[2] || step->arguments[1] == step->arguments[2]) return SF_ERROR_ARGUMENT;
  return sf_width(model, step, 0) % sf_width(model, step, 2) == 0 ? sf_same_widths(model, step, 0, 1) : SF_ERROR_SHAPE;
}

static int32_t run_head_dots(sf_model *model, const sf_step *step) {
  int32_t heads = sf_floats(model, step, 2), dim = sf_width(model, step, 0) / sf_width(model, step, 2);
  const float *a = sf_values(model, step, 0), *b = sf_values(model, step, 1);
  float *out = sf_values(model, step, 2);
  for (int32_t h = 0; h < heads; h++, a += dim, b += dim) {
    double sum = 0;
    for (int32_t i = 0; i < dim; i++) sum += (double)a[i] * (double)b[i];
    out[h] = (float)sum;
  }
  return SF_OK;
}

/* ---- mix: in (streams, dim), weights (outs, streams), out (outs, dim), streams ---- */

static int32_t check_mix(const sf_model *model, const sf_step *step) {
  int32_t streams = step->arguments[3], in = sf_width(model, step, 0), weights = sf_width(model, step, 1);
  if (in % streams != 0 || weights % streams != 0) return SF_ERROR_SHAPE;
  if ((int64_t)(weights / streams) * (in / streams) != sf_width(model, step, 2)) return SF_ERROR_SHAPE;
  return step->arguments[2] == step->arguments[0] || step->arguments[2] == step->arguments[1] ? SF_ERROR_ARGUMENT
                                                                                              : SF_OK;
}

static int32_t run_mix(sf_model *model, const sf_step *step) {
  int32_t streams = step->arguments[3], dim = sf_width(model, step, 0) / streams;
  int32_t outs = sf_width(model, step, 1) / streams;
  const float *x = sf_values(model, step, 0), *weights = sf_values(model, step, 1);
  float *out = sf_values(model, step, 2);
  memset(out, 0, (size_t)sf_floats(model, step, 2) * sizeof(float));
  for (int32_t j = 0; j < model->batch.n; j++, x += streams * dim) {
    const sf_rows rows = {(const uint8_t *)x, (size_t)dim * sizeof(float), NULL, dim, 1.0f};
    for (int32_t i = 0; i < outs; i++, weights += streams, out += dim) {
      model->context->kernels->axpy_rows[SF_FORMAT_F32](&rows, streams, weights, 0, dim, out);
    }
  }
  return SF_OK;
}

/* ---- softmax: in (rows, columns), out, columns, rounds; epsilon ---- */

enum { MOST_ROUNDS = 1000 };

static int32_t check_softmax(const sf_model *model, const sf_step *step) {
  if (step->numbers[0] < 0 || step->arguments[3] > MOST_ROUNDS) return SF_ERROR_ARGUMENT;
  if (sf_width(model, step, 0) % step->arguments[2] != 0) return SF_ERROR_SHAPE;
  return sf_same_widths(model, step, 0, 1);
}

/* Divides `count` numbers, `stride` apart, by their sum and epsilon. */
static void share(float *x, int32_t count, int32_t stride, double epsilon) {
  double sum = epsilon;
  for (int32_t i = 0; i < count; i++) sum += (double)x[i * stride];
  for (int32_t i = 0; i < count; i++) x[i * stride] = (float)((double)x[i * stride] / sum);
}

static void share_columns(float *x, int32_t rows, int32_t columns, double epsilon) {
  for (int32_t c = 0; c < columns; c++) share(x + c, rows, columns, epsilon);
}

/* The rounds of one token, of which the first has only columns, since the softmax has divided the rows. */
static void balance(float *x, int32_t rows, int32_t columns, int32_t rounds, double epsilon) {
  for (int32_t i = 0; i < rows * columns; i++) x[i] = (float)((double)x[i] + epsilon);
  share_columns(x, rows, columns, epsilon);
  for (int32_t round = 1; round < rounds; round++) {
    for (int32_t r = 0; r < rows; r++) share(x + r * columns, columns, 1, epsilon);
    share_columns(x, rows, columns, epsilon);
  }
}

static int32_t run_softmax(sf_model *model, const sf_step *step) {
  const sf_kernels *kernels = model->context->kernels;
  int32_t width = sf_width(model, step, 0), columns = step->arguments[2], rows = width / columns;
  const float *x = sf_values(model, step, 0);
  float *y = sf_values(model, step, 1);
  if (!kernels->all_finite(x, sf_floats(model, step, 0))) return SF_ERROR_NOT_FINITE;
  for (int32_t j = 0; j < model->batch.n; j++, x += width, y += width) {
    for (int32_t r = 0; r < rows; r++) kernels->softmax(x + r * columns, columns, y + r * columns);
    if (step->arguments[3] > 0) balance(y, rows, columns, step->arguments[3], (double)step->numbers[0]);
  }
  return SF_OK;
}

/* ---- mark: in (ids), out ---- */

static int32_t check_mark(const sf_model *model, const sf_step *step) {
  (void)model;
  return step->arguments[0] == step->arguments[1] ? SF_ERROR_ARGUMENT : SF_OK;
}

static int32_t run_mark(sf_model *model, const sf_step *step) {
  int32_t ids = sf_width(model, step, 0), width = sf_width(model, step, 1);
  const float *id = sf_values(model, step, 0);
  float *out = sf_values(model, step, 1);
  memset(out, 0, (size_t)sf_floats(model, step, 1) * sizeof(float));
  for (int32_t i = 0; i < model->batch.n * ids; i++) {
    if (!(id[i] >= 0 && id[i] < (float)width)) return SF_ERROR_ARGUMENT;
    out[(size_t)(i / ids) * (size_t)width + (size_t)id[i]] = 1;
  }
  return SF_OK;
}

const sf_step_kind sf_step_mark = {"io", 0, 0, check_mark, run_mark, NULL};
const sf_step_kind sf_step_head_dots = {"iio", 0, 0, check_head_dots, run_head_dots, NULL};
const sf_step_kind sf_step_mix = {"iioc", 0, 0, check_mix, run_mix, NULL};
const sf_step_kind sf_step_softmax = {"iocn", 0, 1, check_softmax, run_softmax, NULL};
