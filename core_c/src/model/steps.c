/* The kinds of steps, and those that fit in a few lines. */
#include <math.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "ffn/layer.h"
#include "model/session.h"

/* ---- embed: out, matrix; scale ---- */

static int32_t check_embed(const sf_model *model, const sf_step *step) {
  const sf_matrix *matrix = sf_matrix_of(model, step, 1);
  if (matrix->rows < model->vocab) return SF_ERROR_SHAPE; /* every token id is below vocab */
  return matrix->columns == sf_width(model, step, 0) ? SF_OK : SF_ERROR_SHAPE;
}

/* Rows of a matrix as floats. */
static void copy_rows(const sf_matrix *matrix, const int32_t *rows, int32_t n, float *out) {
  for (int32_t j = 0; j < n; j++) sf_matrix_row(matrix, rows[j], out + (size_t)j * (size_t)matrix->columns);
}

static int32_t run_embed(sf_model *model, const sf_step *step) {
  const sf_matrix *matrix = sf_matrix_of(model, step, 1);
  size_t d = (size_t)matrix->columns;
  float *x = sf_values(model, step, 0), scale = step->numbers[0];
  copy_rows(matrix, model->batch.tokens, model->batch.n, x);
  for (size_t i = 0; scale != 1.0f && i < (size_t)model->batch.n * d; i++) x[i] *= scale;
  return SF_OK;
}

/* ---- position: out, matrix ---- */

static int32_t check_position(const sf_model *model, const sf_step *step) {
  return sf_matrix_of(model, step, 1)->columns == sf_width(model, step, 0) ? SF_OK : SF_ERROR_SHAPE;
}

static int32_t run_position(sf_model *model, const sf_step *step) {
  const sf_matrix *matrix = sf_matrix_of(model, step, 1);
  for (int32_t j = 0; j < model->batch.n; j++) {
    if (model->batch.positions[j] >= matrix->rows) return SF_ERROR_CONTEXT_FULL;
  }
  copy_rows(matrix, model->batch.positions, model->batch.n, sf_values(model, step, 0));
  return SF_OK;
}

/* ---- type: out, matrix ---- */

static int32_t run_type(sf_model *model, const sf_step *step) {
  copy_rows(sf_matrix_of(model, step, 1), model->batch.types, model->batch.n, sf_values(model, step, 0));
  return SF_OK;
}

/* A second one with other rows would leave open how many types there are. */
static int32_t check_type(const sf_model *model, const sf_step *step) {
  if (model->types > 1 && model->types != sf_matrix_of(model, step, 1)->rows) return SF_ERROR_SHAPE;
  return check_position(model, step);
}

/* ---- norm: in, out, weight, bias, kind, groups; epsilon ---- */

/* A weight is shared by the groups, or there is one for each. */
static int32_t check_norm(const sf_model *model, const sf_step *step) {
  int32_t width = sf_width(model, step, 0), kind = step->arguments[4], groups = step->arguments[5];
  const sf_vector *weight = sf_vector_of(model, step, 2), *bias = sf_vector_of(model, step, 3);
  if (kind > SF_NORM_L2 || step->numbers[0] < 0 || (bias && kind != SF_NORM_LAYER)) return SF_ERROR_ARGUMENT;
  if (width % groups != 0 || sf_same_widths(model, step, 0, 1) != SF_OK) return SF_ERROR_SHAPE;
  if (weight && weight->count != width / groups && weight->count != width) return SF_ERROR_SHAPE;
  if (bias && (!weight || bias->count != weight->count)) return SF_ERROR_SHAPE;
  return weight || kind == SF_NORM_L2 ? SF_OK : SF_ERROR_ARGUMENT;
}

/* y = x / max(‖x‖, epsilon). */
static void l2_norm(const float *x, const float *weight, int32_t d, float epsilon, float *y) {
  double squares = 0;
  for (int32_t i = 0; i < d; i++) squares += (double)x[i] * (double)x[i];
  double length = sqrt(squares);
  float scale = (float)(1 / (length > (double)epsilon ? length : (double)epsilon));
  for (int32_t i = 0; i < d; i++) y[i] = x[i] * scale * (weight ? weight[i] : 1.0f);
}

static int32_t run_norm(sf_model *model, const sf_step *step) {
  const sf_kernels *kernels = model->context->kernels;
  const sf_vector *weight = sf_vector_of(model, step, 2), *bias = sf_vector_of(model, step, 3);
  const float *x = sf_values(model, step, 0);
  float *y = sf_values(model, step, 1), epsilon = step->numbers[0];
  int32_t kind = step->arguments[4], groups = step->arguments[5], d = sf_width(model, step, 0) / groups;
  size_t next = weight && groups > 1 && weight->count != d ? (size_t)d : 0; /* from one group's weight to the next */
  for (int32_t j = 0; j < model->batch.n; j++) {
    for (int32_t g = 0; g < groups; g++, x += d, y += d) {
      const float *w = weight ? weight->values + (size_t)g * next : NULL;
      if (kind == SF_NORM_LAYER) {
        kernels->layer_norm(x, w, bias ? bias->values + (size_t)g * next : NULL, d, epsilon, y);
      } else if (kind == SF_NORM_RMS) {
        kernels->rms_norm(x, w, d, epsilon, y);
      } else {
        l2_norm(x, w, d, epsilon, y);
      }
    }
  }
  return kernels->all_finite(sf_values(model, step, 1), sf_floats(model, step, 1)) ? SF_OK : SF_ERROR_NOT_FINITE;
}

/* ---- products: in, then for each: matrix, bias, out ---- */

enum { PRODUCTS = (SF_STEP_ARGUMENTS - 1) / 3 };
SF_CHECK(products_fit, (int)PRODUCTS <= (int)SF_EACH);

/* 1 when no output is the input or another output. */
static int32_t outputs_apart(const sf_step *step) {
  for (int32_t i = 3; i < step->count; i += 3) {
    if (step->arguments[i] == step->arguments[0]) return 0;
    for (int32_t k = 3; k < i; k += 3) {
      if (step->arguments[i] == step->arguments[k]) return 0;
    }
  }
  return 1;
}

static int32_t check_products(const sf_model *model, const sf_step *step) {
  for (int32_t i = 1; i < step->count; i += 3) {
    const sf_matrix *matrix = sf_matrix_of(model, step, i);
    const sf_vector *bias = sf_vector_of(model, step, i + 1);
    if (matrix->columns != sf_width(model, step, 0) || matrix->rows != sf_width(model, step, i + 2)) {
      return SF_ERROR_SHAPE;
    }
    if (bias && bias->count != matrix->rows) return SF_ERROR_SHAPE;
  }
  return outputs_apart(step) ? SF_OK : SF_ERROR_ARGUMENT;
}

static int32_t run_products(sf_model *model, const sf_step *step) {
  const sf_matrix *matrices[PRODUCTS] = {NULL};
  float *outs[PRODUCTS] = {NULL};
  int32_t count = (step->count - 1) / 3, n = model->batch.n;
  for (int32_t k = 0; k < count; k++) {
    matrices[k] = sf_matrix_of(model, step, 1 + 3 * k);
    outs[k] = sf_values(model, step, 3 + 3 * k);
  }
  const float *x = sf_values(model, step, 0);
  sf_record_inputs(model, step, SF_SITE_IN, x, sf_width(model, step, 0));
  int32_t status = sf_leaves_out(model, step)
                       ? sf_run_some_products(model, step, matrices, count, outs)
                       : sf_multiply_each(model->context, model->batch.phase, matrices, count, x, n, outs);
  for (int32_t k = 0; status == SF_OK && k < count; k++) {
    const sf_vector *bias = sf_vector_of(model, step, 2 + 3 * k);
    float *out = outs[k];
    for (int32_t j = 0; bias && j < n; j++, out += bias->count) {
      model->context->kernels->add(out, bias->values, bias->count, out);
    }
  }
  return status;
}

/* ---- head_products: in (heads, columns), matrix (heads · rows, columns), out (heads, rows), heads ---- */

static int32_t check_head_products(const sf_model *model, const sf_step *step) {
  const sf_matrix *matrix = sf_matrix_of(model, step, 1);
  int32_t heads = step->arguments[3];
  if (matrix->rows != sf_width(model, step, 2) || matrix->rows % heads != 0) return SF_ERROR_SHAPE;
  if (matrix->columns > SF_MAX_NEURONS / heads || sf_width(model, step, 0) != heads * matrix->columns) {
    return SF_ERROR_SHAPE;
  }
  return step->arguments[0] == step->arguments[2] ? SF_ERROR_ARGUMENT : SF_OK;
}

static int32_t run_head_products(sf_model *model, const sf_step *step) {
  const sf_matrix *matrix = sf_matrix_of(model, step, 1);
  int32_t heads = step->arguments[3], n = model->batch.n, status = SF_OK;
  size_t columns = (size_t)matrix->columns, rows = (size_t)matrix->rows / (size_t)heads;
  status = sf_grow((void **)&model->work, &model->work_capacity, (size_t)n * columns, sizeof(float));
  for (int32_t h = 0; status == SF_OK && h < heads; h++) {
    sf_inputs inputs;
    for (int32_t j = 0; j < n; j++) {
      const float *x = sf_values(model, step, 0) + ((size_t)j * (size_t)heads + (size_t)h) * columns;
      memcpy(model->work + (size_t)j * columns, x, columns * sizeof(float));
    }
    status =
        sf_prepare(model->context, model->batch.phase, &matrix->format, 1, model->work, n, matrix->columns, &inputs);
    if (status != SF_OK) break;
    sf_matrix own = *matrix;
    own.data += (size_t)h * rows * matrix->stride;
    own.rows = (int32_t)rows;
    float *out = sf_values(model, step, 2) + (size_t)h * rows;
    sf_multiply(model->context, &own, NULL, own.rows, &inputs, n, out, (size_t)matrix->rows);
  }
  return status;
}

/* ---- rope: in place, rope, heads, start in a head, halves ---- */

static int32_t check_rope(const sf_model *model, const sf_step *step) {
  int32_t width = sf_width(model, step, 0), heads = step->arguments[2];
  int32_t dims = 2 * model->ropes[step->arguments[1]].pairs;
  if (step->arguments[4] > 1) return SF_ERROR_ARGUMENT;
  return width % heads == 0 && step->arguments[3] <= width / heads - dims ? SF_OK : SF_ERROR_SHAPE;
}

static int32_t run_rope(sf_model *model, const sf_step *step) {
  const sf_rope *rope = &model->ropes[step->arguments[1]];
  int32_t heads = step->arguments[2], dim = sf_width(model, step, 0) / heads;
  float *x = sf_values(model, step, 0) + step->arguments[3];
  const float *angles = rope->cos_sin;
  for (int32_t j = 0; j < model->batch.n; j++, angles += 2 * rope->pairs) {
    for (int32_t h = 0; h < heads; h++, x += dim) {
      model->context->kernels->rope(x, angles, rope->pairs, step->arguments[4]);
    }
  }
  return SF_OK;
}

/* ---- scale: in place; factor ---- */

static int32_t check_nothing(const sf_model *model, const sf_step *step) {
  (void)model, (void)step;
  return SF_OK;
}

static int32_t run_scale(sf_model *model, const sf_step *step) {
  float *x = sf_values(model, step, 0), factor = step->numbers[0];
  for (int32_t i = 0, count = sf_floats(model, step, 0); i < count; i++) x[i] *= factor;
  return SF_OK;
}

/* ---- clamp: in place; limit ---- */

static int32_t run_clamp(sf_model *model, const sf_step *step) {
  float *x = sf_values(model, step, 0), limit = step->numbers[0];
  for (int32_t i = 0, count = sf_floats(model, step, 0); i < count; i++) {
    if (x[i] > limit) x[i] = limit;
    if (x[i] < -limit) x[i] = -limit;
  }
  return SF_OK;
}

/* ---- temperature: in place, length, offset; factor ---- */

static int32_t run_temperature(sf_model *model, const sf_step *step) {
  int32_t width = sf_width(model, step, 0), length = step->arguments[1];
  float *x = sf_values(model, step, 0);
  for (int32_t j = 0; j < model->batch.n; j++, x += width) {
    int64_t runs = ((int64_t)model->batch.positions[j] + step->arguments[2]) / length;
    float factor = (float)(1 + (double)step->numbers[0] * log((double)runs + 1));
    for (int32_t i = 0; i < width; i++) x[i] *= factor;
  }
  return SF_OK;
}

/* ---- cap: in place; cap ---- */

static int32_t check_limit(const sf_model *model, const sf_step *step) {
  (void)model;
  return step->numbers[0] > 0 ? SF_OK : SF_ERROR_ARGUMENT;
}

/* Infinity would become finite, so it is looked for before. */
static int32_t run_cap(sf_model *model, const sf_step *step) {
  const sf_kernels *kernels = model->context->kernels;
  float *x = sf_values(model, step, 0);
  int32_t width = sf_width(model, step, 0);
  for (int32_t j = 0; j < model->batch.n; j++, x += width) {
    if (!kernels->all_finite(x, width)) return SF_ERROR_NOT_FINITE;
    kernels->softcap(step->numbers[0], x, width);
  }
  return SF_OK;
}

/* ---- add and multiply: a, b, out; b may be narrower ---- */

/* The width of b divides that of a, as which it repeats. */
static int32_t check_pair(const sf_model *model, const sf_step *step) {
  int32_t a = sf_width(model, step, 0), b = sf_width(model, step, 1);
  if (step->arguments[3] > SF_SPREAD) return SF_ERROR_ARGUMENT;
  if (a != b && step->arguments[1] == step->arguments[2]) return SF_ERROR_ARGUMENT;
  return a % b == 0 ? sf_same_widths(model, step, 0, 2) : SF_ERROR_SHAPE;
}

typedef void pair_fn(const float *a, const float *b, int32_t count, float *y);

/* One token: a (a_width) with b (b_width), tiled, or each element spread over the neighbours it is for. */
static void pair(pair_fn *of, const float *a, int32_t a_width, const float *b, int32_t b_width, int32_t spread,
                 float *y) {
  int32_t times = a_width / b_width;
  if (spread == SF_TILE || times == 1) {
    for (int32_t i = 0; i < a_width; i += b_width) of(a + i, b, b_width, y + i);
    return;
  }
  for (int32_t i = 0; i < a_width; i++) of(a + i, b + i / times, 1, y + i);
}

static void run_pair(const sf_model *model, const sf_step *step, pair_fn *of) {
  int32_t a = sf_width(model, step, 0), b = sf_width(model, step, 1);
  const float *x = sf_values(model, step, 0), *with = sf_values(model, step, 1);
  float *y = sf_values(model, step, 2);
  for (int32_t j = 0; j < model->batch.n; j++, x += a, with += b, y += a) {
    pair(of, x, a, with, b, step->arguments[3], y);
  }
}

static int32_t run_add(sf_model *model, const sf_step *step) {
  run_pair(model, step, model->context->kernels->add);
  return SF_OK;
}

static int32_t run_multiply(sf_model *model, const sf_step *step) {
  run_pair(model, step, model->context->kernels->multiply);
  return SF_OK;
}

/* ---- add_vector and multiply_vector: in, vector, out, how a shorter one repeats ---- */

/* The narrower one divides the wider one, as which it repeats. */
static int32_t check_vector(const sf_model *model, const sf_step *step) {
  int32_t width = sf_width(model, step, 0), count = sf_vector_of(model, step, 1)->count;
  if (step->arguments[3] > SF_SPREAD) return SF_ERROR_ARGUMENT;
  if (width % count != 0 && count % width != 0) return SF_ERROR_SHAPE;
  return sf_width(model, step, 2) == (width > count ? width : count) ? SF_OK : SF_ERROR_SHAPE;
}

static void run_vector(const sf_model *model, const sf_step *step, pair_fn *of) {
  int32_t width = sf_width(model, step, 0), spread = step->arguments[3];
  const sf_vector *vector = sf_vector_of(model, step, 1);
  const float *x = sf_values(model, step, 0);
  float *y = sf_values(model, step, 2);
  for (int32_t j = 0; j < model->batch.n; j++, x += width, y += sf_width(model, step, 2)) {
    if (vector->count > width) {
      pair(of, vector->values, vector->count, x, width, spread, y);
    } else {
      pair(of, x, width, vector->values, vector->count, spread, y);
    }
  }
}

static int32_t run_add_vector(sf_model *model, const sf_step *step) {
  run_vector(model, step, model->context->kernels->add);
  return SF_OK;
}

static int32_t run_multiply_vector(sf_model *model, const sf_step *step) {
  run_vector(model, step, model->context->kernels->multiply);
  return SF_OK;
}

/* ---- map: in, out, function ---- */

static int32_t check_map(const sf_model *model, const sf_step *step) {
  int32_t function = step->arguments[2];
  if (function > SF_CLAMPED && (function < SF_SIGMOID || function > SF_SQRT)) return SF_ERROR_ARGUMENT;
  return sf_same_widths(model, step, 0, 1);
}

static double function_of(int32_t function, double x) {
  switch (function) {
    case SF_TANH:
      return tanh(x);
    case SF_SOFTPLUS:
      return x > 20 ? x : log1p(exp(x));
    case SF_SQRT:
      return sqrt(x);
    default: /* SF_EXP */
      return exp(x);
  }
}

static int32_t run_map(sf_model *model, const sf_step *step) {
  const float *x = sf_values(model, step, 0);
  float *y = sf_values(model, step, 1);
  int32_t count = sf_floats(model, step, 0), function = step->arguments[2];
  if (function <= SF_SIGMOID) {
    model->context->kernels->activate(function, 0, x, count, y);
    return SF_OK;
  }
  for (int32_t i = 0; i < count; i++) y[i] = (float)function_of(function, (double)x[i]);
  return SF_OK;
}

/* ---- copy: in, out, count, width, then start and stride in the one and in the other ---- */

static int32_t span_fits(int32_t have, int32_t count, int32_t width, int32_t start, int32_t stride) {
  return (int64_t)start + (int64_t)(count - 1) * stride + width <= have;
}

static int32_t check_copy(const sf_model *model, const sf_step *step) {
  const int32_t *a = step->arguments;
  if (a[0] == a[1]) return SF_ERROR_ARGUMENT;
  return span_fits(sf_width(model, step, 0), a[2], a[3], a[4], a[5]) &&
                 span_fits(sf_width(model, step, 1), a[2], a[3], a[6], a[7])
             ? SF_OK
             : SF_ERROR_SHAPE;
}

static int32_t run_copy(sf_model *model, const sf_step *step) {
  const int32_t *a = step->arguments;
  size_t bytes = (size_t)a[3] * sizeof(float);
  for (int32_t j = 0; j < model->batch.n; j++) {
    const float *from = sf_values(model, step, 0) + (size_t)j * (size_t)sf_width(model, step, 0) + a[4];
    float *to = sf_values(model, step, 1) + (size_t)j * (size_t)sf_width(model, step, 1) + a[6];
    for (int32_t i = 0; i < a[2]; i++, from += a[5], to += a[7]) memcpy(to, from, bytes);
  }
  return SF_OK;
}

/* ---- ffn: layer, in, hints, out ---- */

static int32_t check_ffn(const sf_model *model, const sf_step *step) {
  const sf_ffn *ffn = model->layers[step->arguments[0]].ffn;
  if (sf_width(model, step, 1) != ffn->d_in || sf_width(model, step, 3) != ffn->d_out) return SF_ERROR_SHAPE;
  if (step->arguments[2] >= 0 && sf_width(model, step, 2) != ffn->d_in) return SF_ERROR_SHAPE;
  return step->arguments[1] == step->arguments[3] ? SF_ERROR_ARGUMENT : SF_OK;
}

void sf_batch_count(const sf_batch *batch, int32_t layer, const int32_t *selected, const int32_t *active) {
  for (int32_t j = 0; j < batch->n; j++) {
    sf_add_count(&batch->sessions[j]->counts[0][layer], selected[j]);
    sf_add_count(&batch->sessions[j]->counts[1][layer], active[j]);
  }
}

static int32_t run_ffn(sf_model *model, const sf_step *step) {
  sf_batch *batch = &model->batch;
  int32_t layer = step->arguments[0], n = batch->n, status = SF_OK, selected[SF_BATCH], active[SF_BATCH];
  sf_ffn *ffn = model->layers[layer].ffn;
  const float *x = sf_values(model, step, 1), *hints = step->arguments[2] >= 0 ? sf_values(model, step, 2) : x;
  float *y = sf_values(model, step, 3);
  uint8_t *fired = sf_session_fired(batch->sessions[0], layer);
  if (!ffn->cache) {
    /* Prompts of a layer that leaves out inputs in decoding are dense. */
    int32_t dense = batch->mode == SF_SPARSE && (step->limits[SF_SITE_IN] > 0 || step->limits[SF_SITE_DOWN] > 0);
    int32_t mode = dense ? SF_DENSE : batch->mode;
    sf_record_inputs(model, step, SF_SITE_IN, x, ffn->d_in);
    status = sf_leaves_out(model, step) ? sf_run_some_ffn(model, step, x, y, selected, active, fired)
                                        : sf_ffn_run(ffn, mode, batch->phase, x, hints, n, y, selected, active, fired);
    if (mode == SF_DENSE) sf_record_inputs(model, step, SF_SITE_DOWN, ffn->work->up_values, ffn->hidden);
    if (status == SF_OK) sf_batch_count(batch, layer, selected, active);
    return status;
  }
  sf_cached_pass *pass = &model->cached;
  pass->layer = layer;
  pass->experts = NULL;
  if (!batch->waiting) status = sf_cached_begin(pass, ffn, batch->mode, hints, n, y);
  if (status == SF_OK) status = sf_cached_continue(pass, ffn, batch->mode, x, n, y, fired);
  batch->waiting = status == SF_WAITING;
  if (status == SF_OK) sf_batch_count(batch, layer, pass->counts, pass->active);
  return status;
}

/* ---- tap: in, kind, slot ---- */

static int32_t check_tap(const sf_model *model, const sf_step *step) {
  int32_t kind = step->arguments[1], slots = kind == SF_TAP_FFN_INPUTS ? model->n_layers : 1;
  if (kind >= SF_TAPS || step->arguments[2] >= slots || model->picked) return SF_ERROR_ARGUMENT;
  return sf_width(model, step, 0) == model->d ? SF_OK : SF_ERROR_SHAPE;
}

static int32_t run_tap(sf_model *model, const sf_step *step) {
  const sf_batch *batch = &model->batch;
  float *tap = batch->sessions[0]->taps[step->arguments[1]];
  size_t slots = step->arguments[1] == SF_TAP_FFN_INPUTS ? (size_t)model->n_layers : 1, d = (size_t)model->d;
  for (int32_t j = 0; tap && j < batch->n; j++) {
    size_t row = (size_t)(batch->first + j) * slots + (size_t)step->arguments[2];
    memcpy(tap + row * d, sf_values(model, step, 0) + (size_t)j * d, d * sizeof(float));
  }
  return SF_OK;
}

/* ---- pick: in place ---- */

static int32_t check_pick(const sf_model *model, const sf_step *step) {
  (void)step;
  return model->picked ? SF_ERROR_ARGUMENT : SF_OK;
}

/* From here on, the batch is those of its tokens whose logits are wanted. They are few, so that they are multiplied as
 * tokens of SF_DECODE in either phase. */
static int32_t run_pick(sf_model *model, const sf_step *step) {
  sf_batch *batch = &model->batch;
  size_t width = (size_t)sf_width(model, step, 0);
  float *x = sf_values(model, step, 0);
  int32_t kept = 0;
  for (int32_t j = 0; j < batch->n; j++) {
    if (!batch->wanted[j]) continue;
    if (kept < j) memcpy(x + (size_t)kept * width, x + (size_t)j * width, width * sizeof(float));
    batch->origins[kept] = j;
    kept++;
  }
  batch->n = kept;
  batch->phase = SF_DECODE;
  return SF_OK;
}

/* ---- The table ---- */

static const sf_step_kind embed = {"om", 1, 1, check_embed, run_embed, NULL};
static const sf_step_kind norm = {"ioVVnc", 0, 1, check_norm, run_norm, NULL};
static const sf_step_kind products = {"i*mVo", 0, 0, check_products, run_products, NULL};
static const sf_step_kind head_products = {"imoc", 0, 0, check_head_products, run_head_products, NULL};
static const sf_step_kind rope = {"xrcnn", 1, 0, check_rope, run_rope, NULL};
static const sf_step_kind scale = {"x", 0, 1, check_nothing, run_scale, NULL};
static const sf_step_kind temperature = {"xcn", 1, 1, check_nothing, run_temperature, NULL};
static const sf_step_kind cap = {"x", 0, 1, check_limit, run_cap, NULL};
static const sf_step_kind clamp = {"x", 0, 1, check_limit, run_clamp, NULL};
static const sf_step_kind type = {"om", 1, 0, check_type, run_type, NULL};
static const sf_step_kind position = {"om", 1, 0, check_position, run_position, NULL};
static const sf_step_kind add = {"iion", 0, 0, check_pair, run_add, NULL};
static const sf_step_kind multiply = {"iion", 0, 0, check_pair, run_multiply, NULL};
static const sf_step_kind add_vector = {"ivon", 0, 0, check_vector, run_add_vector, NULL};
static const sf_step_kind multiply_vector = {"ivon", 0, 0, check_vector, run_multiply_vector, NULL};
static const sf_step_kind map = {"ion", 0, 0, check_map, run_map, NULL};
static const sf_step_kind copy = {"ioccnnnn", 0, 0, check_copy, run_copy, NULL};
static const sf_step_kind ffn = {"liIo", 1, 0, check_ffn, run_ffn, NULL};
static const sf_step_kind tap = {"inn", 1, 0, check_tap, run_tap, NULL};
static const sf_step_kind pick = {"x", 1, 0, check_pick, run_pick, NULL};

static const sf_step_kind *const kinds[] = {
    [SF_STEP_EMBED] = &embed,
    [SF_STEP_NORM] = &norm,
    [SF_STEP_PRODUCTS] = &products,
    [SF_STEP_HEAD_PRODUCTS] = &head_products,
    [SF_STEP_ROPE] = &rope,
    [SF_STEP_SCALE] = &scale,
    [SF_STEP_CAP] = &cap,
    [SF_STEP_ADD] = &add,
    [SF_STEP_MULTIPLY] = &multiply,
    [SF_STEP_ADD_VECTOR] = &add_vector,
    [SF_STEP_MULTIPLY_VECTOR] = &multiply_vector,
    [SF_STEP_MAP] = &map,
    [SF_STEP_COPY] = &copy,
    [SF_STEP_ATTENTION] = &sf_step_attention,
    [SF_STEP_FFN] = &ffn,
    [SF_STEP_ROUTE] = &sf_step_route,
    [SF_STEP_EXPERTS] = &sf_step_experts,
    [SF_STEP_TAP] = &tap,
    [SF_STEP_PICK] = &pick,
    [SF_STEP_CONVOLUTION] = &sf_step_convolution,
    [SF_STEP_RECURRENCE] = &sf_step_recurrence,
    [SF_STEP_HEAD_DOTS] = &sf_step_head_dots,
    [SF_STEP_TEMPERATURE] = &temperature,
    [SF_STEP_MIX] = &sf_step_mix,
    [SF_STEP_POSITION] = &position,
    [SF_STEP_CLAMP] = &clamp,
    [SF_STEP_HEAD] = &sf_step_head,
    [SF_STEP_TYPE] = &type,
    [SF_STEP_SOFTMAX] = &sf_step_softmax,
    [SF_STEP_POOL] = &sf_step_pool,
    [SF_STEP_MARK] = &sf_step_mark,
};

const sf_step_kind *sf_step_find(int32_t kind) {
  return kind >= 0 && kind < (int32_t)(sizeof kinds / sizeof *kinds) ? kinds[kind] : NULL;
}
