/* Matrices whose rows are in panels: see sf_dot_panels_fn. */
#include "matrix/panels.h"

#include <string.h>

#include "base/memory.h"

static size_t panel_bytes(const sf_panels *matrix) { return SF_PANEL * matrix->row_bytes; }

static int32_t panels_of(const sf_panels *matrix) { return (matrix->rows + SF_PANEL - 1) / SF_PANEL; }

int32_t sf_panels_make(sf_panels *panels, const sf_context *context, const sf_matrix *matrix) {
  sf_panels made = {NULL, matrix->format, matrix->rows, matrix->columns, matrix->row_bytes};
  sf_panels_close(panels);
  if (context->kernels->dot_panels[matrix->format->index] && matrix->scale == 1.0f) {
    made.data = sf_weight_array((size_t)panels_of(&made), panel_bytes(&made)); /* padding rows are zero */
    if (!made.data) return SF_ERROR_MEMORY;
    for (int32_t i = 0; i < made.rows; i++) {
      const uint8_t *row = matrix->data + (size_t)i * matrix->stride;
      uint8_t *to = made.data + (size_t)(i / SF_PANEL) * panel_bytes(&made) + (size_t)(i % SF_PANEL) * SF_PANEL_UNIT;
      for (size_t at = 0; at < made.row_bytes; at += SF_PANEL_UNIT) memcpy(to + at * SF_PANEL, row + at, SF_PANEL_UNIT);
    }
  }
  *panels = made;
  return SF_OK;
}

void sf_panels_close(sf_panels *panels) {
  sf_free(panels->data);
  panels->data = NULL;
}

typedef struct {
  const sf_context *context;
  const sf_panels *matrix;
  int32_t first, n;
  const sf_inputs *inputs;
  float *out;
  size_t out_stride;
} panels_job;

/* Panels begin … end-1 with one input; of a panel that holds rows which are not wanted, or none, the others. */
static void multiply_panels(const panels_job *job, int32_t begin, int32_t end, const sf_inputs *input, float *out) {
  const sf_panels *matrix = job->matrix;
  sf_dot_panels_fn *dot = job->context->kernels->dot_panels[matrix->format->index];
  while (begin < end) {
    int32_t row = begin * SF_PANEL, whole = matrix->rows / SF_PANEL < end ? matrix->rows / SF_PANEL : end;
    const uint8_t *data = matrix->data + (size_t)begin * panel_bytes(matrix);
    if (row >= job->first && begin < whole) {
      dot(data, whole - begin, matrix->columns, input, out + (row - job->first));
      begin = whole;
      continue;
    }
    float some[SF_PANEL];
    int32_t from = row < job->first ? job->first - row : 0, rest = matrix->rows - row;
    int32_t to = rest < SF_PANEL ? rest : SF_PANEL;
    dot(data, 1, matrix->columns, input, some);
    memcpy(out + (row + from - job->first), some + from, (size_t)(to - from) * sizeof(float));
    begin++;
  }
}

static void panels_part(void *argument, int32_t part, int32_t parts) {
  const panels_job *job = argument;
  int32_t skipped = job->first / SF_PANEL, count = panels_of(job->matrix) - skipped;
  int32_t begin = skipped + sf_part_begin(count, 1, part, parts),
          end = skipped + sf_part_begin(count, 1, part + 1, parts);
  for (int32_t j = 0; j < job->n; j++) {
    sf_inputs input = sf_input(job->inputs, j, job->matrix->columns);
    multiply_panels(job, begin, end, &input, job->out + (size_t)j * job->out_stride);
  }
}

void sf_multiply_panels(sf_context *context, const sf_panels *matrix, int32_t first, const sf_inputs *inputs, int32_t n,
                        float *out, size_t out_stride) {
  panels_job job = {context, matrix, first, n, inputs, out, out_stride};
  size_t work = sf_size_product(sf_size_product((size_t)(matrix->rows - first), matrix->row_bytes), (size_t)n);
  if (first < matrix->rows) sf_pool_run(context->pool, panels_part, &job, sf_parts(context, work));
}
