/* Weights in column order, and products with some of the inputs, the others counting as zeros (TEAL; Liu et al. 2024).
 */
#include "matrix/columns.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"

enum {
  HALF_ROWS = SF_COLUMN_ROWS / 2,
  MOST_VALUE = 127,
  CHOOSING = 40 /* rows that take as long as choosing inputs; measured with AVX-512 VNNI */
};

/* Rows with those that fill the last group. */
static int32_t padded(const sf_matrix *matrix) {
  return (matrix->rows + SF_COLUMN_ROWS - 1) / SF_COLUMN_ROWS * SF_COLUMN_ROWS;
}

size_t sf_matrix_column_bytes(const sf_matrix *matrix) {
  return matrix && matrix->column_data ? sf_size_product((size_t)padded(matrix), matrix->row_bytes) : 0;
}

/* The byte of a group's column where the quant of row `row` of the group is, see kernels.h. */
static size_t place_of(size_t row) { return row % HALF_ROWS / 8 % 4 * 16 + row % HALF_ROWS / 32 * 8 + row % 8; }

/* Puts a row's blocks where they belong; `out` is zeroed. */
static void put_row(const sf_matrix *matrix, size_t row, uint8_t *out) {
  size_t rows = (size_t)padded(matrix), group = row / SF_COLUMN_ROWS, in_group = row % SF_COLUMN_ROWS;
  size_t block_bytes = (size_t)matrix->format->traits->block_bytes;
  const uint8_t *from = matrix->data + row * matrix->stride;
  for (size_t at = 0; at < matrix->row_bytes; at += block_bytes, from += block_bytes, out += rows * block_bytes) {
    uint8_t *to = out + 2 * rows + group * HALF_ROWS + place_of(in_group);
    int upper = in_group >= HALF_ROWS ? 4 : 0;
    memcpy(out + 2 * row, from, 2);
    for (size_t c = 0; c < SF_BLOCK; c++, to += rows / 2) {
      int quant = c < SF_BLOCK / 2 ? from[2 + c] & 15 : from[2 + c - SF_BLOCK / 2] >> 4;
      *to = (uint8_t)(*to | quant << upper);
    }
  }
}

int32_t sf_matrix_add_columns(sf_matrix *matrix) {
  if (!matrix) return SF_ERROR_ARGUMENT;
  if (!SF_HAS_COLUMNS || matrix->format->index != SF_FORMAT_Q4_0) return SF_ERROR_UNSUPPORTED;
  if (matrix->column_data) return SF_OK;
  matrix->column_data = sf_weight_array((size_t)padded(matrix), matrix->row_bytes);
  if (!matrix->column_data) return SF_ERROR_MEMORY;
  for (int32_t i = 0; i < matrix->rows; i++) put_row(matrix, (size_t)i, matrix->column_data);
  return SF_OK;
}

/* The inputs of a block that are not below the limit. Magnitudes are compared as integers, which have their order and
 * that of NaN behind infinity, and all inputs are rounded before the chosen ones are picked out: compilers make vectors
 * of both, which take a quarter of the time. */
static void choose_block(const float *x, float limit, sf_chosen *chosen) {
  int32_t values[SF_BLOCK], least, largest = 0, infinite, count = 0, sum = 0;
  const float infinity = INFINITY;
  float most = 0;
  memcpy(&least, &limit, sizeof least);
  memcpy(&infinite, &infinity, sizeof infinite);
  memset(chosen, 0, sizeof *chosen);
  for (int32_t i = 0; i < SF_BLOCK; i++) {
    int32_t size;
    memcpy(&size, x + i, sizeof size);
    size &= INT32_MAX; /* without the sign */
    chosen->ids[count] = (uint8_t)i;
    count += size >= least;
    largest = size > largest ? size : largest;
  }
  chosen->count = count;
  if (count < SF_BLOCK) chosen->ids[count] = chosen->ids[count > 0 ? count - 1 : 0];
  if (largest >= infinite) {
    chosen->scale = NAN;
    return;
  }
  if (count > 0) memcpy(&most, &largest, sizeof most);
  float inverse = most > FLT_MIN ? (float)MOST_VALUE / most : 0;
  chosen->scale = inverse > 0 ? most / (float)MOST_VALUE : 0;
  for (int32_t i = 0; i < SF_BLOCK; i++) {
    float value = x[i] * inverse;
    values[i] = (int32_t)(value + copysignf(0.5f, value));
  }
  for (int32_t i = 0; i < count; i++) {
    int32_t value = values[chosen->ids[i]];
    chosen->values[i] = (int8_t)value;
    sum += value;
  }
  chosen->sum = sum;
}

/* Chooses of x (columns) the inputs that are not below the limit, and brings them into the form in which they are
 * multiplied, in the context's memory. Returns how many there are, or MEMORY. NaN and infinity are chosen, and show in
 * the result. */
static int32_t choose(sf_context *context, const float *x, int32_t columns, float limit) {
  int32_t blocks = columns / SF_BLOCK, count = 0;
  int32_t status =
      sf_grow((void **)&context->chosen, &context->chosen_capacity, (size_t)blocks, sizeof *context->chosen);
  if (status != SF_OK) return status;
  for (int32_t b = 0; b < blocks; b++) {
    choose_block(x + (size_t)b * SF_BLOCK, limit, &context->chosen[b]);
    count += context->chosen[b].count;
  }
  return count;
}

/* The products are the sums of those of the first half of the blocks and of the second one, whatever the number of
 * threads: two threads then have a half each, and read whole columns. A thread with half of the rows would read half a
 * column at a time, and what processors read ahead of the end of each, which nobody needs, took a fifth of the time. */
enum { HALVES = 2 };

typedef struct {
  const sf_context *context;
  const sf_matrix *const *matrices;
  int32_t n_matrices;
  float *const *ys; /* the sums of the first half, */
  float *second;    /* and of the second, one matrix after the other */
} chosen_job;

/* A half of the blocks of groups begin … end-1 of a matrix; of the last one, some rows are only padding. */
static void multiply_groups(const chosen_job *job, const sf_matrix *matrix, int32_t half, int32_t begin, int32_t end,
                            float *y) {
  const sf_kernels *kernels = job->context->kernels;
  int32_t rows = padded(matrix), all = matrix->columns / SF_BLOCK, whole = matrix->rows / SF_COLUMN_ROWS;
  int32_t skipped = half ? all / HALVES : 0, blocks = half ? all - skipped : all / HALVES;
  int32_t first = begin * SF_COLUMN_ROWS, count = ((end < whole ? end : whole) - begin) * SF_COLUMN_ROWS;
  const sf_chosen *chosen = job->context->chosen + skipped;
  const uint8_t *data =
      matrix->column_data + (size_t)skipped * (size_t)rows * (size_t)matrix->format->traits->block_bytes;
  if (count > 0) kernels->dot_columns(data, rows, first, count, blocks, chosen, y + first);
  if (end > whole) {
    float last[SF_COLUMN_ROWS];
    int32_t row = whole * SF_COLUMN_ROWS;
    kernels->dot_columns(data, rows, row, SF_COLUMN_ROWS, blocks, chosen, last);
    memcpy(y + row, last, (size_t)(matrix->rows - row) * sizeof(float));
  }
}

/* With an even number of parts, every other one is of a half. */
static void chosen_part(void *argument, int32_t part, int32_t parts) {
  const chosen_job *job = argument;
  int32_t apart = parts % HALVES == 0, of = apart ? parts / HALVES : parts, place = apart ? part / HALVES : part;
  for (int32_t half = 0; half < HALVES; half++) {
    float *second = job->second;
    if (apart && part % HALVES != half) continue;
    for (int32_t k = 0; k < job->n_matrices; second += job->matrices[k++]->rows) {
      int32_t groups = padded(job->matrices[k]) / SF_COLUMN_ROWS;
      int32_t begin = sf_part_begin(groups, 1, place, of), end = sf_part_begin(groups, 1, place + 1, of);
      if (begin < end) multiply_groups(job, job->matrices[k], half, begin, end, half ? second : job->ys[k]);
    }
  }
}

/* The chosen inputs, of which there are `count`: OK or MEMORY. A thread has one part: what it reads of a column then
 * lies together, a kilobyte and more, which smaller parts would read in pieces of a line or two. */
static int32_t multiply_chosen(sf_context *context, const sf_matrix *const *matrices, int32_t n_matrices, int32_t count,
                               float *const *ys) {
  size_t rows = 0;
  for (int32_t k = 0; k < n_matrices; k++) rows += (size_t)matrices[k]->rows;
  int32_t status = sf_grow((void **)&context->column_sums, &context->column_sums_capacity, rows, sizeof(float));
  if (status != SF_OK) return status;
  chosen_job job = {context, matrices, n_matrices, ys, context->column_sums};
  int32_t parts = sf_parts(context, sf_size_product(rows, (size_t)count / 2)), threads = sf_pool_threads(context->pool);
  sf_pool_run(context->pool, chosen_part, &job, parts < threads ? parts : threads);
  const float *second = job.second;
  for (int32_t k = 0; k < n_matrices; second += matrices[k++]->rows) {
    context->kernels->add(ys[k], second, matrices[k]->rows, ys[k]);
    if (matrices[k]->scale != 1.0f) context->kernels->scale(matrices[k]->scale, ys[k], matrices[k]->rows);
  }
  return SF_OK;
}

/* How many of x are not below the limit. */
static int32_t count_chosen(const sf_kernels *kernels, const float *x, int32_t columns, float limit) {
  int32_t above = kernels->count_above(x, columns, nextafterf(limit, 0));
  return above + columns - kernels->count_above(x, columns, -limit);
}

/* Whether `count` inputs take less time by columns than all of them by rows. */
static int32_t pays(const sf_context *context, const sf_matrix *const *matrices, int32_t n_matrices, int32_t count) {
  float columns = (float)matrices[0]->columns, by_columns = context->column_cost * (float)CHOOSING * columns;
  float by_rows = 0;
  float each = context->column_cost * (context->column_fixed * columns + (float)count);
  for (int32_t k = 0; k < n_matrices; k++) {
    by_columns += (float)padded(matrices[k]) * each;
    by_rows += (float)matrices[k]->rows * columns;
  }
  return by_columns <= by_rows;
}

int32_t sf_multiply_above(sf_context *context, const sf_matrix *const *matrices, int32_t n_matrices, const float *x,
                          float limit, float *const *ys) {
  int32_t columns = matrices[0]->columns;
  int32_t count = limit > 0 ? count_chosen(context->kernels, x, columns, limit) : columns;
  if (limit > 0 && pays(context, matrices, n_matrices, count)) {
    count = choose(context, x, columns, limit);
    if (count < 0) return count;
    int32_t status = multiply_chosen(context, matrices, n_matrices, count, ys);
    return status == SF_OK ? count : status;
  }
  int32_t status = sf_multiply_each(context, SF_DECODE, matrices, n_matrices, x, 1, ys);
  return status == SF_OK ? columns : status;
}

int32_t sf_matrix_multiply_above(sf_context *context, const sf_matrix *matrix, const float *x, float limit, float *y) {
  if (!context || !matrix || !x || !y || !(limit >= 0)) return SF_ERROR_ARGUMENT;
  if (!SF_HAS_COLUMNS || !matrix->column_data) return SF_ERROR_UNSUPPORTED;
  if (!context->kernels->all_finite(x, matrix->columns)) return SF_ERROR_NOT_FINITE;
  sf_pool_lock(context->pool);
  int32_t count = choose(context, x, matrix->columns, limit);
  int32_t status = count >= 0 ? multiply_chosen(context, &matrix, 1, count, &y) : count;
  sf_pool_unlock(context->pool);
  return status == SF_OK ? count : status;
}

int32_t sf_context_set_column_cost(sf_context *context, float chosen, float fixed) {
  if (!context || !(chosen > 0) || !isfinite(chosen) || !(fixed >= 0) || !isfinite(fixed)) return SF_ERROR_ARGUMENT;
  context->column_cost = chosen;
  context->column_fixed = fixed;
  return SF_OK;
}
