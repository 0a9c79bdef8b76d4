/* Steps whose state has one size however long the text is: each token of a session changes it, in their order. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "model/session.h"

/* ---- convolution ---- */

enum { IN, WEIGHT, BIAS, CONVOLVED, TAPS };

static int32_t check_convolution(const sf_model *model, const sf_step *step) {
  int32_t d = sf_width(model, step, IN);
  const sf_vector *weight = sf_vector_of(model, step, WEIGHT), *bias = sf_vector_of(model, step, BIAS);
  if (sf_width(model, step, CONVOLVED) != d || (bias && bias->count != d)) return SF_ERROR_SHAPE;
  return weight->count % d == 0 && weight->count / d == step->arguments[TAPS] ? SF_OK : SF_ERROR_SHAPE;
}

/* The inputs (taps - 1, d) of the last tokens, the oldest first; of one tap, something to point at. */
static size_t convolution_state(const sf_model *model, const sf_step *step) {
  size_t kept = (size_t)step->arguments[TAPS] - 1;
  return sf_size_product(kept > 0 ? kept : 1, (size_t)sf_width(model, step, IN));
}

static void convolve(const float *x, const float *weight, const float *bias, int32_t d, int32_t taps, float *state,
                     float *y) {
  size_t row = (size_t)d;
  for (int32_t i = 0; i < d; i++, weight += taps) {
    float now = x[i], sum = bias ? bias[i] : 0.0f, *past = state + i;
    for (int32_t t = 0; t + 1 < taps; t++, past += row) {
      sum += weight[t] * past[0];
      past[0] = t + 2 < taps ? past[row] : now;
    }
    y[i] = sum + weight[taps - 1] * now;
  }
}

static int32_t run_convolution(sf_model *model, const sf_step *step) {
  const sf_vector *weight = sf_vector_of(model, step, WEIGHT), *bias = sf_vector_of(model, step, BIAS);
  int32_t d = sf_width(model, step, IN);
  const float *x = sf_values(model, step, IN);
  float *y = sf_values(model, step, CONVOLVED);
  for (int32_t j = 0; j < model->batch.n; j++, x += d, y += d) {
    float *state = sf_state_of(model, step, j)->values;
    convolve(x, weight->values, bias ? bias->values : NULL, d, step->arguments[TAPS], state, y);
  }
  return SF_OK;
}

const sf_step_kind sf_step_convolution = {"ivVoc", 1, 0, check_convolution, run_convolution, convolution_state};

/* ---- recurrence ---- */

enum { Q, K, V, DECAY, A, B, OUT, HEADS, KEYS, BEFORE };

/* 1 when an argument is (groups, keys) for a number of groups that divides that of heads. */
static int32_t is_grouped(const sf_model *model, const sf_step *step, int32_t argument) {
  int32_t width = sf_width(model, step, argument), keys = step->arguments[KEYS];
  return width % keys == 0 && step->arguments[HEADS] % (width / keys) == 0;
}

static int32_t check_recurrence(const sf_model *model, const sf_step *step) {
  const int32_t *a = step->arguments;
  int32_t decays = sf_width(model, step, DECAY), values = sf_width(model, step, V);
  if (a[BEFORE] > 1 || (a[A] < 0) != (a[B] < 0)) return SF_ERROR_ARGUMENT;
  for (int32_t i = Q; i < OUT; i++) {
    if (a[i] == a[OUT]) return SF_ERROR_ARGUMENT;
  }
  if (values % a[HEADS] != 0 || sf_width(model, step, OUT) != values) return SF_ERROR_SHAPE;
  if (decays % a[HEADS] != 0 || (decays != a[HEADS] && decays / a[HEADS] != a[KEYS])) return SF_ERROR_SHAPE;
  if (!is_grouped(model, step, Q) || !is_grouped(model, step, K)) return SF_ERROR_SHAPE;
  return a[A] < 0 || (is_grouped(model, step, A) && is_grouped(model, step, B)) ? SF_OK : SF_ERROR_SHAPE;
}

static size_t recurrence_state(const sf_model *model, const sf_step *step) {
  return sf_size_product((size_t)step->arguments[KEYS], (size_t)sf_width(model, step, V)); /* (heads, keys, values) */
}

typedef struct {
  const sf_model *model;
  const sf_step *step;
} recurrence_job;

/* What token j has for a head in an argument (groups, keys), or NULL for none. */
static const float *of_group(const recurrence_job *job, int32_t argument, int32_t j, int32_t head) {
  const int32_t *a = job->step->arguments;
  if (a[argument] < 0) return NULL;
  int32_t width = sf_width(job->model, job->step, argument), heads_a_group = a[HEADS] / (width / a[KEYS]);
  size_t at = (size_t)j * (size_t)width + (size_t)(head / heads_a_group) * (size_t)a[KEYS];
  return sf_values(job->model, job->step, argument) + at;
}

static void recur_head(const recurrence_job *job, int32_t head) {
  const sf_model *model = job->model;
  const sf_step *step = job->step;
  int32_t heads = step->arguments[HEADS], values = sf_width(model, step, V) / heads;
  int32_t decays = sf_width(model, step, DECAY) / heads;
  sf_recurrence r = {.keys = step->arguments[KEYS], .values = values, .before = step->arguments[BEFORE]};
  r.decay_step = decays > 1;
  for (int32_t j = 0; j < model->batch.n; j++) {
    size_t item = (size_t)j * (size_t)heads + (size_t)head;
    float *states = sf_state_of(model, step, j)->values;
    r.q = of_group(job, Q, j, head);
    r.k = of_group(job, K, j, head);
    r.a = of_group(job, A, j, head);
    r.b = of_group(job, B, j, head);
    r.v = sf_values(model, step, V) + item * (size_t)values;
    r.decay = sf_values(model, step, DECAY) + item * (size_t)decays;
    float *out = sf_values(model, step, OUT) + item * (size_t)values;
    model->context->kernels->recur(&r, states + (size_t)head * (size_t)r.keys * (size_t)values, out);
  }
}

static void recurrence_part(void *argument, int32_t part, int32_t parts) {
  const recurrence_job *job = argument;
  int32_t heads = job->step->arguments[HEADS], end = sf_part_begin(heads, 1, part + 1, parts);
  for (int32_t head = sf_part_begin(heads, 1, part, parts); head < end; head++) recur_head(job, head);
}

static int32_t run_recurrence(sf_model *model, const sf_step *step) {
  recurrence_job job = {model, step};
  size_t bytes = sf_size_product(recurrence_state(model, step), (size_t)model->batch.n * sizeof(float));
  sf_pool_run(model->context->pool, recurrence_part, &job, sf_parts(model->context, bytes));
  return SF_OK;
}

const sf_step_kind sf_step_recurrence = {"iiiiIIoccn", 1, 0, check_recurrence, run_recurrence, recurrence_state};

/* ---- pool: values (halves, d), scores (halves, d), biases (tokens, halves · d), out (d), tokens ---- */

enum { SCORES = 1, BIASES, POOLED, TOKENS };
/* Of an element and the tokens so far: the largest score, the sum of the weights, and of the weighted values. */
enum { MOST, SUM, TOTAL, PARTS };

static int32_t check_pool(const sf_model *model, const sf_step *step) {
  const int32_t *a = step->arguments;
  int32_t width = sf_width(model, step, 0), d = sf_width(model, step, POOLED);
  if (a[POOLED] == a[0] || a[POOLED] == a[SCORES]) return SF_ERROR_ARGUMENT;
  if (width != d && width != 2 * (int64_t)d) return SF_ERROR_SHAPE;
  if (sf_vector_of(model, step, BIASES)->count != (int64_t)a[TOKENS] * width) return SF_ERROR_SHAPE;
  return sf_same_widths(model, step, 0, SCORES);
}

/* The elements (halves, d) of the run that is not complete, and the first half (d) of the run before. */
static size_t pool_state(const sf_model *model, const sf_step *step) {
  size_t width = (size_t)sf_width(model, step, 0), d = (size_t)sf_width(model, step, POOLED);
  return sf_size_product(PARTS, width > d ? width + d : d);
}

/* Adds other tokens to those of an element. */
static void gather(float *to, float most, float sum, float total) {
  float change = most - to[MOST], weight = (float)exp(-fabs((double)change));
  if (!(sum > 0)) return;
  if (change > 0 || !(to[SUM] > 0)) {
    float kept = to[SUM] > 0 ? weight : 0.0f;
    to[MOST] = most;
    to[SUM] = to[SUM] * kept + sum;
    to[TOTAL] = to[TOTAL] * kept + total;
  } else {
    to[SUM] += weight * sum;
    to[TOTAL] += weight * total;
  }
}

/* The end of a run, whose elements are (halves, d). */
static void end_run(float *run, int32_t width, int32_t d, float *out) {
  float *last = run + (size_t)PARTS * (size_t)(width - d), *before = run + (size_t)PARTS * (size_t)width;
  size_t bytes = (size_t)PARTS * (size_t)d * sizeof(float);
  for (int32_t i = 0; i < d; i++, last += PARTS) {
    const float *first = before + (size_t)PARTS * (size_t)i;
    if (width > d) gather(last, first[MOST], first[SUM], first[TOTAL]);
    out[i] = last[TOTAL] / last[SUM];
  }
  if (width > d) memcpy(before, run, bytes);
  memset(run, 0, bytes * (size_t)(width / d));
}

static int32_t run_pool(sf_model *model, const sf_step *step) {
  int32_t width = sf_width(model, step, 0), d = sf_width(model, step, POOLED), tokens = step->arguments[TOKENS];
  const float *x = sf_values(model, step, 0), *scores = sf_values(model, step, SCORES);
  float *out = sf_values(model, step, POOLED);
  for (int32_t j = 0; j < model->batch.n; j++, x += width, scores += width, out += d) {
    float *run = sf_state_of(model, step, j)->values;
    int32_t place = model->batch.positions[j] % tokens;
    const float *bias = sf_vector_of(model, step, BIASES)->values + (size_t)place * (size_t)width;
    for (int32_t i = 0; i < width; i++) gather(run + (size_t)PARTS * (size_t)i, scores[i] + bias[i], 1, x[i]);
    memset(out, 0, (size_t)d * sizeof(float));
    if (place == tokens - 1) end_run(run, width, d, out);
  }
  return SF_OK;
}

const sf_step_kind sf_step_pool = {"iivoc", 1, 0, check_pool, run_pool, pool_state};
