/* One sequence of tokens: the key/value cache, and the pass of a batch of tokens through the model. */
#include <math.h>
#include <string.h>

#include "internal.h"

enum {
  BATCH = 32, /* tokens that pass through a layer together, so that its weights are read once for all of them */
  TAPS = 2    /* kinds of SF_TAP_… */
};

struct sf_session {
  sf_model *model;
  int32_t context, position;
  float *keys, *values;           /* (layers, kv_heads, context, head_dim) */
  float *x;                       /* (BATCH, d) the residual stream */
  float *normed;                  /* (BATCH, d) */
  float *added;                   /* (BATCH, d) what a block adds to x */
  float *q, *heads_out;           /* (BATCH, heads · head_dim) */
  float *k, *v;                   /* (BATCH, kv_heads · head_dim) */
  float *scores;                  /* (parts, heads / kv_heads, context) */
  int32_t parts;                  /* of an attention job, at most */
  float *cos_sin;                 /* (BATCH, rope_dims / 2, 2) */
  double *frequencies;            /* (rope_dims / 2) */
  int32_t *counts[2];             /* (layers) selected and active neurons of the current eval */
  int32_t *totals[2];             /* (layers) the same since they were asked for */
  int32_t token_counts[2][BATCH]; /* the same of each token in one layer */
  float *taps[TAPS];              /* what the caller wants to see, or NULL */
  size_t tap_floats[TAPS];
  uint8_t *fired; /* (layers, hidden), see sf_session_activity */
  size_t fired_bytes;
};

/* Floats of a token that a tap of this kind records. */
static size_t tap_width(const sf_model *model, int32_t kind) {
  return sf_size_product(kind == SF_TAP_FFN_INPUTS ? (size_t)model->n_layers : 1, (size_t)model->d);
}

static int32_t model_complete(const sf_model *model) {
  if (!model->embedding || !model->output_norm) return 0;
  for (int32_t i = 0; i < model->n_layers; i++) {
    const sf_layer *layer = &model->layers[i];
    if (!layer->q || !layer->k || !layer->v || !layer->output || !layer->ffn) return 0;
    if (!layer->attention_norm || !layer->ffn_norm) return 0;
  }
  return 1;
}

static int32_t allocate(sf_session *session) {
  const sf_model *model = session->model;
  size_t d = (size_t)model->d, kv = (size_t)model->kv_heads * (size_t)model->head_dim;
  size_t heads = (size_t)model->heads * (size_t)model->head_dim, layers = (size_t)model->n_layers;
  size_t group = (size_t)(model->heads / model->kv_heads), pairs = (size_t)model->rope_dims / 2;
  size_t cache = sf_size_product(sf_size_product(layers, kv), (size_t)session->context);
  session->parts = sf_parts(model->context, SIZE_MAX);
  session->keys = sf_array(cache, sizeof(float));
  session->values = sf_array(cache, sizeof(float));
  session->x = sf_array(sf_size_product(BATCH, d), sizeof(float));
  session->normed = sf_array(sf_size_product(BATCH, d), sizeof(float));
  session->added = sf_array(sf_size_product(BATCH, d), sizeof(float));
  session->q = sf_array(sf_size_product(BATCH, heads), sizeof(float));
  session->heads_out = sf_array(sf_size_product(BATCH, heads), sizeof(float));
  session->k = sf_array(sf_size_product(BATCH, kv), sizeof(float));
  session->v = sf_array(sf_size_product(BATCH, kv), sizeof(float));
  session->scores = sf_array(sf_size_product(sf_size_product((size_t)session->parts, group), (size_t)session->context),
                             sizeof(float));
  session->cos_sin = sf_array(BATCH * pairs * 2, sizeof(float));
  session->frequencies = sf_array(pairs, sizeof(double));
  for (int32_t i = 0; i < 2; i++) {
    session->counts[i] = sf_array(layers, sizeof(int32_t));
    session->totals[i] = sf_array(layers, sizeof(int32_t));
  }
  return session->keys && session->values && session->x && session->normed && session->added && session->q &&
                 session->heads_out && session->k && session->v && session->scores && session->cos_sin &&
                 session->frequencies && session->counts[0] && session->counts[1] && session->totals[0] &&
                 session->totals[1]
             ? SF_OK
             : SF_ERROR_MEMORY;
}

int32_t sf_session_open(sf_session **out, sf_model *model, int32_t context) {
  if (!out) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (!model || context < 1) return SF_ERROR_ARGUMENT;
  if (!model_complete(model)) return SF_ERROR_INCOMPLETE;
  sf_session *session = sf_array(1, sizeof(sf_session));
  if (!session) return SF_ERROR_MEMORY;
  session->model = model;
  session->context = context;
  int32_t status = allocate(session);
  if (status != SF_OK) {
    sf_session_close(session);
    return status;
  }
  for (int32_t i = 0; i < model->rope_dims / 2; i++) {
    double factor = model->rope_factors ? (double)model->rope_factors[i] : 1.0;
    session->frequencies[i] = pow((double)model->rope_base, -2.0 * i / model->rope_dims) / factor;
  }
  *out = session;
  return SF_OK;
}

void sf_session_close(sf_session *session) {
  if (!session) return;
  sf_free(session->keys);
  sf_free(session->values);
  sf_free(session->x);
  sf_free(session->normed);
  sf_free(session->added);
  sf_free(session->q);
  sf_free(session->heads_out);
  sf_free(session->k);
  sf_free(session->v);
  sf_free(session->scores);
  sf_free(session->cos_sin);
  sf_free(session->frequencies);
  for (int32_t i = 0; i < 2; i++) {
    sf_free(session->counts[i]);
    sf_free(session->totals[i]);
  }
  sf_free(session);
}

/* ---- Attention ---- */

static void set_angles(sf_session *session, int32_t n) {
  int32_t pairs = session->model->rope_dims / 2;
  float *out = session->cos_sin;
  for (int32_t j = 0; j < n; j++) {
    for (int32_t i = 0; i < pairs; i++) {
      double angle = (session->position + j) * session->frequencies[i];
      *out++ = (float)cos(angle);
      *out++ = (float)sin(angle);
    }
  }
}

/* Where a head's cached keys or values of a layer begin: (context, head_dim). */
static float *cache_head(const sf_session *session, float *cache, int32_t layer, int32_t kv_head) {
  const sf_model *model = session->model;
  size_t head = (size_t)layer * (size_t)model->kv_heads + (size_t)kv_head;
  return cache + head * (size_t)session->context * (size_t)model->head_dim;
}

/* Rotates q and k of n tokens, scales q by 1/√head_dim, and moves k and v into the cache. */
static void place_tokens(sf_session *session, int32_t layer, int32_t n) {
  const sf_model *model = session->model;
  const sf_kernels *kernels = model->context->kernels;
  int32_t dim = model->head_dim, pairs = model->rope_dims / 2;
  float scale = 1.0f / sqrtf((float)dim);
  for (int32_t j = 0; j < n; j++) {
    const float *angles = session->cos_sin + (size_t)j * (size_t)pairs * 2;
    for (int32_t h = 0; h < model->heads; h++) {
      float *q = session->q + ((size_t)j * (size_t)model->heads + (size_t)h) * (size_t)dim;
      kernels->rope(q, angles, pairs);
      for (int32_t i = 0; i < dim; i++) q[i] *= scale;
    }
    for (int32_t h = 0; h < model->kv_heads; h++) {
      size_t from = ((size_t)j * (size_t)model->kv_heads + (size_t)h) * (size_t)dim;
      size_t to = (size_t)(session->position + j) * (size_t)dim, bytes = (size_t)dim * sizeof(float);
      kernels->rope(session->k + from, angles, pairs);
      memcpy(cache_head(session, session->keys, layer, h) + to, session->k + from, bytes);
      memcpy(cache_head(session, session->values, layer, h) + to, session->v + from, bytes);
    }
  }
}

typedef struct {
  sf_session *session;
  int32_t layer, n;
} attention_job;

/* One token, one key/value head and the query heads that share it: softmax(q · Kᵀ) · V. */
static void attend(const sf_session *session, int32_t layer, int32_t token, int32_t kv_head, float *scores) {
  const sf_model *model = session->model;
  const sf_kernels *kernels = model->context->kernels;
  int32_t dim = model->head_dim, group = model->heads / model->kv_heads;
  int32_t length = session->position + token + 1;
  size_t stride = (size_t)dim * sizeof(float), first_head = (size_t)kv_head * (size_t)group;
  size_t start = ((size_t)token * (size_t)model->heads + first_head) * (size_t)dim;
  sf_rows keys = {(const uint8_t *)cache_head(session, session->keys, layer, kv_head), stride, NULL, dim};
  sf_rows values = {(const uint8_t *)cache_head(session, session->values, layer, kv_head), stride, NULL, dim};
  sf_inputs queries = {session->q + start, NULL, NULL};
  kernels->dot_rows[SF_FORMAT_F32](&keys, length, &queries, group, scores, (size_t)session->context);
  for (int32_t g = 0; g < group; g++) {
    float *weights = scores + (size_t)g * (size_t)session->context;
    float *out = session->heads_out + start + (size_t)g * (size_t)dim;
    kernels->softmax(weights, length, weights);
    memset(out, 0, stride);
    kernels->axpy_rows[SF_FORMAT_F32](&values, length, weights, 0, dim, out);
  }
}

static void attention_part(void *argument, int32_t part, int32_t parts) {
  const attention_job *job = argument;
  const sf_session *session = job->session;
  const sf_model *model = session->model;
  size_t scores_size = (size_t)(model->heads / model->kv_heads) * (size_t)session->context;
  int32_t items = job->n * model->kv_heads, end = sf_part_begin(items, 1, part + 1, parts);
  for (int32_t item = sf_part_begin(items, 1, part, parts); item < end; item++) {
    attend(session, job->layer, item / model->kv_heads, item % model->kv_heads,
           session->scores + (size_t)part * scores_size);
  }
}

/* added (n, d) = attention block of normed (n, d). */
static int32_t attention(sf_session *session, int32_t layer, int32_t n) {
  const sf_model *model = session->model;
  const sf_layer *weights = &model->layers[layer];
  sf_context *context = model->context;
  const sf_matrix *matrices[3] = {weights->q, weights->k, weights->v};
  float *outputs[3] = {session->q, session->k, session->v};
  for (int i = 0; i < 3; i++) {
    int32_t status = sf_prepare_multiply(context, matrices[i], session->normed, n, outputs[i]);
    if (status != SF_OK) return status;
  }
  place_tokens(session, layer, n);
  attention_job job = {session, layer, n};
  size_t head_bytes = (size_t)model->heads * (size_t)model->head_dim * sizeof(float);
  int32_t parts = sf_parts(context, sf_size_product(head_bytes * (size_t)n, (size_t)(session->position + n)));
  sf_pool_run(context->pool, attention_part, &job, parts < session->parts ? parts : session->parts);
  return sf_prepare_multiply(context, weights->output, session->heads_out, n, session->added);
}

/* ---- The pass through the model ---- */

/* normed (n, d) = x (n, d), normalised. */
static void norm(const sf_session *session, const float *x, const float *weight, int32_t n) {
  const sf_model *model = session->model;
  for (int32_t j = 0; j < n; j++) {
    size_t start = (size_t)j * (size_t)model->d;
    model->context->kernels->rms_norm(x + start, weight, model->d, model->norm_epsilon, session->normed + start);
  }
}

/* A count that would overflow stays at the largest number. */
static void add_count(int32_t *count, int32_t more) { *count = more > INT32_MAX - *count ? INT32_MAX : *count + more; }

static int32_t run_layer(sf_session *session, int32_t layer, int32_t mode, int32_t n, int32_t first, uint8_t *fired) {
  const sf_model *model = session->model;
  const sf_layer *weights = &model->layers[layer];
  const sf_kernels *kernels = model->context->kernels;
  int32_t floats = n * model->d;
  norm(session, session->x, weights->attention_norm, n);
  if (!kernels->all_finite(session->normed, floats)) return SF_ERROR_NOT_FINITE;
  int32_t status = attention(session, layer, n);
  if (status != SF_OK) return status;
  kernels->add(session->x, session->added, floats, session->x);
  norm(session, session->x, weights->ffn_norm, n);
  if (!kernels->all_finite(session->normed, floats)) return SF_ERROR_NOT_FINITE;
  float *tap = session->taps[SF_TAP_FFN_INPUTS];
  for (int32_t j = 0; tap && j < n; j++) {
    size_t row = (size_t)(first + j) * (size_t)model->n_layers + (size_t)layer, d = (size_t)model->d;
    memcpy(tap + row * d, session->normed + (size_t)j * d, d * sizeof(float));
  }
  status = sf_ffn_run(weights->ffn, mode, session->normed, n, session->added, session->token_counts[0],
                      session->token_counts[1], fired);
  if (status != SF_OK) return status;
  for (int32_t i = 0; i < 2; i++) {
    for (int32_t j = 0; j < n; j++) add_count(&session->counts[i][layer], session->token_counts[i][j]);
  }
  kernels->add(session->x, session->added, floats, session->x);
  return SF_OK;
}

/* normed (n, d) = x (n, d) of the last `n` of `of` tokens after the final norm. */
static int32_t final_norm(sf_session *session, int32_t n, int32_t of) {
  const sf_model *model = session->model;
  norm(session, session->x + (size_t)(of - n) * (size_t)model->d, model->output_norm, n);
  return model->context->kernels->all_finite(session->normed, n * model->d) ? SF_OK : SF_ERROR_NOT_FINITE;
}

/* Logits of the `n` tokens whose final states are in normed. */
static int32_t make_logits(sf_session *session, int32_t n, float *logits) {
  const sf_model *model = session->model;
  const sf_matrix *output = model->output ? model->output : model->embedding;
  const float *last = session->normed;
  int32_t status = sf_prepare_multiply(model->context, output, last, n, logits);
  for (int32_t j = 0; status == SF_OK && j < n; j++) {
    float *row = logits + (size_t)j * (size_t)model->vocab;
    if (!model->context->kernels->all_finite(row, model->vocab)) status = SF_ERROR_NOT_FINITE;
  }
  return status;
}

/* n ≤ BATCH tokens, of which the first is token `first` of the eval; logits of the last `logits_count` of them. */
static int32_t run_batch(sf_session *session, const int32_t *tokens, int32_t n, int32_t mode, int32_t first,
                         float *logits, int32_t logits_count) {
  sf_model *model = session->model;
  const sf_matrix *embedding = model->embedding;
  size_t d = (size_t)model->d;
  for (int32_t j = 0; j < n; j++) {
    const uint8_t *row = embedding->data + (size_t)tokens[j] * embedding->stride;
    embedding->format->dequantize(row, d / (size_t)embedding->format->block_columns, session->x + (size_t)j * d);
  }
  set_angles(session, n);
  int32_t status = SF_OK;
  uint8_t *fired = session->fired;
  for (int32_t layer = 0; layer < model->n_layers && status == SF_OK; layer++) {
    status = run_layer(session, layer, mode, n, first, fired);
    if (fired) fired += model->layers[layer].ffn->hidden;
  }
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
  for (int32_t layer = 0; mode != SF_DENSE && layer < model->n_layers; layer++) {
    if (model->layers[layer].ffn->down_layout != SF_DOWN_BY_NEURON) return SF_ERROR_UNSUPPORTED;
  }
  for (int32_t kind = 0; kind < TAPS; kind++) {
    if (session->taps[kind] && sf_size_product((size_t)n, tap_width(model, kind)) > session->tap_floats[kind]) {
      return SF_ERROR_SHAPE;
    }
  }
  if (session->fired && neurons(model) > session->fired_bytes) return SF_ERROR_SHAPE;
  return SF_OK;
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
  for (int32_t i = 0; i < n && status == SF_OK; i += BATCH) {
    int32_t batch = n - i < BATCH ? n - i : BATCH;
    int32_t from = first_logit > i ? first_logit : i; /* first token of this batch whose logits are wanted */
    int32_t wanted = i + batch > from ? i + batch - from : 0;
    float *batch_logits = wanted > 0 ? logits + (size_t)(from - first_logit) * (size_t)model->vocab : NULL;
    status = run_batch(session, tokens + i, batch, mode, i, batch_logits, wanted);
  }
  if (status != SF_OK) session->position = start;
  for (int32_t i = 0; i < 2 && status == SF_OK; i++) {
    for (size_t k = 0; k < layers; k++) add_count(&session->totals[i][k], session->counts[i][k]);
  }
  sf_pool_unlock(model->context->pool);
  return status;
}

int32_t sf_session_position(const sf_session *session) { return session ? session->position : SF_ERROR_ARGUMENT; }

int32_t sf_session_truncate(sf_session *session, int32_t position) {
  if (!session || position < 0 || position > session->position) return SF_ERROR_ARGUMENT;
  session->position = position;
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
