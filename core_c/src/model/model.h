/* A model: its matrices, vectors, numbers and layers by role. Functions here trust their arguments: the public
 * functions have checked them. */
#ifndef SF_MODEL_H
#define SF_MODEL_H

#include "ffn/pass.h"

enum {
  SF_MATRIX_ROLES = SF_ATTENTION_OUTPUT + 1,
  SF_VECTOR_ROLES = SF_ATTENTION_SUB_NORM + 1,
  SF_NUMBER_ROLES = SF_PREDICTOR_INPUT + 1
};

/* What a model has once, or a layer has, by role; NULL where there is none. A role that is not of that kind has an
 * empty place. */
typedef struct {
  const sf_matrix *matrices[SF_MATRIX_ROLES];
  float *vectors[SF_VECTOR_ROLES];
  float numbers[SF_NUMBER_ROLES];
  sf_ffn *ffn; /* of a layer */
} sf_part;

struct sf_model {
  sf_context *context;
  int32_t n_layers, d, heads, kv_heads, head_dim, vocab, rope_dims;
  float norm_epsilon;
  sf_part own;
  sf_part *layers;
};

/* y (n, d) = x (n, d), each normalised as the model does it; y may be x. */
void sf_model_norm(const sf_model *model, const float *x, const float *weight, const float *bias, int32_t n, int32_t d,
                   float *y);
/* 1 when every tensor that a model cannot do without is there. */
int32_t sf_model_complete(const sf_model *model);

#endif
