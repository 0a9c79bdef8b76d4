/* Single operations, for tests and for callers who compose layers of their own. */
#include "matrix/context.h"

int32_t sf_activate(sf_context *context, int32_t activation, float parameter, const float *x, int32_t count, float *y) {
  if (!context || !x || !y || count < 0 || activation < SF_IDENTITY || activation > SF_CAPPED) {
    return SF_ERROR_ARGUMENT;
  }
  if (!(parameter >= 0) || (parameter == 0 && activation >= SF_SITU)) return SF_ERROR_ARGUMENT;
  if (!context->kernels->all_finite(x, count)) return SF_ERROR_NOT_FINITE;
  context->kernels->activate(activation, parameter, x, count, y);
  return SF_OK;
}

int32_t sf_rms_norm(sf_context *context, const float *x, const float *weight, int32_t n, int32_t d, float epsilon,
                    float *y) {
  if (!context || !x || !weight || !y || n < 0 || d < 1 || !(epsilon >= 0)) return SF_ERROR_ARGUMENT;
  if (!context->kernels->all_finite(weight, d)) return SF_ERROR_NOT_FINITE;
  for (int32_t j = 0; j < n; j++) {
    size_t start = (size_t)j * (size_t)d;
    if (!context->kernels->all_finite(x + start, d)) return SF_ERROR_NOT_FINITE;
    context->kernels->rms_norm(x + start, weight, d, epsilon, y + start);
  }
  return SF_OK;
}

int32_t sf_softmax(sf_context *context, const float *x, int32_t count, float *y) {
  if (!context || !x || !y || count < 1) return SF_ERROR_ARGUMENT;
  if (!context->kernels->all_finite(x, count)) return SF_ERROR_NOT_FINITE;
  context->kernels->softmax(x, count, y);
  return SF_OK;
}
