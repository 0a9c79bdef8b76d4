/* One sequence of tokens: the key/value cache, and the pass of a batch of tokens through the model. */
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "ffn/cached.h"
#include "ffn/layer.h"
#include "model/attention.h"

enum { TAPS = SF_TAP_HIDDEN + 1 };

/* Tokens on their way through the layers. */
typedef struct {
  int32_t n, mode, first; /* first: of them, in the eval */
  int32_t logits_count;   /* wanted, of the last ones */
  int32_t layer;          /* where they are */
  size_t neurons;         /* of the layers before it */
} batch_state;

struct sf_session {
  sf_model *model;
  int32_t context, position;
  sf_attention attention;
  float *x;                          /* (SF_BATCH, d) the residual stream */
  float *normed;                     /* (SF_BATCH, d) */
  float *added;                      /* (SF_BATCH, d) what a block adds to x */
  int32_t *counts[2];                /* (layers) selected and active neurons of the current eval */
  int32_t *totals[2];                /* (layers) the same since they were asked for */
  int32_t token_counts[2][SF_BATCH]; /* the same of each token in one layer */
  float *taps[TAPS];                 /* what the caller wants to see, or NULL */
  size_t tap_floats[TAPS];
  uint8_t *fired; /* (layers, hidden), see sf_session_activity */
  size_t fired_bytes;
  batch_state batch;
  sf_cached_pass cached; /* of the layer where the batch is, if that is cached */
  int32_t waiting;       /* 1: for neurons that the host reads */
};

/* What a cached pass counted is copied as it is. */
SF_CHECK(counts_agree, sizeof((sf_cached_pass *)0)->counts == sizeof((sf_session *)0)->token_counts[0]);

/* Floats of a token that a tap of this kind records. */
static size_t tap_width(const sf_model *model, int32_t kind) {
  return sf_size_product(kind == SF_TAP_FFN_INPUTS ? (size_t)model->n_layers : 1, (size_t)model->d);
}

static int32_t allocate(sf_session *session) {
  size_t d = (size_t)session->model->d, layers = (size_t)session->model->n_layers;
  session->x = sf_array(sf_size_product(SF_BATCH, d), sizeof(float));
  session->normed = sf_array(sf_size_product(SF_BATCH, d), sizeof(float));
  session->added = sf_array(sf_size_product(SF_BATCH, d), sizeof(float));
  if (!session->x || !session->normed || !session->added) return SF_ERROR_MEMORY;
  for (int32_t i = 0; i < 2; i++) {
    session->counts[i] = sf_array(layers, sizeof(int32_t));
    session->totals[i] = sf_array(layers, sizeof(int32_t));
    if (!session->counts[i] || !session->totals[i]) return SF_ERROR_MEMORY;
  }
  return sf_attention_open(&session->attention, session->model, session->context);
}

int32_t sf_session_open(sf_session **out, sf_model *model, int32_t context) {
  if (!out) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (!model || context < 1) return SF_ERROR_ARGUMENT;
  if (!sf_model_complete(model)) return SF_ERROR_INCOMPLETE;
  sf_session *session = sf_array(1, sizeof(sf_session));
  if (!session) return SF_ERROR_MEMORY;
  session->model = model;
  session->context = context;
  int32_t status = allocate(session);
  if (status != SF_OK) {
    sf_session_close(session);
    return status;
  }
  *out = session;
  return SF_OK;
}

void sf_session_close(sf_session *session) {
  if (!session) return;
  sf_attention_close(&session->attention);
  sf_cached_close(&session->cached);
  sf_free(session->x);
  sf_free(session->normed);
  sf_free(session->added);
  for (int32_t i = 0; i < 2; i++) {
    sf_free(session->counts[i]);
    sf_free(session->totals[i]);
  }
  sf_free(session);
}

/* ---- The pass through the model ---- */

/* normed (n, d) = x (n, d), normalised with what a part has of these roles. */
static int32_t norm(const sf_session *session, const float *x, const sf_part *part, int32_t role, int32_t bias_role,
                    int32_t n) {
  int32_t d = session->model->d;
  sf_model_norm(session->model, x, part->vectors[role], part->vectors[bias_role], n, d, session->normed);
  return session->model->context->kernels->all_finite(session->normed, n * d) ? SF_OK : SF_ERROR_NOT_FINITE;
}

static void scale_by(float factor, size_t count, float *x) {
  for (size_t i = 0; factor != 1.0f && i < count; i++) x[i] *= factor;
}

/* x (n, d) += added (n, d), which goes through a norm of its own in some models. */
static void add_to_stream(sf_session *session, const float *post_norm, int32_t n) {
  const sf_model *model = session->model;
  if (post_norm) sf_model_norm(model, session->added, post_norm, NULL, n, model->d, session->added);
  scale_by(model->own.numbers[SF_RESIDUAL_SCALE], (size_t)n * (size_t)model->d, session->added);
  model->context->kernels->add(session->x, session->added, n * model->d, session->x);
}

/* What stands before the feed-forward part of a layer, whose input is in normed then. */
static int32_t before_ffn(sf_session *session) {
  const sf_model *model = session->model;
  int32_t layer = session->batch.layer, n = session->batch.n, first = session->batch.first;
  const sf_part *part = &model->layers[layer];
  int32_t status = norm(session, session->x, part, SF_ATTENTION_NORM, SF_ATTENTION_NORM_BIAS, n);
  if (status == SF_OK) status = sf_attention_run(&session->attention, layer, session->normed, n, session->added);
  if (status != SF_OK) return status;
  add_to_stream(session, part->vectors[SF_ATTENTION_POST_NORM], n);
  status = norm(session, session->x, part, SF_FFN_NORM, SF_FFN_NORM_BIAS, n);
  if (status != SF_OK) return status;
  float *tap = session->taps[SF_TAP_FFN_INPUTS];
  for (int32_t j = 0; tap && j < n; j++) {
    size_t row = (size_t)(first + j) * (size_t)model->n_layers + (size_t)layer, d = (size_t)model->d;
    memcpy(tap + row * d, session->normed + (size_t)j * d, d * sizeof(float));
  }
  return SF_OK;
}

/* added (n, d) = the feed-forward part of normed (n, d). SF_WAITING: when the missing neurons are there, once more. */
static int32_t run_ffn(sf_session *session) {
  const sf_model *model = session->model;
  batch_state *batch = &session->batch;
  sf_ffn *ffn = model->layers[batch->layer].ffn;
  uint8_t *fired = session->fired ? session->fired + batch->neurons : NULL;
  const float *hints = model->own.numbers[SF_PREDICTOR_INPUT] != 0 ? session->x : session->normed;
  if (!ffn->cache) {
    return sf_ffn_run(ffn, batch->mode, session->normed, hints, batch->n, session->added, session->token_counts[0],
                      session->token_counts[1], fired);
  }
  sf_cached_pass *pass = &session->cached;
  int32_t status = SF_OK;
  if (!session->waiting) status = sf_cached_begin(pass, ffn, batch->mode, hints, batch->n, session->added);
  if (status != SF_OK) return status;
  status = sf_cached_continue(pass, ffn, batch->mode, session->normed, batch->n, session->added, fired);
  session->waiting = status == SF_WAITING;
  memcpy(session->token_counts[0], pass->counts, sizeof(pass->counts));
  memcpy(session->token_counts[1], pass->active, sizeof(pass->active));
  return status;
}

static void after_ffn(sf_session *session) {
  int32_t layer = session->batch.layer, n = session->batch.n;
  for (int32_t i = 0; i < 2; i++) {
    for (int32_t j = 0; j < n; j++) sf_add_count(&session->counts[i][layer], session->token_counts[i][j]);
  }
  add_to_stream(session, session->model->layers[layer].vectors[SF_FFN_POST_NORM], n);
}

/* x (n, d) = the embeddings of tokens. */
static void embed(sf_session *session, const int32_t *tokens, int32_t n) {
  const sf_model *model = session->model;
  const sf_matrix *embedding = model->own.matrices[SF_TOKEN_EMBEDDING];
  size_t d = (size_t)model->d, blocks = d / (size_t)embedding->format->traits->block_columns;
  for (int32_t j = 0; j < n; j++) {
    const uint8_t *row = embedding->data + (size_t)tokens[j] * embedding->stride;
    embedding->format->dequantize(row, blocks, session->x + (size_t)j * d);
  }
  scale_by(model->own.numbers[SF_EMBEDDING_SCALE], (size_t)n * d, session->x);
}

/* normed (n, d) = the states of the last `n` of `of` tokens after the final norm. */
static int32_t final_norm(sf_session *session, int32_t n, int32_t of) {
  const float *x = session->x + (size_t)(of - n) * (size_t)session->model->d;
  return norm(session, x, &session->model->own, SF_OUTPUT_NORM, SF_OUTPUT_NORM_BIAS, n);
}

/* Logits of the `n` tokens whose final states are in normed. */
static int32_t make_logits(sf_session *session, int32_t n, float *logits) {
  const sf_model *model = session->model;
  const sf_part *own = &model->own;
  const sf_kernels *kernels = model->context->kernels;
  const sf_matrix *output = own->matrices[own->matrices[SF_OUTPUT] ? SF_OUTPUT : SF_TOKEN_EMBEDDING];
  int32_t vocab = model->vocab, status = sf_prepare_multiply(model->context, output, session->normed, n, logits);
  for (int32_t j = 0; status == SF_OK && j < n; j++, logits += vocab) {
    if (own->vectors[SF_OUTPUT_BIAS]) kernels->add(logits, own->vectors[SF_OUTPUT_BIAS], vocab, logits);
    scale_by(own->numbers[SF_LOGIT_SCALE], (size_t)vocab, logits);
    if (!kernels->all_finite(logits, vocab)) status = SF_ERROR_NOT_FINITE;
    if (own->numbers[SF_LOGIT_CAP] > 0) kernels->softcap(own->numbers[SF_LOGIT_CAP], logits, vocab);
  }
  return status;
}

/* The layers of the batch, from where it stands. */
static int32_t run_layers(sf_session *session) {
  const sf_model *model = session->model;
  batch_state *batch = &session->batch;
  for (; batch->layer < model->n_layers; batch->layer++) {
    int32_t status = session->waiting ? SF_OK : before_ffn(session);
    if (status == SF_OK) status = run_ffn(session);
    if (status != SF_OK) return status;
    after_ffn(session);
    batch->neurons += (size_t)model->layers[batch->layer].ffn->hidden;
  }
  return SF_OK;
}

/* The batch from where it stands; its logits. SF_WAITING as of run_ffn. */
static int32_t run_batch(sf_session *session, float *logits) {
  int32_t n = session->batch.n, first = session->batch.first, logits_count = session->batch.logits_count;
  size_t d = (size_t)session->model->d;
  int32_t status = run_layers(session);
  float *hidden = session->taps[SF_TAP_HIDDEN];
  if (hidden && status == SF_OK) {
    status = final_norm(session, n, n);
    memcpy(hidden + (size_t)first * d, session->normed, (size_t)n * d * sizeof(float));
  }
  if (logits_count > 0 && status == SF_OK) status = final_norm(session, logits_count, n);
  if (logits_count > 0 && status == SF_OK) status = make_logits(session, logits_count, logits);
  if (status == SF_OK) session->position += n;
  return status;
}

/* Begins with n ≤ SF_BATCH tokens, of which the first is token `first` of the eval, and the logits of the last
 * `logits_count` of them are wanted. */
static void begin_batch(sf_session *session, const int32_t *tokens, int32_t n, int32_t mode, int32_t first,
                        int32_t logits_count) {
  const batch_state batch = {n, mode, first, logits_count, 0, 0};
  session->batch = batch;
  session->waiting = 0;
  embed(session, tokens, n);
  sf_attention_begin(&session->attention, session->position, n);
}

static size_t neurons(const sf_model *model) {
  size_t sum = 0;
  for (int32_t layer = 0; layer < model->n_layers; layer++) sum += (size_t)model->layers[layer].ffn->hidden;
  return sum;
}

/* Everything that can be wrong with a call, before any of it is done. */
static int32_t check_eval(const sf_session *session, const int32_t *tokens, int32_t n, int32_t mode,
                          const float *logits, int32_t logits_count) {
  if (!session || !tokens || n < 1 || mode < SF_DENSE || mode > SF_SPARSE) return SF_ERROR_ARGUMENT;
  if (logits_count < 0 || logits_count > n || (logits_count > 0 && !logits)) return SF_ERROR_ARGUMENT;
  const sf_model *model = session->model;
  for (int32_t i = 0; i < n; i++) {
    if (tokens[i] < 0 || tokens[i] >= model->vocab) return SF_ERROR_ARGUMENT;
  }
  if (n > session->context - session->position) return SF_ERROR_CONTEXT_FULL;
  for (int32_t layer = 0; layer < model->n_layers; layer++) {
    if (model->layers[layer].ffn->cache && n > SF_BATCH) return SF_ERROR_ARGUMENT;
  }
  for (int32_t kind = 0; kind < TAPS; kind++) {
    if (session->taps[kind] && sf_size_product((size_t)n, tap_width(model, kind)) > session->tap_floats[kind]) {
      return SF_ERROR_SHAPE;
    }
  }
  if (session->fired && neurons(model) > session->fired_bytes) return SF_ERROR_SHAPE;
  return SF_OK;
}

/* Ends an eval that began at position `start` and did what it could. */
static void end_eval(sf_session *session, int32_t status, int32_t start) {
  size_t layers = (size_t)session->model->n_layers;
  session->waiting = status == SF_WAITING;
  if (status != SF_OK) session->position = start;
  for (int32_t i = 0; i < 2 && status == SF_OK; i++) {
    for (size_t k = 0; k < layers; k++) sf_add_count(&session->totals[i][k], session->counts[i][k]);
  }
}

int32_t sf_session_eval(sf_session *session, const int32_t *tokens, int32_t n, int32_t mode, float *logits,
                        int32_t logits_count) {
  int32_t status = check_eval(session, tokens, n, mode, logits, logits_count);
  if (status != SF_OK) return status;
  const sf_model *model = session->model;
  size_t layers = (size_t)model->n_layers;
  int32_t start = session->position, first_logit = n - logits_count;
  sf_pool_lock(model->context->pool);
  for (int32_t i = 0; i < 2; i++) memset(session->counts[i], 0, layers * sizeof(int32_t));
  for (int32_t i = 0; i < n && status == SF_OK; i += SF_BATCH) {
    int32_t batch = n - i < SF_BATCH ? n - i : SF_BATCH;
    int32_t from = first_logit > i ? first_logit : i; /* first token of this batch whose logits are wanted */
    int32_t wanted = i + batch > from ? i + batch - from : 0;
    float *batch_logits = wanted > 0 ? logits + (size_t)(from - first_logit) * (size_t)model->vocab : NULL;
    begin_batch(session, tokens + i, batch, mode, i, wanted);
    status = run_batch(session, batch_logits);
  }
  end_eval(session, status, start);
  sf_pool_unlock(model->context->pool);
  return status;
}

int32_t sf_session_missing(const sf_session *session, int32_t *layer, int32_t *ids) {
  if (!session || !layer || !ids || !session->waiting) return SF_ERROR_ARGUMENT;
  const sf_cached_pass *pass = &session->cached;
  *layer = session->batch.layer;
  memcpy(ids, pass->missing, (size_t)pass->n_missing * sizeof(int32_t));
  return pass->n_missing;
}

int32_t sf_session_resume(sf_session *session, float *logits) {
  if (!session || !session->waiting || (session->batch.logits_count > 0 && !logits)) return SF_ERROR_ARGUMENT;
  sf_pool *pool = session->model->context->pool;
  sf_pool_lock(pool);
  int32_t start = session->position, status = run_batch(session, logits);
  end_eval(session, status, start);
  sf_pool_unlock(pool);
  return status;
}

int32_t sf_session_position(const sf_session *session) { return session ? session->position : SF_ERROR_ARGUMENT; }

int32_t sf_session_truncate(sf_session *session, int32_t position) {
  if (!session || position < 0 || position > session->position) return SF_ERROR_ARGUMENT;
  session->position = position;
  session->waiting = 0;
  return SF_OK;
}

int32_t sf_session_counts(sf_session *session, int32_t *selected, int32_t *active) {
  if (!session || !selected || !active) return SF_ERROR_ARGUMENT;
  size_t bytes = (size_t)session->model->n_layers * sizeof(int32_t);
  int32_t *out[2] = {selected, active};
  for (int32_t i = 0; i < 2; i++) {
    memcpy(out[i], session->totals[i], bytes);
    memset(session->totals[i], 0, bytes);
  }
  return SF_OK;
}

int32_t sf_session_tap(sf_session *session, int32_t kind, float *buffer, size_t floats) {
  if (!session || kind < 0 || kind >= TAPS) return SF_ERROR_ARGUMENT;
  session->taps[kind] = buffer;
  session->tap_floats[kind] = buffer ? floats : 0;
  return SF_OK;
}

int32_t sf_session_activity(sf_session *session, uint8_t *counts, size_t bytes) {
  if (!session) return SF_ERROR_ARGUMENT;
  if (counts && bytes < neurons(session->model)) return SF_ERROR_SHAPE;
  session->fired = counts;
  session->fired_bytes = counts ? bytes : 0;
  return SF_OK;
}
