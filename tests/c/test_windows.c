/* Sessions of models whose attention has windows: they keep the last keys and values alone, and give the bits of those
 * that keep all, over several times as many tokens as they keep. */
#include <string.h>

#include "check.h"
#include "model/session.h"
#include "reference.h"

enum {
  TOKENS = 2600,
  VOCAB = 64,
  DIM = 16,
  WIDTH = 2 * DIM,
  BLOCK = 64,
  RUNS = 50,
  WIDER = 90,
  SOURCE = 3,
  CHUNKED = 6
};

static int32_t tokens[TOKENS];
static float tables[3][VOCAB * WIDTH], wanted[TOKENS * WIDTH], decoded[TOKENS * WIDTH], found[TOKENS * WIDTH];

typedef struct {
  sf_context *context;
  sf_matrix *matrices[3];
  sf_model *model;
} test_model;

static void add_step(sf_model *model, int32_t kind, const int32_t *arguments, int32_t count, const float *number) {
  CHECK(sf_model_add_step(model, kind, arguments, count, number, number != NULL) >= 0, "step of kind %d", kind);
}

/* Attention with a window, to the same keys and values with a wider one, and in runs of positions; the hidden states
 * are the sum. With `all`, two more steps see everything, so that all is kept. */
static test_model make(int32_t isa, int32_t format, int32_t all) {
  test_model m = {0};
  const float one = 1, none = 0;
  CHECK(sf_context_open(&m.context, isa, 1) == SF_OK, "context");
  CHECK(sf_model_open(&m.model, m.context, VOCAB, WIDTH) == SF_OK, "model");
  CHECK(sf_model_set_kv_formats(m.model, format, format) == SF_OK, "formats");
  enum { Q = 1, K, V, SUM, OUT };
  for (int32_t i = 0; i < 3; i++) {
    const int32_t columns = i == 0 ? WIDTH : DIM;
    const size_t bytes = (size_t)(VOCAB * columns) * sizeof(float);
    const int32_t embed[] = {Q + i, i};
    CHECK(sf_matrix_open(&m.matrices[i], (const uint8_t *)tables[i], bytes, SF_F32, VOCAB, columns, 0) == SF_OK,
          "open");
    CHECK(sf_model_add_buffer(m.model, columns) == Q + i, "buffer");
    CHECK(sf_model_add_matrix(m.model, m.matrices[i]) == i, "matrix");
    add_step(m.model, SF_STEP_EMBED, embed, 2, &one);
  }
  CHECK(sf_model_add_buffer(m.model, WIDTH) == SUM && sf_model_add_buffer(m.model, WIDTH) == OUT, "buffers");
  const int32_t steps[][13] = {
      {Q, K, V, SUM, 1, DIM, DIM, 7, SF_MASK_CAUSAL, -1, -1, -1, -1},
      {Q, -1, -1, OUT, 1, DIM, DIM, WIDER, SF_MASK_CAUSAL, -1, -1, -1, SOURCE},
      {Q, K, V, OUT, 1, DIM, DIM, RUNS, SF_MASK_CHUNKED, -1, -1, -1, -1},
  };
  const int32_t add[] = {SUM, OUT, SUM, SF_TILE}, tap[] = {SUM, SF_TAP_HIDDEN, 0};
  for (int32_t i = 0; i < 3; i++) {
    add_step(m.model, SF_STEP_ATTENTION, steps[i], 13, &none);
    if (i > 0) add_step(m.model, SF_STEP_ADD, add, 4, NULL);
  }
  for (int32_t i = 0; i < 2 && all; i++) {
    const int32_t rest[] = {Q, -1, -1, OUT, 1, DIM, DIM, 0, SF_MASK_CAUSAL, -1, -1, -1, i == 0 ? SOURCE : CHUNKED};
    add_step(m.model, SF_STEP_ATTENTION, rest, 13, &none);
  }
  add_step(m.model, SF_STEP_TAP, tap, 3, NULL);
  return m;
}

static void close_model(test_model *m) {
  sf_model_close(m->model);
  for (int32_t i = 0; i < 3; i++) sf_matrix_close(m->matrices[i]);
  sf_context_close(m->context);
}

static sf_session *open_session(const test_model *m) {
  sf_session *session = NULL;
  CHECK(sf_session_open(&session, m->model, TOKENS) == SF_OK, "session");
  return session;
}

/* Tokens from the session's position to end - 1, `step` in a call. */
static void run(sf_session *session, int32_t end, int32_t step, int32_t phase, float *to) {
  for (int32_t i = sf_session_position(session); i < end; i += step) {
    int32_t n = end - i < step ? end - i : step;
    sf_session_tap(session, SF_TAP_HIDDEN, to + (size_t)i * WIDTH, (size_t)n * WIDTH);
    CHECK(sf_session_eval(session, tokens + i, n, SF_DENSE, phase, NULL, 0) == SF_OK, "tokens %d …", i);
  }
}

static void compare(const char *what, const float *expected, int32_t first, int32_t end) {
  const size_t at = (size_t)first * WIDTH, bytes = (size_t)(end - first) * WIDTH * sizeof(float);
  CHECK(memcmp(found + at, expected + at, bytes) == 0, "%s: tokens %d … %d differ", what, first, end - 1);
}

/* No more is kept than the window, what the session can go back, a batch, and parts of blocks. */
static void check_memory(const sf_session *session) {
  for (int32_t i = 0; i < session->model->n_steps; i++) {
    const sf_state *state = &session->states[i];
    const int32_t window = i == CHUNKED ? RUNS : WIDER;
    CHECK(state->n_blocks <= (window + SF_BACK + SF_BATCH) / BLOCK + 3, "step %d keeps %d blocks", i, state->n_blocks);
    CHECK(state->n_blocks == 0 || state->first_block > 0, "step %d keeps its beginning", i);
  }
}

/* Prompts in slices, and tokens one by one after them, as `wanted` and `decoded` have them. */
static void check_bits(const test_model *m) {
  const int32_t steps[] = {TOKENS, SF_BATCH, 7};
  for (int32_t i = 0; i < 3; i++) {
    sf_session *session = open_session(m);
    run(session, TOKENS, steps[i], SF_PROMPT, found);
    compare("a prompt", wanted, 0, TOKENS);
    check_memory(session);
    sf_session_close(session);
  }
  sf_session *session = open_session(m);
  run(session, 1300, 1300, SF_PROMPT, found);
  run(session, TOKENS, 1, SF_DECODE, found);
  compare("decoding", decoded, 1300, TOKENS);
  check_memory(session);
  sf_session_close(session);
}

/* Two sessions in turns in one evaluation, after texts of other lengths. */
static void check_together(const test_model *m) {
  enum { N = 700, AHEAD = 1100 };
  static sf_session *of[2 * N];
  static int32_t both[2 * N], none[2 * N];
  sf_session *sessions[2] = {open_session(m), open_session(m)};
  run(sessions[0], AHEAD, AHEAD, SF_PROMPT, found);
  for (int32_t i = 0; i < 2 * N; i++) {
    of[i] = sessions[i % 2];
    both[i] = tokens[i / 2 + (i % 2 ? 0 : AHEAD)];
  }
  for (int32_t k = 0; k < 2; k++) sf_session_tap(sessions[k], SF_TAP_HIDDEN, NULL, 0);
  CHECK(sf_model_eval(m->model, of, both, none, 2 * N, SF_DENSE, SF_PROMPT, NULL, 0) == SF_OK, "together");
  for (int32_t k = 0; k < 2; k++) {
    const int32_t position = N + (k ? 0 : AHEAD);
    CHECK(sf_session_position(sessions[k]) == position, "position");
    run(sessions[k], TOKENS, 50, SF_PROMPT, found);
    compare("after others", wanted, position, TOKENS);
    sf_session_close(sessions[k]);
  }
}

static void check_going_back(const test_model *m) {
  sf_session *session = open_session(m);
  run(session, 2100, 100, SF_PROMPT, found);
  const int32_t earliest = sf_session_earliest(session);
  CHECK(earliest > 0 && earliest <= 2100 - SF_BACK && earliest > 2100 - SF_BACK - SF_BATCH - 2 * BLOCK, "%d", earliest);
  CHECK(sf_session_truncate(session, 2100 - SF_BACK) == SF_OK, "back");
  CHECK(sf_session_truncate(session, earliest - 1) == SF_ERROR_UNSUPPORTED, "too far");
  CHECK(sf_session_position(session) == 2100 - SF_BACK && sf_session_earliest(session) == earliest, "unchanged");
  CHECK(sf_session_truncate(session, earliest) == SF_OK && sf_session_earliest(session) == earliest, "the earliest");
  run(session, TOKENS, 33, SF_PROMPT, found);
  compare("after going back", wanted, earliest, TOKENS);
  CHECK(sf_session_truncate(session, 0) == SF_OK && sf_session_earliest(session) == 0, "to the beginning");
  run(session, TOKENS, SF_BATCH, SF_PROMPT, found);
  compare("once more", wanted, 0, TOKENS);
  check_memory(session);
  sf_session_close(session);
  CHECK(sf_session_earliest(NULL) == SF_ERROR_ARGUMENT, "no session");
}

/* To sessions that are new, shorter, and longer; `back`: after going back so far. */
static void check_saving(const test_model *m, int32_t format, int32_t position, int32_t back) {
  sf_session *session = open_session(m), *others[] = {open_session(m), open_session(m), open_session(m)};
  run(session, position + back, 100, SF_PROMPT, found);
  CHECK(sf_session_truncate(session, position) == SF_OK, "back");
  const size_t bytes = sf_session_saved_bytes(session);
  uint8_t *saved = check_alloc(bytes, 0);
  CHECK(sf_session_save(session, saved, bytes) == SF_OK, "save");
  run(others[1], 130, 130, SF_PROMPT, found);
  run(others[2], TOKENS, TOKENS, SF_PROMPT, found);
  for (int32_t i = 0; i < 3; i++) {
    CHECK(sf_session_restore(others[i], saved, bytes - 1, position, format, format) == SF_ERROR_SHAPE, "fewer");
    CHECK(sf_session_restore(others[i], saved, bytes, position, format, format) == SF_OK, "restore");
    const int32_t earliest = sf_session_earliest(others[i]);
    CHECK(earliest <= (back ? position : position > SF_BACK ? position - SF_BACK : 0), "can go back to %d", earliest);
    run(others[i], position + 500, 1, SF_DECODE, found);
    compare("restored", decoded, position, position + 500);
    CHECK(sf_session_truncate(others[i], position) == SF_OK, "back");
    if (earliest < position - 10) CHECK(sf_session_truncate(others[i], position - 10) == SF_OK, "back before it");
    run(others[i], TOKENS, 100, SF_PROMPT, found);
    compare("restored, and back", wanted, position, TOKENS);
    sf_session_close(others[i]);
  }
  check_free(saved, 0);
  sf_session_close(session);
}

/* What a session that keeps all has saved is what sessions saved before windows were kept alone. */
static void check_all_saved(const test_model *m, const test_model *all, int32_t format) {
  sf_session *session = open_session(m), *other = open_session(all);
  run(other, 2000, 2000, SF_PROMPT, found);
  const size_t bytes = sf_session_saved_bytes(other), less = sf_session_saved_bytes(session);
  uint8_t *saved = check_alloc(bytes, 0);
  CHECK(less == 0 && sf_session_save(other, saved, bytes) == SF_OK, "save");
  CHECK(sf_session_restore(session, saved, bytes, 2000, format, format) == SF_OK, "restore");
  CHECK(sf_session_earliest(session) == 0, "all is there");
  run(session, TOKENS, 100, SF_PROMPT, found);
  compare("of one that keeps all", wanted, 2000, TOKENS);
  check_memory(session);
  check_free(saved, 0);
  sf_session_close(session);
  sf_session_close(other);
}

static void check(int32_t isa, int32_t format) {
  test_model all = make(isa, format, 1), m = make(isa, format, 0);
  for (int32_t phase = SF_PROMPT; phase <= SF_DECODE; phase++) {
    sf_session *session = open_session(&all);
    if (phase == SF_DECODE) run(session, 1300, 1300, SF_PROMPT, decoded);
    run(session, TOKENS, phase == SF_PROMPT ? TOKENS : SF_BATCH, phase, phase == SF_PROMPT ? wanted : decoded);
    CHECK(sf_session_earliest(session) == 0, "all is kept");
    sf_session_close(session);
  }
  check_bits(&m);
  check_together(&m);
  check_going_back(&m);
  check_saving(&m, format, 2000, 0);
  check_saving(&m, format, 1500, 600);
  check_saving(&m, format, 1400, 1000);
  check_all_saved(&m, &all, format);
  close_model(&all);
  close_model(&m);
}

int main(void) {
  random_state = 5;
  for (int32_t i = 0; i < TOKENS; i++) tokens[i] = (int32_t)(random_bits() % VOCAB);
  for (int32_t i = 0; i < 3; i++) {
    for (int32_t k = 0; k < VOCAB * WIDTH; k++) tables[i][k] = (i == 0 ? 1.5f : 1) * random_unit();
  }
  int32_t isa = 0; /* one: which blocks are kept does not depend on it */
  while (!sf_isa_supported(isa)) ++isa;
  check_section(sf_isa_name(isa));
  check(isa, SF_F16);
  return check_result();
}
