/* Low-rank predictors: scores = Q · f(P · x) + bias, see sf_predictor_open. */
#include "base/memory.h"
#include "ffn/predictor.h"

typedef struct {
  sf_predictor base;
  const sf_matrix *p, *q;
  sf_panels p_panels, q_panels; /* the same rows again, where there are kernels for these */
  float *bias;                  /* (hidden) or NULL */
  int32_t relu_between;
  float *z; /* (n, rank), grown as needed */
  size_t z_capacity;
} low_rank;

/* Room for P · x of n vectors. */
static int32_t reserve(low_rank *predictor, int32_t n) {
  size_t between = sf_size_product((size_t)n, (size_t)predictor->p->rows);
  return sf_grow((void **)&predictor->z, &predictor->z_capacity, between, sizeof(float));
}

static int32_t score(sf_predictor *base, const float *x, int32_t n, int32_t first, float *scores, size_t stride) {
  low_rank *predictor = (low_rank *)base;
  sf_context *context = base->context;
  const sf_kernels *kernels = context->kernels;
  int32_t rank = predictor->p->rows, count = base->hidden - first;
  int32_t status = reserve(predictor, n);
  if (status != SF_OK) return status;
  float *z = predictor->z;
  status = sf_predictor_multiply(context, predictor->p, &predictor->p_panels, 0, x, n, z, (size_t)rank);
  if (status != SF_OK) return status;
  if (predictor->relu_between) kernels->activate(SF_RELU, 0, z, n * rank, z);
  /* A sum of finite products may still overflow; the block formats cannot represent that. */
  if (!kernels->all_finite(z, n * rank)) return SF_ERROR_NOT_FINITE;
  status = sf_predictor_multiply(context, predictor->q, &predictor->q_panels, first, z, n, scores, stride);
  for (int32_t j = 0; status == SF_OK && predictor->bias && j < n; j++) {
    float *scores_j = scores + (size_t)j * stride;
    kernels->add(scores_j, predictor->bias + first, count, scores_j);
  }
  return status;
}

static void close_low_rank(sf_predictor *base) {
  low_rank *predictor = (low_rank *)base;
  sf_panels_close(&predictor->p_panels);
  sf_panels_close(&predictor->q_panels);
  sf_free(predictor->bias);
  sf_free(predictor->z);
}

static const sf_predictor_kind kind = {score, NULL, close_low_rank};

int32_t sf_predictor_open(sf_predictor **out, sf_context *context, const sf_matrix *p, const sf_matrix *q,
                          const float *bias, int32_t relu_between) {
  if (!out) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (!context || !p || !q || relu_between < 0 || relu_between > 1) return SF_ERROR_ARGUMENT;
  if (q->columns != p->rows || p->rows > SF_MAX_NEURONS || p->columns > SF_MAX_NEURONS || q->rows > SF_MAX_NEURONS)
    return SF_ERROR_SHAPE;
  low_rank *predictor = sf_array(1, sizeof(low_rank));
  if (!predictor) return SF_ERROR_MEMORY;
  predictor->base.kind = &kind;
  predictor->p = p;
  predictor->q = q;
  predictor->relu_between = relu_between;
  int32_t status = sf_predictor_start(&predictor->base, context, p->columns, q->rows);
  if (status == SF_OK) status = reserve(predictor, 1);
  if (status == SF_OK) status = sf_copy_floats(&predictor->bias, bias, q->rows);
  if (status == SF_OK) status = sf_panels_make(&predictor->p_panels, context, p);
  if (status == SF_OK) status = sf_panels_make(&predictor->q_panels, context, q);
  if (status != SF_OK) {
    sf_predictor_close(&predictor->base);
    return status;
  }
  *out = &predictor->base;
  return SF_OK;
}
