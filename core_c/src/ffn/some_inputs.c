/* Passes that compute every neuron, and leave out the smallest inputs of its products. */
#include "ffn/some_inputs.h"

#include "ffn/dense.h"
#include "ffn/down.h"
#include "matrix/columns.h"

/* The values of one vector's neurons, to row j of the work memory. */
static int32_t neurons(sf_ffn *ffn, float limit, const float *x, int32_t j) {
  const sf_kernels *kernels = ffn->context->kernels;
  const sf_matrix *matrices[2] = {ffn->up, ffn->gate};
  size_t row = (size_t)j * (size_t)ffn->hidden;
  float *up = ffn->work->up_values + row, *gate = ffn->work->gate_values + row;
  float *ys[2] = {up, gate};
  int32_t count = sf_multiply_above(ffn->context, matrices, ffn->gate ? 2 : 1, x, limit, ys);
  if (count < 0) return count;
  if (ffn->up_bias) kernels->add(up, ffn->up_bias, ffn->hidden, up);
  if (ffn->gate_bias) kernels->add(gate, ffn->gate_bias, ffn->hidden, gate);
  float *activated = ffn->gate ? gate : up;
  kernels->activate(ffn->activation, ffn->parameter, activated, ffn->hidden, activated);
  if (!ffn->gate) return count;
  if (ffn->up_activation != SF_IDENTITY) kernels->activate(ffn->up_activation, ffn->up_parameter, up, ffn->hidden, up);
  kernels->multiply(gate, up, ffn->hidden, up);
  return count;
}

int32_t sf_ffn_some_inputs(sf_ffn *ffn, const float *limits, const float *x, int32_t n, float *y, int32_t *inputs,
                           int32_t *chosen) {
  int32_t status = sf_ffn_reserve(ffn, n);
  for (int32_t j = 0; j < n && status == SF_OK; j++, x += ffn->d_in, y += ffn->d_out) {
    float *values = ffn->work->up_values + (size_t)j * (size_t)ffn->hidden;
    int32_t count = neurons(ffn, limits[0], x, j);
    if (count < 0) return count;
    if (limits[0] > 0) inputs[j] += ffn->d_in, chosen[j] += count;
    if (!ffn->context->kernels->all_finite(values, ffn->hidden)) return SF_ERROR_NOT_FINITE;
    if (limits[1] > 0) {
      count = sf_multiply_above(ffn->context, &ffn->by_output, 1, values, limits[1], &y);
      if (count < 0) return count;
      if (ffn->down_bias) ffn->context->kernels->add(y, ffn->down_bias, ffn->d_out, y);
      inputs[j] += ffn->hidden, chosen[j] += count;
    } else {
      sf_ffn_start_output(ffn, 1, y);
      status = sf_ffn_add_down(ffn, SF_DECODE, NULL, NULL, values, 1, 0, y);
    }
  }
  return status;
}
