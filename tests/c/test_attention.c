/* Attention of prompts and of decoded tokens, on every instruction set of this machine: against a softmax in double
 * precision over the keys and values as they are kept, and the same bits for any slices, batches and threads. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "kernels/isa.h"
#include "reference.h"

enum { LONGEST = 700, DECODED = 5, MOST_HEADS = 4, MOST_DIM = 72, MOST_WIDTH = MOST_HEADS * MOST_DIM };

typedef struct {
  int32_t tokens, heads, kv_heads, k_dim, v_dim, mask, window, sinks, slopes, reach; /* reach -1: no biases */
  float cap;
  int32_t k_format, v_format;
} shape;

static const shape shapes[] = {
    {LONGEST, 3, 1, 64, 64, SF_MASK_CAUSAL, 0, 0, 0, -1, 0, SF_F16, SF_F16}, /* several chunks of positions */
    {600, 2, 2, 32, 64, SF_MASK_CAUSAL, 530, 1, 0, -1, 0, SF_Q8_0, SF_Q8_0},
    {150, 4, 2, 16, 16, SF_MASK_CAUSAL, 0, 0, 0, -1, 0, SF_F32, SF_F32},
    {150, 4, 2, 40, 24, SF_MASK_CAUSAL, 70, 0, 1, -1, 5.0f, SF_Q8_0, SF_F16}, /* no whole blocks */
    {150, 2, 1, 72, 7, SF_MASK_CHUNKED, 50, 0, 0, 9, 0, SF_F16, SF_F32},
    {150, 2, 1, 32, 32, SF_MASK_POOLED, 4, 0, 0, -1, 0, SF_F16, SF_F32},
    {300, 4, 2, 16, 24, SF_MASK_POOLED, 128, 0, 0, -1, 0, SF_F32, SF_F32},
    {LONGEST, 2, 1, 16, 16, SF_MASK_POOLED, 1, 1, 0, -1, 0, SF_F32, SF_F16},
    {300, 2, 1, 16, 16, SF_MASK_BOTH, 0, 0, 0, 20, 0, SF_F16, SF_F16},
    {300, 2, 1, 16, 16, SF_MASK_BOTH, 90, 0, 0, -1, 0, SF_F32, SF_F16},
};

/* Queries, keys and values of each token: rows of three matrices. */
typedef struct {
  float q[LONGEST * MOST_WIDTH], k[LONGEST * MOST_WIDTH], v[LONGEST * MOST_WIDTH];
  float sinks[MOST_HEADS], slopes[MOST_HEADS], biases[MOST_HEADS * 41];
} numbers;

static numbers given, kept; /* the second with keys and values as the session keeps them */
static float expected[LONGEST * MOST_WIDTH], out[LONGEST * MOST_WIDTH], other[LONGEST * MOST_WIDTH];
static int32_t tokens[LONGEST];

static void fill(float *values, int32_t count, float scale) {
  for (int32_t i = 0; i < count; i++) values[i] = scale * random_unit();
}

/* What a format makes of rows of `dim` numbers. */
static void keep(int32_t format, int32_t dim, int32_t rows, const float *from, float *to) {
  static uint8_t stored[LONGEST * MOST_WIDTH * 4];
  if (format == SF_Q8_0 && dim % 32 != 0) format = SF_F16;
  size_t bytes = sf_format_row_bytes(format, dim) * (size_t)rows;
  CHECK(sf_quantize(format, from, rows, dim, stored, bytes) == SF_OK, "quantise");
  CHECK(sf_dequantize(format, stored, bytes, rows, dim, to) == SF_OK, "dequantise");
}

static int32_t seen(const shape *s, int32_t token, int32_t key) {
  if (s->mask != SF_MASK_BOTH && key > token) return 0;
  if (s->mask == SF_MASK_POOLED) return (key + 1) % s->window == 0;
  if (s->window == 0) return 1;
  if (s->mask == SF_MASK_CHUNKED) return key / s->window == token / s->window;
  return s->mask == SF_MASK_BOTH ? abs(key - token) <= s->window / 2 : token - key < s->window;
}

static double score(const shape *s, int32_t token, int32_t head, int32_t key) {
  const float *q = kept.q + (size_t)(token * s->heads + head) * (size_t)s->k_dim;
  const float *k = kept.k + (size_t)(key * s->kv_heads + head / (s->heads / s->kv_heads)) * (size_t)s->k_dim;
  double sum = 0;
  for (int32_t c = 0; c < s->k_dim; c++) sum += (double)q[c] * (double)k[c];
  if (s->cap > 0) sum = (double)s->cap * tanh(sum / (double)s->cap);
  if (s->slopes) sum -= (double)given.slopes[head] * abs(token - key);
  if (s->reach >= 0) {
    int32_t place = key - token;
    place = place < -s->reach ? -s->reach : place > s->reach ? s->reach : place;
    sum += (double)given.biases[head * (2 * s->reach + 1) + place + s->reach];
  }
  return sum;
}

static void attend(const shape *s, int32_t token, int32_t head, float *to) {
  static double weights[LONGEST];
  double most = s->sinks ? (double)given.sinks[head] : -1e30, sum = 0, sums[MOST_DIM] = {0};
  for (int32_t i = 0; i < s->tokens; i++) {
    weights[i] = seen(s, token, i) ? score(s, token, head, i) : -1e300;
    most = fmax(most, weights[i]);
  }
  if (s->sinks) sum = exp((double)given.sinks[head] - most);
  for (int32_t i = 0; i < s->tokens; i++) {
    if (!seen(s, token, i)) continue;
    const float *v = kept.v + (size_t)(i * s->kv_heads + head / (s->heads / s->kv_heads)) * (size_t)s->v_dim;
    double weight = exp(weights[i] - most);
    sum += weight;
    for (int32_t c = 0; c < s->v_dim; c++) sums[c] += weight * (double)v[c];
  }
  for (int32_t c = 0; c < s->v_dim; c++) to[c] = sum > 0 ? (float)(sums[c] / sum) : 0;
}

static void prepare(const shape *s) {
  random_state = 11;
  fill(given.q, s->tokens * s->heads * s->k_dim, 1.5f);
  fill(given.k, s->tokens * s->kv_heads * s->k_dim, 1);
  fill(given.v, s->tokens * s->kv_heads * s->v_dim, 1);
  fill(given.sinks, MOST_HEADS, 3);
  fill(given.biases, MOST_HEADS * 41, 1);
  for (int32_t i = 0; i < MOST_HEADS; i++) given.slopes[i] = 0.02f * (float)(i + 1);
  for (int32_t i = 0; i < s->tokens; i++) tokens[i] = i;
  kept = given;
  keep(s->k_format, s->k_dim, s->tokens * s->kv_heads, given.k, kept.k);
  keep(s->v_format, s->v_dim, s->tokens * s->kv_heads, given.v, kept.v);
  for (int32_t i = 0; i < s->tokens; i++) {
    for (int32_t h = 0; h < s->heads; h++) attend(s, i, h, expected + (size_t)(i * s->heads + h) * (size_t)s->v_dim);
  }
}

/* ---- The core's ---- */

typedef struct {
  sf_context *context;
  sf_matrix *matrices[3];
  sf_model *model;
  size_t width; /* of what comes out */
} test_model;

static int32_t embed(test_model *m, int32_t which, const float *values, int32_t rows, int32_t columns) {
  size_t bytes = (size_t)rows * (size_t)columns * sizeof(float);
  CHECK(sf_matrix_open(&m->matrices[which], (const uint8_t *)values, bytes, SF_F32, rows, columns, 0) == SF_OK, "open");
  int32_t buffer = sf_model_add_buffer(m->model, columns);
  const int32_t arguments[] = {buffer, sf_model_add_matrix(m->model, m->matrices[which])};
  const float scale = 1;
  CHECK(sf_model_add_step(m->model, SF_STEP_EMBED, arguments, 2, &scale, 1) >= 0, "embed");
  return buffer;
}

static test_model make(const shape *s, int32_t isa, int32_t threads) {
  test_model m = {.width = (size_t)s->heads * (size_t)s->v_dim};
  CHECK(sf_context_open(&m.context, isa, threads) == SF_OK, "context");
  CHECK(sf_model_open(&m.model, m.context, s->tokens, (int32_t)m.width) == SF_OK, "model");
  CHECK(sf_model_set_kv_formats(m.model, s->k_format, s->v_format) == SF_OK, "formats");
  int32_t q = embed(&m, 0, given.q, s->tokens, s->heads * s->k_dim);
  int32_t k = embed(&m, 1, given.k, s->tokens, s->kv_heads * s->k_dim);
  int32_t v = embed(&m, 2, given.v, s->tokens, s->kv_heads * s->v_dim);
  int32_t to = sf_model_add_buffer(m.model, (int32_t)m.width);
  int32_t sinks = s->sinks ? sf_model_add_vector(m.model, given.sinks, s->heads) : -1;
  int32_t slopes = s->slopes ? sf_model_add_vector(m.model, given.slopes, s->heads) : -1;
  int32_t biases = s->reach >= 0 ? sf_model_add_vector(m.model, given.biases, s->heads * (2 * s->reach + 1)) : -1;
  const int32_t arguments[] = {q,         k,       v,     to,     s->kv_heads, s->k_dim, s->v_dim,
                               s->window, s->mask, sinks, slopes, biases,      -1};
  CHECK(sf_model_add_step(m.model, SF_STEP_ATTENTION, arguments, 13, &s->cap, 1) >= 0, "attention");
  const int32_t tap[] = {to, SF_TAP_HIDDEN, 0};
  CHECK(sf_model_add_step(m.model, SF_STEP_TAP, tap, 3, NULL, 0) >= 0, "tap");
  return m;
}

static void close_model(test_model *m) {
  sf_model_close(m->model);
  for (int32_t i = 0; i < 3; i++) sf_matrix_close(m->matrices[i]);
  sf_context_close(m->context);
}

/* Tokens first … end - 1, `step` in a call. */
static void run(const test_model *m, sf_session *session, int32_t first, int32_t end, int32_t step, int32_t phase,
                float *to) {
  for (int32_t i = first; i < end; i += step) {
    int32_t n = end - i < step ? end - i : step;
    sf_session_tap(session, SF_TAP_HIDDEN, to + (size_t)i * m->width, (size_t)n * m->width);
    CHECK(sf_session_eval(session, tokens + i, n, SF_DENSE, phase, NULL, 0) == SF_OK, "tokens %d …", i);
  }
}

static void compare(const shape *s, const char *what, int32_t first, double bound) {
  double most = 0;
  size_t width = (size_t)s->heads * (size_t)s->v_dim;
  for (size_t i = (size_t)first * width; i < (size_t)s->tokens * width; i++) {
    most = fmax(most, fabs((double)out[i] - (double)expected[i]));
  }
  CHECK(most <= bound, "%s, shape %d: off by %.3g", what, (int)(s - shapes), most);
}

static void check_prompts(const shape *s, int32_t isa) {
  test_model m = make(s, isa, 1), threaded = make(s, isa, 3);
  const int32_t both = s->mask == SF_MASK_BOTH, steps[] = {s->tokens, 61, 7};
  for (int32_t k = 0; k < (both ? 1 : 3); k++) {
    sf_session *session;
    CHECK(sf_session_open(&session, m.model, s->tokens) == SF_OK, "session");
    run(&m, session, 0, s->tokens, steps[k], SF_PROMPT, k == 0 ? out : other);
    if (k > 0) CHECK(memcmp(out, other, (size_t)s->tokens * m.width * sizeof(float)) == 0, "slices of %d", steps[k]);
    sf_session_close(session);
  }
  compare(s, "prompt", 0, sf_isa_tiles(isa) ? 6e-5 : 3e-5);
  sf_session *session;
  CHECK(sf_session_open(&session, threaded.model, s->tokens) == SF_OK, "session");
  run(&threaded, session, 0, s->tokens, s->tokens, SF_PROMPT, other);
  CHECK(memcmp(out, other, (size_t)s->tokens * m.width * sizeof(float)) == 0, "threads");
  sf_session_close(session);
  close_model(&m);
  close_model(&threaded);
}

/* The last tokens, one after the other, together, and with threads. */
static void check_decoding(const shape *s, int32_t isa) {
  test_model m = make(s, isa, 1), threaded = make(s, isa, 3);
  const test_model *models[] = {&m, &m, &threaded};
  const int32_t first = s->tokens - DECODED, steps[] = {1, DECODED, 2};
  for (int32_t k = 0; k < 3; k++) {
    sf_session *session;
    CHECK(sf_session_open(&session, models[k]->model, s->tokens) == SF_OK, "session");
    run(models[k], session, 0, first, first, SF_PROMPT, k == 0 ? out : other);
    run(models[k], session, first, s->tokens, steps[k], SF_DECODE, k == 0 ? out : other);
    const size_t at = (size_t)first * m.width, count = DECODED * m.width;
    if (k > 0) CHECK(memcmp(out + at, other + at, count * sizeof(float)) == 0, "decoded, way %d", k);
    sf_session_close(session);
  }
  compare(s, "decoded", first, s->k_format == SF_Q8_0 ? 2e-4 : 3e-5); /* whose queries are integers of 16 bits */
  close_model(&m);
  close_model(&threaded);
}

/* A session that kept its keys and values as floats, restored, is what it would be with the formats of the model. */
static void check_converting(const shape *s, int32_t isa, sf_session *session, const uint8_t *wanted, size_t bytes) {
  shape floats = *s;
  floats.k_format = floats.v_format = SF_F32;
  test_model m = make(&floats, isa, 1);
  sf_session *other;
  const int32_t first = s->tokens - DECODED;
  CHECK(sf_session_open(&other, m.model, s->tokens) == SF_OK, "session");
  run(&m, other, 0, first, first, SF_PROMPT, out);
  size_t size = sf_session_saved_bytes(other);
  uint8_t *saved = check_alloc(size, 0), *again = check_alloc(bytes, 0);
  CHECK(sf_session_save(other, saved, size) == SF_OK, "save");
  CHECK(sf_session_restore(session, saved, size, first, SF_F32, SF_Q4_0) == SF_ERROR_FORMAT, "format");
  CHECK(sf_session_restore(session, saved, size, first, SF_F32, SF_F32) == SF_OK, "restore");
  CHECK(sf_session_save(session, again, bytes) == SF_OK && memcmp(again, wanted, bytes) == 0, "converted");
  CHECK(sf_session_restore(other, wanted, bytes, first, s->k_format, s->v_format) == SF_OK, "to floats");
  check_free(saved, 0);
  check_free(again, 0);
  sf_session_close(other);
  close_model(&m);
}

/* Numbers beyond a format's range are kept as its largest; what is not finite stays so. */
static void check_large_numbers(int32_t isa) {
  enum { DIM = 96 }; /* three blocks of Q8_0, of which the last two are not finite */
  const float values[] = {65504.0f, 65519.0f, 65520.0f, -70000.0f, 3e38f, -3e38f, 2049.0f, 1e-9f};
  for (int32_t k = 0; k < 2; k++) {
    const int32_t format = k == 0 ? SF_F16 : SF_Q8_0;
    const shape s = {1, 1, 1, DIM, DIM, SF_MASK_CAUSAL, 0, 0, 0, -1, 0, format, format};
    const float largest = format == SF_F16 ? 65504.0f : 127 * 65504.0f;
    uint8_t saved[2 * DIM * sizeof(float)];
    float found[DIM];
    memset(&given, 0, sizeof given);
    memcpy(given.k, values, sizeof values);
    given.k[33] = -INFINITY;
    given.k[95] = NAN;
    memcpy(given.v, given.k, sizeof found);
    test_model m = make(&s, isa, 1);
    sf_session *session;
    CHECK(sf_session_open(&session, m.model, 1) == SF_OK, "session");
    run(&m, session, 0, 1, 1, SF_PROMPT, out);
    const size_t bytes = sf_session_saved_bytes(session), half = bytes / 2;
    CHECK(bytes <= sizeof saved && sf_session_save(session, saved, bytes) == SF_OK, "save");
    for (size_t part = 0; part < 2; part++) {
      CHECK(sf_dequantize(format, saved + part * half, half, 1, DIM, found) == SF_OK, "dequantise");
      for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        const float wanted = fmaxf(fminf(values[i], largest), -largest);
        CHECK(fabsf(found[i] - wanted) <= largest / (format == SF_F16 ? 4096 : 254), "%g kept as %g", (double)values[i],
              (double)found[i]);
      }
      CHECK(found[4] == largest && found[5] == -largest, "the largest");
      CHECK(format != SF_F16 || found[6] == 2048.0f, "to even");
      CHECK(!isfinite(found[33]) && !isfinite(found[95]), "not finite");
    }
    sf_session_close(session);
    close_model(&m);
  }
}

/* A saved session takes what its formats take, goes on with the same bits, and refuses what is not finite. */
static void check_saving(const shape *s, int32_t isa) {
  test_model m = make(s, isa, 1);
  sf_session *session, *restored;
  const int32_t first = s->tokens - DECODED;
  CHECK(sf_session_open(&session, m.model, s->tokens) == SF_OK, "session");
  CHECK(sf_session_open(&restored, m.model, s->tokens) == SF_OK, "session");
  CHECK(sf_model_set_kv_formats(m.model, SF_F16, SF_F16) == SF_ERROR_ARGUMENT, "a session is open");
  run(&m, session, 0, first, first, SF_PROMPT, out);
  size_t bytes = sf_session_saved_bytes(session);
  const int32_t k_format = s->k_dim % 32 && s->k_format == SF_Q8_0 ? SF_F16 : s->k_format;
  const int32_t rows = s->mask == SF_MASK_POOLED ? first / s->window : first;
  CHECK(bytes == (size_t)(rows * s->kv_heads) *
                     (sf_format_row_bytes(k_format, s->k_dim) + sf_format_row_bytes(s->v_format, s->v_dim)),
        "%zu bytes", bytes);
  uint8_t *saved = check_alloc(bytes, 0);
  CHECK(sf_session_save(session, saved, bytes) == SF_OK, "save");
  CHECK(sf_session_restore(restored, saved, bytes, first, s->k_format, s->v_format) == SF_OK, "restore");
  run(&m, session, first, s->tokens, 1, SF_DECODE, out);
  run(&m, restored, first, s->tokens, 1, SF_DECODE, other);
  CHECK(memcmp(out + (size_t)first * m.width, other + (size_t)first * m.width, DECODED * m.width * sizeof(float)) == 0,
        "restored");
  check_converting(s, isa, restored, saved, bytes);
  memset(saved, 0xff, 4); /* NaN, also as a scale */
  CHECK(sf_session_restore(restored, saved, bytes, first, s->k_format, s->v_format) == SF_ERROR_NOT_FINITE, "NaN");
  check_free(saved, 0);
  sf_session_close(session);
  sf_session_close(restored);
  CHECK(sf_model_set_kv_formats(m.model, SF_Q4_0, SF_F16) == SF_ERROR_FORMAT, "format");
  close_model(&m);
}

int main(void) {
  for (int32_t isa = 0; isa < sf_isa_count(); ++isa) {
    if (check_isa(sf_isa_supported(isa))) check_large_numbers(isa);
  }
  for (size_t k = 0; k < sizeof shapes / sizeof shapes[0]; k++) {
    const shape *s = &shapes[k];
    prepare(s);
    for (int32_t isa = 0; isa < sf_isa_count(); ++isa) {
      if (!check_isa(sf_isa_supported(isa))) continue;
      check_section(sf_isa_name(isa));
      check_prompts(s, isa);
      if (s->mask == SF_MASK_BOTH) continue;
      check_decoding(s, isa);
      check_saving(s, isa);
    }
  }
  return check_result();
}
