/* Sessions, and the passes of their tokens through the plan. */
#include "model/session.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

enum { SPARE = SF_BACK / SF_KV_BLOCK };

sf_state *sf_state_of(const sf_model *model, const sf_step *step, int32_t j) {
  return &model->batch.sessions[j]->states[step->index];
}

/* ---- Opening and closing ---- */

static int32_t has_logits(const sf_model *model) { return model->picked && model->buffers[SF_LOGITS].written; }

static int32_t is_recurrent(const sf_model *model) {
  for (int32_t i = 0; i < model->n_steps; i++) {
    if (model->steps[i].kind->state) return 1;
  }
  return 0;
}

static int32_t allocate(sf_session *session) {
  const sf_model *model = session->model;
  size_t layers = sf_count_places(model);
  session->states = sf_array((size_t)model->n_steps, sizeof(sf_state));
  if (!session->states) return SF_ERROR_MEMORY;
  sf_attention_open(model, session->states);
  for (int32_t i = 0; i < 2; i++) {
    session->counts[i] = sf_array(layers, sizeof(int32_t));
    session->totals[i] = sf_array(layers, sizeof(int32_t));
    if (!session->counts[i] || !session->totals[i]) return SF_ERROR_MEMORY;
  }
  for (int32_t i = 0; i < model->n_steps; i++) {
    const sf_step *step = &model->steps[i];
    if (!step->kind->state) continue;
    session->states[i].values = sf_array(step->kind->state(model, step), sizeof(float));
    if (!session->states[i].values) return SF_ERROR_MEMORY;
  }
  return SF_OK;
}

int32_t sf_session_open(sf_session **out, sf_model *model, int32_t context) {
  if (!out) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (!model || context < 1) return SF_ERROR_ARGUMENT;
  if (!has_logits(model) && !model->tapped) return SF_ERROR_INCOMPLETE;
  if (model->passes > 0 && is_recurrent(model)) return SF_ERROR_UNSUPPORTED; /* which sees one side alone */
  sf_session *session = sf_array(1, sizeof(sf_session));
  if (!session) return SF_ERROR_MEMORY;
  session->model = model;
  session->context = context;
  sf_passes_prepare(model);
  session->head = SF_HEAD_SCREENED;
  model->sessions++;
  int32_t status = allocate(session);
  if (status != SF_OK) {
    sf_session_close(session);
    return status;
  }
  *out = session;
  return SF_OK;
}

/* The session is as if newly opened. */
static void forget(sf_session *session) {
  const sf_model *model = session->model;
  session->position = session->pending = 0;
  for (int32_t i = 0; i < model->n_steps; i++) {
    const sf_step *step = &model->steps[i];
    session->states[i].first_block = 0;
    if (!step->kind->state) continue;
    memset(session->states[i].values, 0, step->kind->state(model, step) * sizeof(float));
  }
}

/* Ends the present eval for one of its sessions; a second time, nothing happens. */
static void end_session(sf_session *session, int32_t status) {
  size_t layers = sf_count_places(session->model);
  if (session->pending == 0) return;
  if (status == SF_OK) session->position += session->pending;
  session->pending = 0;
  for (int32_t k = 0; k < 2 && status == SF_OK; k++) {
    for (size_t i = 0; i < layers; i++) sf_add_count(&session->totals[k][i], session->counts[k][i]);
  }
  if (status == SF_OK) return;
  if (is_recurrent(session->model) || session->position < sf_session_earliest(session)) forget(session);
}

/* Ends the eval that waits, as one that failed. */
static void end_batch(sf_batch *batch) {
  batch->waiting = 0;
  for (int32_t j = 0; j < SF_BATCH; j++) {
    if (batch->sessions[j]) end_session(batch->sessions[j], SF_ERROR_ARGUMENT);
  }
}

/* An eval that waits for neurons, and has tokens of this session, will not go on. */
static void abandon(const sf_session *session) {
  sf_batch *batch = &session->model->batch;
  for (int32_t j = 0; batch->waiting && j < SF_BATCH; j++) {
    if (batch->sessions[j] == session) end_batch(batch);
  }
}

void sf_session_close(sf_session *session) {
  if (!session) return;
  sf_model *model = session->model;
  abandon(session);
  for (int32_t i = 0; session->states && i < model->n_steps; i++) {
    sf_state *state = &session->states[i];
    for (int32_t k = 0; k < state->n_blocks; k++) sf_free(state->blocks[k]);
    sf_free(state->blocks);
    sf_free(state->values);
  }
  sf_free(session->states);
  sf_free(session->exact);
  for (int32_t i = 0; i < 2; i++) {
    sf_free(session->counts[i]);
    sf_free(session->totals[i]);
  }
  model->sessions--;
  sf_free(session);
  if (model->closed) sf_model_close(model);
}

/* ---- A batch ---- */

static void set_angles(sf_rope *rope, const sf_batch *batch) {
  double amplitude = (double)rope->amplitude;
  float *out = rope->cos_sin;
  for (int32_t j = 0; j < batch->n; j++) {
    for (int32_t i = 0; i < rope->pairs; i++) {
      double angle = batch->positions[j] * rope->frequencies[i];
      *out++ = (float)(amplitude * cos(angle));
      *out++ = (float)(amplitude * sin(angle));
    }
  }
}

/* The logits that the batch has written are finite. */
static int32_t check_logits(const sf_model *model) {
  if (!model->picked || model->batch.step < model->n_steps) return SF_OK;
  const float *logits = model->batch.logits;
  for (int32_t j = 0; j < model->batch.n; j++, logits += model->vocab) {
    if (!model->context->kernels->all_finite(logits, model->vocab)) return SF_ERROR_NOT_FINITE;
  }
  return SF_OK;
}

/* The batch from where it stands. SF_WAITING: when the missing neurons are there, once more. */
static int32_t run_steps(sf_model *model) {
  sf_batch *batch = &model->batch;
  for (; batch->step < batch->until; batch->step++) {
    const sf_step *step = &model->steps[batch->step];
    int32_t status = step->kind->run(model, step);
    if (status != SF_OK) return status;
    if (batch->n == 0) return SF_OK; /* nothing is left after a pick */
  }
  return check_logits(model);
}

/* Begins with n ≤ SF_BATCH tokens of an eval, of which the first is token `first`. */
static int32_t begin_batch(sf_model *model, sf_session *const *sessions, const int32_t *tokens, int32_t n,
                           int32_t first) {
  sf_batch *batch = &model->batch;
  batch->n = n;
  batch->first = first;
  batch->step = batch->waiting = 0;
  batch->until = model->n_steps;
  model->cached.experts = NULL;
  for (int32_t j = 0; j < n; j++) {
    sf_session *session = sessions[j];
    batch->tokens[j] = tokens[j] % model->vocab;
    batch->types[j] = tokens[j] / model->vocab;
    batch->sessions[j] = session;
    batch->origins[j] = j;
    batch->positions[j] = session->position + session->pending++;
    if (j + 1 < n && sessions[j + 1] == session) continue;
    const int32_t position = batch->positions[j];
    int32_t status = sf_attention_reserve(model, session->states, position, position + 1, SPARE, 0);
    if (status != SF_OK) return status;
  }
  for (int32_t i = 0; i < model->n_ropes; i++) set_angles(&model->ropes[i], batch);
  return SF_OK;
}

/* ---- An eval ---- */

/* The tokens of a call. Either each has its session, or all have `session`. */
typedef struct {
  sf_model *model;
  sf_session *const *sessions; /* (n) or NULL */
  sf_session *session;
  const int32_t *tokens, *wanted; /* (n); wanted NULL: the last `logits_count` */
  int32_t n, mode, phase, logits_count;
  float *logits;
} eval;

static sf_session *session_at(const eval *e, int32_t i) { return e->sessions ? e->sessions[i] : e->session; }

static int32_t wanted_at(const eval *e, int32_t i) {
  return e->wanted ? e->wanted[i] != 0 : i >= e->n - e->logits_count;
}

static size_t neurons_before(const sf_model *model, int32_t layer) {
  size_t sum = 0;
  for (int32_t i = 0; i < layer; i++) sum += (size_t)sf_layer_neurons(&model->layers[i]);
  return sum;
}

uint8_t *sf_session_fired(const sf_session *session, int32_t layer) {
  return session->fired ? session->fired + neurons_before(session->model, layer) : NULL;
}

/* Floats of a token that a tap of this kind records. */
static size_t tap_width(const sf_model *model, int32_t kind) {
  return sf_size_product(kind == SF_TAP_FFN_INPUTS ? (size_t)model->n_layers : 1, (size_t)model->d);
}

static int32_t has_cached_layer(const sf_model *model) {
  for (int32_t i = 0; i < model->n_layers; i++) {
    const sf_layer *layer = &model->layers[i];
    if (layer->ffn ? layer->ffn->cache != NULL : layer->experts->cache != NULL) return 1;
  }
  return 0;
}

/* What a session records is for evals of that session alone. */
static int32_t check_session(const eval *e, const sf_session *session) {
  if (!session || session->model != e->model) return SF_ERROR_ARGUMENT;
  if (e->model->passes > 0 && session->position > 0) return SF_ERROR_UNSUPPORTED;
  for (int32_t kind = 0; kind < SF_TAPS; kind++) {
    if (!session->taps[kind]) continue;
    if (e->sessions) return SF_ERROR_UNSUPPORTED;
    if (sf_size_product((size_t)e->n, tap_width(e->model, kind)) > session->tap_floats[kind]) return SF_ERROR_SHAPE;
  }
  if (!session->fired) return SF_OK;
  if (e->sessions) return SF_ERROR_UNSUPPORTED;
  return neurons_before(e->model, e->model->n_layers) > session->fired_bytes ? SF_ERROR_SHAPE : SF_OK;
}

/* Everything that can be wrong with a call, before any of it is done. */
static int32_t check_eval(const eval *e) {
  if (!e->tokens || e->n < 1 || e->mode < SF_DENSE || e->mode > SF_SPARSE) return SF_ERROR_ARGUMENT;
  if (e->phase != SF_PROMPT && e->phase != SF_DECODE) return SF_ERROR_ARGUMENT;
  if (e->logits_count < 0 || e->logits_count > e->n || (e->logits_count > 0 && !e->logits)) return SF_ERROR_ARGUMENT;
  if (has_cached_layer(e->model)) {
    if (e->model->passes > 0) return SF_ERROR_UNSUPPORTED;
    if (e->n > SF_BATCH) return SF_ERROR_ARGUMENT;
  }
  if (e->logits_count > 0 && !has_logits(e->model)) return SF_ERROR_INCOMPLETE;
  int32_t wanted = 0;
  for (int32_t i = 0; i < e->n; i++) {
    if (e->tokens[i] < 0 || e->tokens[i] / e->model->vocab >= e->model->types) return SF_ERROR_ARGUMENT;
    wanted += wanted_at(e, i);
  }
  if (wanted != e->logits_count) return SF_ERROR_ARGUMENT;
  for (int32_t i = 0; i < (e->sessions ? e->n : 1); i++) {
    int32_t status = check_session(e, session_at(e, i));
    if (status != SF_OK) return status;
  }
  return SF_OK;
}

/* Forgets which tokens of the sessions have begun. */
static void reset_pending(const eval *e) {
  for (int32_t i = 0; i < (e->sessions ? e->n : 1); i++) session_at(e, i)->pending = 0;
}

/* Whether every session has room for its tokens. */
static int32_t begin_eval(const eval *e) {
  int32_t status = SF_OK;
  size_t bytes = sf_count_places(e->model) * sizeof(int32_t);
  reset_pending(e);
  for (int32_t i = 0; i < e->n; i++) {
    sf_session *session = session_at(e, i);
    if (++session->pending > session->context - session->position) status = SF_ERROR_CONTEXT_FULL;
  }
  for (int32_t i = 0; i < (e->sessions ? e->n : 1) && status == SF_OK; i++) {
    sf_session *session = session_at(e, i);
    session->end = session->position + session->pending;
  }
  for (int32_t i = 0; i < (e->sessions ? e->n : 1); i++) {
    sf_session *session = session_at(e, i);
    for (int32_t k = 0; k < 2; k++) memset(session->counts[k], 0, bytes);
  }
  reset_pending(e);
  return status;
}

static void end_eval(const eval *e, int32_t status) {
  if (status == SF_WAITING) return;
  for (int32_t i = 0; i < (e->sessions ? e->n : 1); i++) end_session(session_at(e, i), status);
}

/* Runs tokens first … first + n - 1 of an eval through a pass, the steps from … to - 1. */
static int32_t run_batch(const eval *e, int32_t first, int32_t n, int32_t from, int32_t to, float *logits) {
  sf_batch *batch = &e->model->batch;
  sf_session *sessions[SF_BATCH];
  for (int32_t j = 0; j < n; j++) {
    sessions[j] = session_at(e, first + j);
    batch->wanted[j] = wanted_at(e, first + j);
  }
  batch->mode = e->mode;
  batch->phase = e->phase;
  batch->logits = e->model->buffers[SF_LOGITS].values = logits;
  int32_t status = begin_batch(e->model, sessions, e->tokens + first, n, first);
  if (status != SF_OK) return status;
  batch->step = from;
  batch->until = to;
  if (from > 0) sf_passes_exchange(e->model, e->n, 1);
  status = run_steps(e->model);
  if (status == SF_OK && to < e->model->n_steps) {
    sf_attention_store(e->model, &e->model->steps[to]);
    sf_passes_exchange(e->model, e->n, 0);
  }
  return status;
}

/* Runs all tokens of an eval through a pass. */
static int32_t run_pass(const eval *e, int32_t from, int32_t to) {
  float *logits = e->logits;
  int32_t status = SF_OK;
  reset_pending(e);
  for (int32_t i = 0; i < e->n && status == SF_OK; i += SF_BATCH) {
    int32_t n = e->n - i < SF_BATCH ? e->n - i : SF_BATCH;
    status = run_batch(e, i, n, from, to, logits);
    for (int32_t j = i; j < i + n && logits; j++) logits += wanted_at(e, j) ? e->model->vocab : 0;
  }
  return status;
}

static int32_t evaluate(const eval *e) {
  int32_t status = check_eval(e);
  if (status != SF_OK) return status;
  sf_pool *pool = e->model->context->pool;
  sf_pool_lock(pool);
  sf_batch *batch = &e->model->batch;
  if (batch->waiting) end_batch(batch);
  memset(batch->sessions, 0, sizeof batch->sessions);
  status = begin_eval(e);
  if (status == SF_OK && e->model->passes > 0) status = sf_passes_begin(e->model, e->n);
  for (int32_t from = 0, to; from < e->model->n_steps && status == SF_OK; from = to) {
    to = sf_passes_end(e->model, from);
    status = run_pass(e, from, to);
  }
  end_eval(e, status);
  sf_pool_unlock(pool);
  return status;
}

int32_t sf_session_eval(sf_session *session, const int32_t *tokens, int32_t n, int32_t mode, int32_t phase,
                        float *logits, int32_t logits_count) {
  if (!session) return SF_ERROR_ARGUMENT;
  const eval e = {session->model, NULL, session, tokens, NULL, n, mode, phase, logits_count, logits};
  return evaluate(&e);
}

int32_t sf_model_eval(sf_model *model, sf_session *const *sessions, const int32_t *tokens, const int32_t *wanted,
                      int32_t n, int32_t mode, int32_t phase, float *logits, int32_t logits_count) {
  if (!model || !sessions || !wanted) return SF_ERROR_ARGUMENT;
  const eval e = {model, sessions, NULL, tokens, wanted, n, mode, phase, logits_count, logits};
  return evaluate(&e);
}

int32_t sf_model_missing(const sf_model *model, int32_t *layer, int32_t *ids) {
  if (!model || !layer || !ids || !model->batch.waiting) return SF_ERROR_ARGUMENT;
  const sf_cached_pass *pass = &model->cached;
  *layer = pass->layer;
  memcpy(ids, pass->missing, (size_t)pass->n_missing * sizeof(int32_t));
  return pass->n_missing;
}

int32_t sf_model_resume(sf_model *model, float *logits) {
  if (!model || !model->batch.waiting || (model->batch.logits && !logits)) return SF_ERROR_ARGUMENT;
  sf_batch *batch = &model->batch;
  sf_pool_lock(model->context->pool);
  batch->logits = model->buffers[SF_LOGITS].values = logits;
  int32_t status = run_steps(model);
  if (status != SF_WAITING) {
    batch->waiting = 0;
    for (int32_t j = 0; j < SF_BATCH; j++) {
      if (batch->sessions[j]) end_session(batch->sessions[j], status);
    }
  }
  sf_pool_unlock(model->context->pool);
  return status;
}

int32_t sf_session_position(const sf_session *session) { return session ? session->position : SF_ERROR_ARGUMENT; }

int32_t sf_session_earliest(const sf_session *session) {
  if (!session) return SF_ERROR_ARGUMENT;
  return is_recurrent(session->model) ? session->position : sf_attention_earliest(session->model, session->states);
}

int32_t sf_session_truncate(sf_session *session, int32_t position) {
  if (!session || position < 0 || position > session->position) return SF_ERROR_ARGUMENT;
  abandon(session);
  if (position == session->position) return SF_OK;
  if (position > 0 && position < sf_session_earliest(session)) return SF_ERROR_UNSUPPORTED;
  if (position == 0) forget(session);
  session->position = position;
  return SF_OK;
}

/* ---- Saving ---- */

/* Whether saved values are finite; they may lie anywhere. */
static int32_t all_finite(const sf_kernels *kernels, const uint8_t *data, size_t bytes) {
  enum { PART = 1024 };
  float values[PART];
  for (size_t at = 0, part; at < bytes; at += part) {
    part = bytes - at < sizeof values ? bytes - at : sizeof values;
    memcpy(values, data + at, part);
    if (!kernels->all_finite(values, (int32_t)(part / sizeof(float)))) return 0;
  }
  return 1;
}

/* Bytes of what a session keeps of its first `length` tokens, keys and values in these formats and with `spare` blocks
 * that the next token does not see. Copies them to `saved`, or from `restored` to the session; both may be NULL. With
 * `finite`, those to be restored are looked at instead: *finite becomes 0 if one is not.
 */
static size_t exchange(const sf_session *session, const sf_format *const *formats, int32_t length, int32_t spare,
                       uint8_t *saved, const uint8_t *restored, int32_t *finite) {
  const sf_model *model = session->model;
  size_t at = sf_attention_exchange(model, formats, session->states, length, spare, saved, restored, finite);
  for (int32_t i = 0; i < model->n_steps; i++) {
    const sf_step *step = &model->steps[i];
    if (!step->kind->state) continue;
    size_t bytes = step->kind->state(model, step) * sizeof(float);
    if (finite) *finite &= all_finite(model->context->kernels, restored + at, bytes);
    at += finite ? bytes : sf_exchange(session->states[i].values, bytes, at, saved, restored);
  }
  return at;
}

/* Saves the session to `data`, unless that is NULL. Returns the bytes. */
static size_t save(const sf_session *session, uint8_t *data) {
  const int32_t position = session->position;
  const int32_t spare = (position - sf_attention_earliest(session->model, session->states)) / SF_KV_BLOCK;
  return exchange(session, session->model->kv_formats, position, spare < SPARE ? spare : SPARE, data, NULL, NULL);
}

size_t sf_session_saved_bytes(const sf_session *session) { return session ? save(session, NULL) : 0; }

int32_t sf_session_save(const sf_session *session, uint8_t *data, size_t bytes) {
  if (!session || (!data && bytes > 0) || session->pending > 0) return SF_ERROR_ARGUMENT;
  if (bytes != sf_session_saved_bytes(session)) return SF_ERROR_SHAPE;
  save(session, data);
  return SF_OK;
}

int32_t sf_session_restore(sf_session *session, const uint8_t *data, size_t bytes, int32_t position, int32_t k_format,
                           int32_t v_format) {
  if (!session || (!data && bytes > 0) || position < 0) return SF_ERROR_ARGUMENT;
  const sf_format *formats[2];
  int32_t finite = 1;
  if (!sf_kv_formats_find(k_format, v_format, formats)) return SF_ERROR_FORMAT;
  if (position > session->context) return SF_ERROR_CONTEXT_FULL;
  int32_t spare = 0; /* as many as the bytes are of; saved before there were any, all */
  while (bytes != exchange(session, formats, position, spare, NULL, NULL, NULL)) {
    if (spare == INT32_MAX) return SF_ERROR_SHAPE;
    spare = spare < SPARE ? spare + 1 : INT32_MAX;
  }
  exchange(session, formats, position, spare, NULL, data, &finite);
  if (!finite) return SF_ERROR_NOT_FINITE;
  int32_t status = sf_attention_reserve(session->model, session->states, position, position, spare, 1);
  if (status != SF_OK) return status;
  abandon(session);
  exchange(session, formats, position, spare, NULL, data, NULL);
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

int32_t sf_session_set_head(sf_session *session, int32_t head, const int32_t *ids, int32_t count) {
  if (!session || head < SF_HEAD_DENSE || head > SF_HEAD_SCREENED || count < 0 || (!ids && count > 0)) {
    return SF_ERROR_ARGUMENT;
  }
  for (int32_t i = 0; i < count; i++) {
    if (ids[i] < 0 || ids[i] >= session->model->vocab || (i > 0 && ids[i] <= ids[i - 1])) return SF_ERROR_ARGUMENT;
  }
  int32_t *copy = NULL;
  if (count > 0) {
    copy = sf_array((size_t)count, sizeof(int32_t));
    if (!copy) return SF_ERROR_MEMORY;
    memcpy(copy, ids, (size_t)count * sizeof(int32_t));
  }
  sf_free(session->exact);
  session->exact = copy;
  session->n_exact = count;
  session->head = head;
  return SF_OK;
}

int32_t sf_session_head_counts(sf_session *session, int32_t *tokens, int32_t *rows) {
  if (!session || !tokens || !rows) return SF_ERROR_ARGUMENT;
  int32_t *out[2] = {tokens, rows};
  for (int32_t i = 0; i < 2; i++) {
    *out[i] = session->totals[i][session->model->n_layers];
    session->totals[i][session->model->n_layers] = 0;
  }
  return SF_OK;
}

int32_t sf_session_tap(sf_session *session, int32_t kind, float *buffer, size_t floats) {
  if (!session || kind < 0 || kind >= SF_TAPS) return SF_ERROR_ARGUMENT;
  session->taps[kind] = buffer;
  session->tap_floats[kind] = buffer ? floats : 0;
  return SF_OK;
}

int32_t sf_session_activity(sf_session *session, uint8_t *counts, size_t bytes) {
  if (!session) return SF_ERROR_ARGUMENT;
  if (counts && bytes < neurons_before(session->model, session->model->n_layers)) return SF_ERROR_SHAPE;
  session->fired = counts;
  session->fired_bytes = counts ? bytes : 0;
  return SF_OK;
}
