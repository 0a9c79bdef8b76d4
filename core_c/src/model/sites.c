/* Sites where a model leaves out the smallest inputs of its products in sparse mode. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "ffn/some_inputs.h"
#include "matrix/columns.h"
#include "model/session.h"

/* The width of a site's inputs, or an error. */
static int32_t site_width(const sf_model *model, int32_t place, int32_t site) {
  if (!model || place < 0 || place >= model->n_steps || site < 0 || site >= SF_SITES) return SF_ERROR_ARGUMENT;
  const sf_step *step = &model->steps[place];
  for (int32_t i = 0; i < place; i++) {
    if (model->steps[i].kind == sf_step_find(SF_STEP_PICK)) return SF_ERROR_ARGUMENT;
  }
  if (step->kind == sf_step_find(SF_STEP_PRODUCTS) && site == 0) return sf_width(model, step, 0);
  if (step->kind != sf_step_find(SF_STEP_FFN)) return SF_ERROR_ARGUMENT;
  const sf_ffn *ffn = model->layers[step->arguments[0]].ffn;
  return site == SF_SITE_IN ? ffn->d_in : ffn->hidden;
}

/* 1 when a layer's products can leave out inputs at a site. */
static int32_t ffn_can(const sf_ffn *ffn, int32_t site) {
  if (ffn->cache || ffn->predictor || ffn->sub_norm || ffn->deviations > 0) return 0;
  if (site == SF_SITE_DOWN) return ffn->by_output && ffn->by_output->column_data;
  return ffn->up->column_data && (!ffn->gate || ffn->gate->column_data);
}

static int32_t products_can(const sf_model *model, const sf_step *step) {
  for (int32_t i = 1; i < step->count; i += 3) {
    if (!sf_matrix_of(model, step, i)->column_data) return 0;
  }
  return 1;
}

int32_t sf_model_set_input_limit(sf_model *model, int32_t place, int32_t site, float limit) {
  int32_t width = site_width(model, place, site);
  if (width < 0) return width;
  if (!(limit >= 0) || !isfinite(limit)) return SF_ERROR_ARGUMENT;
  sf_step *step = &model->steps[place];
  int32_t is_ffn = step->kind == sf_step_find(SF_STEP_FFN);
  int32_t can = is_ffn ? ffn_can(model->layers[step->arguments[0]].ffn, site) : products_can(model, step);
  if (limit > 0 && !can) return SF_ERROR_UNSUPPORTED;
  step->limits[site] = limit;
  return SF_OK;
}

int32_t sf_model_record_inputs(sf_model *model, int32_t place, int32_t site, float *buffer, size_t floats) {
  int32_t width = site_width(model, place, site);
  if (width < 0) return width;
  model->steps[place].records[site].values = buffer;
  model->steps[place].records[site].room = buffer ? floats : 0;
  return SF_OK;
}

void sf_record_inputs(const sf_model *model, const sf_step *step, int32_t site, const float *x, int32_t width) {
  sf_record *record = &model->steps[step->index].records[site];
  size_t count = (size_t)model->batch.n * (size_t)width;
  if (count > record->room) count = record->room;
  if (count == 0) return;
  memcpy(record->values, x, count * sizeof(float));
  record->values += count;
  record->room -= count;
}

static void count_inputs(const sf_model *model, int32_t j, int32_t inputs, int32_t chosen) {
  sf_session *session = model->batch.sessions[j];
  sf_add_count(&session->counts[0][model->n_layers + 1], inputs);
  sf_add_count(&session->counts[1][model->n_layers + 1], chosen);
}

int32_t sf_run_some_products(const sf_model *model, const sf_step *step, const sf_matrix *const *matrices,
                             int32_t count, float *const *outs) {
  int32_t columns = matrices[0]->columns;
  for (int32_t j = 0; j < model->batch.n; j++) {
    const float *x = sf_values(model, step, 0) + (size_t)j * (size_t)columns;
    float *ys[SF_EACH] = {NULL};
    for (int32_t k = 0; k < count; k++) ys[k] = outs[k] + (size_t)j * (size_t)matrices[k]->rows;
    int32_t chosen = sf_multiply_above(model->context, matrices, count, x, step->limits[0], ys);
    if (chosen < 0) return chosen;
    count_inputs(model, j, columns, chosen);
  }
  return SF_OK;
}

int32_t sf_run_some_ffn(const sf_model *model, const sf_step *step, const float *x, float *y, int32_t *selected,
                        int32_t *active, uint8_t *fired) {
  sf_ffn *ffn = model->layers[step->arguments[0]].ffn;
  int32_t n = model->batch.n, inputs[SF_BATCH] = {0}, chosen[SF_BATCH] = {0};
  int32_t status = sf_ffn_some_inputs(ffn, step->limits, x, n, y, inputs, chosen);
  if (status != SF_OK) return status;
  for (int32_t j = 0; j < n; j++) {
    selected[j] = active[j] = ffn->hidden;
    count_inputs(model, j, inputs[j], chosen[j]);
  }
  if (fired) sf_ffn_count_fired(ffn, NULL, NULL, n, fired);
  return SF_OK;
}

int32_t sf_session_input_counts(sf_session *session, int32_t *inputs, int32_t *chosen) {
  if (!session || !inputs || !chosen) return SF_ERROR_ARGUMENT;
  int32_t *out[2] = {inputs, chosen};
  for (int32_t i = 0; i < 2; i++) {
    *out[i] = session->totals[i][session->model->n_layers + 1];
    session->totals[i][session->model->n_layers + 1] = 0;
  }
  return SF_OK;
}
