/* What a pass ends with: the sum over neurons, by neuron, of those in a list, or by output, of all with 0 for the rest.
 */
#include "ffn/down.h"

#include <string.h>

#include "base/memory.h"

/* ---- Down, one row a neuron ---- */

typedef struct {
  const sf_ffn *ffn;
  const int32_t *ids, *counts; /* NULL: every row */
  const float *alpha;
  int32_t n;
  int32_t tile; /* neurons */
  float *y;
} down_job;

/* Neurons first … first+tile-1 of all vectors, whose lists have been used up to done (n); columns begin … end-1. */
static void down_tile(const down_job *job, int32_t first, int32_t *done, int32_t begin, int32_t end) {
  const sf_ffn *ffn = job->ffn;
  int32_t next = ffn->hidden - first > job->tile ? first + job->tile : ffn->hidden;
  for (int32_t j = 0; j < job->n; j++) {
    size_t list = (size_t)j * (size_t)ffn->hidden;
    const int32_t *ids = job->ids ? job->ids + list : NULL;
    int32_t from = done[j], to = next;
    if (ids) {
      for (to = from; to < job->counts[j] && ids[to] < next; to++) {
      }
    }
    if (to == from) continue;
    sf_rows rows = sf_matrix_rows(ffn->by_neuron, ids, from);
    ffn->context->kernels->axpy_rows[ffn->by_neuron->format->index](&rows, to - from, job->alpha + list + from, begin,
                                                                    end, job->y + (size_t)j * (size_t)ffn->d_out);
    done[j] = to;
  }
}

static void down_part(void *argument, int32_t part, int32_t parts) {
  const down_job *job = argument;
  int32_t begin = sf_part_begin(job->ffn->d_out, SF_COLUMN_GRAIN, part, parts);
  int32_t end = sf_part_begin(job->ffn->d_out, SF_COLUMN_GRAIN, part + 1, parts);
  int32_t done[SF_BATCH] = {0};
  if (begin == end) return;
  for (int32_t first = 0; first < job->ffn->hidden; first += job->tile) down_tile(job, first, done, begin, end);
}

static void add_by_neuron(const sf_ffn *ffn, const int32_t *ids, const int32_t *counts, const float *alpha, int32_t n,
                          float *y) {
  sf_context *context = ffn->context;
  if (n == 1) {
    sf_accumulate(context, ffn->by_neuron, ids, ids ? counts[0] : ffn->hidden, alpha, y);
    return;
  }
  int64_t neurons = 0;
  for (int32_t j = 0; j < n; j++) neurons += ids ? counts[j] : ffn->hidden;
  if (neurons == 0) return;
  down_job job = {ffn, ids, counts, alpha, n, sf_ffn_tile(ffn, ffn->by_neuron, neurons), y};
  size_t work = sf_size_product((size_t)neurons, ffn->by_neuron->row_bytes);
  sf_pool_run(context->pool, down_part, &job, sf_parts(context, work));
}

/* ---- Down, one row an output ---- */

/* y (n, d_out) += of the k vectors which[0 … k-1], values (k, hidden) · downᵀ. */
static int32_t add_by_output(sf_ffn *ffn, int32_t phase, const float *values, const int32_t *which, int32_t k,
                             float *y) {
  sf_context *context = ffn->context;
  size_t d_out = (size_t)ffn->d_out;
  int32_t status =
      sf_grow((void **)&ffn->work->outputs, &ffn->work->outputs_capacity, (size_t)k * d_out, sizeof(float));
  if (status != SF_OK) return status;
  if (!context->kernels->all_finite(values, k * ffn->hidden)) return SF_ERROR_NOT_FINITE;
  status = sf_prepare_multiply(context, phase, ffn->by_output, values, k, ffn->work->outputs);
  for (int32_t j = 0; status == SF_OK && j < k; j++) {
    float *y_j = y + (size_t)which[j] * d_out;
    context->kernels->add(y_j, ffn->work->outputs + (size_t)j * d_out, ffn->d_out, y_j);
  }
  return status;
}

/* Whether a list of `count` neurons costs less than the whole matrix, which n vectors share. */
static int32_t list_pays(const sf_ffn *ffn, int32_t count, int32_t n) {
  const sf_matrix *list = ffn->by_neuron, *all = ffn->by_output;
  sf_list_cost cost = sf_list_cost_of(list->format);
  float whole = (float)all->row_bytes * (float)ffn->d_out;
  if (n > 1) whole *= ffn->context->costs[all->format->index].batched;
  return (float)count * ((float)list->row_bytes * cost.byte + cost.row) < whole;
}

int32_t sf_ffn_add_down(sf_ffn *ffn, int32_t phase, const int32_t *ids, const int32_t *counts, const float *alpha,
                        int32_t n, int32_t lists, float *y) {
  size_t hidden = (size_t)ffn->hidden;
  int32_t listed[SF_BATCH], which[SF_BATCH], spread = 0, status = SF_OK;
  for (int32_t j = 0; j < n; j++) {
    int32_t count = ids ? counts[j] : ffn->hidden;
    int32_t by_list = lists || !ffn->by_output || (ids && ffn->by_neuron && list_pays(ffn, count, n));
    listed[j] = by_list ? count : 0;
    if (!by_list) which[spread++] = j;
  }
  if (spread < n) add_by_neuron(ffn, ids, listed, alpha, n, y);
  if (spread == 0) return SF_OK;
  if (!ids) return add_by_output(ffn, phase, alpha, which, spread, y); /* then no vector has a list */
  status = sf_grow((void **)&ffn->work->some_values, &ffn->work->some_capacity, (size_t)spread * hidden, sizeof(float));
  if (status != SF_OK) return status;
  memset(ffn->work->some_values, 0, (size_t)spread * hidden * sizeof(float));
  for (int32_t k = 0; k < spread; k++) {
    size_t list = (size_t)which[k] * hidden;
    float *values = ffn->work->some_values + (size_t)k * hidden;
    for (int32_t i = 0; i < counts[which[k]]; i++) values[ids[list + (size_t)i]] = alpha[list + (size_t)i];
  }
  return add_by_output(ffn, phase, ffn->work->some_values, which, spread, y);
}
