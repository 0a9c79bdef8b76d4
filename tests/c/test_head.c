/* The head with a screen, on every instruction set: which rows are exact, in whatever company, and every error. The
 * numbers themselves are compared with numpy's in the Python tests. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "reference.h"

enum { D = 64, RANK = 32, VOCAB = 300, ROWS = 40, TOKENS = 7, BYTES = VOCAB * D * 4 };

typedef struct {
  uint8_t data[3][BYTES];
  float bias[VOCAB], screen_bias[VOCAB];
  sf_matrix *embedding, *p, *q;
  sf_predictor *screen;
  sf_model *model;
} head;

static void open_matrix(sf_matrix **matrix, uint8_t *data, int32_t format, int32_t rows, int32_t columns) {
  static float floats[VOCAB * D];
  size_t bytes = sf_format_row_bytes(format, columns) * (size_t)rows;
  for (int32_t i = 0; i < rows * columns; i++) floats[i] = random_unit();
  if (rows == VOCAB) memcpy(floats + 9 * columns, floats + 8 * columns, (size_t)columns * sizeof(float)); /* a tie */
  CHECK(sf_quantize(format, floats, rows, columns, data, bytes) == SF_OK, "quantise");
  CHECK(sf_matrix_open(matrix, data, bytes, format, rows, columns, 0) == SF_OK, "open");
}

/* Tokens' rows of the embedding are the input of the head, whose matrix is the embedding. */
static void open_head(head *h, sf_context *context, int32_t format) {
  float one = 1;
  random_state = 11;
  open_matrix(&h->embedding, h->data[0], format, VOCAB, D);
  open_matrix(&h->p, h->data[1], format, RANK, D);
  open_matrix(&h->q, h->data[2], format, VOCAB, RANK);
  for (int32_t i = 0; i < VOCAB; i++) h->bias[i] = random_unit();
  for (int32_t i = 0; i < VOCAB; i++) h->screen_bias[i] = i == 9 ? h->screen_bias[8] : random_unit();
  CHECK(sf_predictor_open(&h->screen, context, h->p, h->q, h->screen_bias, 0) == SF_OK, "screen");
  CHECK(sf_model_open(&h->model, context, VOCAB, D) == SF_OK, "model");
  sf_model *model = h->model;
  int32_t x = sf_model_add_buffer(model, D), other = sf_model_add_buffer(model, VOCAB);
  int32_t y = sf_model_add_buffer(model, D);
  int32_t matrix = sf_model_add_matrix(model, h->embedding), bias = sf_model_add_vector(model, h->bias, VOCAB);
  int32_t small = sf_model_add_matrix(model, h->p);
  CHECK(sf_model_add_screen(NULL, h->screen) == SF_ERROR_ARGUMENT, "no model");
  CHECK(sf_model_add_screen(model, NULL) == SF_ERROR_ARGUMENT, "no screen");
  int32_t screen = sf_model_add_screen(model, h->screen);
  const struct {
    int32_t kind, expected, count, arguments[6];
    const char *what;
  } steps[] = {
      {SF_STEP_EMBED, 0, 2, {x, matrix}, "embed"},
      {SF_STEP_HEAD, SF_ERROR_ARGUMENT, 6, {x, matrix, bias, screen, ROWS, other}, "a head before the pick"},
      {SF_STEP_PICK, 1, 1, {x}, "pick"},
      {SF_STEP_HEAD, SF_ERROR_ARGUMENT, 6, {x, matrix, bias, screen + 1, ROWS, 0}, "no such screen"},
      {SF_STEP_HEAD, SF_ERROR_ARGUMENT, 6, {x, matrix, bias, screen, 0, 0}, "no rows"},
      {SF_STEP_HEAD, SF_ERROR_ARGUMENT, 6, {x, matrix, bias, screen, VOCAB + 1, 0}, "more rows than there are"},
      {SF_STEP_HEAD, SF_ERROR_SHAPE, 6, {x, matrix, bias, screen, ROWS, y}, "width of the output"},
      {SF_STEP_HEAD, SF_ERROR_SHAPE, 6, {x, small, bias, screen, ROWS, 0}, "rows of the matrix"},
      {SF_STEP_HEAD, 2, 6, {x, matrix, bias, screen, ROWS, 0}, "head"},
  };
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
    int32_t numbers = steps[i].kind == SF_STEP_EMBED;
    int32_t status = sf_model_add_step(model, steps[i].kind, steps[i].arguments, steps[i].count, &one, numbers);
    CHECK(status == steps[i].expected, "%s: %d", steps[i].what, status);
  }
}

static void close_head(head *h) {
  sf_model_close(h->model);
  sf_predictor_close(h->screen);
  sf_matrix_close(h->embedding), sf_matrix_close(h->p), sf_matrix_close(h->q);
}

static const int32_t tokens[TOKENS] = {5, 8, 200, 8, 77, 299, 0};
static float screened[TOKENS * VOCAB], dense[TOKENS * VOCAB], scores[TOKENS * VOCAB], together[TOKENS * VOCAB];

static void eval(head *h, int32_t kind, const int32_t *ids, int32_t count, float *logits) {
  sf_session *session;
  int32_t counted, rows;
  CHECK(sf_session_open(&session, h->model, TOKENS) == SF_OK, "session");
  CHECK(sf_session_set_head(session, kind, ids, count) == SF_OK, "set the head");
  CHECK(sf_session_eval(session, tokens, TOKENS, SF_DENSE, SF_PROMPT, logits, TOKENS) == SF_OK, "eval");
  CHECK(sf_session_head_counts(session, &counted, &rows) == SF_OK && counted == TOKENS, "%d tokens", counted);
  int32_t least = TOKENS * (kind == SF_HEAD_DENSE ? VOCAB : ROWS), most = least + TOKENS * count;
  CHECK(rows >= least && rows <= (kind == SF_HEAD_DENSE ? least : most), "%d rows", rows);
  CHECK(sf_session_head_counts(session, &counted, &rows) == SF_OK && counted == 0 && rows == 0,
        "counts are given once");
  sf_session_close(session);
}

/* The best scores, of equal ones the first, and the named ids have the dense head's bits; the others the screen's. */
static void test_rows(sf_context *context, head *h, int32_t format, const int32_t *ids, int32_t count) {
  static float floats[VOCAB * D], inputs[TOKENS * D];
  int32_t best[VOCAB];
  size_t bytes = sf_format_row_bytes(format, D) * VOCAB;
  CHECK(sf_dequantize(format, h->data[0], bytes, VOCAB, D, floats) == SF_OK, "dequantise");
  for (int32_t j = 0; j < TOKENS; j++) memcpy(inputs + j * D, floats + tokens[j] * D, D * sizeof(float));
  CHECK(sf_predictor_scores(h->screen, inputs, TOKENS, scores) == SF_OK, "scores");
  eval(h, SF_HEAD_DENSE, NULL, 0, dense);
  eval(h, SF_HEAD_SCREENED, ids, count, screened);
  for (int32_t j = 0; j < TOKENS; j++) {
    float *wanted = scores + j * VOCAB;
    CHECK(sf_select_top_k(context, wanted, VOCAB, ROWS, best) == ROWS, "rows");
    for (int32_t i = 0; i < ROWS; i++) wanted[best[i]] = dense[j * VOCAB + best[i]];
    for (int32_t i = 0; i < count; i++) wanted[ids[i]] = dense[j * VOCAB + ids[i]];
    CHECK(memcmp(wanted, screened + j * VOCAB, VOCAB * sizeof(float)) == 0, "token %d", j);
  }
}

/* Sessions with other heads in the same batch, and threads, change no bit; nor does what is not wanted. */
static void test_company(head *h, const int32_t *ids, int32_t count) {
  sf_session *sessions[3], *of[TOKENS];
  int32_t wanted[TOKENS];
  for (int32_t s = 0; s < 3; s++) CHECK(sf_session_open(&sessions[s], h->model, TOKENS) == SF_OK, "session");
  CHECK(sf_session_set_head(sessions[1], SF_HEAD_DENSE, NULL, 0) == SF_OK, "dense");
  CHECK(sf_session_set_head(sessions[2], SF_HEAD_SCREENED, ids, count) == SF_OK, "ids");
  for (int32_t j = 0; j < TOKENS; j++) of[j] = sessions[j % 3], wanted[j] = j != 2 && j != 3;
  CHECK(sf_model_eval(h->model, of, tokens, wanted, TOKENS, SF_DENSE, SF_DECODE, together, TOKENS - 2) == SF_OK,
        "eval");
  eval(h, SF_HEAD_SCREENED, ids, count, screened);
  static float plain[TOKENS * VOCAB];
  eval(h, SF_HEAD_SCREENED, NULL, 0, plain);
  for (int32_t j = 0, k = 0; j < TOKENS; j++) {
    const float *alone = j % 3 == 0 ? plain : j % 3 == 1 ? dense : screened;
    if (!wanted[j]) continue;
    CHECK(memcmp(alone + j * VOCAB, together + k++ * VOCAB, VOCAB * sizeof(float)) == 0, "token %d differs", j);
  }
  int32_t counted, rows;
  CHECK(sf_session_head_counts(sessions[0], &counted, &rows) == SF_OK && counted == 2 && rows == 2 * ROWS, "%d", rows);
  CHECK(sf_session_head_counts(sessions[1], &counted, &rows) == SF_OK && rows == 2 * VOCAB, "%d rows", rows);
  for (int32_t s = 0; s < 3; s++) sf_session_close(sessions[s]);
}

static void test_errors(head *h) {
  sf_session *session;
  const int32_t descending[] = {7, 3}, twice[] = {7, 7}, negative[] = {-1}, large[] = {VOCAB};
  int32_t count;
  CHECK(sf_session_open(&session, h->model, TOKENS) == SF_OK, "session");
  CHECK(sf_session_set_head(NULL, SF_HEAD_DENSE, NULL, 0) == SF_ERROR_ARGUMENT, "no session");
  CHECK(sf_session_set_head(session, 2, NULL, 0) == SF_ERROR_ARGUMENT, "no such head");
  CHECK(sf_session_set_head(session, 1, NULL, 1) == SF_ERROR_ARGUMENT, "no ids");
  CHECK(sf_session_set_head(session, 1, descending, 2) == SF_ERROR_ARGUMENT, "descending");
  CHECK(sf_session_set_head(session, 1, twice, 2) == SF_ERROR_ARGUMENT, "twice");
  CHECK(sf_session_set_head(session, 1, negative, 1) == SF_ERROR_ARGUMENT, "negative");
  CHECK(sf_session_set_head(session, 1, large, 1) == SF_ERROR_ARGUMENT, "beyond the vocabulary");
  CHECK(sf_session_head_counts(session, &count, NULL) == SF_ERROR_ARGUMENT, "no place for the rows");
  sf_session_close(session);
}

/* A copy of the embedding without its last bits, and how far products of its halves may be from the matrix's. */
static void test_bounded(sf_context *context) {
  enum { PARTS = 2, PART = D / PARTS };
  static float floats[VOCAB * D], rounded[VOCAB * D], bounds[VOCAB * PARTS], bias[VOCAB];
  static float exact[VOCAB], found[VOCAB];
  const float one = 1;
  sf_matrix *matrix, *copy, *of_parts, *other;
  sf_predictor *screen = NULL;
  sf_model *model;
  sf_session *session;
  random_state = 5;
  for (int32_t i = 0; i < VOCAB * D; i++) {
    floats[i] = random_unit();
    rounded[i] = floorf(floats[i] * 16) / 16;
  }
  for (int32_t i = 0; i < VOCAB * PARTS; i++) {
    double squares = 0;
    for (int32_t k = i * PART; k < (i + 1) * PART; k++) squares += pow((double)floats[k] - (double)rounded[k], 2);
    bounds[i] = (float)(sqrt(squares) + 1e-5);
    bias[i / PARTS] = 0.1f * random_unit();
  }
  const size_t bytes = sizeof floats;
  CHECK(sf_matrix_open(&matrix, floats, bytes, SF_F32, VOCAB, D, 0) == SF_OK, "matrix");
  CHECK(sf_matrix_open(&copy, rounded, bytes, SF_F32, VOCAB, D, 0) == SF_OK, "copy");
  CHECK(sf_matrix_open(&of_parts, bounds, sizeof bounds, SF_F32, VOCAB, PARTS, 0) == SF_OK, "bounds");
  CHECK(sf_predictor_open_bounded(NULL, context, copy, of_parts) == SF_ERROR_ARGUMENT, "no place");
  CHECK(sf_predictor_open_bounded(&screen, context, NULL, of_parts) == SF_ERROR_ARGUMENT, "no copy");
  CHECK(sf_predictor_open_bounded(&screen, context, copy, NULL) == SF_ERROR_ARGUMENT, "no bounds");
  CHECK(sf_matrix_open(&other, floats, bytes, SF_F32, VOCAB, 3, 0) == SF_OK, "parts that do not fit");
  CHECK(sf_predictor_open_bounded(&screen, context, copy, other) == SF_ERROR_SHAPE, "parts");
  sf_matrix_close(other);
  CHECK(sf_matrix_open(&other, floats, bytes, SF_Q8_0, VOCAB, 32, 0) == SF_OK, "blocks");
  CHECK(sf_predictor_open_bounded(&screen, context, copy, other) == SF_ERROR_FORMAT, "blocks");
  sf_matrix_close(other);
  CHECK(sf_predictor_open_bounded(&screen, context, copy, of_parts) == SF_OK, "open");
  CHECK(sf_model_open(&model, context, VOCAB, D) == SF_OK, "model");
  int32_t x = sf_model_add_buffer(model, D), place = sf_model_add_matrix(model, matrix);
  int32_t vector = sf_model_add_vector(model, bias, VOCAB), proof = sf_model_add_screen(model, screen);
  const int32_t embed[] = {x, place}, head[] = {x, place, vector, proof, 1, 0};
  CHECK(sf_model_add_step(model, SF_STEP_EMBED, embed, 2, &one, 1) >= 0, "embed");
  CHECK(sf_model_add_step(model, SF_STEP_PICK, embed, 1, NULL, 0) >= 0, "pick");
  CHECK(sf_model_add_step(model, SF_STEP_HEAD, head, 6, NULL, 0) >= 0, "head");
  CHECK(sf_session_open(&session, model, 2 * VOCAB) == SF_OK, "session");
  for (int32_t token = 0, rows; token < VOCAB; token += 7) {
    int32_t best[2][VOCAB], tokens_counted;
    CHECK(sf_session_set_head(session, SF_HEAD_DENSE, NULL, 0) == SF_OK, "dense");
    CHECK(sf_session_eval(session, &token, 1, SF_DENSE, SF_DECODE, exact, 1) == SF_OK, "eval");
    CHECK(sf_session_head_counts(session, &tokens_counted, &rows) == SF_OK, "counts");
    CHECK(sf_session_set_head(session, SF_HEAD_SCREENED, NULL, 0) == SF_OK, "proven");
    CHECK(sf_session_eval(session, &token, 1, SF_DENSE, SF_DECODE, found, 1) == SF_OK, "eval");
    CHECK(sf_session_head_counts(session, &tokens_counted, &rows) == SF_OK && rows >= 1 && rows < VOCAB, "%d", rows);
    CHECK(sf_select_top_k(context, exact, VOCAB, 1, best[0]) == 1, "best");
    CHECK(sf_select_top_k(context, found, VOCAB, 1, best[1]) == 1, "best");
    const int32_t want = best[0][0], have = best[1][0];
    CHECK(want == have && exact[want] == found[want], "%d is not %d", have, want);
  }
  sf_session_close(session), sf_model_close(model), sf_predictor_close(screen);
  sf_matrix_close(matrix), sf_matrix_close(copy), sf_matrix_close(of_parts);
}

int main(void) {
  static int32_t all[VOCAB];
  const int32_t some[] = {0, 8, 9, 150, VOCAB - 1}, formats[] = {SF_F32, SF_Q8_0, SF_Q4_0};
  static head one, threaded;
  for (int32_t i = 0; i < VOCAB; i++) all[i] = i;
  for (int32_t isa = 0; isa < sf_isa_count(); isa++) {
    if (!check_isa(sf_isa_supported(isa))) continue;
    check_section(sf_isa_name(isa));
    sf_context *context, *threads;
    CHECK(sf_context_open(&context, isa, 1) == SF_OK && sf_context_open(&threads, isa, 3) == SF_OK, "context");
    for (int32_t f = 0; f < 3; f++) {
      open_head(&one, context, formats[f]), open_head(&threaded, threads, formats[f]);
      test_rows(context, &one, formats[f], NULL, 0);
      test_rows(context, &one, formats[f], all, VOCAB);
      CHECK(memcmp(screened, dense, sizeof dense) == 0, "all rows are named");
      test_rows(context, &one, formats[f], some, 5);
      memcpy(together, screened, sizeof screened);
      eval(&threaded, SF_HEAD_SCREENED, some, 5, screened);
      CHECK(memcmp(screened, together, sizeof screened) == 0, "threads differ");
      test_company(&one, some, 5);
      test_errors(&one);
      close_head(&one), close_head(&threaded);
    }
    test_bounded(context);
    sf_context_close(context), sf_context_close(threads);
  }
  return check_result();
}
