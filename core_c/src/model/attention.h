/* Attention, with the keys and values of one sequence. Functions here trust their arguments: the public functions have
 * checked them. */
#ifndef SF_ATTENTION_H
#define SF_ATTENTION_H

#include "model/model.h"

typedef struct {
  const sf_model *model;
  int32_t context;      /* tokens that there is room for */
  int32_t position;     /* of the batch's first token */
  float *keys, *values; /* (layers, kv_heads, context, head_dim) */
  float *q, *heads_out; /* (SF_BATCH, heads · head_dim) */
  float *k, *v;         /* (SF_BATCH, kv_heads · head_dim) */
  float *scores;        /* (parts, heads / kv_heads, context) */
  int32_t parts;        /* of a job, at most */
  int32_t *rope_of;     /* (layers) which of the ropes turns a layer */
  int32_t ropes;        /* sets of frequencies that differ */
  double *frequencies;  /* (ropes, rope_dims / 2) */
  float *cos_sin;       /* (ropes, SF_BATCH, rope_dims / 2, 2) */
} sf_attention;

/* Makes the memory for sequences of up to `length` tokens; after an error too, sf_attention_close frees it. */
int32_t sf_attention_open(sf_attention *attention, const sf_model *model, int32_t length);
void sf_attention_close(sf_attention *attention);
/* A batch of n ≤ SF_BATCH tokens begins, the first of them at `position`. */
void sf_attention_begin(sf_attention *attention, int32_t position, int32_t n);
/* y (n, d) = the attention block of the batch x (n, d), which is finite; its keys and values are kept. */
int32_t sf_attention_run(sf_attention *attention, int32_t layer, const float *x, int32_t n, float *y);

#endif
