#include <math.h>

#include "internal.h"

/* Far above any model; keeps every product of a batch and one of these within 32 bits. */
enum { MOST = 1 << 24 };

int32_t sf_model_open(sf_model **out, sf_context *context, int32_t layers, int32_t d, int32_t heads, int32_t kv_heads,
                      int32_t head_dim, int32_t vocab, int32_t rope_dims, float rope_base, float norm_epsilon) {
  if (!out) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (!context || layers < 1 || d < 1 || heads < 1 || kv_heads < 1 || head_dim < 1 || vocab < 1) {
    return SF_ERROR_ARGUMENT;
  }
  if (d > MOST || vocab > MOST || layers > MOST || head_dim > MOST || heads > MOST / head_dim) return SF_ERROR_ARGUMENT;
  if (heads % kv_heads != 0) return SF_ERROR_ARGUMENT;
  if (rope_dims < 0 || rope_dims % 2 != 0 || rope_dims > head_dim) return SF_ERROR_ARGUMENT;
  if (!(rope_base > 0) || !isfinite(rope_base) || !(norm_epsilon >= 0) || !isfinite(norm_epsilon)) {
    return SF_ERROR_ARGUMENT;
  }
  sf_model *model = sf_array(1, sizeof(sf_model));
  if (!model) return SF_ERROR_MEMORY;
  model->context = context;
  model->n_layers = layers;
  model->d = d;
  model->heads = heads;
  model->kv_heads = kv_heads;
  model->head_dim = head_dim;
  model->vocab = vocab;
  model->rope_dims = rope_dims;
  model->rope_base = rope_base;
  model->norm_epsilon = norm_epsilon;
  model->layers = sf_array((size_t)layers, sizeof(sf_layer));
  if (!model->layers) {
    sf_model_close(model);
    return SF_ERROR_MEMORY;
  }
  *out = model;
  return SF_OK;
}

void sf_model_close(sf_model *model) {
  if (!model) return;
  for (int32_t i = 0; model->layers && i < model->n_layers; i++) {
    sf_free(model->layers[i].attention_norm);
    sf_free(model->layers[i].ffn_norm);
  }
  sf_free(model->layers);
  sf_free(model->output_norm);
  sf_free(model->rope_factors);
  sf_free(model);
}

/* A role of the model itself goes with layer -1, a role of a layer with that layer's number. */
static int32_t layer_fits(const sf_model *model, int32_t layer, int32_t of_model) {
  return of_model ? layer == -1 : layer >= 0 && layer < model->n_layers;
}

int32_t sf_model_set_matrix(sf_model *model, int32_t layer, int32_t role, const sf_matrix *matrix) {
  if (!model || !matrix) return SF_ERROR_ARGUMENT;
  if (!layer_fits(model, layer, role == SF_TOKEN_EMBEDDING || role == SF_OUTPUT)) return SF_ERROR_ARGUMENT;
  int32_t rows, columns = model->d;
  const sf_matrix **place;
  sf_layer *of = layer >= 0 ? &model->layers[layer] : NULL;
  switch (role) {
    case SF_TOKEN_EMBEDDING:
      place = &model->embedding;
      rows = model->vocab;
      break;
    case SF_OUTPUT:
      place = &model->output;
      rows = model->vocab;
      break;
    case SF_ATTENTION_Q:
      place = &of->q;
      rows = model->heads * model->head_dim;
      break;
    case SF_ATTENTION_K:
      place = &of->k;
      rows = model->kv_heads * model->head_dim;
      break;
    case SF_ATTENTION_V:
      place = &of->v;
      rows = model->kv_heads * model->head_dim;
      break;
    case SF_ATTENTION_OUTPUT:
      place = &of->output;
      rows = model->d;
      columns = model->heads * model->head_dim;
      break;
    default:
      return SF_ERROR_ARGUMENT;
  }
  if (matrix->rows != rows || matrix->columns != columns) return SF_ERROR_SHAPE;
  *place = matrix;
  return SF_OK;
}

int32_t sf_model_set_vector(sf_model *model, int32_t layer, int32_t role, const float *values, int32_t count) {
  if (!model || !values) return SF_ERROR_ARGUMENT;
  if (!layer_fits(model, layer, role == SF_OUTPUT_NORM || role == SF_ROPE_FACTORS)) return SF_ERROR_ARGUMENT;
  int32_t expected = model->d;
  float **place;
  switch (role) {
    case SF_OUTPUT_NORM:
      place = &model->output_norm;
      break;
    case SF_ATTENTION_NORM:
      place = &model->layers[layer].attention_norm;
      break;
    case SF_FFN_NORM:
      place = &model->layers[layer].ffn_norm;
      break;
    case SF_ROPE_FACTORS:
      place = &model->rope_factors;
      expected = model->rope_dims / 2;
      break;
    default:
      return SF_ERROR_ARGUMENT;
  }
  if (count != expected) return SF_ERROR_SHAPE;
  for (int32_t i = 0; role == SF_ROPE_FACTORS && i < count; i++) {
    if (values[i] == 0) return SF_ERROR_ARGUMENT; /* frequencies are divided by them */
  }
  return sf_copy_floats(place, values, count);
}

int32_t sf_model_set_ffn(sf_model *model, int32_t layer, sf_ffn *ffn) {
  if (!model || !ffn || !layer_fits(model, layer, 0)) return SF_ERROR_ARGUMENT;
  if (ffn->cache || ffn->context != model->context) return SF_ERROR_ARGUMENT;
  if (ffn->d_in != model->d || ffn->d_out != model->d) return SF_ERROR_SHAPE;
  model->layers[layer].ffn = ffn;
  return SF_OK;
}
