#include <math.h>
#include <string.h>

#include "internal.h"

enum {
  DENSE_BATCH = 32, /* vectors of one dense pass: bounds its work memory */
  NEURON_TILE = 64, /* rows of down that stay in cache while every vector of a batch uses them */
  COLUMN_GRAIN = 128,
  NEURON_GRAIN = 4,
  MOST_NEURONS = 1 << 24 /* far above any layer; keeps DENSE_BATCH times it within 32 bits */
};

static int32_t valid_activation(int32_t activation, float parameter) {
  return activation >= SF_IDENTITY && activation <= SF_FATRELU && isfinite(parameter) && parameter >= 0;
}

int32_t sf_ffn_open(sf_ffn **out, sf_context *context, const sf_matrix *gate, const sf_matrix *up,
                    const sf_matrix *down, int32_t down_layout, int32_t activation, float parameter) {
  if (!out) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (!context || !up || !down || !valid_activation(activation, parameter)) return SF_ERROR_ARGUMENT;
  if (down_layout != SF_DOWN_BY_NEURON && down_layout != SF_DOWN_BY_OUTPUT) return SF_ERROR_ARGUMENT;
  int32_t by_neuron = down_layout == SF_DOWN_BY_NEURON;
  if (up->rows > MOST_NEURONS || up->columns > MOST_NEURONS) return SF_ERROR_SHAPE;
  if (gate && (gate->rows != up->rows || gate->columns != up->columns)) return SF_ERROR_SHAPE;
  if ((by_neuron ? down->rows : down->columns) != up->rows) return SF_ERROR_SHAPE;
  sf_ffn *ffn = sf_array(1, sizeof(sf_ffn));
  if (!ffn) return SF_ERROR_MEMORY;
  ffn->context = context;
  ffn->gate = gate;
  ffn->up = up;
  ffn->down = down;
  ffn->down_layout = down_layout;
  ffn->activation = activation;
  ffn->parameter = parameter;
  ffn->d_in = up->columns;
  ffn->d_out = by_neuron ? down->columns : down->rows;
  ffn->hidden = up->rows;
  ffn->ids = sf_array((size_t)ffn->hidden, sizeof(int32_t));
  if (!ffn->ids) {
    sf_ffn_close(ffn);
    return SF_ERROR_MEMORY;
  }
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
  if (d_in > MOST_NEURONS || d_out > MOST_NEURONS || cache->hidden > MOST_NEURONS ||
      cache->bundle_bytes != down_offset + out_bytes) {
    return SF_ERROR_SHAPE;
  }
  sf_ffn *ffn = sf_array(1, sizeof(sf_ffn));
  if (!ffn) return SF_ERROR_MEMORY;
  const sf_format *found = sf_format_find(format);
  const sf_matrix gate = {cache->arena, cache->bundle_bytes, in_bytes, found, cache->slots, d_in};
  const sf_matrix up = {cache->arena + up_offset, cache->bundle_bytes, in_bytes, found, cache->slots, d_in};
  const sf_matrix down = {cache->arena + down_offset, cache->bundle_bytes, out_bytes, found, cache->slots, d_out};
  ffn->context = context;
  ffn->cache = cache;
  ffn->activation = activation;
  ffn->parameter = parameter;
  ffn->d_in = d_in;
  ffn->d_out = d_out;
  ffn->hidden = cache->hidden;
  ffn->slot_matrices = sf_array(3, sizeof(sf_matrix));
  ffn->ids = sf_array((size_t)ffn->hidden, sizeof(int32_t));
  ffn->rows = sf_array((size_t)ffn->hidden, sizeof(int32_t));
  if (!ffn->slot_matrices || !ffn->ids || !ffn->rows) {
    sf_ffn_close(ffn);
    return SF_ERROR_MEMORY;
  }
  ffn->slot_matrices[0] = gate;
  ffn->slot_matrices[1] = up;
  ffn->slot_matrices[2] = down;
  ffn->gate = gated ? &ffn->slot_matrices[0] : NULL;
  ffn->up = &ffn->slot_matrices[1];
  ffn->down = &ffn->slot_matrices[2];
  *out = ffn;
  return SF_OK;
}

void sf_ffn_close(sf_ffn *ffn) {
  if (!ffn) return;
  sf_free(ffn->ids);
  sf_free(ffn->rows);
  sf_free(ffn->slot_matrices);
  sf_free(ffn->gate_values);
  sf_free(ffn->up_values);
  sf_free(ffn->gate_bias);
  sf_free(ffn->up_bias);
  sf_free(ffn->down_bias);
  sf_free(ffn);
}

int32_t sf_ffn_set_bias(sf_ffn *ffn, const float *gate_bias, const float *up_bias, const float *down_bias) {
  if (!ffn || (gate_bias && !ffn->gate)) return SF_ERROR_ARGUMENT;
  int32_t status = sf_copy_floats(&ffn->gate_bias, gate_bias, ffn->hidden);
  if (status == SF_OK) status = sf_copy_floats(&ffn->up_bias, up_bias, ffn->hidden);
  if (status == SF_OK) status = sf_copy_floats(&ffn->down_bias, down_bias, ffn->d_out);
  return status;
}

int32_t sf_ffn_set_predictor(sf_ffn *ffn, sf_predictor *predictor) {
  if (!ffn || (predictor && predictor->context != ffn->context)) return SF_ERROR_ARGUMENT;
  if (predictor && (predictor->d != ffn->d_in || predictor->hidden != ffn->hidden)) return SF_ERROR_SHAPE;
  ffn->predictor = predictor;
  return SF_OK;
}

int32_t sf_ffn_set_cutoff(sf_ffn *ffn, float cutoff) {
  if (!ffn || !isfinite(cutoff) || cutoff < 0) return SF_ERROR_ARGUMENT;
  ffn->cutoff = cutoff;
  return SF_OK;
}

static int32_t reserve(sf_ffn *ffn, int32_t n) {
  size_t count = sf_size_product((size_t)n, (size_t)ffn->hidden);
  int32_t status = sf_grow((void **)&ffn->gate_values, &ffn->gate_capacity, count, sizeof(float));
  if (status == SF_OK) status = sf_grow((void **)&ffn->up_values, &ffn->up_capacity, count, sizeof(float));
  return status;
}

/* y (d_out) starts as the bias. */
static void start_output(const sf_ffn *ffn, float *y) {
  size_t bytes = (size_t)ffn->d_out * sizeof(float);
  if (ffn->down_bias) {
    memcpy(y, ffn->down_bias, bytes);
  } else {
    memset(y, 0, bytes);
  }
}

/* ---- Dense ---- */

typedef struct {
  const sf_ffn *ffn;
  const sf_inputs *inputs;
  int32_t n;
  float *y;
} dense_job;

/* values (n, hidden), columns begin … end-1: rows of the matrix times the inputs, plus the bias. */
static void dense_rows(const sf_ffn *ffn, const sf_matrix *matrix, const float *bias, const sf_inputs *inputs,
                       int32_t n, int32_t begin, int32_t end, float *values) {
  const sf_kernels *kernels = ffn->context->kernels;
  size_t hidden = (size_t)ffn->hidden;
  sf_rows rows = sf_matrix_rows(matrix, NULL, begin);
  kernels->dot_rows[matrix->format->index](&rows, end - begin, inputs, n, values + begin, hidden);
  for (int32_t j = 0; bias && j < n; j++) {
    float *row = values + (size_t)j * hidden + begin;
    kernels->add(row, bias + begin, end - begin, row);
  }
}

/* Leaves activation(gate) ∘ up, or activation(up), of neurons of this part in up_values (n, hidden). */
static void dense_neurons_part(void *argument, int32_t part, int32_t parts) {
  const dense_job *job = argument;
  const sf_ffn *ffn = job->ffn;
  const sf_kernels *kernels = ffn->context->kernels;
  int32_t begin = sf_part_begin(ffn->hidden, NEURON_GRAIN, part, parts);
  int32_t end = sf_part_begin(ffn->hidden, NEURON_GRAIN, part + 1, parts);
  if (begin == end) return;
  dense_rows(ffn, ffn->up, ffn->up_bias, job->inputs, job->n, begin, end, ffn->up_values);
  if (ffn->gate) dense_rows(ffn, ffn->gate, ffn->gate_bias, job->inputs, job->n, begin, end, ffn->gate_values);
  for (int32_t j = 0; j < job->n; j++) {
    size_t start = (size_t)j * (size_t)ffn->hidden + (size_t)begin;
    float *up = ffn->up_values + start;
    float *activated = ffn->gate ? ffn->gate_values + start : up;
    kernels->activate(ffn->activation, ffn->parameter, activated, end - begin, activated);
    if (ffn->gate) kernels->multiply(activated, up, end - begin, up);
  }
}

static void dense_down_part(void *argument, int32_t part, int32_t parts) {
  const dense_job *job = argument;
  const sf_ffn *ffn = job->ffn;
  int32_t begin = sf_part_begin(ffn->d_out, COLUMN_GRAIN, part, parts);
  int32_t end = sf_part_begin(ffn->d_out, COLUMN_GRAIN, part + 1, parts);
  if (begin == end) return;
  for (int32_t first = 0; first < ffn->hidden; first += NEURON_TILE) {
    int32_t count = ffn->hidden - first < NEURON_TILE ? ffn->hidden - first : NEURON_TILE;
    sf_rows rows = sf_matrix_rows(ffn->down, NULL, first);
    for (int32_t j = 0; j < job->n; j++) {
      const float *alpha = ffn->up_values + (size_t)j * (size_t)ffn->hidden + first;
      ffn->context->kernels->axpy_rows[ffn->down->format->index](&rows, count, alpha, begin, end,
                                                                 job->y + (size_t)j * (size_t)ffn->d_out);
    }
  }
}

static int32_t dense_down(const sf_ffn *ffn, dense_job *job) {
  sf_context *context = ffn->context;
  if (ffn->down_layout == SF_DOWN_BY_NEURON) {
    for (int32_t j = 0; j < job->n; j++) start_output(ffn, job->y + (size_t)j * (size_t)ffn->d_out);
    size_t work = sf_size_product((size_t)ffn->hidden, ffn->down->row_bytes);
    sf_pool_run(context->pool, dense_down_part, job, sf_parts(context, sf_size_product(work, (size_t)job->n)));
    return SF_OK;
  }
  if (!context->kernels->all_finite(ffn->up_values, job->n * ffn->hidden)) return SF_ERROR_NOT_FINITE;
  int32_t status = sf_prepare_multiply(context, ffn->down, ffn->up_values, job->n, job->y);
  for (int32_t j = 0; ffn->down_bias && status == SF_OK && j < job->n; j++) {
    float *y = job->y + (size_t)j * (size_t)ffn->d_out;
    context->kernels->add(y, ffn->down_bias, ffn->d_out, y);
  }
  return status;
}

/* x (n, d_in) in the form, or forms, that gate and up multiply. */
static int32_t prepare(const sf_ffn *ffn, const float *x, int32_t n, sf_inputs *inputs) {
  const sf_format *format = ffn->up->format;
  if (ffn->gate && ffn->gate->format->input != SF_INPUT_F32) format = ffn->gate->format;
  return sf_prepare(ffn->context, format, x, n, ffn->d_in, inputs);
}

/* n ≤ DENSE_BATCH */
static int32_t dense(sf_ffn *ffn, const float *x, int32_t n, float *y) {
  sf_context *context = ffn->context;
  sf_inputs inputs;
  int32_t status = reserve(ffn, n);
  if (status == SF_OK) status = prepare(ffn, x, n, &inputs);
  if (status != SF_OK) return status;
  dense_job job = {ffn, &inputs, n, y};
  size_t work = sf_size_product((size_t)ffn->hidden * (ffn->gate ? 2 : 1), ffn->up->row_bytes);
  sf_pool_run(context->pool, dense_neurons_part, &job, sf_parts(context, sf_size_product(work, (size_t)n)));
  return dense_down(ffn, &job);
}

/* ---- Sparse ---- */

/* The rows in which the neurons `ids` lie: the ids themselves (NULL: every row, in order), or slots of the cache,
 * made in ffn->rows. */
static int32_t rows_of(const sf_ffn *ffn, const int32_t *ids, int32_t count, const int32_t **rows) {
  *rows = ids;
  if (!ffn->cache) return SF_OK;
  *rows = ffn->rows;
  return sf_cache_slots(ffn->cache, ids, count, ffn->rows);
}

static void add_bias(const float *bias, const int32_t *ids, int32_t count, float *values) {
  for (int32_t i = 0; bias && i < count; i++) values[i] += bias[ids ? ids[i] : i];
}

/* Keeps the neurons whose activation is above the cutoff, in ids and values. NaN is kept, so that it shows in the
 * result as it does in a dense pass. Returns how many. `ids` NULL stands for 0, 1, 2 … */
static int32_t keep_active(const int32_t *ids, int32_t count, float cutoff, int32_t *kept_ids, float *values) {
  int32_t kept = 0;
  for (int32_t i = 0; i < count; i++) {
    float value = values[i];
    kept_ids[kept] = ids ? ids[i] : i;
    values[kept] = value;
    kept += !(fabsf(value) <= cutoff);
  }
  return kept;
}

/* Adds to y what the neurons `ids` (count; NULL: all) make of one vector x. Writes the number of active ones. */
static int32_t add_sparse(sf_ffn *ffn, const int32_t *ids, int32_t count, const float *x, float *y, int32_t *active) {
  sf_inputs inputs;
  const int32_t *rows;
  sf_context *context = ffn->context;
  int32_t status = reserve(ffn, 1);
  if (status == SF_OK) status = rows_of(ffn, ids, count, &rows);
  if (status == SF_OK) status = prepare(ffn, x, 1, &inputs);
  if (status != SF_OK) return status;
  float *alpha = ffn->gate_values, *up = ffn->up_values;
  sf_multiply(context, ffn->gate ? ffn->gate : ffn->up, rows, count, &inputs, 1, alpha, (size_t)count);
  add_bias(ffn->gate ? ffn->gate_bias : ffn->up_bias, ids, count, alpha);
  context->kernels->activate(ffn->activation, ffn->parameter, alpha, count, alpha);
  int32_t kept = keep_active(ids, count, ffn->cutoff, ffn->ids, alpha);
  status = rows_of(ffn, ffn->ids, kept, &rows);
  if (status != SF_OK) return status;
  if (ffn->gate) {
    sf_multiply(context, ffn->up, rows, kept, &inputs, 1, up, (size_t)kept);
    add_bias(ffn->up_bias, ffn->ids, kept, up);
    context->kernels->multiply(alpha, up, kept, alpha);
  }
  sf_accumulate(context, ffn->down, rows, kept, alpha, y);
  *active = kept;
  return SF_OK;
}

/* Counts the neurons `ids` (count), or with NULL those of a dense pass of `n` vectors, in fired (hidden). */
static void count_fired(const sf_ffn *ffn, const int32_t *ids, int32_t count, int32_t n, uint8_t *fired) {
  const float *values = ffn->gate ? ffn->gate_values : ffn->up_values;
  for (int32_t i = 0; ids && i < count; i++) {
    if (fired[ids[i]] < UINT8_MAX) fired[ids[i]]++;
  }
  for (int32_t j = 0; !ids && j < n; j++) {
    for (int32_t i = 0; i < ffn->hidden; i++) {
      fired[i] = (uint8_t)(fired[i] + ((fired[i] < UINT8_MAX) & (*values++ != 0.0f)));
    }
  }
}

int32_t sf_ffn_run(sf_ffn *ffn, int32_t mode, const float *x, int32_t n, float *y, int32_t *selected, int32_t *active,
                   uint8_t *fired) {
  int32_t status = SF_OK;
  if (mode == SF_DENSE) {
    for (int32_t j = 0; j < n && status == SF_OK; j += DENSE_BATCH) {
      int32_t batch = n - j < DENSE_BATCH ? n - j : DENSE_BATCH;
      status = dense(ffn, x + (size_t)j * (size_t)ffn->d_in, batch, y + (size_t)j * (size_t)ffn->d_out);
      if (fired && status == SF_OK) count_fired(ffn, NULL, 0, batch, fired);
    }
  }
  for (int32_t j = 0; j < n && status == SF_OK; j++) {
    int32_t count = ffn->hidden, kept = ffn->hidden;
    if (mode != SF_DENSE) {
      const float *x_j = x + (size_t)j * (size_t)ffn->d_in;
      const int32_t *ids = NULL;
      if (mode == SF_SPARSE && ffn->predictor) {
        count = sf_predict(ffn->predictor, x_j, ffn->ids);
        if (count < 0) return count;
        ids = ffn->ids;
      }
      start_output(ffn, y + (size_t)j * (size_t)ffn->d_out);
      status = add_sparse(ffn, ids, count, x_j, y + (size_t)j * (size_t)ffn->d_out, &kept);
      if (fired && status == SF_OK) count_fired(ffn, ffn->ids, kept, 1, fired);
    }
    if (selected) selected[j] = count;
    if (active) active[j] = kept;
  }
  return status;
}

/* ---- Public ---- */

int32_t sf_ffn_forward(sf_ffn *ffn, int32_t mode, const float *x, int32_t n, float *y, int32_t *selected,
                       int32_t *active) {
  if (!ffn || !x || !y || n < 0 || mode < SF_DENSE || mode > SF_SPARSE) return SF_ERROR_ARGUMENT;
  if (ffn->cache || (mode != SF_DENSE && ffn->down_layout != SF_DOWN_BY_NEURON)) return SF_ERROR_UNSUPPORTED;
  sf_context *context = ffn->context;
  for (int32_t j = 0; j < n; j++) {
    if (!context->kernels->all_finite(x + (size_t)j * (size_t)ffn->d_in, ffn->d_in)) return SF_ERROR_NOT_FINITE;
  }
  sf_pool_lock(context->pool);
  int32_t status = sf_ffn_run(ffn, mode, x, n, y, selected, active, NULL);
  sf_pool_unlock(context->pool);
  return status;
}

/* The given neurons, added to y as it is or, with `start` 1, to the bias. */
static int32_t forward_active(sf_ffn *ffn, const int32_t *ids, int32_t count, const float *x, float *y, int32_t start) {
  if (!ffn || !x || !y || !sf_ids_valid(ids, count, ffn->hidden)) return SF_ERROR_ARGUMENT;
  if (ffn->down_layout != SF_DOWN_BY_NEURON) return SF_ERROR_UNSUPPORTED;
  sf_context *context = ffn->context;
  if (!context->kernels->all_finite(x, ffn->d_in)) return SF_ERROR_NOT_FINITE;
  int32_t active, status = SF_OK;
  sf_pool_lock(context->pool);
  if (start) start_output(ffn, y);
  if (count > 0) status = add_sparse(ffn, ids, count, x, y, &active);
  sf_pool_unlock(context->pool);
  return status;
}

int32_t sf_ffn_forward_active(sf_ffn *ffn, const int32_t *ids, int32_t count, const float *x, float *y) {
  return forward_active(ffn, ids, count, x, y, 1);
}

int32_t sf_ffn_add_active(sf_ffn *ffn, const int32_t *ids, int32_t count, const float *x, float *y) {
  return forward_active(ffn, ids, count, x, y, 0);
}
