/* The decoder: a small random model of every weight format, on every instruction set of this machine. The numbers
 * themselves are checked against an independent forward pass in the Python tests; here it is what must hold of any
 * model, and every error. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "kernels/isa.h"
#include "reference.h"

enum { LAYERS = 2, D = 64, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 16, VOCAB = 50, HIDDEN = 96, CONTEXT = 90, TOKENS = 78 };
enum { MATRICES = 2 + LAYERS * 7 };

typedef struct {
  void *data[MATRICES];
  sf_matrix *matrices[MATRICES];
  int32_t count;
  sf_ffn *ffns[LAYERS];
  sf_model *model;
} test_model;

static sf_matrix *add_matrix(test_model *m, int32_t format, int32_t rows, int32_t columns) {
  static float floats[HIDDEN * D];
  size_t bytes = sf_format_row_bytes(format, columns) * (size_t)rows;
  for (int32_t i = 0; i < rows * columns; i++) floats[i] = 0.3f * random_unit();
  m->data[m->count] = sf_alloc(bytes);
  CHECK(sf_quantize(format, floats, rows, columns, m->data[m->count], bytes) == SF_OK, "quantise");
  CHECK(sf_matrix_open(&m->matrices[m->count], m->data[m->count], bytes, format, rows, columns, 0) == SF_OK, "open");
  return m->matrices[m->count++];
}

static int32_t add_step(sf_model *model, int32_t kind, const int32_t *arguments, int32_t count, float number) {
  int32_t numbers = kind == SF_STEP_EMBED || kind == SF_STEP_NORM || kind == SF_STEP_ATTENTION ? 1 : 0;
  int32_t step = sf_model_add_step(model, kind, arguments, count, &number, numbers);
  CHECK(step >= 0, "step %d: %d", kind, step);
  return step;
}
#define STEP(model, kind, number, ...) \
  add_step(model, kind, (const int32_t[]){__VA_ARGS__}, (int32_t)(sizeof((int32_t[]){__VA_ARGS__}) / 4), number)

/* The same weights for the same format, whatever the context: Llama's plan, with such attention. */
static test_model make_masked(sf_context *context, int32_t format, int32_t mask, int32_t window) {
  test_model m = {.count = 0};
  const int32_t q_rows = HEADS * HEAD_DIM, kv_rows = KV_HEADS * HEAD_DIM;
  float ones[D];
  for (int32_t i = 0; i < D; i++) ones[i] = 1.0f + 0.01f * (float)i;
  random_state = 7;
  CHECK(sf_model_open(&m.model, context, VOCAB, D) == SF_OK, "open");
  CHECK(sf_model_set_kv_formats(m.model, SF_F32, SF_F32) == SF_OK, "formats");
  sf_model *model = m.model;
  int32_t x = sf_model_add_buffer(model, D), normed = sf_model_add_buffer(model, D);
  int32_t added = sf_model_add_buffer(model, D), q = sf_model_add_buffer(model, q_rows);
  int32_t k = sf_model_add_buffer(model, kv_rows), v = sf_model_add_buffer(model, kv_rows);
  int32_t heads = sf_model_add_buffer(model, q_rows);
  int32_t norm = sf_model_add_vector(model, ones, D), rope = sf_model_add_rope(model, HEAD_DIM, 1e4f, NULL, 1);
  int32_t embedding = sf_model_add_matrix(model, add_matrix(&m, format, VOCAB, D));
  STEP(model, SF_STEP_EMBED, 1, x, embedding);
  for (int32_t i = 0; i < LAYERS; i++) {
    int32_t wq = sf_model_add_matrix(model, add_matrix(&m, format, q_rows, D));
    int32_t wk = sf_model_add_matrix(model, add_matrix(&m, format, kv_rows, D));
    int32_t wv = sf_model_add_matrix(model, add_matrix(&m, format, kv_rows, D));
    int32_t wo = sf_model_add_matrix(model, add_matrix(&m, format, D, q_rows));
    sf_matrix *gate = add_matrix(&m, format, HIDDEN, D), *up = add_matrix(&m, format, HIDDEN, D);
    sf_matrix *down = add_matrix(&m, format, HIDDEN, D);
    CHECK(sf_ffn_open(&m.ffns[i], context, gate, up, down, SF_DOWN_BY_NEURON, SF_RELU, 0) == SF_OK, "ffn");
    CHECK(sf_model_add_ffn(model, m.ffns[i]) == i, "ffn");
    STEP(model, SF_STEP_NORM, 1e-5f, x, normed, norm, -1, SF_NORM_RMS, 1);
    STEP(model, SF_STEP_PRODUCTS, 0, normed, wq, -1, q, wk, -1, k, wv, -1, v);
    STEP(model, SF_STEP_ROPE, 0, q, rope, HEADS, 0, 0);
    STEP(model, SF_STEP_ROPE, 0, k, rope, KV_HEADS, 0, 0);
    STEP(model, SF_STEP_ATTENTION, 0, q, k, v, heads, KV_HEADS, HEAD_DIM, HEAD_DIM, window, mask, -1, -1, -1, -1);
    STEP(model, SF_STEP_PRODUCTS, 0, heads, wo, -1, added);
    STEP(model, SF_STEP_ADD, 0, x, added, x, SF_TILE);
    STEP(model, SF_STEP_NORM, 1e-5f, x, normed, norm, -1, SF_NORM_RMS, 1);
    STEP(model, SF_STEP_TAP, 0, normed, SF_TAP_FFN_INPUTS, i);
    STEP(model, SF_STEP_FFN, 0, i, normed, -1, added);
    STEP(model, SF_STEP_ADD, 0, x, added, x, SF_TILE);
  }
  STEP(model, SF_STEP_NORM, 1e-5f, x, normed, norm, -1, SF_NORM_RMS, 1);
  STEP(model, SF_STEP_TAP, 0, normed, SF_TAP_HIDDEN, 0);
  STEP(model, SF_STEP_PICK, 0, normed);
  STEP(model, SF_STEP_PRODUCTS, 0, normed, embedding, -1, 0);
  return m;
}

static test_model make_model(sf_context *context, int32_t format) {
  return make_masked(context, format, SF_MASK_CAUSAL, 0);
}

static void free_model(test_model *m) {
  sf_model_close(m->model);
  for (int32_t i = 0; i < LAYERS; i++) sf_ffn_close(m->ffns[i]);
  for (int32_t i = 0; i < m->count; i++) {
    sf_matrix_close(m->matrices[i]);
    sf_free(m->data[i]);
  }
}

static int32_t tokens[TOKENS];
static float together[TOKENS * VOCAB], alone[TOKENS * VOCAB];

/* Logits of all tokens, in calls of `step` tokens. */
static void eval_in_steps(test_model *m, int32_t mode, int32_t step, float *logits) {
  sf_session *session;
  CHECK(sf_session_open(&session, m->model, CONTEXT) == SF_OK, "session");
  for (int32_t i = 0; i < TOKENS; i += step) {
    int32_t n = TOKENS - i < step ? TOKENS - i : step;
    CHECK(sf_session_eval(session, tokens + i, n, mode, SF_PROMPT, logits + i * VOCAB, n) == SF_OK, "eval");
  }
  CHECK(sf_session_position(session) == TOKENS, "position");
  sf_session_close(session);
}

static void test_steps_and_threads(test_model *m, test_model *threaded, int32_t isa) {
  const float apart = sf_isa_tiles(isa) ? 3e-2f : 4e-4f;
  const int32_t steps[] = {1, 7, SF_BATCH, SF_BATCH + 1};
  for (int32_t mode = SF_DENSE; mode <= SF_EXACT; mode++) {
    eval_in_steps(m, mode, TOKENS, together);
    for (int32_t i = 0; i < 4; i++) {
      eval_in_steps(m, mode, steps[i], alone);
      CHECK(memcmp(alone, together, sizeof alone) == 0, "mode %d: steps of %d differ", mode, steps[i]);
    }
    eval_in_steps(threaded, mode, 9, alone);
    CHECK(memcmp(alone, together, sizeof alone) == 0, "mode %d: threads differ", mode);
  }
  eval_in_steps(m, SF_DENSE, TOKENS, alone);
  float largest = 0; /* dense prompts multiply floats, or bfloats, exact ones inputs of 16 bits */
  for (int32_t i = 0; i < TOKENS * VOCAB; i++) largest = fmaxf(largest, fabsf(alone[i]));
  for (int32_t i = 0; i < TOKENS * VOCAB; i++) {
    CHECK(fabsf(alone[i] - together[i]) < apart * largest, "exact is not dense");
  }
}

static void test_activity(test_model *m, int32_t isa) {
  sf_session *session;
  uint8_t exact[LAYERS * HIDDEN] = {0}, dense[LAYERS * HIDDEN] = {0};
  int32_t selected[LAYERS], active[LAYERS];
  CHECK(sf_session_open(&session, m->model, 300) == SF_OK, "session");
  CHECK(sf_session_activity(NULL, exact, sizeof exact) == SF_ERROR_ARGUMENT, "no session");
  CHECK(sf_session_activity(session, exact, sizeof exact - 1) == SF_ERROR_SHAPE, "too few bytes");
  CHECK(sf_session_activity(session, exact, sizeof exact) == SF_OK, "activity");
  CHECK(sf_session_eval(session, tokens, 5, SF_EXACT, SF_PROMPT, NULL, 0) == SF_OK, "eval");
  CHECK(sf_session_counts(session, selected, active) == SF_OK, "counts");
  for (int32_t layer = 0; layer < LAYERS; layer++) {
    int32_t sum = 0;
    for (int32_t i = 0; i < HIDDEN; i++) sum += exact[layer * HIDDEN + i];
    CHECK(sum == active[layer] && sum > 0, "layer %d: %d fired, %d active", layer, sum, active[layer]);
  }
  CHECK(sf_session_truncate(session, 0) == SF_OK, "truncate");
  CHECK(sf_session_activity(session, dense, sizeof dense) == SF_OK, "activity");
  CHECK(sf_session_eval(session, tokens, 5, SF_DENSE, SF_PROMPT, NULL, 0) == SF_OK, "eval");
  int32_t others = 0; /* gates so near 0 that bfloats, with which tiles multiply dense prompts, have another sign */
  for (int32_t i = 0; i < LAYERS * HIDDEN; i++) others += exact[i] != dense[i];
  CHECK(others <= (sf_isa_tiles(isa) ? LAYERS * HIDDEN / 50 : 0), "%d other neurons fire in dense mode", others);
  for (int32_t i = 0; i < 290; i++)
    CHECK(sf_session_eval(session, tokens, 1, SF_EXACT, SF_PROMPT, NULL, 0) == SF_OK, "eval");
  int32_t most = 0;
  for (int32_t i = 0; i < LAYERS * HIDDEN; i++) most = dense[i] > most ? dense[i] : most;
  CHECK(most == 255, "counts stop at 255, not %d", most);
  CHECK(sf_session_activity(session, NULL, 0) == SF_OK, "no activity");
  memset(dense, 0, sizeof dense);
  CHECK(sf_session_eval(session, tokens, 1, SF_EXACT, SF_PROMPT, NULL, 0) == SF_OK, "eval");
  for (int32_t i = 0; i < LAYERS * HIDDEN; i++) CHECK(dense[i] == 0, "counted after the end");
  sf_session_close(session);
}

/* The logits are the output matrix times the hidden states. */
static void test_hidden_states(sf_context *context, sf_session *session, test_model *m) {
  float hidden[3 * D], logits[VOCAB], products[VOCAB];
  CHECK(sf_session_truncate(session, 0) == SF_OK, "truncate");
  CHECK(sf_session_tap(session, 2, hidden, 3 * D) == SF_ERROR_ARGUMENT, "kind");
  CHECK(sf_session_tap(session, SF_TAP_HIDDEN, hidden, 3 * D) == SF_OK, "tap");
  CHECK(sf_session_eval(session, tokens, 4, SF_EXACT, SF_PROMPT, NULL, 0) == SF_ERROR_SHAPE, "tap too small");
  CHECK(sf_session_eval(session, tokens, 3, SF_EXACT, SF_PROMPT, logits, 1) == SF_OK, "hidden states");
  CHECK(sf_matrix_multiply(context, m->matrices[0], hidden + 2 * D, 1, products) == SF_OK, "products");
  CHECK(memcmp(logits, products, sizeof logits) == 0, "logits are not those of the hidden state");
  CHECK(sf_session_tap(session, SF_TAP_HIDDEN, NULL, 0) == SF_OK, "no tap");
}

static void test_session(sf_context *context, test_model *m) {
  sf_session *session;
  float logits[2 * VOCAB], again[VOCAB], tap[3 * LAYERS * D];
  int32_t selected[LAYERS], active[LAYERS], bad[2] = {1, VOCAB};
  CHECK(sf_session_open(&session, m->model, 8) == SF_OK, "session");
  CHECK(sf_session_eval(session, tokens, 5, SF_EXACT, SF_PROMPT, logits, 2) == SF_OK, "eval");
  CHECK(sf_session_counts(session, selected, active) == SF_OK, "counts");
  CHECK(selected[0] == 5 * HIDDEN && active[0] > 0 && active[0] < selected[0], "counts");
  CHECK(sf_session_eval(session, tokens, 4, SF_EXACT, SF_PROMPT, NULL, 0) == SF_ERROR_CONTEXT_FULL, "context full");
  CHECK(sf_session_eval(session, bad, 2, SF_EXACT, SF_PROMPT, NULL, 0) == SF_ERROR_ARGUMENT, "token id");
  CHECK(sf_session_eval(session, tokens, 1, 3, SF_PROMPT, NULL, 0) == SF_ERROR_ARGUMENT, "mode");
  CHECK(sf_session_position(session) == 5, "position after errors");
  CHECK(sf_session_truncate(session, 4) == SF_OK && sf_session_truncate(session, 5) == SF_ERROR_ARGUMENT, "truncate");
  CHECK(sf_session_tap(session, SF_TAP_FFN_INPUTS, tap, sizeof tap / sizeof *tap) == SF_OK, "tap");
  CHECK(sf_session_eval(session, tokens + 4, 1, SF_EXACT, SF_PROMPT, again, 1) == SF_OK, "again");
  CHECK(memcmp(again, logits + VOCAB, sizeof again) == 0, "the same token again");
  double squares = 0;
  for (int32_t i = 0; i < D; i++) squares += (double)(tap[i] * tap[i]);
  CHECK(squares > 0.9 * (double)D && squares < 4 * (double)D, "the tap holds a normed vector: %g", squares);
  CHECK(sf_session_truncate(session, 0) == SF_OK, "truncate");
  CHECK(sf_session_eval(session, tokens, 4, SF_EXACT, SF_PROMPT, NULL, 0) == SF_ERROR_SHAPE, "tap too small");
  CHECK(sf_session_tap(session, SF_TAP_FFN_INPUTS, NULL, 0) == SF_OK, "no tap");
  CHECK(sf_session_eval(session, tokens, 4, SF_EXACT, SF_PROMPT, NULL, 0) == SF_OK, "no tap");
  CHECK(sf_session_counts(session, selected, active) == SF_OK && selected[0] == 5 * HIDDEN, "counts since then");
  CHECK(sf_session_counts(session, selected, active) == SF_OK && selected[0] == 0 && active[0] == 0, "none since");
  test_hidden_states(context, session, m);
  sf_session_close(session);
}

/* Every argument of a step is checked. */
static void test_errors(sf_context *context, test_model *m) {
  sf_model *model;
  sf_session *session;
  float ones[D] = {0}, number = 1;
  CHECK(sf_model_open(&model, context, 0, D) == SF_ERROR_ARGUMENT, "no tokens");
  CHECK(sf_model_open(&model, context, VOCAB, 1 << 30) == SF_ERROR_ARGUMENT, "d");
  CHECK(sf_model_open(&model, context, VOCAB, D) == SF_OK, "open");
  CHECK(sf_session_open(&session, model, 8) == SF_ERROR_INCOMPLETE, "incomplete");
  int32_t x = sf_model_add_buffer(model, D), y = sf_model_add_buffer(model, D), z = sf_model_add_buffer(model, D - 1);
  int32_t matrix = sf_model_add_matrix(model, m->matrices[0]), fewer = sf_model_add_matrix(model, m->matrices[2]);
  CHECK(sf_model_add_buffer(model, 0) == SF_ERROR_ARGUMENT, "width");
  CHECK(sf_model_add_rope(model, 3, 1e4f, NULL, 1) == SF_ERROR_ARGUMENT, "odd dims");
  CHECK(sf_model_add_rope(model, 16, 1e4f, ones, 1) == SF_ERROR_ARGUMENT, "zero factor");
  ones[3] = NAN;
  CHECK(sf_model_add_vector(model, ones, D) == SF_ERROR_NOT_FINITE, "NaN");
  ones[3] = 1;
  int32_t vector = sf_model_add_vector(model, ones, D);
  const struct {
    int32_t kind, numbers, expected, count, arguments[13];
    const char *what;
  } steps[] = {
      {SF_STEP_SCALE, 1, SF_ERROR_ARGUMENT, 1, {x}, "nothing is in x yet"},
      {SF_STEP_EMBED, 1, SF_ERROR_ARGUMENT, 2, {x, fewer + 1}, "no such matrix"},
      {SF_STEP_EMBED, 1, SF_ERROR_ARGUMENT, 2, {0, matrix}, "logits before the pick"},
      {SF_STEP_EMBED, 1, SF_ERROR_SHAPE, 2, {z, matrix}, "width"},
      {SF_STEP_EMBED, 0, SF_ERROR_ARGUMENT, 2, {x, matrix}, "no scale"},
      {SF_STEP_EMBED, 1, SF_ERROR_ARGUMENT, 3, {x, matrix, 0}, "too many arguments"},
      {99, 0, SF_ERROR_ARGUMENT, 1, {x}, "kind"},
      {SF_STEP_EMBED, 1, 0, 2, {x, matrix}, "embed"},
      {SF_STEP_NORM, 1, SF_ERROR_SHAPE, 6, {x, z, vector, -1, SF_NORM_RMS, 1}, "widths"},
      {SF_STEP_NORM, 1, SF_ERROR_ARGUMENT, 6, {x, y, vector, vector, SF_NORM_RMS, 1}, "a bias of RMS"},
      {SF_STEP_NORM, 1, SF_ERROR_SHAPE, 6, {x, y, vector, -1, SF_NORM_RMS, 7}, "groups"},
      {SF_STEP_PRODUCTS, 0, SF_ERROR_SHAPE, 4, {x, matrix, -1, y}, "rows"},
      {SF_STEP_PRODUCTS, 0, SF_ERROR_ARGUMENT, 5, {x, matrix, -1, y, 0}, "half a product"},
      {SF_STEP_COPY, 0, SF_ERROR_SHAPE, 8, {x, y, 2, D / 2, 1, D / 2, 0, D / 2}, "past the end"},
      {SF_STEP_COPY, 0, SF_ERROR_SHAPE, 8, {x, y, SF_MAX_NEURONS, 1, 0, INT32_MAX, 0, 0}, "far past the end"},
      {SF_STEP_MAP, 0, SF_ERROR_ARGUMENT, 3, {x, y, 9}, "function"},
      {SF_STEP_FFN, 0, SF_ERROR_ARGUMENT, 4, {0, x, -1, y}, "no layer"},
      {SF_STEP_ATTENTION, 1, SF_ERROR_ARGUMENT, 13, {x, x, x, x, 4, 16, 16, 0, 0, -1, -1, -1, -1}, "in is out"},
      {SF_STEP_ATTENTION, 1, SF_ERROR_SHAPE, 13, {x, x, x, y, 4, 8, 8, 0, 0, -1, vector, -1, -1}, "slopes"},
      {SF_STEP_ATTENTION, 1, SF_ERROR_SHAPE, 13, {x, x, x, y, 4, 8, 8, 0, 0, -1, -1, vector, -1}, "biases"},
      {SF_STEP_ATTENTION, 1, SF_ERROR_ARGUMENT, 13, {x, x, x, y, 4, 16, 16, 0, 3, -1, -1, -1, -1}, "mask"},
      {SF_STEP_POSITION, 0, SF_ERROR_SHAPE, 2, {z, matrix}, "width of positions"},
      {SF_STEP_TYPE, 0, SF_ERROR_SHAPE, 2, {z, matrix}, "width of types"},
      {SF_STEP_TYPE, 0, 1, 2, {y, matrix}, "types"},
      {SF_STEP_TYPE, 0, SF_ERROR_SHAPE, 2, {y, fewer}, "another number of types"},
      {SF_STEP_PICK, 0, 2, 1, {x}, "pick"},
      {SF_STEP_PICK, 0, SF_ERROR_ARGUMENT, 1, {x}, "a second pick"},
      {SF_STEP_EMBED, 1, SF_ERROR_ARGUMENT, 2, {x, matrix}, "all tokens after a pick"},
  };
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
    int32_t status =
        sf_model_add_step(model, steps[i].kind, steps[i].arguments, steps[i].count, &number, steps[i].numbers);
    CHECK(status == steps[i].expected, "%s: %d", steps[i].what, status);
  }
  CHECK(sf_session_open(&session, model, 8) == SF_ERROR_INCOMPLETE, "no logits");
  sf_model_close(model);
  CHECK(sf_session_open(&session, m->model, 0) == SF_ERROR_ARGUMENT && !session, "no context");
  CHECK(sf_session_open(&session, m->model, 8) == SF_OK, "session");
  CHECK(sf_model_add_buffer(m->model, D) == SF_ERROR_ARGUMENT, "a plan in use");
  sf_session_close(session);
}

/* Tokens of several sessions together have the bits that each has alone. `both`: they see both sides. */
static void test_several_sessions(test_model *m, int32_t both) {
  enum { SESSIONS = 3, EACH = TOKENS / SESSIONS };
  sf_session *sessions[SESSIONS], *of[TOKENS], *one;
  int32_t mixed[TOKENS], wanted[TOKENS], done[SESSIONS] = {0};
  for (int32_t s = 0; s < SESSIONS; s++) CHECK(sf_session_open(&sessions[s], m->model, CONTEXT) == SF_OK, "session");
  for (int32_t i = 0; i < TOKENS; i++) { /* a prompt of one beside single tokens of others */
    int32_t s = i < 12 ? 0 : i % SESSIONS;
    if (done[s] == EACH) s = (s + 1) % SESSIONS;
    if (done[s] == EACH) s = (s + 1) % SESSIONS;
    of[i] = sessions[s];
    mixed[i] = tokens[s * EACH + done[s]++];
    wanted[i] = 1;
  }
  for (int32_t mode = SF_DENSE; mode <= SF_EXACT; mode++) {
    for (int32_t s = 0; s < SESSIONS; s++) CHECK(sf_session_truncate(sessions[s], 0) == SF_OK, "truncate");
    CHECK(sf_model_eval(m->model, of, mixed, wanted, TOKENS, mode, SF_PROMPT, together, TOKENS) == SF_OK, "eval");
    for (int32_t s = 0; s < SESSIONS; s++) {
      CHECK(sf_session_position(sessions[s]) == EACH, "position");
      CHECK(sf_session_open(&one, m->model, CONTEXT) == SF_OK, "session");
      CHECK(sf_session_eval(one, tokens + s * EACH, EACH, mode, SF_PROMPT, alone, EACH) == SF_OK, "eval");
      sf_session_close(one);
      for (int32_t i = 0, k = 0; i < TOKENS; i++) {
        if (of[i] != sessions[s]) continue;
        CHECK(memcmp(alone + k++ * VOCAB, together + i * VOCAB, VOCAB * sizeof(float)) == 0, "token %d differs", i);
      }
    }
  }
  CHECK(sf_model_eval(m->model, of, mixed, wanted, 2, SF_DENSE, SF_PROMPT, together, 1) == SF_ERROR_ARGUMENT, "count");
  int32_t some[4] = {0, 1, 0, 1};
  int32_t status = sf_model_eval(m->model, of, mixed, some, 4, SF_DENSE, SF_DECODE, together, 2);
  CHECK(status == (both ? SF_ERROR_UNSUPPORTED : SF_OK), "some logits: %d", status);
  for (int32_t s = 0; s < SESSIONS; s++) sf_session_close(sessions[s]);
}

/* A saved session goes on in another one with the bits that it would have had, wherever its bytes lie; what cannot be
 * one is refused and changes nothing. */
static void test_saving(test_model *m, int32_t position) {
  sf_session *session, *other;
  float wanted[VOCAB], found[VOCAB];
  CHECK(sf_session_open(&session, m->model, CONTEXT) == SF_OK, "session");
  CHECK(sf_session_open(&other, m->model, CONTEXT) == SF_OK, "session");
  for (int32_t i = 0; i < position; i++) {
    CHECK(sf_session_eval(session, tokens + i % TOKENS, 1, SF_EXACT, SF_PROMPT, NULL, 0) == SF_OK, "eval");
  }
  const size_t each = (size_t)LAYERS * KV_HEADS * 2 * HEAD_DIM * sizeof(float), bytes = each * (size_t)position;
  CHECK(sf_session_saved_bytes(session) == bytes && sf_session_saved_bytes(NULL) == 0, "bytes");
  uint8_t *data = check_alloc(bytes, 1);
  CHECK(sf_session_save(session, data, bytes + 1) == SF_ERROR_SHAPE, "too many bytes");
  CHECK(sf_session_save(session, NULL, bytes) == (bytes ? SF_ERROR_ARGUMENT : SF_OK), "no bytes");
  CHECK(sf_session_save(NULL, data, bytes) == SF_ERROR_ARGUMENT, "no session");
  CHECK(sf_session_save(session, data, bytes) == SF_OK, "save");
  CHECK(sf_session_eval(session, tokens, 1, SF_EXACT, SF_DECODE, wanted, 1) == SF_OK, "eval");
  CHECK(sf_session_eval(other, tokens + 3, 3, SF_EXACT, SF_PROMPT, NULL, 0) == SF_OK, "something else");
  CHECK(sf_session_restore(other, data, bytes, position + 1, SF_F32, SF_F32) ==
            (position < CONTEXT ? SF_ERROR_SHAPE : SF_ERROR_CONTEXT_FULL),
        "position");
  CHECK(sf_session_restore(other, data, bytes + 4, position, SF_F32, SF_F32) == SF_ERROR_SHAPE, "bytes");
  CHECK(sf_session_restore(other, data, bytes, -1, SF_F32, SF_F32) == SF_ERROR_ARGUMENT, "a negative position");
  CHECK(sf_session_restore(other, data, bytes, INT32_MAX, SF_F32, SF_F32) == SF_ERROR_CONTEXT_FULL, "a huge position");
  CHECK(sf_session_restore(NULL, data, bytes, position, SF_F32, SF_F32) == SF_ERROR_ARGUMENT, "no session");
  if (bytes > 0) {
    const float nan = NAN;
    uint8_t last[sizeof nan];
    memcpy(last, data + bytes - sizeof nan, sizeof nan);
    memcpy(data + bytes - sizeof nan, &nan, sizeof nan);
    CHECK(sf_session_restore(other, data, bytes, position, SF_F32, SF_F32) == SF_ERROR_NOT_FINITE, "NaN");
    CHECK(sf_session_restore(other, NULL, bytes, position, SF_F32, SF_F32) == SF_ERROR_ARGUMENT, "no data");
    memcpy(data + bytes - sizeof nan, last, sizeof nan);
  }
  CHECK(sf_session_position(other) == 3, "errors change nothing");
  CHECK(sf_session_restore(other, data, bytes, position, SF_F32, SF_F32) == SF_OK, "restore");
  CHECK(sf_session_position(other) == position, "position");
  CHECK(sf_session_eval(other, tokens, 1, SF_EXACT, SF_DECODE, found, 1) == SF_OK, "eval");
  CHECK(memcmp(found, wanted, sizeof wanted) == 0, "a restored session differs");
  check_free(data, 1);
  sf_session_close(session), sf_session_close(other);
}

/* ---- Layers whose neurons are read while tokens wait ---- */

static sf_cache *caches[LAYERS];

/* Reads what the session waits for out of the model's own matrices. */
static void read_missing(const test_model *m, size_t row) {
  int32_t layer = -1, ids[HIDDEN], count = sf_model_missing(m->model, &layer, ids);
  CHECK(count > 0 && layer >= 0 && layer < LAYERS, "missing: %d of layer %d", count, layer);
  for (int32_t i = 0; i < count; i++) {
    void *bundle = NULL;
    CHECK(sf_cache_bundles(caches[layer], &ids[i], 1, &bundle) == SF_OK && bundle, "a place");
    for (int32_t part = 0; part < 3; part++) {
      const uint8_t *data = m->data[1 + 7 * layer + 4 + part];
      memcpy((uint8_t *)bundle + (size_t)part * row, data + (size_t)ids[i] * row, row);
    }
  }
  CHECK(sf_cache_loaded(caches[layer], ids, count) == SF_OK, "loaded");
}

static void eval_waiting(const test_model *m, sf_session *session, int32_t first, int32_t n, int32_t mode,
                         float *logits, size_t row) {
  int32_t status = sf_session_eval(session, tokens + first, n, mode, SF_PROMPT, logits, n);
  while (status == SF_WAITING) {
    CHECK(sf_session_position(session) == first, "no token is done while they wait");
    read_missing(m, row);
    status = sf_model_resume(m->model, logits);
  }
  CHECK(status == SF_OK, "eval: %d", status);
}

static void test_waiting_errors(const test_model *m, size_t row) {
  sf_session *session;
  int32_t layer, ids[HIDDEN];
  float logits[VOCAB];
  CHECK(sf_session_open(&session, m->model, CONTEXT) == SF_OK, "session");
  CHECK(sf_model_resume(m->model, logits) == SF_ERROR_ARGUMENT, "not waiting");
  CHECK(sf_model_missing(m->model, &layer, ids) == SF_ERROR_ARGUMENT, "not waiting");
  CHECK(sf_session_eval(session, tokens, SF_BATCH + 1, SF_EXACT, SF_PROMPT, NULL, 0) == SF_ERROR_ARGUMENT,
        "too many at once");
  CHECK(sf_session_eval(session, tokens, 1, SF_EXACT, SF_PROMPT, logits, 1) == SF_WAITING, "waits");
  CHECK(sf_session_save(session, NULL, 0) == SF_ERROR_ARGUMENT, "a token waits");
  CHECK(sf_model_resume(m->model, NULL) == SF_ERROR_ARGUMENT, "no place for the logits");
  CHECK(sf_model_resume(m->model, logits) == SF_ERROR_NOT_RESIDENT, "nothing was read");
  CHECK(sf_model_resume(m->model, logits) == SF_ERROR_ARGUMENT, "the eval is dropped");
  CHECK(sf_session_eval(session, tokens, 1, SF_EXACT, SF_PROMPT, logits, 1) == SF_WAITING, "waits again");
  CHECK(sf_session_truncate(session, 0) == SF_OK, "truncate");
  CHECK(sf_model_resume(m->model, logits) == SF_ERROR_ARGUMENT, "dropped");
  eval_waiting(m, session, 0, 1, SF_EXACT, logits, row);
  CHECK(memcmp(logits, together, sizeof logits) == 0, "as if nothing had been");
  sf_session_close(session);
}

static void test_cached_layers(sf_context *context, test_model *m, int32_t format, int32_t slots) {
  size_t row = sf_format_row_bytes(format, D);
  sf_ffn *cached[LAYERS];
  sf_session *session;
  int32_t hits, misses, wanted[HIDDEN], step = slots < 10 ? 7 : 32;
  eval_in_steps(m, SF_EXACT, TOKENS, together);
  for (int32_t i = 0; i < LAYERS; i++) {
    CHECK(sf_cache_open(&caches[i], HIDDEN, 3 * row, slots, SF_CACHE_LRU, 1) == SF_OK, "cache");
    CHECK(sf_ffn_open_cached(&cached[i], context, caches[i], format, D, D, 1, SF_RELU, 0) == SF_OK, "cached");
    CHECK(sf_model_set_ffn(m->model, i, cached[i]) == SF_OK, "a cached layer");
  }
  test_waiting_errors(m, row);
  CHECK(sf_cache_counts(caches[1], &hits, &misses, NULL) == SF_ERROR_ARGUMENT, "no place for the counts");
  CHECK(sf_cache_counts(caches[1], &hits, &misses, wanted) == SF_OK, "counts");
  CHECK(sf_session_open(&session, m->model, CONTEXT) == SF_OK, "session");
  for (int32_t i = 0; i < TOKENS; i += step) {
    int32_t n = TOKENS - i < step ? TOKENS - i : step;
    eval_waiting(m, session, i, n, SF_EXACT, alone + i * VOCAB, row);
  }
  CHECK(memcmp(alone, together, sizeof alone) == 0, "%d slots: cached layers differ", slots);
  CHECK(sf_cache_counts(caches[1], &hits, &misses, wanted) == SF_OK, "counts");
  CHECK(hits + misses == HIDDEN * ((TOKENS + step - 1) / step), "%d hits, %d misses", hits, misses);
  for (int32_t i = 0; i < HIDDEN; i++) CHECK(wanted[i] == TOKENS, "neuron %d was wanted %d times", i, wanted[i]);
  sf_session_close(session);
  for (int32_t i = 0; i < LAYERS; i++) {
    CHECK(sf_model_set_ffn(m->model, i, m->ffns[i]) == SF_OK, "the layer in memory");
    sf_ffn_close(cached[i]);
    sf_cache_close(caches[i]);
  }
}

/* How many leading tokens keep their logits when the last one of TOKENS is another one. */
static int32_t unchanged(const test_model *m) {
  sf_session *session;
  int32_t changed[TOKENS], count = 0;
  memcpy(changed, tokens, sizeof tokens);
  changed[TOKENS - 1] = (tokens[TOKENS - 1] + 1) % VOCAB;
  CHECK(sf_session_open(&session, m->model, CONTEXT) == SF_OK, "session");
  CHECK(sf_session_eval(session, tokens, TOKENS, SF_DENSE, SF_PROMPT, together, TOKENS) == SF_OK, "eval");
  CHECK(sf_session_truncate(session, 0) == SF_OK, "truncate");
  CHECK(sf_session_eval(session, changed, TOKENS, SF_DENSE, SF_PROMPT, alone, TOKENS) == SF_OK, "eval");
  CHECK(sf_session_eval(session, tokens, 1, SF_DENSE, SF_PROMPT, NULL, 0) == SF_ERROR_UNSUPPORTED, "more tokens");
  sf_session_close(session);
  while (count < TOKENS && memcmp(alone + count * VOCAB, together + count * VOCAB, VOCAB * sizeof(float)) == 0) count++;
  return count;
}

/* Attention to both sides reaches as far as its window in each layer, also across batches, and does not depend on other
 * sessions and threads. */
static void test_both_sides(sf_context *context, sf_context *threaded, int32_t format) {
  enum { WINDOW = 9 };
  test_model all = make_masked(context, format, SF_MASK_BOTH, 0),
             other = make_masked(threaded, format, SF_MASK_BOTH, 0);
  test_model near = make_masked(context, format, SF_MASK_BOTH, WINDOW);
  eval_in_steps(&all, SF_DENSE, TOKENS, together);
  eval_in_steps(&other, SF_DENSE, TOKENS, alone);
  CHECK(memcmp(alone, together, sizeof alone) == 0, "threads differ");
  test_several_sessions(&all, 1);
  CHECK(unchanged(&all) == 0, "all tokens see the last one");
  CHECK(unchanged(&near) == TOKENS - 1 - LAYERS * (WINDOW / 2), "%d tokens do not see the last one", unchanged(&near));
  free_model(&all), free_model(&other), free_model(&near);
}

/* Weights from a file may hold anything: NaN in the embedding is an error, not a crash. */
static void test_not_finite(test_model *m) {
  sf_session *session;
  float logits[VOCAB];
  memset(m->data[0], 0xFF, 34); /* in token 0: NaN in each format */
  int32_t token = 0, other = 1;
  CHECK(sf_session_open(&session, m->model, 8) == SF_OK, "session");
  CHECK(sf_session_eval(session, &token, 1, SF_DENSE, SF_PROMPT, logits, 1) == SF_ERROR_NOT_FINITE,
        "NaN in the embedding");
  int32_t status = sf_session_eval(session, &other, 1, SF_DENSE, SF_PROMPT, NULL, 0);
  CHECK(status == SF_OK, "another token: %d", status);
  sf_session_close(session);
}

int main(int argc, char **argv) {
  (void)argc, (void)argv;
  for (int32_t i = 0; i < TOKENS; i++) tokens[i] = (i * i * 7 + 3) % VOCAB;
  for (int32_t isa = 0; isa < sf_isa_count(); isa++) {
    if (!check_isa(sf_isa_supported(isa))) continue;
    check_section(sf_isa_name(isa));
    sf_context *context, *threaded;
    CHECK(sf_context_open(&context, isa, 1) == SF_OK && sf_context_open(&threaded, isa, 3) == SF_OK, "context");
    const int32_t formats[] = {SF_F32, SF_Q8_0, SF_Q4_1};
    for (int32_t f = 0; f < 3; f++) {
      test_model m = make_model(context, formats[f]), other = make_model(threaded, formats[f]);
      test_steps_and_threads(&m, &other, isa);
      test_session(context, &m);
      test_activity(&m, isa);
      test_several_sessions(&m, 0);
      test_both_sides(context, threaded, formats[f]);
      for (int32_t position = 0; position <= 66; position += 22) test_saving(&m, position);
      test_saving(&m, 64);
      if (f == 1) test_cached_layers(context, &m, formats[f], 1); /* evicting does not depend on the format */
      if (f == 1) test_cached_layers(context, &m, formats[f], 40);
      test_cached_layers(context, &m, formats[f], HIDDEN);
      test_errors(context, &m);
      CHECK(sf_model_set_ffn(m.model, 0, other.ffns[0]) == SF_ERROR_ARGUMENT, "a layer of another context");
      test_not_finite(&m);
      free_model(&m), free_model(&other);
    }
    sf_context_close(context), sf_context_close(threaded);
  }
  return check_result();
}
