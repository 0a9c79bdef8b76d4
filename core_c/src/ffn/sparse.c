/* Passes that leave neurons out.
 *
 * A vector's neurons are a list of ids; gate, up and down are computed for what is left in it. Which rows are computed
 * together, whole matrices or lists, one vector or several, is chosen by what it costs, from the numbers of neurons
 * alone. The kernels compute a row's product, and an output's sum, in the same order either way, and what was computed
 * beyond the list is not used, so the choice changes no bit of a result. (Where down is there in two layouts, the sums
 * of the two differ in their order; see down.c.) */
#include "ffn/sparse.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "ffn/dense.h"
#include "ffn/down.h"

/* n vectors on their way through the layer. */
typedef struct {
  sf_ffn *ffn;
  const sf_inputs *inputs;
  int32_t n;
  const int32_t *ids; /* (n, hidden): the first counts[j] of row j are the neurons of vector j; NULL: all of them */
  int32_t lists;      /* 1: down by neuron, whatever it costs */
  float gate_cutoff, product_cutoff;
  int32_t counts[SF_BATCH];
} pass;

/* ---- Products of rows ---- */

static size_t list_of(const pass *p, int32_t j) { return (size_t)j * (size_t)p->ffn->hidden; }

static void gather(const float *found, const int32_t *ids, int32_t count, float *values) {
  for (int32_t i = 0; i < count; i++) values[i] = found[ids[i]];
}

/* One vector: its rows one by one, or, when it wants most of them, all rows in the order they lie in memory. */
static int32_t multiply_one(const pass *p, const sf_matrix *matrix, float *values) {
  sf_ffn *ffn = p->ffn;
  sf_context *context = ffn->context;
  int32_t count = p->counts[0];
  const sf_costs *costs = &context->costs[matrix->format->index];
  if (ffn->cache) {
    int32_t status = sf_cache_slots(ffn->cache, p->ids, count, ffn->rows);
    if (status == SF_OK) sf_multiply(context, matrix, ffn->rows, count, p->inputs, 1, values, (size_t)count);
    return status;
  }
  if ((float)count * costs->scattered <= (float)ffn->hidden) {
    sf_multiply(context, matrix, p->ids, count, p->inputs, 1, values, (size_t)count);
    return SF_OK;
  }
  sf_multiply(context, matrix, NULL, ffn->hidden, p->inputs, 1, ffn->work->some_values, (size_t)ffn->hidden);
  gather(ffn->work->some_values, p->ids, count, values);
  return SF_OK;
}

typedef struct {
  const pass *p;
  const sf_matrix *matrix;
  const int32_t *ids, *counts; /* as in a pass */
  int32_t tile;                /* neurons of a part */
  float *values;
} lists_job;

/* How many of the ids (count), ascending, are below `limit`. */
static int32_t count_below(const int32_t *ids, int32_t count, int32_t limit) {
  int32_t low = 0;
  while (low < count) {
    int32_t middle = low + (count - low) / 2;
    if (ids[middle] < limit) {
      low = middle + 1;
    } else {
      count = middle;
    }
  }
  return low;
}

/* The neurons of one tile, for each vector those it wants: its rows are read from memory once. */
static void lists_part(void *argument, int32_t part, int32_t parts) {
  const lists_job *job = argument;
  const pass *p = job->p;
  const sf_kernels *kernels = p->ffn->context->kernels;
  int32_t begin = part * job->tile, end = part + 1 < parts ? begin + job->tile : p->ffn->hidden;
  for (int32_t j = 0; j < p->n; j++) {
    const int32_t *ids = job->ids + list_of(p, j);
    int32_t first = count_below(ids, job->counts[j], begin), count = count_below(ids, job->counts[j], end) - first;
    if (count == 0) continue;
    sf_rows rows = sf_matrix_rows(job->matrix, ids, first);
    sf_inputs input = sf_input(p->inputs, j, p->ffn->d_in);
    kernels->dot_rows[job->matrix->format->index](&rows, count, &input, 1, job->values + list_of(p, j) + first,
                                                  (size_t)count);
  }
}

/* Each vector with the neurons in its own list: values as the ids. */
static void multiply_lists(const pass *p, const sf_matrix *matrix, const int32_t *ids, const int32_t *counts,
                           float *values) {
  const sf_ffn *ffn = p->ffn;
  sf_context *context = ffn->context;
  int64_t wanted = 0;
  for (int32_t j = 0; j < p->n; j++) wanted += counts[j];
  if (wanted == 0) return;
  int32_t parts = sf_parts(context, sf_size_product((size_t)wanted, matrix->row_bytes));
  int32_t tile = sf_ffn_tile(ffn, matrix, wanted), most = ffn->hidden / parts + 1;
  tile = parts > 1 && tile > most ? most : tile; /* enough tiles for every thread */
  tile = (tile + SF_ROW_GRAIN - 1) / SF_ROW_GRAIN * SF_ROW_GRAIN;
  lists_job job = {p, matrix, ids, counts, tile, values};
  int32_t tiles = (ffn->hidden + tile - 1) / tile;
  if (parts > 1 && tiles <= SF_MAX_PARTS) {
    sf_pool_run(context->pool, lists_part, &job, tiles);
    return;
  }
  for (int32_t i = 0; i < tiles; i++) lists_part(&job, i, tiles);
}

/* What several vectors share. */
typedef struct {
  int32_t *ids, *places; /* (hidden): the shared neurons; of each neuron its place among them, or -1 */
  int32_t count;
  int64_t uses; /* Σ over these of the vectors that want them */
} shared_neurons;

/* Finds the neurons selected for so many of the vectors that computing them for all of them costs less. */
static void find_shared(const pass *p, const sf_costs *costs, shared_neurons *shared) {
  int32_t hidden = p->ffn->hidden, *places = shared->places;
  memset(places, 0, (size_t)hidden * sizeof(int32_t));
  for (int32_t j = 0; j < p->n; j++) {
    const int32_t *ids = p->ids + list_of(p, j);
    for (int32_t i = 0; i < p->counts[j]; i++) places[ids[i]]++;
  }
  float least = costs->batched * (float)p->n;
  for (int32_t i = 0; i < hidden; i++) {
    int32_t uses = places[i], is_shared = (float)uses * costs->scattered > least;
    shared->ids[shared->count] = i;
    places[i] = is_shared ? shared->count : -1;
    shared->count += is_shared;
    shared->uses += is_shared ? uses : 0;
  }
}

/* Computes shared neurons for all vectors together, and the rest of each vector's list separately. */
static void multiply_shared(const pass *p, const sf_matrix *matrix, const shared_neurons *shared, float *values) {
  sf_ffn *ffn = p->ffn;
  int32_t rest[SF_BATCH];
  size_t stride = (size_t)shared->count;
  sf_multiply(ffn->context, matrix, shared->ids, shared->count, p->inputs, p->n, ffn->work->some_values, stride);
  for (int32_t j = 0; j < p->n; j++) {
    const int32_t *ids = p->ids + list_of(p, j);
    int32_t *rest_ids = ffn->work->some_ids + list_of(p, j), count = 0;
    for (int32_t i = 0; i < p->counts[j]; i++) {
      rest_ids[count] = ids[i];
      count += shared->places[ids[i]] < 0;
    }
    rest[j] = count;
  }
  multiply_lists(p, matrix, ffn->work->some_ids, rest, values);
  for (int32_t j = 0; j < p->n; j++) { /* backwards, so that the rest moves into place without a copy */
    const int32_t *ids = p->ids + list_of(p, j);
    const float *found = ffn->work->some_values + (size_t)j * stride;
    float *values_j = values + list_of(p, j);
    for (int32_t i = p->counts[j] - 1, left = rest[j]; i >= 0; i--) {
      int32_t place = shared->places[ids[i]];
      values_j[i] = place < 0 ? values_j[--left] : found[place];
    }
  }
}

/* Several vectors. */
static int32_t multiply_several(const pass *p, const sf_matrix *matrix, float *values) {
  sf_ffn *ffn = p->ffn;
  size_t hidden = (size_t)ffn->hidden;
  int32_t status = sf_grow((void **)&ffn->work->uses, &ffn->work->uses_capacity, 2 * hidden, sizeof(int32_t));
  if (status != SF_OK) return status;
  const sf_costs *costs = &ffn->context->costs[matrix->format->index];
  shared_neurons shared = {ffn->work->uses, ffn->work->uses + hidden, 0, 0};
  find_shared(p, costs, &shared);
  if (shared.count == 0) {
    multiply_lists(p, matrix, p->ids, p->counts, values);
    return SF_OK;
  }
  status =
      sf_grow((void **)&ffn->work->some_ids, &ffn->work->some_ids_capacity, (size_t)p->n * hidden, sizeof(int32_t));
  if (status != SF_OK) return status;
  int64_t rest = -shared.uses;
  for (int32_t j = 0; j < p->n; j++) rest += p->counts[j];
  float batched = costs->batched * (float)p->n;
  float lists = ((float)shared.count * batched + (float)rest) * costs->scattered;
  if (lists <= (float)hidden * batched) {
    multiply_shared(p, matrix, &shared, values);
    return SF_OK;
  }
  sf_multiply(ffn->context, matrix, NULL, ffn->hidden, p->inputs, p->n, ffn->work->some_values, hidden);
  for (int32_t j = 0; j < p->n; j++) {
    gather(ffn->work->some_values + list_of(p, j), p->ids + list_of(p, j), p->counts[j], values + list_of(p, j));
  }
  return SF_OK;
}

/* values (n, hidden), as the ids: rows of the matrix times the vectors, plus the bias. */
static int32_t multiply(const pass *p, const sf_matrix *matrix, const float *bias, float *values) {
  sf_ffn *ffn = p->ffn;
  if (!p->ids) {
    sf_ffn_every_row(ffn, matrix, bias, p->inputs, p->n, values);
    return SF_OK;
  }
  size_t count = (size_t)p->n * (size_t)ffn->hidden;
  int32_t status = sf_grow((void **)&ffn->work->some_values, &ffn->work->some_capacity, count, sizeof(float));
  if (status != SF_OK) return status;
  status = p->n == 1 ? multiply_one(p, matrix, values) : multiply_several(p, matrix, values);
  for (int32_t j = 0; bias && status == SF_OK && j < p->n; j++) {
    const int32_t *ids = p->ids + list_of(p, j);
    float *values_j = values + list_of(p, j);
    for (int32_t i = 0; i < p->counts[j]; i++) values_j[i] += bias[ids[i]];
  }
  return status;
}

/* ---- The pass ---- */

/* Keeps the neurons whose value is above the cutoff, in the ids and values of every vector. NaN is kept, so that it
 * shows in the result as it does in a dense pass. */
static void keep(pass *p, float cutoff, float *values) {
  for (int32_t j = 0; j < p->n; j++) {
    const int32_t *ids = p->ids ? p->ids + list_of(p, j) : NULL;
    int32_t *kept_ids = p->ffn->work->ids + list_of(p, j), kept = 0;
    float *values_j = values + list_of(p, j);
    for (int32_t i = 0; i < p->counts[j]; i++) {
      float value = values_j[i];
      kept_ids[kept] = ids ? ids[i] : i;
      values_j[kept] = value;
      kept += !(fabsf(value) <= cutoff);
    }
    p->counts[j] = kept;
  }
  p->ids = p->ffn->work->ids;
}

static int32_t has_zeros(int32_t activation) {
  return activation == SF_RELU || activation == SF_RELU2 || activation == SF_FATRELU;
}

/* The neurons of the pass, from gate to down. y (n, d_out) holds what they are added to. */
static int32_t add_pass(pass *p, float *y) {
  sf_ffn *ffn = p->ffn;
  const sf_kernels *kernels = ffn->context->kernels;
  int32_t zeros = has_zeros(ffn->activation) || ffn->deviations > 0;
  int32_t by_gate = ffn->gate && (zeros || p->gate_cutoff > 0), status = SF_OK;
  float *alpha = ffn->work->gate_values, *up = ffn->work->up_values;
  float cutoff = p->product_cutoff;
  if (!ffn->gate && cutoff < p->gate_cutoff) cutoff = p->gate_cutoff;
  if (!p->ids && !by_gate) {
    sf_ffn_every_neuron(ffn, p->inputs, p->n, 1);
    alpha = up;
  } else {
    status = multiply(p, ffn->gate ? ffn->gate : ffn->up, ffn->gate ? ffn->gate_bias : ffn->up_bias, alpha);
    if (status != SF_OK) return status;
    sf_ffn_cut_gates(ffn, p->n, alpha);
    for (int32_t j = 0; j < p->n; j++) {
      float *alpha_j = alpha + list_of(p, j);
      kernels->activate(ffn->activation, ffn->parameter, alpha_j, p->counts[j], alpha_j);
    }
    if (by_gate) keep(p, p->gate_cutoff, alpha);
    if (ffn->gate) status = multiply(p, ffn->up, ffn->up_bias, up);
    if (status != SF_OK) return status;
    for (int32_t j = 0; ffn->gate && j < p->n; j++) {
      float *alpha_j = alpha + list_of(p, j), *up_j = up + list_of(p, j);
      if (ffn->up_activation != SF_IDENTITY) {
        kernels->activate(ffn->up_activation, ffn->up_parameter, up_j, p->counts[j], up_j);
      }
      kernels->multiply(alpha_j, up_j, p->counts[j], alpha_j);
    }
  }
  if (!ffn->gate || has_zeros(ffn->up_activation) || cutoff > 0) keep(p, cutoff, alpha);
  sf_ffn_apply_sub_norm(ffn, p->ids, p->counts, p->n, alpha);
  const int32_t *rows = p->ids;
  if (ffn->cache) {
    status = sf_cache_slots(ffn->cache, p->ids, p->counts[0], ffn->rows);
    rows = ffn->rows;
  }
  return status == SF_OK ? sf_ffn_add_down(ffn, SF_DECODE, rows, p->counts, alpha, p->n, p->lists, y) : status;
}

int32_t sf_ffn_sparse(sf_ffn *ffn, int32_t mode, const float *x, const float *hints, int32_t n, float *y,
                      int32_t *selected, int32_t *active, uint8_t *fired) {
  sf_inputs inputs;
  pass p = {ffn, &inputs, n, NULL, 0, ffn->gate_cutoff, ffn->product_cutoff, {0}};
  int32_t status = sf_ffn_reserve(ffn, n), every = 1;
  for (int32_t j = 0; j < n; j++) p.counts[j] = ffn->hidden;
  if (status == SF_OK && mode == SF_SPARSE && ffn->predictor) {
    status = sf_predict(ffn->predictor, hints, n, ffn->work->ids, p.counts);
    for (int32_t j = 0; j < n; j++) every &= p.counts[j] == ffn->hidden;
    if (!every) p.ids = ffn->work->ids;
  }
  if (status == SF_OK) status = sf_ffn_prepare(ffn, SF_DECODE, x, n, &inputs);
  if (status != SF_OK) return status;
  memcpy(selected, p.counts, (size_t)n * sizeof(int32_t));
  sf_ffn_start_output(ffn, n, y);
  status = add_pass(&p, y);
  memcpy(active, p.counts, (size_t)n * sizeof(int32_t));
  if (fired && status == SF_OK) sf_ffn_count_fired(ffn, p.ids, p.counts, n, fired);
  return status;
}

int32_t sf_ffn_add_neurons(sf_ffn *ffn, int32_t mode, const int32_t *ids, int32_t count, const float *x, float *y,
                           uint8_t *fired) {
  sf_inputs inputs;
  pass p = {ffn, &inputs, 1, ids, 1, ffn->gate_cutoff, ffn->product_cutoff, {count}};
  if (mode == SF_DENSE) p.gate_cutoff = p.product_cutoff = 0;
  int32_t status = sf_ffn_prepare(ffn, SF_DECODE, x, 1, &inputs);
  if (status == SF_OK) status = add_pass(&p, y);
  if (fired && status == SF_OK) sf_ffn_count_fired(ffn, p.ids, p.counts, 1, fired);
  return status == SF_OK ? p.counts[0] : status;
}
