/* Feed-forward layers: opening, settings and the public passes. How they are computed: dense.c, sparse.c. */
#include "ffn/layer.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "ffn/dense.h"
#include "ffn/sparse.h"

/* The activation of up beside a gate's. */
static int32_t beside(int32_t activation) {
  if (activation == SF_SITU) return SF_CAPPED;
  if (activation == SF_SILU_LIMITED || activation == SF_SILU_CAPPED) return SF_LIMITED;
  return activation == SF_SILU_CLAMPED ? SF_CLAMPED : SF_IDENTITY;
}

/* A layer without its matrices, or NULL when out of memory. */
static sf_ffn *new_ffn(sf_context *context, int32_t d_in, int32_t d_out, int32_t hidden, int32_t activation,
                       float parameter) {
  sf_ffn *ffn = sf_array(1, sizeof(sf_ffn));
  if (!ffn) return NULL;
  ffn->context = context;
  ffn->activation = activation;
  ffn->up_activation = beside(activation);
  ffn->parameter = ffn->up_parameter = parameter;
  ffn->d_in = d_in;
  ffn->d_out = d_out;
  ffn->hidden = hidden;
  ffn->work = &ffn->own_work;
  if (sf_ffn_reserve(ffn, 1) == SF_OK) return ffn;
  sf_ffn_close(ffn);
  return NULL;
}

static int32_t valid_activation(int32_t activation, float parameter) {
  if (activation < SF_IDENTITY || activation > SF_SITU || activation == SF_CLAMPED || activation == SF_LIMITED) {
    return 0;
  }
  return isfinite(parameter) && parameter >= 0 && (parameter > 0 || activation != SF_SITU);
}

int32_t sf_ffn_open(sf_ffn **out, sf_context *context, const sf_matrix *gate, const sf_matrix *up,
                    const sf_matrix *down, int32_t down_layout, int32_t activation, float parameter) {
  if (!out) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (!context || !up || !down || !valid_activation(activation, parameter)) return SF_ERROR_ARGUMENT;
  if (down_layout != SF_DOWN_BY_NEURON && down_layout != SF_DOWN_BY_OUTPUT) return SF_ERROR_ARGUMENT;
  int32_t by_neuron = down_layout == SF_DOWN_BY_NEURON;
  if (up->rows > SF_MAX_NEURONS || up->columns > SF_MAX_NEURONS) return SF_ERROR_SHAPE;
  if (gate && (gate->rows != up->rows || gate->columns != up->columns)) return SF_ERROR_SHAPE;
  if ((by_neuron ? down->rows : down->columns) != up->rows) return SF_ERROR_SHAPE;
  int32_t d_out = by_neuron ? down->columns : down->rows;
  sf_ffn *ffn = new_ffn(context, up->columns, d_out, up->rows, activation, parameter);
  if (!ffn) return SF_ERROR_MEMORY;
  ffn->gate = gate;
  ffn->up = up;
  *(by_neuron ? &ffn->by_neuron : &ffn->by_output) = down;
  ffn->first_layout = down_layout;
  *out = ffn;
  return SF_OK;
}

int32_t sf_ffn_open_cached(sf_ffn **out, sf_context *context, sf_cache *cache, int32_t format, int32_t d_in,
                           int32_t d_out, int32_t gated, int32_t activation, float parameter) {
  if (!out) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (!context || !cache || !valid_activation(activation, parameter) || gated < 0 || gated > 1) {
    return SF_ERROR_ARGUMENT;
  }
  size_t in_bytes = sf_format_row_bytes(format, d_in), out_bytes = sf_format_row_bytes(format, d_out);
  if (in_bytes == 0 || out_bytes == 0) return SF_ERROR_FORMAT;
  size_t up_offset = gated ? in_bytes : 0, down_offset = up_offset + in_bytes;
  if (d_in > SF_MAX_NEURONS || d_out > SF_MAX_NEURONS || cache->hidden > SF_MAX_NEURONS ||
      cache->bundle_bytes != down_offset + out_bytes) {
    return SF_ERROR_SHAPE;
  }
  sf_ffn *ffn = new_ffn(context, d_in, d_out, cache->hidden, activation, parameter);
  if (!ffn) return SF_ERROR_MEMORY;
  ffn->cache = cache;
  sf_matrix *matrices = ffn->slot_matrices = sf_array(3, sizeof(sf_matrix));
  ffn->rows = sf_array((size_t)ffn->hidden, sizeof(int32_t));
  if (!matrices || !ffn->rows) {
    sf_ffn_close(ffn);
    return SF_ERROR_MEMORY;
  }
  const sf_format *found = sf_format_find(format);
  const sf_matrix gate = {cache->arena, cache->bundle_bytes, in_bytes, found, cache->slots, d_in, 1.0f, NULL};
  const sf_matrix up = {cache->arena + up_offset, cache->bundle_bytes, in_bytes, found, cache->slots, d_in, 1.0f, NULL};
  const sf_matrix down = {
      cache->arena + down_offset, cache->bundle_bytes, out_bytes, found, cache->slots, d_out, 1.0f, NULL};
  matrices[0] = gate;
  matrices[1] = up;
  matrices[2] = down;
  ffn->gate = gated ? &matrices[0] : NULL;
  ffn->up = &matrices[1];
  ffn->by_neuron = &matrices[2];
  *out = ffn;
  return SF_OK;
}

void sf_ffn_close(sf_ffn *ffn) {
  if (!ffn) return;
  sf_free(ffn->rows);
  sf_free(ffn->slot_matrices);
  sf_ffn_close_work(&ffn->own_work);
  sf_free(ffn->gate_bias);
  sf_free(ffn->up_bias);
  sf_free(ffn->down_bias);
  sf_free(ffn->sub_norm);
  sf_free(ffn);
}

int32_t sf_ffn_set_second_down(sf_ffn *ffn, const sf_matrix *down) {
  if (!ffn) return SF_ERROR_ARGUMENT;
  if (ffn->cache) return SF_ERROR_UNSUPPORTED;
  int32_t by_neuron = ffn->first_layout == SF_DOWN_BY_OUTPUT;
  if (down && (by_neuron ? down->rows : down->columns) != ffn->hidden) return SF_ERROR_SHAPE;
  if (down && (by_neuron ? down->columns : down->rows) != ffn->d_out) return SF_ERROR_SHAPE;
  *(by_neuron ? &ffn->by_neuron : &ffn->by_output) = down;
  return SF_OK;
}

int32_t sf_ffn_set_bias(sf_ffn *ffn, const float *gate_bias, const float *up_bias, const float *down_bias) {
  if (!ffn || (gate_bias && !ffn->gate)) return SF_ERROR_ARGUMENT;
  int32_t status = sf_copy_floats(&ffn->gate_bias, gate_bias, ffn->hidden);
  if (status == SF_OK) status = sf_copy_floats(&ffn->up_bias, up_bias, ffn->hidden);
  if (status == SF_OK) status = sf_copy_floats(&ffn->down_bias, down_bias, ffn->d_out);
  return status;
}

int32_t sf_ffn_set_both_active(sf_ffn *ffn, int32_t both) {
  if (!ffn || !ffn->gate || both < 0 || both > 1) return SF_ERROR_ARGUMENT;
  ffn->up_activation = both ? ffn->activation : beside(ffn->activation);
  return SF_OK;
}

int32_t sf_ffn_set_up_parameter(sf_ffn *ffn, float parameter) {
  if (!ffn || !ffn->gate || !valid_activation(ffn->activation, parameter)) return SF_ERROR_ARGUMENT;
  ffn->up_parameter = parameter;
  return SF_OK;
}

int32_t sf_ffn_set_gate_deviations(sf_ffn *ffn, float deviations) {
  if (!ffn || !ffn->gate || !isfinite(deviations) || deviations < 0) return SF_ERROR_ARGUMENT;
  if (deviations > 0 && (ffn->cache || ffn->predictor)) return SF_ERROR_UNSUPPORTED;
  ffn->deviations = deviations;
  return SF_OK;
}

int32_t sf_ffn_set_sub_norm(sf_ffn *ffn, const float *weight, float epsilon) {
  if (!ffn || !(epsilon >= 0) || !isfinite(epsilon)) return SF_ERROR_ARGUMENT;
  if (ffn->cache) return SF_ERROR_UNSUPPORTED;
  int32_t status = sf_copy_floats(&ffn->sub_norm, weight, ffn->hidden);
  if (status == SF_OK) ffn->sub_norm_epsilon = epsilon;
  return status;
}

int32_t sf_ffn_set_predictor(sf_ffn *ffn, sf_predictor *predictor) {
  if (!ffn || (predictor && predictor->context != ffn->context)) return SF_ERROR_ARGUMENT;
  if (predictor && (predictor->d != ffn->d_in || predictor->hidden != ffn->hidden)) return SF_ERROR_SHAPE;
  if (predictor && ffn->deviations > 0) return SF_ERROR_UNSUPPORTED;
  ffn->predictor = predictor;
  return SF_OK;
}

int32_t sf_ffn_set_cutoff(sf_ffn *ffn, int32_t kind, float cutoff) {
  if (!ffn || !isfinite(cutoff) || cutoff < 0) return SF_ERROR_ARGUMENT;
  if (kind != SF_CUTOFF_GATE && kind != SF_CUTOFF_PRODUCT) return SF_ERROR_ARGUMENT;
  *(kind == SF_CUTOFF_GATE ? &ffn->gate_cutoff : &ffn->product_cutoff) = cutoff;
  return SF_OK;
}

int32_t sf_ffn_run(sf_ffn *ffn, int32_t mode, int32_t phase, const float *x, const float *hints, int32_t n, float *y,
                   int32_t *selected, int32_t *active, uint8_t *fired) {
  int32_t status = SF_OK, counts[2][SF_BATCH];
  for (int32_t first = 0; first < n && status == SF_OK; first += SF_BATCH) {
    int32_t batch = n - first < SF_BATCH ? n - first : SF_BATCH;
    const float *x_first = x + (size_t)first * (size_t)ffn->d_in;
    float *y_first = y + (size_t)first * (size_t)ffn->d_out;
    if (mode == SF_DENSE) {
      for (int32_t j = 0; j < batch; j++) counts[0][j] = counts[1][j] = ffn->hidden;
      status = sf_ffn_dense(ffn, phase, x_first, batch, fired != NULL, y_first);
      if (fired && status == SF_OK) sf_ffn_count_fired(ffn, NULL, NULL, batch, fired);
    } else {
      const float *hints_first = hints ? hints + (size_t)first * (size_t)ffn->d_in : x_first;
      status = sf_ffn_sparse(ffn, mode, x_first, hints_first, batch, y_first, counts[0], counts[1], fired);
    }
    for (int32_t j = 0; j < batch && status == SF_OK; j++) {
      if (selected) selected[first + j] = counts[0][j];
      if (active) active[first + j] = counts[1][j];
    }
  }
  return status;
}

int32_t sf_ffn_forward(sf_ffn *ffn, int32_t mode, const float *x, int32_t n, float *y, int32_t *selected,
                       int32_t *active) {
  if (!ffn || !x || !y || n < 0 || mode < SF_DENSE || mode > SF_SPARSE) return SF_ERROR_ARGUMENT;
  if (ffn->cache) return SF_ERROR_UNSUPPORTED;
  sf_context *context = ffn->context;
  for (int32_t j = 0; j < n; j++) {
    if (!context->kernels->all_finite(x + (size_t)j * (size_t)ffn->d_in, ffn->d_in)) return SF_ERROR_NOT_FINITE;
  }
  sf_pool_lock(context->pool);
  int32_t status = sf_ffn_run(ffn, mode, SF_DECODE, x, NULL, n, y, selected, active, NULL);
  sf_pool_unlock(context->pool);
  return status;
}

/* The given neurons, added to y as it is or, with `start` 1, to the bias. */
static int32_t forward_active(sf_ffn *ffn, const int32_t *ids, int32_t count, const float *x, float *y, int32_t start) {
  if (!ffn || !x || !y || !sf_ids_valid(ids, count, ffn->hidden)) return SF_ERROR_ARGUMENT;
  if (!ffn->by_neuron || (ffn->sub_norm && !start) || ffn->deviations > 0) return SF_ERROR_UNSUPPORTED;
  sf_context *context = ffn->context;
  if (!context->kernels->all_finite(x, ffn->d_in)) return SF_ERROR_NOT_FINITE;
  int32_t active = 0;
  sf_pool_lock(context->pool);
  if (start) sf_ffn_start_output(ffn, 1, y);
  if (count > 0) active = sf_ffn_add_neurons(ffn, SF_EXACT, ids, count, x, y, NULL);
  sf_pool_unlock(context->pool);
  return active;
}

int32_t sf_ffn_forward_active(sf_ffn *ffn, const int32_t *ids, int32_t count, const float *x, float *y) {
  return forward_active(ffn, ids, count, x, y, 1);
}

int32_t sf_ffn_add_active(sf_ffn *ffn, const int32_t *ids, int32_t count, const float *x, float *y) {
  return forward_active(ffn, ids, count, x, y, 0);
}
