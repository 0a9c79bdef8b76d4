/* Passes that stream whole matrices. */
#include "ffn/dense.h"

#include "base/memory.h"
#include "ffn/down.h"

/* ---- Gate and up of every neuron ---- */

void sf_ffn_every_row(const sf_ffn *ffn, const sf_matrix *matrix, const float *bias, const sf_inputs *inputs, int32_t n,
                      float *values) {
  sf_multiply(ffn->context, matrix, NULL, ffn->hidden, inputs, n, values, (size_t)ffn->hidden);
  for (int32_t j = 0; bias && j < n; j++, values += ffn->hidden) {
    ffn->context->kernels->add(values, bias, ffn->hidden, values);
  }
}

typedef struct {
  const sf_ffn *ffn;
  const sf_inputs *inputs;
  int32_t n;
} neurons_job;

/* values (n, hidden), columns begin … end-1: rows of the matrix times the inputs, plus the bias. */
static void dense_rows(const sf_ffn *ffn, const sf_matrix *matrix, const float *bias, const sf_inputs *inputs,
                       int32_t n, int32_t begin, int32_t end, float *values) {
  const sf_kernels *kernels = ffn->context->kernels;
  size_t hidden = (size_t)ffn->hidden;
  sf_rows rows = sf_matrix_rows(matrix, NULL, begin);
  sf_dot_rows(ffn->context, matrix, &rows, end - begin, inputs, n, values + begin, hidden);
  for (int32_t j = 0; bias && j < n; j++) {
    float *row = values + (size_t)j * hidden + begin;
    kernels->add(row, bias + begin, end - begin, row);
  }
}

static void neurons_part(void *argument, int32_t part, int32_t parts) {
  const neurons_job *job = argument;
  const sf_ffn *ffn = job->ffn;
  const sf_kernels *kernels = ffn->context->kernels;
  int32_t grain = sf_row_grain(job->inputs);
  int32_t begin = sf_part_begin(ffn->hidden, grain, part, parts);
  int32_t end = sf_part_begin(ffn->hidden, grain, part + 1, parts);
  if (begin == end) return;
  dense_rows(ffn, ffn->up, ffn->up_bias, job->inputs, job->n, begin, end, ffn->work->up_values);
  if (ffn->gate && !(ffn->deviations > 0)) {
    dense_rows(ffn, ffn->gate, ffn->gate_bias, job->inputs, job->n, begin, end, ffn->work->gate_values);
  }
  for (int32_t j = 0; j < job->n; j++) {
    size_t start = (size_t)j * (size_t)ffn->hidden + (size_t)begin;
    float *up = ffn->work->up_values + start;
    float *activated = ffn->gate ? ffn->work->gate_values + start : up;
    kernels->activate(ffn->activation, ffn->parameter, activated, end - begin, activated);
    if (!ffn->gate) continue;
    if (ffn->up_activation != SF_IDENTITY) {
      kernels->activate(ffn->up_activation, ffn->up_parameter, up, end - begin, up);
    }
    kernels->multiply(activated, up, end - begin, up);
  }
}

void sf_ffn_every_neuron(const sf_ffn *ffn, const sf_inputs *inputs, int32_t n) {
  neurons_job job = {ffn, inputs, n};
  if (ffn->deviations > 0) { /* all gates come before the first activation */
    sf_ffn_every_row(ffn, ffn->gate, ffn->gate_bias, inputs, n, ffn->work->gate_values);
    sf_ffn_cut_gates(ffn, n, ffn->work->gate_values);
  }
  size_t work = sf_size_product((size_t)ffn->hidden * (ffn->gate ? 2 : 1), ffn->up->row_bytes);
  sf_pool_run(ffn->context->pool, neurons_part, &job, sf_parts(ffn->context, sf_size_product(work, (size_t)n)));
}

/* ---- A dense pass ---- */

int32_t sf_ffn_dense(sf_ffn *ffn, int32_t phase, const float *x, int32_t n, float *y) {
  sf_inputs inputs;
  int32_t status = sf_ffn_reserve(ffn, n);
  if (status == SF_OK) status = sf_ffn_prepare(ffn, phase, x, n, &inputs);
  if (status != SF_OK) return status;
  sf_ffn_every_neuron(ffn, &inputs, n);
  sf_ffn_apply_sub_norm(ffn, NULL, NULL, n, ffn->work->up_values);
  sf_ffn_start_output(ffn, n, y);
  return sf_ffn_add_down(ffn, phase, NULL, NULL, ffn->work->up_values, n, 0, y);
}
