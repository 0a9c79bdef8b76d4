/* A model: its sizes, and where its weights and numbers are. What roles there are, stands in the tables. */
#include "model/model.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

/* Sizes of a model that shapes are made of. */
typedef enum { D, VOCAB, HEAD, Q_WIDTH, KV_WIDTH, PAIRS } size_name;
/* Of which a role is: the model, a layer, or a layer with the model's as the default. */
typedef enum { OF_MODEL, OF_LAYER, OF_BOTH } owner;

static const struct {
  owner of;
  size_name rows, columns;
} matrix_roles[SF_MATRIX_ROLES] = {
    [SF_TOKEN_EMBEDDING] = {OF_MODEL, VOCAB, D}, [SF_OUTPUT] = {OF_MODEL, VOCAB, D},
    [SF_ATTENTION_Q] = {OF_LAYER, Q_WIDTH, D},   [SF_ATTENTION_K] = {OF_LAYER, KV_WIDTH, D},
    [SF_ATTENTION_V] = {OF_LAYER, KV_WIDTH, D},  [SF_ATTENTION_OUTPUT] = {OF_LAYER, D, Q_WIDTH},
};

static const struct {
  owner of;
  size_name size;
} vector_roles[SF_VECTOR_ROLES] = {
    [SF_OUTPUT_NORM] = {OF_MODEL, D},
    [SF_ATTENTION_NORM] = {OF_LAYER, D},
    [SF_FFN_NORM] = {OF_LAYER, D},
    [SF_ROPE_FACTORS] = {OF_BOTH, PAIRS},
    [SF_OUTPUT_NORM_BIAS] = {OF_MODEL, D},
    [SF_ATTENTION_NORM_BIAS] = {OF_LAYER, D},
    [SF_FFN_NORM_BIAS] = {OF_LAYER, D},
    [SF_OUTPUT_BIAS] = {OF_MODEL, VOCAB},
    [SF_ATTENTION_Q_BIAS] = {OF_LAYER, Q_WIDTH},
    [SF_ATTENTION_K_BIAS] = {OF_LAYER, KV_WIDTH},
    [SF_ATTENTION_V_BIAS] = {OF_LAYER, KV_WIDTH},
    [SF_ATTENTION_OUTPUT_BIAS] = {OF_LAYER, D},
    [SF_ATTENTION_Q_NORM] = {OF_LAYER, HEAD},
    [SF_ATTENTION_K_NORM] = {OF_LAYER, HEAD},
    [SF_ATTENTION_POST_NORM] = {OF_LAYER, D},
    [SF_FFN_POST_NORM] = {OF_LAYER, D},
    [SF_ATTENTION_SUB_NORM] = {OF_LAYER, Q_WIDTH},
};

/* Numbers lie in low … high; whole ones have no fraction. */
static const struct {
  owner of;
  int32_t whole;
  float low, high, start;
} number_roles[SF_NUMBER_ROLES] = {
    [SF_NORM_KIND] = {OF_MODEL, 1, SF_NORM_RMS, SF_NORM_LAYER, SF_NORM_RMS},
    [SF_ROPE_HALVES] = {OF_MODEL, 1, 0, 1, 0},
    [SF_ROPE_AMPLITUDE] = {OF_MODEL, 0, 1e-6f, 1e6f, 1},
    [SF_EMBEDDING_SCALE] = {OF_MODEL, 0, -1e6f, 1e6f, 1},
    [SF_RESIDUAL_SCALE] = {OF_MODEL, 0, -1e6f, 1e6f, 1},
    [SF_LOGIT_SCALE] = {OF_MODEL, 0, -1e6f, 1e6f, 1},
    [SF_LOGIT_CAP] = {OF_MODEL, 0, 0, 1e6f, 0},
    [SF_ATTENTION_SCALE] = {OF_MODEL, 0, -1e6f, 1e6f, 1},
    [SF_ATTENTION_CAP] = {OF_MODEL, 0, 0, 1e6f, 0},
    [SF_ROPE_BASE] = {OF_BOTH, 0, 1e-6f, 1e18f, 1e4f},
    [SF_ATTENTION_WINDOW] = {OF_LAYER, 1, 0, SF_MAX_NEURONS, 0},
    [SF_PREDICTOR_INPUT] = {OF_MODEL, 1, 0, 1, 0},
};

static int32_t size_of(const sf_model *model, size_name name) {
  switch (name) {
    case D:
      return model->d;
    case VOCAB:
      return model->vocab;
    case HEAD:
      return model->head_dim;
    case Q_WIDTH:
      return model->heads * model->head_dim;
    case KV_WIDTH:
      return model->kv_heads * model->head_dim;
    default:
      return model->rope_dims / 2;
  }
}

int32_t sf_model_open(sf_model **out, sf_context *context, int32_t layers, int32_t d, int32_t heads, int32_t kv_heads,
                      int32_t head_dim, int32_t vocab, int32_t rope_dims, float rope_base, float norm_epsilon) {
  if (!out) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (!context || layers < 1 || d < 1 || heads < 1 || kv_heads < 1 || head_dim < 1 || vocab < 1) {
    return SF_ERROR_ARGUMENT;
  }
  if (d > SF_MAX_NEURONS || vocab > SF_MAX_NEURONS || layers > SF_MAX_NEURONS || head_dim > SF_MAX_NEURONS ||
      heads > SF_MAX_NEURONS / head_dim)
    return SF_ERROR_ARGUMENT;
  if (heads % kv_heads != 0) return SF_ERROR_ARGUMENT;
  if (rope_dims < 0 || rope_dims % 2 != 0 || rope_dims > head_dim) return SF_ERROR_ARGUMENT;
  if (!(norm_epsilon >= 0) || !isfinite(norm_epsilon)) return SF_ERROR_ARGUMENT;
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
  model->norm_epsilon = norm_epsilon;
  model->layers = sf_array((size_t)layers, sizeof(sf_part));
  int32_t status = model->layers ? SF_OK : SF_ERROR_MEMORY;
  for (int32_t role = 0; role < SF_NUMBER_ROLES; role++) model->own.numbers[role] = number_roles[role].start;
  model->own.numbers[SF_ATTENTION_SCALE] = 1.0f / sqrtf((float)head_dim);
  if (status == SF_OK) status = sf_model_set_number(model, -1, SF_ROPE_BASE, rope_base);
  if (status != SF_OK) {
    sf_model_close(model);
    return status;
  }
  *out = model;
  return SF_OK;
}

static void free_vectors(sf_part *part) {
  for (int32_t role = 0; role < SF_VECTOR_ROLES; role++) sf_free(part->vectors[role]);
}

void sf_model_close(sf_model *model) {
  if (!model) return;
  for (int32_t i = 0; model->layers && i < model->n_layers; i++) free_vectors(&model->layers[i]);
  free_vectors(&model->own);
  sf_free(model->layers);
  sf_free(model);
}

int32_t sf_model_complete(const sf_model *model) {
  if (!model->own.matrices[SF_TOKEN_EMBEDDING] || !model->own.vectors[SF_OUTPUT_NORM]) return 0;
  for (int32_t i = 0; i < model->n_layers; i++) {
    const sf_part *layer = &model->layers[i];
    for (int32_t role = SF_ATTENTION_Q; role <= SF_ATTENTION_OUTPUT; role++) {
      if (!layer->matrices[role]) return 0;
    }
    if (!layer->ffn || !layer->vectors[SF_ATTENTION_NORM] || !layer->vectors[SF_FFN_NORM]) return 0;
  }
  return 1;
}

/* The part of the model that `layer` names, NULL where the role is not of that. */
static sf_part *part_of(sf_model *model, int32_t layer, owner of) {
  if (layer == -1) return of == OF_LAYER ? NULL : &model->own;
  return of == OF_MODEL || layer < 0 || layer >= model->n_layers ? NULL : &model->layers[layer];
}

int32_t sf_model_set_matrix(sf_model *model, int32_t layer, int32_t role, const sf_matrix *matrix) {
  if (!model || !matrix || role < 0 || role >= SF_MATRIX_ROLES) return SF_ERROR_ARGUMENT;
  sf_part *part = part_of(model, layer, matrix_roles[role].of);
  if (!part) return SF_ERROR_ARGUMENT;
  if (matrix->rows != size_of(model, matrix_roles[role].rows)) return SF_ERROR_SHAPE;
  if (matrix->columns != size_of(model, matrix_roles[role].columns)) return SF_ERROR_SHAPE;
  part->matrices[role] = matrix;
  return SF_OK;
}

int32_t sf_model_set_vector(sf_model *model, int32_t layer, int32_t role, const float *values, int32_t count) {
  if (!model || !values || role < 0 || role >= SF_VECTOR_ROLES) return SF_ERROR_ARGUMENT;
  sf_part *part = part_of(model, layer, vector_roles[role].of);
  if (!part) return SF_ERROR_ARGUMENT;
  if (count != size_of(model, vector_roles[role].size)) return SF_ERROR_SHAPE;
  for (int32_t i = 0; role == SF_ROPE_FACTORS && i < count; i++) {
    if (values[i] == 0) return SF_ERROR_ARGUMENT; /* frequencies are divided by them */
  }
  return sf_copy_floats(&part->vectors[role], values, count);
}

int32_t sf_model_set_number(sf_model *model, int32_t layer, int32_t role, float value) {
  if (!model || role < 0 || role >= SF_NUMBER_ROLES) return SF_ERROR_ARGUMENT;
  if (!(value >= number_roles[role].low && value <= number_roles[role].high)) return SF_ERROR_ARGUMENT;
  if (number_roles[role].whole && value != floorf(value)) return SF_ERROR_ARGUMENT;
  sf_part *part = part_of(model, layer, number_roles[role].of);
  if (!part) return SF_ERROR_ARGUMENT;
  part->numbers[role] = value;
  return SF_OK;
}

int32_t sf_model_set_ffn(sf_model *model, int32_t layer, sf_ffn *ffn) {
  if (!model || !ffn || layer < 0 || layer >= model->n_layers) return SF_ERROR_ARGUMENT;
  if (ffn->context != model->context) return SF_ERROR_ARGUMENT;
  if (ffn->d_in != model->d || ffn->d_out != model->d) return SF_ERROR_SHAPE;
  model->layers[layer].ffn = ffn;
  return SF_OK;
}

void sf_model_norm(const sf_model *model, const float *x, const float *weight, const float *bias, int32_t n, int32_t d,
                   float *y) {
  const sf_kernels *kernels = model->context->kernels;
  for (int32_t j = 0; j < n; j++, x += d, y += d) {
    if ((int32_t)model->own.numbers[SF_NORM_KIND] == SF_NORM_LAYER) {
      kernels->layer_norm(x, weight, bias, d, model->norm_epsilon, y);
    } else {
      kernels->rms_norm(x, weight, d, model->norm_epsilon, y);
    }
  }
}
