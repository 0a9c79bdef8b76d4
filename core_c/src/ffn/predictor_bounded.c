/* Bounded copies of a matrix: scores = copy · x, and how far each may be from the matrix's own product, see
 * sf_predictor_open_bounded. */
#include <math.h>

#include "base/memory.h"
#include "ffn/predictor.h"
#include "matrix/matrix.h"

/* The product of bounds and norms is rounded: its terms are positive, so this covers their sum. */
static const double slack = 1.001;

typedef struct {
  sf_predictor base;
  const sf_matrix *copy, *bounds;
  float *norms; /* (parts of x) */
} bounded;

static int32_t score(sf_predictor *base, const float *x, int32_t n, int32_t first, float *scores, size_t stride) {
  return sf_predictor_multiply(base->context, ((bounded *)base)->copy, NULL, first, x, n, scores, stride);
}

static int32_t bound(sf_predictor *base, const float *x, float *errors) {
  bounded *predictor = (bounded *)base;
  int32_t parts = predictor->bounds->columns, width = base->d / parts;
  for (int32_t part = 0; part < parts; part++) {
    double squares = 0;
    for (int32_t i = 0; i < width; i++, x++) squares += (double)*x * (double)*x;
    predictor->norms[part] = (float)(sqrt(squares) * slack);
  }
  if (!base->context->kernels->all_finite(predictor->norms, parts)) return SF_ERROR_NOT_FINITE;
  return sf_prepare_multiply(base->context, SF_DECODE, predictor->bounds, predictor->norms, 1, errors);
}

static void close_bounded(sf_predictor *base) { sf_free(((bounded *)base)->norms); }

static const sf_predictor_kind kind = {score, bound, close_bounded};

static int32_t has_no_blocks(const sf_matrix *matrix) {
  int32_t format = matrix->format->format;
  return format == SF_F32 || format == SF_F16 || format == SF_BF16;
}

int32_t sf_predictor_open_bounded(sf_predictor **out, sf_context *context, const sf_matrix *copy,
                                  const sf_matrix *bounds) {
  if (!out) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (!context || !copy || !bounds) return SF_ERROR_ARGUMENT;
  if (!has_no_blocks(bounds)) return SF_ERROR_FORMAT;
  if (copy->rows != bounds->rows || copy->columns % bounds->columns != 0) return SF_ERROR_SHAPE;
  if (copy->rows > SF_MAX_NEURONS || copy->columns > SF_MAX_NEURONS) return SF_ERROR_SHAPE;
  bounded *predictor = sf_array(1, sizeof(bounded));
  if (!predictor) return SF_ERROR_MEMORY;
  predictor->base.kind = &kind;
  predictor->copy = copy;
  predictor->bounds = bounds;
  predictor->norms = sf_array((size_t)bounds->columns, sizeof(float));
  int32_t status = sf_predictor_start(&predictor->base, context, copy->columns, copy->rows);
  if (!predictor->norms) status = SF_ERROR_MEMORY;
  if (status != SF_OK) {
    sf_predictor_close(&predictor->base);
    return status;
  }
  *out = &predictor->base;
  return SF_OK;
}
