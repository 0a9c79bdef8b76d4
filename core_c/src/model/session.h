/* A session, and attention in it: what session.c and attention.c share. */
#ifndef SF_SESSION_H
#define SF_SESSION_H

#include "ffn/cached.h"
#include "model/model.h"

enum { SF_TAPS = 2 }; /* kinds of SF_TAP_… */

/* Tokens on their way through the layers. */
typedef struct {
  int32_t n, mode, first; /* first: of them, in the eval */
  int32_t logits_count;   /* wanted, of the last ones */
  int32_t layer;          /* where they are */
  size_t neurons;         /* of the layers before it */
} sf_batch;

struct sf_session {
  sf_model *model;
  int32_t context, position;
  float *keys, *values;              /* (layers, kv_heads, context, head_dim) */
  float *x;                          /* (SF_BATCH, d) the residual stream */
  float *normed;                     /* (SF_BATCH, d) */
  float *added;                      /* (SF_BATCH, d) what a block adds to x */
  float *q, *heads_out;              /* (SF_BATCH, heads · head_dim) */
  float *k, *v;                      /* (SF_BATCH, kv_heads · head_dim) */
  float *scores;                     /* (parts, heads / kv_heads, context) */
  int32_t parts;                     /* of an attention job, at most */
  int32_t *rope_of;                  /* (layers) which of the ropes turns a layer */
  int32_t ropes;                     /* sets of frequencies that differ */
  double *frequencies;               /* (ropes, rope_dims / 2) */
  float *cos_sin;                    /* (ropes, SF_BATCH, rope_dims / 2, 2) */
  int32_t *counts[2];                /* (layers) selected and active neurons of the current eval */
  int32_t *totals[2];                /* (layers) the same since they were asked for */
  int32_t token_counts[2][SF_BATCH]; /* the same of each token in one layer */
  float *taps[SF_TAPS];              /* what the caller wants to see, or NULL */
  size_t tap_floats[SF_TAPS];
  uint8_t *fired; /* (layers, hidden), see sf_session_activity */
  size_t fired_bytes;
  sf_batch batch;
  sf_cached_pass cached; /* of the layer where the batch is, if that is cached */
  int32_t waiting;       /* 1: for neurons that the host reads */
};

/* y (n, d) = x (n, d), each normalised as the model does it; y may be x. */
void sf_session_norm(const sf_session *session, const float *x, const float *weight, const float *bias, int32_t n,
                     int32_t d, float *y);
/* Makes the memory that attention needs. */
int32_t sf_attention_open(sf_session *session);
void sf_attention_close(sf_session *session);
/* Cosines and sines of the positions of the next n tokens. */
void sf_attention_set_angles(sf_session *session, int32_t n);
/* added (n, d) = the attention block of normed (n, d), which is finite; its keys and values go into the cache. */
int32_t sf_attention_run(sf_session *session, int32_t layer, int32_t n);

#endif
