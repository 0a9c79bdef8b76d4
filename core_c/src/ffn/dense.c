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

/* Neurons whose gates and ups, of several vectors, stay in the second-level cache until they meet: a product's results
 * are scattered over the vectors' rows, and to write them to memory so takes longer than some of the products. */
enum { SLICE = 512 };

typedef struct {
  const sf_ffn *ffn;
  const sf_inputs *inputs;
  int32_t n, keep;
} neurons_job;

/* values (n, end - begin), `stride` apart: rows of the matrix times the inputs, plus the bias. */
static void dense_rows(const sf_ffn *ffn, const sf_matrix *matrix, const float *bias, const sf_inputs *inputs,
                       int32_t n, int32_t begin, int32_t end, float *values, size_t stride) {
  const sf_kernels *kernels = ffn->context->kernels;
  sf_rows rows = sf_matrix_rows(matrix, NULL, begin);
  sf_dot_rows(ffn->context, matrix, &rows, end - begin, inputs, n, values, stride);
  for (int32_t j = 0; bias && j < n; j++) {
    float *row = values + (size_t)j * stride;
    kernels->add(row, bias + begin, end - begin, row);
  }
}

/* Neurons begin … end-1, with room for the gates that are not kept, and for ups if there is some. */
static void dense_neurons(const neurons_job *job, int32_t begin, int32_t end, float *gate_room, float *up_room) {
  const sf_ffn *ffn = job->ffn;
  const sf_kernels *kernels = ffn->context->kernels;
  const size_t hidden = (size_t)ffn->hidden, some = (size_t)(end - begin);
  const size_t gate_stride = job->keep ? hidden : some, up_stride = up_room ? some : hidden;
  float *out = ffn->work->up_values + begin, *gates = job->keep ? ffn->work->gate_values + begin : gate_room;
  float *ups = up_room ? up_room : out;
  dense_rows(ffn, ffn->up, ffn->up_bias, job->inputs, job->n, begin, end, ups, up_stride);
  if (ffn->gate && !(ffn->deviations > 0)) {
    dense_rows(ffn, ffn->gate, ffn->gate_bias, job->inputs, job->n, begin, end, gates, gate_stride);
  }
  for (int32_t j = 0; j < job->n; j++, out += hidden) {
    float *up = ups + (size_t)j * up_stride, *activated = ffn->gate ? gates + (size_t)j * gate_stride : up;
    kernels->activate(ffn->activation, ffn->parameter, activated, end - begin, activated);
    if (!ffn->gate) continue;
    if (ffn->up_activation != SF_IDENTITY) {
      kernels->activate(ffn->up_activation, ffn->up_parameter, up, end - begin, up);
    }
    kernels->multiply(activated, up, end - begin, out);
  }
}

static void neurons_part(void *argument, int32_t part, int32_t parts) {
  const neurons_job *job = argument;
  const int32_t grain = sf_row_grain(job->inputs), hidden = job->ffn->hidden;
  int32_t begin = sf_part_begin(hidden, grain, part, parts), step = hidden;
  const int32_t end = sf_part_begin(hidden, grain, part + 1, parts), fits = (end - begin) / 2 / grain * grain;
  float *room = job->ffn->gate ? job->ffn->work->gate_values + (size_t)begin * (size_t)job->n : NULL, *up_room = NULL;
  if (job->n > 1 && room && !job->keep) { /* a single vector's are in a cache anyway */
    step = fits >= SLICE / 2 && fits < SLICE ? fits : SLICE;
    up_room = fits >= step ? room + (size_t)step * (size_t)job->n : NULL;
  }
  for (; begin < end; begin += step) {
    dense_neurons(job, begin, end - begin < step ? end : begin + step, room, up_room);
  }
}

void sf_ffn_every_neuron(const sf_ffn *ffn, const sf_inputs *inputs, int32_t n, int32_t keep) {
  neurons_job job = {ffn, inputs, n, keep || ffn->deviations > 0};
  if (ffn->deviations > 0) { /* all gates come before the first activation */
    sf_ffn_every_row(ffn, ffn->gate, ffn->gate_bias, inputs, n, ffn->work->gate_values);
    sf_ffn_cut_gates(ffn, n, ffn->work->gate_values);
  }
  size_t work = sf_size_product((size_t)ffn->hidden * (ffn->gate ? 2 : 1), ffn->up->row_bytes);
  sf_pool_run(ffn->context->pool, neurons_part, &job, sf_parts(ffn->context, sf_size_product(work, (size_t)n)));
}

/* ---- A dense pass ---- */

int32_t sf_ffn_dense(sf_ffn *ffn, int32_t phase, const float *x, int32_t n, int32_t keep, float *y) {
  sf_inputs inputs;
  int32_t status = sf_ffn_reserve(ffn, n);
  if (status == SF_OK) status = sf_ffn_prepare(ffn, phase, x, n, &inputs);
  if (status != SF_OK) return status;
  sf_ffn_every_neuron(ffn, &inputs, n, keep);
  sf_ffn_apply_sub_norm(ffn, NULL, NULL, n, ffn->work->up_values);
  sf_ffn_start_output(ffn, n, y);
  return sf_ffn_add_down(ffn, phase, NULL, NULL, ffn->work->up_values, n, 0, y);
}
