/* Predictors of every kind: the rule that selects neurons from scores, and the public functions. */
#include "ffn/predictor.h"

#include <math.h>

#include "base/memory.h"
#include "matrix/matrix.h"
#include "matrix/select.h"

/* Room for the scores of n vectors. */
static int32_t reserve(sf_predictor *predictor, int32_t n) {
  size_t scores = sf_size_product((size_t)n, (size_t)predictor->hidden);
  return sf_grow((void **)&predictor->scores, &predictor->scores_capacity, scores, sizeof(float));
}

int32_t sf_predictor_start(sf_predictor *predictor, sf_context *context, int32_t d, int32_t hidden) {
  predictor->context = context;
  predictor->d = d;
  predictor->hidden = hidden;
  predictor->rule = SF_RULE_THRESHOLD;
  predictor->most = hidden;
  return reserve(predictor, 1);
}

int32_t sf_predictor_multiply(sf_context *context, const sf_matrix *matrix, const sf_panels *panels, int32_t first,
                              const float *x, int32_t n, float *out, size_t stride) {
  sf_inputs inputs;
  int32_t status = sf_prepare(context, SF_DECODE, &matrix->format, 1, x, n, matrix->columns, &inputs);
  if (status != SF_OK) return status;
  if (panels && panels->data) {
    sf_multiply_panels(context, panels, first, &inputs, n, out, stride);
  } else {
    sf_matrix rows = *matrix;
    rows.data += (size_t)first * rows.stride;
    sf_multiply(context, &rows, NULL, rows.rows - first, &inputs, n, out, stride);
  }
  return SF_OK;
}

void sf_predictor_close(sf_predictor *predictor) {
  if (!predictor) return;
  predictor->kind->close(predictor);
  sf_free(predictor->scores);
  sf_free(predictor);
}

int32_t sf_predictor_set_rule(sf_predictor *predictor, int32_t rule, float threshold, int32_t least, int32_t most,
                              int32_t hot) {
  if (!predictor || (rule != SF_RULE_THRESHOLD && rule != SF_RULE_TOP_K) || isnan(threshold)) return SF_ERROR_ARGUMENT;
  if (least < 0 || most < least || hot < 0 || hot > predictor->hidden) return SF_ERROR_ARGUMENT;
  predictor->rule = rule;
  predictor->threshold = threshold;
  predictor->least = least;
  predictor->most = most;
  predictor->hot = hot;
  return SF_OK;
}

/* The rule selects every cold neuron, whatever the scores. */
static int32_t selects_all(const sf_predictor *predictor) {
  int32_t sure = predictor->rule == SF_RULE_TOP_K ? predictor->most : predictor->least;
  return sure >= predictor->hidden - predictor->hot;
}

/* Neurons of one vector, from the scores (hidden - hot) of the cold ones. */
static int32_t select(const sf_predictor *predictor, const float *scores, int32_t *ids) {
  const sf_kernels *kernels = predictor->context->kernels;
  int32_t hot = predictor->hot, cold = predictor->hidden - hot, chosen;
  if (predictor->rule == SF_RULE_TOP_K) {
    chosen = sf_top_k(kernels, scores, cold, predictor->most, ids + hot);
  } else {
    chosen =
        sf_above_threshold(kernels, scores, cold, predictor->threshold, predictor->least, predictor->most, ids + hot);
  }
  for (int32_t i = 0; i < hot; i++) ids[i] = i;
  for (int32_t i = hot; hot > 0 && i < hot + chosen; i++) ids[i] += hot;
  return hot + chosen;
}

int32_t sf_predict(sf_predictor *predictor, const float *x, int32_t n, int32_t *ids, int32_t *counts) {
  size_t hidden = (size_t)predictor->hidden;
  if (selects_all(predictor)) {
    for (int32_t j = 0; j < n; j++) {
      counts[j] = predictor->hidden;
      for (int32_t i = 0; i < predictor->hidden; i++) ids[(size_t)j * hidden + (size_t)i] = i;
    }
    return SF_OK;
  }
  int32_t status = reserve(predictor, n);
  if (status == SF_OK) status = predictor->kind->score(predictor, x, n, predictor->hot, predictor->scores, hidden);
  for (int32_t j = 0; j < n && status == SF_OK; j++) {
    counts[j] = select(predictor, predictor->scores + (size_t)j * hidden, ids + (size_t)j * hidden);
  }
  return status;
}

int32_t sf_predictor_scores(sf_predictor *predictor, const float *x, int32_t n, float *scores) {
  if (!predictor || !x || !scores || n < 0) return SF_ERROR_ARGUMENT;
  sf_context *context = predictor->context;
  int32_t d = predictor->d, status = SF_OK;
  size_t hidden = (size_t)predictor->hidden;
  sf_pool_lock(context->pool);
  for (int32_t first = 0; first < n && status == SF_OK; first += SF_BATCH) {
    int32_t batch = n - first < SF_BATCH ? n - first : SF_BATCH;
    const float *x_first = x + (size_t)first * (size_t)d;
    if (!context->kernels->all_finite(x_first, batch * d)) status = SF_ERROR_NOT_FINITE;
    if (status == SF_OK) status = reserve(predictor, batch);
    if (status == SF_OK)
      status = predictor->kind->score(predictor, x_first, batch, 0, scores + (size_t)first * hidden, hidden);
  }
  sf_pool_unlock(context->pool);
  return status;
}

int32_t sf_predictor_predict(sf_predictor *predictor, const float *x, int32_t *ids) {
  if (!predictor || !x || !ids) return SF_ERROR_ARGUMENT;
  sf_context *context = predictor->context;
  if (!context->kernels->all_finite(x, predictor->d)) return SF_ERROR_NOT_FINITE;
  sf_pool_lock(context->pool);
  int32_t count, status = sf_predict(predictor, x, 1, ids, &count);
  sf_pool_unlock(context->pool);
  return status == SF_OK ? count : status;
}
