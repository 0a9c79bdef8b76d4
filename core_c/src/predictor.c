#include <math.h>

#include "internal.h"

int32_t sf_predictor_open(sf_predictor **out, sf_context *context, const sf_matrix *p, const sf_matrix *q,
                          const float *bias, int32_t relu_between) {
  if (!out) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (!context || !p || !q || relu_between < 0 || relu_between > 1) return SF_ERROR_ARGUMENT;
  if (q->columns != p->rows) return SF_ERROR_SHAPE;
  sf_predictor *predictor = sf_array(1, sizeof(sf_predictor));
  if (!predictor) return SF_ERROR_MEMORY;
  predictor->context = context;
  predictor->p = p;
  predictor->q = q;
  predictor->relu_between = relu_between;
  predictor->rule = SF_RULE_THRESHOLD;
  predictor->most = q->rows;
  predictor->z = sf_array((size_t)p->rows, sizeof(float));
  predictor->scores = sf_array((size_t)q->rows, sizeof(float));
  int32_t status = predictor->z && predictor->scores ? SF_OK : SF_ERROR_MEMORY;
  if (status == SF_OK) status = sf_copy_floats(&predictor->bias, bias, q->rows);
  if (status != SF_OK) {
    sf_predictor_close(predictor);
    return status;
  }
  *out = predictor;
  return SF_OK;
}

void sf_predictor_close(sf_predictor *predictor) {
  if (!predictor) return;
  sf_free(predictor->bias);
  sf_free(predictor->z);
  sf_free(predictor->scores);
  sf_free(predictor);
}

int32_t sf_predictor_set_rule(sf_predictor *predictor, int32_t rule, float threshold, int32_t least, int32_t most,
                              int32_t hot) {
  if (!predictor || (rule != SF_RULE_THRESHOLD && rule != SF_RULE_TOP_K) || isnan(threshold)) return SF_ERROR_ARGUMENT;
  if (least < 0 || most < least || hot < 0 || hot > predictor->q->rows) return SF_ERROR_ARGUMENT;
  predictor->rule = rule;
  predictor->threshold = threshold;
  predictor->least = least;
  predictor->most = most;
  predictor->hot = hot;
  return SF_OK;
}

/* scores (hidden - first) of the neurons from `first` on. */
static int32_t score(sf_predictor *predictor, const float *x, int32_t first, float *scores) {
  sf_context *context = predictor->context;
  const sf_kernels *kernels = context->kernels;
  sf_inputs inputs;
  int32_t rank = predictor->p->rows, count = predictor->q->rows - first;
  int32_t status = sf_prepare_multiply(context, predictor->p, x, 1, predictor->z);
  if (status != SF_OK) return status;
  if (predictor->relu_between) kernels->activate(SF_RELU, 0, predictor->z, rank, predictor->z);
  /* A sum of finite products may still overflow; the block formats cannot represent that. */
  if (!kernels->all_finite(predictor->z, rank)) return SF_ERROR_NOT_FINITE;
  status = sf_prepare(context, predictor->q->format, predictor->z, 1, rank, &inputs);
  if (status != SF_OK) return status;
  sf_matrix cold = *predictor->q;
  cold.data += (size_t)first * cold.stride;
  sf_multiply(context, &cold, NULL, count, &inputs, 1, scores, (size_t)count);
  if (predictor->bias) kernels->add(scores, predictor->bias + first, count, scores);
  return SF_OK;
}

int32_t sf_predict(sf_predictor *predictor, const float *x, int32_t *ids) {
  int32_t hot = predictor->hot, cold = predictor->q->rows - hot, chosen = 0;
  for (int32_t i = 0; i < hot; i++) ids[i] = i;
  if (cold == 0) return hot;
  int32_t status = score(predictor, x, hot, predictor->scores);
  if (status != SF_OK) return status;
  if (predictor->rule == SF_RULE_TOP_K) {
    chosen = sf_select_top_k(predictor->scores, cold, predictor->most, ids + hot);
  } else {
    chosen = sf_select_threshold(predictor->scores, cold, predictor->threshold, predictor->least, predictor->most,
                                 ids + hot);
  }
  for (int32_t i = hot; i < hot + chosen; i++) ids[i] += hot;
  return hot + chosen;
}

int32_t sf_predictor_scores(sf_predictor *predictor, const float *x, int32_t n, float *scores) {
  if (!predictor || !x || !scores || n < 0) return SF_ERROR_ARGUMENT;
  sf_context *context = predictor->context;
  int32_t d = predictor->p->columns, status = SF_OK;
  sf_pool_lock(context->pool);
  for (int32_t j = 0; j < n && status == SF_OK; j++) {
    const float *x_j = x + (size_t)j * (size_t)d;
    if (!context->kernels->all_finite(x_j, d)) {
      status = SF_ERROR_NOT_FINITE;
    } else {
      status = score(predictor, x_j, 0, scores + (size_t)j * (size_t)predictor->q->rows);
    }
  }
  sf_pool_unlock(context->pool);
  return status;
}

int32_t sf_predictor_predict(sf_predictor *predictor, const float *x, int32_t *ids) {
  if (!predictor || !x || !ids) return SF_ERROR_ARGUMENT;
  sf_context *context = predictor->context;
  if (!context->kernels->all_finite(x, predictor->p->columns)) return SF_ERROR_NOT_FINITE;
  sf_pool_lock(context->pool);
  int32_t count = sf_predict(predictor, x, ids);
  sf_pool_unlock(context->pool);
  return count;
}
