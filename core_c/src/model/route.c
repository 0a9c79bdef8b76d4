/* The router of a mixture of experts: which experts a token goes to, and with which weights. */
#include <math.h>

#include "base/memory.h"
#include "model/session.h"

/* in: the router's logits (experts). out: the chosen experts, ascending, as floats (used), and their weights (used). */
enum { LOGITS, ROUTES, SELECTION_BIAS, SCORING, GROUPS, GROUPS_USED, NORMALISED };

typedef struct {
  int32_t experts, used, scoring, groups, groups_used, normalised;
  const float *bias;
  float scale;
} router;

static router router_of(const sf_model *model, const sf_step *step) {
  const int32_t *a = step->arguments;
  const sf_vector *bias = sf_vector_of(model, step, SELECTION_BIAS);
  const router r = {sf_width(model, step, LOGITS),
                    sf_width(model, step, ROUTES) / 2,
                    a[SCORING],
                    a[GROUPS],
                    a[GROUPS_USED],
                    a[NORMALISED],
                    bias ? bias->values : NULL,
                    step->numbers[0]};
  return r;
}

static int32_t check_route(const sf_model *model, const sf_step *step) {
  const router r = router_of(model, step);
  const sf_vector *bias = sf_vector_of(model, step, SELECTION_BIAS);
  if (r.scoring > SF_ROUTE_SPARSE_MIXER || r.normalised > 1 || step->arguments[LOGITS] == step->arguments[ROUTES]) {
    return SF_ERROR_ARGUMENT;
  }
  if (sf_width(model, step, ROUTES) % 2 != 0 || r.used > r.experts || (bias && bias->count != r.experts)) {
    return SF_ERROR_SHAPE;
  }
  if (r.experts % r.groups != 0 || r.groups_used > r.groups) return SF_ERROR_SHAPE;
  return r.used <= r.experts / r.groups * r.groups_used ? SF_OK : SF_ERROR_SHAPE;
}

/* The largest of scores (count) that is not -∞, or -1: the first of equal ones. */
static int32_t largest(const float *scores, int32_t count) {
  int32_t best = -1;
  for (int32_t i = 0; i < count; i++) {
    if (scores[i] > -INFINITY && (best < 0 || scores[i] > scores[best])) best = i;
  }
  return best;
}

/* Scores of experts outside the best groups become -∞. A group is as good as its two best experts together
 * (DeepSeek-V3; DeepSeek-AI 2024). */
static void limit_groups(const router *r, float *scores, float *group_scores) {
  int32_t size = r->experts / r->groups;
  for (int32_t g = 0; g < r->groups; g++) {
    const float *own = scores + g * size;
    float first = -INFINITY, second = -INFINITY;
    for (int32_t i = 0; i < size; i++) {
      if (own[i] > first) {
        second = first;
        first = own[i];
      } else if (own[i] > second) {
        second = own[i];
      }
    }
    group_scores[g] = size > 1 ? first + second : first;
  }
  for (int32_t k = 0; k < r->groups_used; k++) {
    int32_t best = largest(group_scores, r->groups);
    if (best >= 0) group_scores[best] = -INFINITY;
  }
  for (int32_t g = 0; g < r->groups; g++) {
    for (int32_t i = 0; group_scores[g] > -INFINITY && i < size; i++) scores[g * size + i] = -INFINITY;
  }
}

/* Puts an expert into ids (count), which ascend, and its weight beside it. */
static void insert(float *ids, float *weights, int32_t count, int32_t expert, float weight) {
  int32_t at = count;
  for (; at > 0 && ids[at - 1] > (float)expert; at--) {
    ids[at] = ids[at - 1];
    weights[at] = weights[at - 1];
  }
  ids[at] = (float)expert;
  weights[at] = weight;
}

/* The weight of the expert with the largest of the scores that are left, by SparseMixer. */
static float mixed_weight(const router *r, const float *logits, const float *left, int32_t best) {
  const double near = 2 * 0.01; /* twice the jitter that the logits had in training */
  double top = (double)logits[best], sum = 0;
  for (int32_t i = 0; i < r->experts; i++) {
    double logit = (double)logits[i], size = fabs(logit) > top ? fabs(logit) : top;
    if (left[i] > -INFINITY && top - logit <= near * size) sum += exp(logit - top);
  }
  return (float)(1 / sum);
}

static void finish_weights(const router *r, const sf_kernels *kernels, float *weights) {
  if (r->scoring == SF_ROUTE_SOFTMAX_CHOSEN) kernels->softmax(weights, r->used, weights);
  double sum = 0;
  for (int32_t k = 0; k < r->used; k++) sum += (double)weights[k];
  const double least = 6.103515625e-5; /* the smallest normal number of 16 bits, which the models were trained with */
  double scale = (double)r->scale / (r->normalised ? (sum > least ? sum : least) : 1);
  for (int32_t k = 0; k < r->used; k++) weights[k] = (float)((double)weights[k] * scale);
}

/* One token. work: (2 · experts + groups) floats. */
static int32_t route(const router *r, const sf_kernels *kernels, const float *logits, float *work, float *routes) {
  float *probabilities = work, *scores = work + r->experts, *weights = routes + r->used;
  if (r->scoring == SF_ROUTE_SOFTMAX) {
    kernels->softmax(logits, r->experts, probabilities);
  } else {
    const int32_t function = r->scoring == SF_ROUTE_SIGMOID ? (int32_t)SF_SIGMOID : (int32_t)SF_IDENTITY;
    kernels->activate(function, 0, logits, r->experts, probabilities);
  }
  for (int32_t i = 0; i < r->experts; i++) scores[i] = probabilities[i] + (r->bias ? r->bias[i] : 0.0f);
  if (r->groups_used < r->groups) limit_groups(r, scores, work + 2 * (size_t)r->experts);
  for (int32_t k = 0; k < r->used; k++) {
    int32_t best = largest(scores, r->experts);
    if (best < 0) return SF_ERROR_NOT_FINITE; /* sums of huge numbers */
    int32_t mixed = r->scoring == SF_ROUTE_SPARSE_MIXER;
    insert(routes, weights, k, best, mixed ? mixed_weight(r, logits, scores, best) : probabilities[best]);
    scores[best] = -INFINITY;
  }
  finish_weights(r, kernels, weights);
  return SF_OK;
}

/* The next cached layer after a router, if it is one of experts that the router chooses; else NULL. */
static const sf_step *cached_experts_of(const sf_model *model, const sf_step *router) {
  const sf_step *end = model->steps + model->n_steps;
  for (const sf_step *step = router + 1; step < end; step++) {
    int32_t first = step->arguments[0]; /* of a step that has a layer, its number */
    if (step->kind == sf_step_find(SF_STEP_FFN) && model->layers[first].ffn->cache) return NULL;
    if (step->kind == &sf_step_route && step->arguments[ROUTES] == router->arguments[ROUTES]) return NULL;
    if (step->kind != &sf_step_experts) continue;
    return model->layers[first].experts->cache && step->arguments[2] == router->arguments[ROUTES] ? step : NULL;
  }
  return NULL;
}

/* Begins the pass of a step of experts. */
static int32_t begin_experts(sf_model *model, const sf_step *step) {
  model->cached.experts = step;
  model->cached.layer = step->arguments[0];
  return sf_experts_begin(model->layers[step->arguments[0]].experts, &model->cached, sf_values(model, step, 2),
                          sf_width(model, step, 2) / 2, step->arguments[5], model->batch.n);
}

static int32_t run_route(sf_model *model, const sf_step *step) {
  if (model->batch.waiting) { /* no longer: the experts are being read */
    model->batch.waiting = 0;
    return SF_OK;
  }
  const router r = router_of(model, step);
  const sf_kernels *kernels = model->context->kernels;
  const float *logits = sf_values(model, step, LOGITS);
  float *routes = sf_values(model, step, ROUTES);
  size_t work = 2 * (size_t)r.experts + (size_t)r.groups;
  int32_t status = sf_grow((void **)&model->work, &model->work_capacity, work, sizeof(float));
  for (int32_t j = 0; status == SF_OK && j < model->batch.n; j++, logits += r.experts, routes += 2 * r.used) {
    if (!kernels->all_finite(logits, r.experts)) return SF_ERROR_NOT_FINITE;
    status = route(&r, kernels, logits, model->work, routes);
  }
  /* Experts are asked for as soon as they are known, so that they are read while the steps up to theirs are computed.
   */
  const sf_step *experts = cached_experts_of(model, step);
  if (status == SF_OK && experts) status = begin_experts(model, experts);
  model->batch.waiting = status == SF_WAITING;
  return status;
}

const sf_step_kind sf_step_route = {"ioVnccn", 1, 1, check_route, run_route, NULL};

/* ---- experts: layer, in, routes, out, before, share ---- */

static int32_t check_experts(const sf_model *model, const sf_step *step) {
  const sf_experts *experts = model->layers[step->arguments[0]].experts;
  int32_t before = step->arguments[4], share = step->arguments[5];
  if (before > 1 || (before && share > 1) || step->arguments[1] == step->arguments[3]) return SF_ERROR_ARGUMENT;
  int32_t writer = sf_model_writer(model, step->arguments[2]);
  const sf_step *router = &model->steps[writer];
  if (router->kind != &sf_step_route || step->arguments[2] == step->arguments[3]) return SF_ERROR_ARGUMENT;
  int32_t logits = sf_width(model, router, LOGITS);
  if (logits % share != 0 || logits / share != experts->count) return SF_ERROR_SHAPE;
  if (sf_width(model, step, 1) != experts->d_in || sf_width(model, step, 3) != experts->d_out) return SF_ERROR_SHAPE;
  return SF_OK;
}

static int32_t run_experts(sf_model *model, const sf_step *step) {
  sf_batch *batch = &model->batch;
  sf_cached_pass *pass = &model->cached;
  int32_t layer = step->arguments[0], selected[SF_BATCH], active[SF_BATCH], status = SF_OK;
  int32_t used = sf_width(model, step, 2) / 2, share = step->arguments[5];
  sf_experts *experts = model->layers[layer].experts;
  const float *routes = sf_values(model, step, 2);
  if (pass->experts != step) status = begin_experts(model, step);
  if (status == SF_OK) {
    status = sf_experts_run(experts, pass, batch->mode, batch->phase, sf_values(model, step, 1), routes, used,
                            step->arguments[4], share, batch->n, sf_values(model, step, 3), selected, active,
                            sf_session_fired(batch->sessions[0], layer));
  }
  batch->waiting = status == SF_WAITING;
  if (status != SF_OK) return status;
  pass->experts = NULL;
  sf_batch_count(batch, layer, selected, active);
  return SF_OK;
}

const sf_step_kind sf_step_experts = {"eiionc", 1, 0, check_experts, run_experts, NULL};
