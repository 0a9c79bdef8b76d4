#include "ffn/predictor.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "matrix/select.h"

/* Room for the scores of n vectors. */
static int32_t reserve(sf_predictor *predictor, int32_t n) {
  size_t scores = sf_size_product((size_t)n, (size_t)predictor->hidden);
  size_t between = predictor->p ? sf_size_product((size_t)n, (size_t)predictor->p->rows) : 0;
  int32_t status = sf_grow((void **)&predictor->scores, &predictor->scores_capacity, scores, sizeof(float));
  if (status != SF_OK) return status;
  return sf_grow((void **)&predictor->z, &predictor->z_capacity, between, sizeof(float));
}

/* What every kind of predictor has. */
static int32_t start(sf_predictor *predictor, sf_context *context, int32_t d, int32_t hidden) {
  predictor->context = context;
  predictor->d = d;
  predictor->hidden = hidden;
  predictor->rule = SF_RULE_THRESHOLD;
  predictor->most = hidden;
  return reserve(predictor, 1);
}

int32_t sf_predictor_open(sf_predictor **out, sf_context *context, const sf_matrix *p, const sf_matrix *q,
                          const float *bias, int32_t relu_between) {
  if (!out) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (!context || !p || !q || relu_between < 0 || relu_between > 1) return SF_ERROR_ARGUMENT;
  if (q->columns != p->rows || p->rows > SF_MAX_NEURONS || p->columns > SF_MAX_NEURONS || q->rows > SF_MAX_NEURONS)
    return SF_ERROR_SHAPE;
  sf_predictor *predictor = sf_array(1, sizeof(sf_predictor));
  if (!predictor) return SF_ERROR_MEMORY;
  predictor->p = p;
  predictor->q = q;
  predictor->relu_between = relu_between;
  int32_t status = start(predictor, context, p->columns, q->rows);
  if (status == SF_OK) status = sf_copy_floats(&predictor->bias, bias, q->rows);
  if (status == SF_OK) status = sf_interleave(&predictor->wide_p, context, p);
  if (status == SF_OK) status = sf_interleave(&predictor->wide_q, context, q);
  if (status != SF_OK) {
    sf_predictor_close(predictor);
    return status;
  }
  *out = predictor;
  return SF_OK;
}

/* Bit j of the result: x[j] is negative. -0 counts as positive, so that the sign of a product is the XOR. */
static void pack_signs(const float *x, int32_t count, uint32_t *words) {
  memset(words, 0, ((size_t)count + 31) / 32 * sizeof *words);
  for (int32_t j = 0; j < count; j++) words[j / 32] |= (uint32_t)(x[j] < 0) << (j % 32);
}

int32_t sf_predictor_open_sign(sf_predictor **out, sf_context *context, const sf_matrix *gate, float alpha) {
  if (!out) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (!context || !gate || !isfinite(alpha)) return SF_ERROR_ARGUMENT;
  if (gate->rows > SF_MAX_NEURONS || gate->columns > SF_MAX_NEURONS) return SF_ERROR_SHAPE;
  sf_predictor *predictor = sf_array(1, sizeof(sf_predictor));
  if (!predictor) return SF_ERROR_MEMORY;
  int32_t d = gate->columns, words = d / 32 + (d % 32 != 0);
  predictor->alpha = alpha;
  predictor->words = words;
  predictor->x_signs = sf_array((size_t)words, sizeof(uint32_t));
  predictor->signs = sf_array(sf_size_product((size_t)gate->rows, (size_t)words), sizeof(uint32_t));
  float *row = sf_array((size_t)d, sizeof(float));
  int32_t status = start(predictor, context, d, gate->rows);
  if (!predictor->x_signs || !predictor->signs || !row) status = SF_ERROR_MEMORY;
  for (int32_t i = 0; i < gate->rows && status == SF_OK; i++) {
    const sf_format *format = gate->format;
    format->dequantize(gate->data + (size_t)i * gate->stride, (size_t)(d / format->block_columns), row);
    pack_signs(row, d, predictor->signs + (size_t)i * (size_t)words);
  }
  sf_free(row);
  if (status != SF_OK) {
    sf_predictor_close(predictor);
    return status;
  }
  *out = predictor;
  return SF_OK;
}

int32_t sf_predictor_signs(const sf_predictor *predictor, uint32_t *signs, size_t bytes) {
  if (!predictor || !predictor->signs || !signs) return SF_ERROR_ARGUMENT;
  size_t wanted = (size_t)predictor->hidden * (size_t)predictor->words * sizeof *signs;
  if (bytes < wanted) return SF_ERROR_SHAPE;
  memcpy(signs, predictor->signs, wanted);
  return SF_OK;
}

void sf_predictor_close(sf_predictor *predictor) {
  if (!predictor) return;
  sf_free(predictor->signs);
  sf_free(predictor->x_signs);
  sf_interleaved_close(&predictor->wide_p);
  sf_interleaved_close(&predictor->wide_q);
  sf_free(predictor->bias);
  sf_free(predictor->z);
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

/* out (n, rows - first), rows `stride` apart: the products of the matrix's rows from `first` on with x (n, columns). */
static int32_t multiply(sf_context *context, const sf_matrix *matrix, const sf_interleaved *wide, int32_t first,
                        const float *x, int32_t n, float *out, size_t stride) {
  sf_inputs inputs;
  int32_t status = sf_prepare(context, matrix->format, x, n, matrix->columns, &inputs);
  if (status != SF_OK) return status;
  if (wide->data) {
    sf_multiply_interleaved(context, wide, first, &inputs, n, out, stride);
  } else {
    sf_matrix rows = *matrix;
    rows.data += (size_t)first * rows.stride;
    sf_multiply(context, &rows, NULL, rows.rows - first, &inputs, n, out, stride);
  }
  return SF_OK;
}

/* See score(); n vectors for which there is room. */
static int32_t low_rank_scores(sf_predictor *predictor, const float *x, int32_t n, int32_t first, float *scores,
                               size_t stride) {
  sf_context *context = predictor->context;
  const sf_kernels *kernels = context->kernels;
  int32_t rank = predictor->p->rows, count = predictor->hidden - first;
  float *z = predictor->z;
  int32_t status = multiply(context, predictor->p, &predictor->wide_p, 0, x, n, z, (size_t)rank);
  if (status != SF_OK) return status;
  if (predictor->relu_between) kernels->activate(SF_RELU, 0, z, n * rank, z);
  /* A sum of finite products may still overflow; the block formats cannot represent that. */
  if (!kernels->all_finite(z, n * rank)) return SF_ERROR_NOT_FINITE;
  status = multiply(context, predictor->q, &predictor->wide_q, first, z, n, scores, stride);
  for (int32_t j = 0; status == SF_OK && predictor->bias && j < n; j++) {
    float *scores_j = scores + (size_t)j * stride;
    kernels->add(scores_j, predictor->bias + first, count, scores_j);
  }
  return status;
}

static int32_t count_bits(uint32_t word) {
#if defined(__GNUC__)
  return __builtin_popcount(word);
#else
  word -= word >> 1 & 0x55555555u;
  word = (word & 0x33333333u) + (word >> 2 & 0x33333333u);
  return (int32_t)(((word + (word >> 4)) & 0x0F0F0F0Fu) * 0x01010101u >> 24);
#endif
}

static void sign_scores(sf_predictor *predictor, const float *x, int32_t first, float *scores) {
  pack_signs(x, predictor->d, predictor->x_signs);
  const uint32_t *row = predictor->signs + (size_t)first * (size_t)predictor->words;
  for (int32_t i = first; i < predictor->hidden; i++, row += predictor->words) {
    int32_t negative = 0;
    for (int32_t w = 0; w < predictor->words; w++) negative += count_bits(row[w] ^ predictor->x_signs[w]);
    *scores++ = predictor->alpha * (float)(predictor->d - negative) - (float)negative;
  }
}

/* scores (n, hidden - first), rows `stride` apart, of the neurons from `first` on; n ≤ SF_BATCH. */
static int32_t score(sf_predictor *predictor, const float *x, int32_t n, int32_t first, float *scores, size_t stride) {
  if (predictor->q) return low_rank_scores(predictor, x, n, first, scores, stride);
  for (int32_t j = 0; j < n; j++) {
    sign_scores(predictor, x + (size_t)j * (size_t)predictor->d, first, scores + (size_t)j * stride);
  }
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
  if (status == SF_OK) status = score(predictor, x, n, predictor->hot, predictor->scores, hidden);
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
    if (status == SF_OK) status = score(predictor, x_first, batch, 0, scores + (size_t)first * hidden, hidden);
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
