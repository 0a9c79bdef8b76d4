/* Views of weights, and products with them: all of the rows, or those in a list. */
#include "matrix/matrix.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

int32_t sf_matrix_open(sf_matrix **out, const void *data, size_t bytes, int32_t format, int32_t rows, int32_t columns,
                       size_t row_stride) {
  if (!out) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (!data || rows < 1 || columns < 1) return SF_ERROR_ARGUMENT;
  size_t row_bytes = sf_format_row_bytes(format, columns);
  if (row_bytes == 0) return SF_ERROR_FORMAT;
  if (row_stride == 0) row_stride = row_bytes;
  size_t before_last = sf_size_product((size_t)rows - 1, row_stride);
  if (row_stride < row_bytes || bytes < row_bytes || before_last > bytes - row_bytes) return SF_ERROR_SHAPE;
  sf_matrix *matrix = sf_array(1, sizeof(sf_matrix));
  if (!matrix) return SF_ERROR_MEMORY;
  matrix->data = data;
  matrix->stride = row_stride;
  matrix->row_bytes = row_bytes;
  matrix->format = sf_format_find(format);
  matrix->rows = rows;
  matrix->columns = columns;
  matrix->scale = 1.0f;
  *out = matrix;
  return SF_OK;
}

int32_t sf_matrix_set_scale(sf_matrix *matrix, float scale) {
  if (!matrix || !isfinite(scale)) return SF_ERROR_ARGUMENT;
  matrix->scale = scale;
  return SF_OK;
}

void sf_matrix_close(sf_matrix *matrix) {
  if (matrix) sf_free(matrix->column_data);
  sf_free(matrix);
}

sf_rows sf_matrix_rows(const sf_matrix *matrix, const int32_t *ids, int32_t first) {
  sf_rows rows = {matrix->data, matrix->stride, ids, matrix->columns, matrix->scale};
  if (ids) {
    rows.ids += first;
  } else {
    rows.data += (size_t)first * matrix->stride;
  }
  return rows;
}

void sf_matrix_row(const sf_matrix *matrix, int32_t i, float *out) {
  size_t blocks = (size_t)(matrix->columns / matrix->format->traits->block_columns);
  matrix->format->dequantize(matrix->data + (size_t)i * matrix->stride, blocks, out);
  for (int32_t c = 0; matrix->scale != 1.0f && c < matrix->columns; c++) out[c] *= matrix->scale;
}

static int32_t prepare_tiles(sf_context *context, const float *x, int32_t n, int32_t columns, sf_inputs *inputs) {
  int32_t status = sf_grow((void **)&context->input_tiles, &context->input_tiles_capacity, sf_tiles_numbers(n, columns),
                           sizeof(uint16_t));
  if (status != SF_OK) return status;
  context->tiles->pack(x, n, columns, context->input_tiles);
  inputs->tiles = context->input_tiles;
  return SF_OK;
}

/* Integers of magnitude `most` at most, of which `shared` have one scale. */
static int32_t prepare_integers(sf_context *context, int32_t most, int32_t shared, int32_t n, int32_t columns,
                                sf_inputs *inputs) {
  size_t count = sf_size_product((size_t)n, (size_t)columns),
         blocks = count / SF_BLOCK; /* of each, a scale and a sum */
  int32_t status = sf_grow((void **)&context->values, &context->values_capacity, count, sizeof(int16_t));
  if (status == SF_OK) {
    status = sf_grow((void **)&context->scales, &context->scales_capacity, 2 * blocks, sizeof(float));
  }
  if (status != SF_OK) return status;
  float *sums = context->scales + blocks;
  for (int32_t j = 0; j < n; j++) {
    size_t start = (size_t)j * (size_t)columns, block = start / SF_BLOCK;
    context->kernels->quantize_i16(inputs->f32 + start, columns, most, shared, context->values + start,
                                   context->scales + block, sums + block);
  }
  inputs->values = context->values;
  inputs->scales = context->scales;
  inputs->sums = sums;
  return SF_OK;
}

/* The integers as bytes in a form. */
static int32_t prepare_split(sf_context *context, int32_t form, int32_t n, int32_t columns, sf_inputs *inputs) {
  size_t bytes = sf_split_bytes(columns), all = sf_size_product((size_t)n, bytes);
  int32_t status = sf_grow((void **)&context->split[form], &context->split_capacity[form], all, 1);
  for (int32_t j = 0; status == SF_OK && j < n; j++) {
    sf_inputs input = sf_input(inputs, j, columns);
    context->kernels->split(form, &input, columns, context->split[form] + (size_t)j * bytes);
  }
  inputs->split[form] = context->split[form];
  return status;
}

/* Whether the inputs of a prompt are integers of 16 bits for a product of their own. Where formats without one take
 * another form of inputs than these, all of the formats have to have it; plain ones take floats in any case. */
static int32_t takes_lanes(const sf_kernels *kernels, const sf_format *const *formats, int32_t count) {
  int32_t all = 1;
  for (int32_t k = 0; k < count; k++) {
    all = all && (sf_is_plain(formats[k]->traits) || kernels->lanes_of(formats[k]->index));
  }
  return kernels->prompt_lanes && (all || (!kernels->prompt_floats && !kernels->split));
}

int32_t sf_prepare(sf_context *context, int32_t phase, const sf_format *const *formats, int32_t count, const float *x,
                   int32_t n, int32_t columns, sf_inputs *inputs) {
  const sf_kernels *kernels = context->kernels;
  int32_t most = INT16_MAX, shared = 0, status = SF_OK;
  memset(inputs, 0, sizeof *inputs);
  inputs->f32 = x;
  for (int32_t k = 0; k < count && phase == SF_PROMPT && context->tiles; k++) {
    if (sf_tiles_take(formats[k]->index)) return prepare_tiles(context, x, n, columns, inputs);
  }
  inputs->prompt = phase == SF_PROMPT && takes_lanes(kernels, formats, count);
  if (phase == SF_PROMPT && kernels->prompt_floats && !inputs->prompt) return SF_OK;
  /* What the format can multiply that takes the smallest integers, the others can too. Columns are a multiple of 32
   * where formats have blocks: sf_matrix_open has seen to it. */
  for (int32_t k = 0; k < count; k++) {
    if (sf_is_plain(formats[k]->traits)) continue;
    int32_t own_most = kernels->input_most(formats[k]->index), own_shared = kernels->input_shared(formats[k]->index);
    most = own_most < most && !inputs->prompt ? own_most : most;
    shared = own_shared > shared ? own_shared : shared;
  }
  if (shared) status = prepare_integers(context, most, shared, n, columns, inputs);
  for (int32_t k = 0; status == SF_OK && k < count && kernels->split && !inputs->prompt; k++) {
    int32_t form = kernels->split_form(formats[k]->index);
    if (form >= 0 && !inputs->split[form]) status = prepare_split(context, form, n, columns, inputs);
  }
  return status;
}

sf_inputs sf_input(const sf_inputs *inputs, int32_t j, int32_t columns) {
  size_t at = (size_t)j * (size_t)columns;
  sf_inputs one = {.f32 = inputs->f32 + at, .prompt = inputs->prompt};
  if (inputs->values) {
    one.values = inputs->values + at;
    one.scales = inputs->scales + at / SF_BLOCK;
    one.sums = inputs->sums + at / SF_BLOCK;
  }
  for (int32_t f = 0; f < SF_SPLIT_FORMS; f++) {
    if (inputs->split[f]) one.split[f] = inputs->split[f] + (size_t)j * sf_split_bytes(columns);
  }
  return one;
}

void sf_dot_rows(const sf_context *context, const sf_matrix *matrix, const sf_rows *rows, int32_t n_rows,
                 const sf_inputs *inputs, int32_t n, float *out, size_t out_stride) {
  sf_format_index format = matrix->format->index;
  if (inputs->tiles && sf_tiles_take(format)) {
    context->tiles->dot_rows(format, rows, n_rows, inputs->tiles, n, out, out_stride);
  } else {
    context->kernels->dot_rows[format](rows, n_rows, inputs, n, out, out_stride);
  }
}

int32_t sf_row_grain(const sf_inputs *inputs) { return inputs->tiles ? SF_TILE_BAND : SF_ROW_GRAIN; }

typedef struct {
  const sf_context *context;
  const sf_matrix *matrix;
  const int32_t *ids;
  int32_t n_rows, n;
  const sf_inputs *inputs;
  float *out;
  size_t out_stride;
} multiply_job;

static void multiply_part(void *argument, int32_t part, int32_t parts) {
  const multiply_job *job = argument;
  int32_t grain = sf_row_grain(job->inputs);
  int32_t begin = sf_part_begin(job->n_rows, grain, part, parts);
  int32_t end = sf_part_begin(job->n_rows, grain, part + 1, parts);
  if (begin == end) return;
  sf_rows rows = sf_matrix_rows(job->matrix, job->ids, begin);
  sf_dot_rows(job->context, job->matrix, &rows, end - begin, job->inputs, job->n, job->out + begin, job->out_stride);
}

void sf_multiply(sf_context *context, const sf_matrix *matrix, const int32_t *ids, int32_t n_rows,
                 const sf_inputs *inputs, int32_t n, float *out, size_t out_stride) {
  multiply_job job = {context, matrix, ids, n_rows, n, inputs, out, out_stride};
  size_t work = sf_size_product(sf_size_product((size_t)n_rows, matrix->row_bytes), (size_t)n);
  if (n_rows > 0) sf_pool_run(context->pool, multiply_part, &job, sf_parts(context, work));
}

typedef struct {
  multiply_job jobs[SF_EACH];
  int32_t count;
} each_job;

static void each_part(void *argument, int32_t part, int32_t parts) {
  each_job *job = argument;
  for (int32_t k = 0; k < job->count; k++) multiply_part(&job->jobs[k], part, parts);
}

int32_t sf_multiply_each(sf_context *context, int32_t phase, const sf_matrix *const *matrices, int32_t count,
                         const float *x, int32_t n, float *const *ys) {
  each_job job;
  sf_inputs inputs;
  const sf_format *formats[SF_EACH];
  job.count = count;
  size_t work = 0;
  for (int32_t k = 0; k < count; k++) {
    const sf_matrix *matrix = matrices[k];
    multiply_job one = {context, matrix, NULL, matrix->rows, n, &inputs, ys[k], (size_t)matrix->rows};
    job.jobs[k] = one;
    work += (size_t)matrix->rows * matrix->row_bytes;
    formats[k] = matrix->format;
  }
  int32_t status = sf_prepare(context, phase, formats, count, x, n, matrices[0]->columns, &inputs);
  if (status != SF_OK) return status;
  sf_pool_run(context->pool, each_part, &job, sf_parts(context, sf_size_product(work, (size_t)n)));
  return SF_OK;
}

int32_t sf_prepare_multiply(sf_context *context, int32_t phase, const sf_matrix *matrix, const float *x, int32_t n,
                            float *y) {
  sf_inputs inputs;
  int32_t status = sf_prepare(context, phase, &matrix->format, 1, x, n, matrix->columns, &inputs);
  if (status == SF_OK) sf_multiply(context, matrix, NULL, matrix->rows, &inputs, n, y, (size_t)matrix->rows);
  return status;
}

typedef struct {
  const sf_context *context;
  const sf_matrix *matrix;
  const int32_t *ids;
  int32_t count;
  const float *alpha;
  float *y;
} accumulate_job;

static void accumulate_part(void *argument, int32_t part, int32_t parts) {
  const accumulate_job *job = argument;
  int32_t begin = sf_part_begin(job->matrix->columns, SF_COLUMN_GRAIN, part, parts);
  int32_t end = sf_part_begin(job->matrix->columns, SF_COLUMN_GRAIN, part + 1, parts);
  if (begin == end) return;
  sf_rows rows = sf_matrix_rows(job->matrix, job->ids, 0);
  job->context->kernels->axpy_rows[job->matrix->format->index](&rows, job->count, job->alpha, begin, end, job->y);
}

void sf_accumulate(sf_context *context, const sf_matrix *matrix, const int32_t *ids, int32_t count, const float *alpha,
                   float *y) {
  accumulate_job job = {context, matrix, ids, count, alpha, y};
  size_t work = sf_size_product((size_t)count, matrix->row_bytes);
  if (count > 0) sf_pool_run(context->pool, accumulate_part, &job, sf_parts(context, work));
}

int32_t sf_matrix_multiply(sf_context *context, const sf_matrix *matrix, const float *x, int32_t n, float *y) {
  if (!context || !matrix || !x || !y || n < 0) return SF_ERROR_ARGUMENT;
  if (n > INT32_MAX / matrix->columns) return SF_ERROR_SHAPE;
  if (!context->kernels->all_finite(x, n * matrix->columns)) return SF_ERROR_NOT_FINITE;
  if (n == 0) return SF_OK;
  sf_pool_lock(context->pool);
  int32_t status = sf_prepare_multiply(context, SF_DECODE, matrix, x, n, y);
  sf_pool_unlock(context->pool);
  return status;
}
