/* Running out of memory: with every allocation failing in turn, each handle's functions return SF_ERROR_MEMORY, give
 * nothing back, and leak nothing (which the build with the address sanitizer finds). The linker puts the functions here
 * in the place of malloc and calloc. */
#include <stdlib.h>

#include "check.h"
#include "sparsefire.h"

static int left = -1; /* allocations until one fails; negative: none does */

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);

static int fails(void) { return left >= 0 && left-- == 0; }
void *__wrap_malloc(size_t bytes) { return fails() ? NULL : __real_malloc(bytes); }
void *__wrap_calloc(size_t count, size_t bytes) { return fails() ? NULL : __real_calloc(count, bytes); }

enum { D = 32, HIDDEN = 64, VOCAB = 32, TOKENS = 3, EXPERTS = 4 };
static float weights[4 * HIDDEN * D], vector[HIDDEN], out[TOKENS * HIDDEN];
static uint8_t q8[HIDDEN * D / 32 * 34];

typedef struct {
  int32_t kind, numbers, count, arguments[13];
} plan_step;

/* A layer in memory, one of experts, and a cached one, behind attention. */
static int32_t make_plan(sf_model *model, sf_ffn *ffn, sf_ffn *cached, sf_experts *experts, const sf_matrix *square,
                         const sf_matrix *kv, const sf_matrix *router) {
  enum { LOGITS, X, NORMED, ADDED, K, V, HEADS, SCORES, ROUTES, BUFFERS };
  const int32_t widths[BUFFERS] = {VOCAB, D, D, D, 16, 16, D, EXPERTS, 4};
  int32_t status = 0;
  for (int32_t i = X; i < BUFFERS && status >= 0; i++) status = sf_model_add_buffer(model, widths[i]);
  const sf_matrix *matrices[] = {square, kv, router};
  for (int32_t i = 0; i < 3 && status >= 0; i++) status = sf_model_add_matrix(model, matrices[i]);
  if (status >= 0) status = sf_model_add_vector(model, vector, D);
  if (status >= 0) status = sf_model_add_rope(model, 16, 1e4f, NULL, 1);
  if (status >= 0) status = sf_model_add_ffn(model, ffn);
  if (status >= 0) status = sf_model_add_experts(model, experts);
  if (status >= 0) status = sf_model_add_ffn(model, cached);
  const plan_step steps[] = {
      {SF_STEP_EMBED, 1, 2, {X, 0}},
      {SF_STEP_NORM, 1, 6, {X, NORMED, 0, -1, SF_NORM_RMS, 1}},
      {SF_STEP_PRODUCTS, 0, 10, {NORMED, 0, -1, ADDED, 1, -1, K, 1, -1, V}},
      {SF_STEP_ROPE, 0, 5, {K, 0, 1, 0, 0}},
      {SF_STEP_ATTENTION, 1, 13, {ADDED, K, V, HEADS, 1, 16, 16, 0, 0, -1, -1, -1, -1}},
      {SF_STEP_HEAD_PRODUCTS, 0, 4, {HEADS, 0, ADDED, 1}},
      {SF_STEP_FFN, 0, 4, {0, HEADS, -1, ADDED}},
      {SF_STEP_PRODUCTS, 0, 4, {ADDED, 2, -1, SCORES}},
      {SF_STEP_ROUTE, 1, 7, {SCORES, ROUTES, -1, SF_ROUTE_SOFTMAX, 1, 1, 1}},
      {SF_STEP_EXPERTS, 0, 6, {1, NORMED, ROUTES, ADDED, 0, 1}},
      {SF_STEP_FFN, 0, 4, {2, NORMED, -1, ADDED}},
      {SF_STEP_ADD, 0, 4, {X, ADDED, X, SF_TILE}},
      {SF_STEP_PICK, 0, 1, {X}},
      {SF_STEP_PRODUCTS, 0, 4, {X, 0, -1, LOGITS}},
  };
  for (size_t i = 0; i < sizeof steps / sizeof *steps && status >= 0; i++) {
    const float one = 1, none = 0;
    const float *number = steps[i].kind == SF_STEP_ATTENTION ? &none : &one;
    status = sf_model_add_step(model, steps[i].kind, steps[i].arguments, steps[i].count, number, steps[i].numbers);
  }
  return status < 0 ? status : SF_OK;
}

/* A token's row of a matrix is screened by the first `VOCAB` rows of itself. */
static int32_t use_head(sf_context *context, const sf_matrix *square) {
  const plan_step steps[] = {
      {SF_STEP_EMBED, 1, 2, {1, 0}}, {SF_STEP_PICK, 0, 1, {1}}, {SF_STEP_HEAD, 0, 6, {1, 0, -1, 0, 2, 0}}};
  const int32_t token = 1;
  const float one = 1;
  sf_predictor *screen = NULL;
  sf_model *model = NULL;
  sf_session *session = NULL;
  int32_t status = sf_predictor_open(&screen, context, square, square, NULL, 0);
  if (status == SF_OK) status = sf_model_open(&model, context, VOCAB, D);
  if (status == SF_OK) status = sf_model_add_buffer(model, D);
  if (status >= 0) status = sf_model_add_matrix(model, square);
  if (status >= 0) status = sf_model_add_screen(model, screen);
  for (int32_t i = 0; i < 3 && status >= 0; i++) {
    status = sf_model_add_step(model, steps[i].kind, steps[i].arguments, steps[i].count, &one, steps[i].numbers);
  }
  if (status >= 0) status = sf_session_open(&session, model, TOKENS);
  if (status == SF_OK) status = sf_session_set_head(session, SF_HEAD_SCREENED, &token, 1);
  if (status == SF_OK) status = sf_session_eval(session, &token, 1, SF_DENSE, SF_DECODE, out, 1);
  sf_session_close(session);
  sf_model_close(model);
  sf_predictor_close(screen);
  return status;
}

/* Opens, uses and closes a handle of every kind, up to the first error. Returns the status. */
static int32_t use_everything(void) {
  sf_context *context = NULL;
  sf_matrix *f32 = NULL, *square = NULL, *blocks = NULL;
  sf_predictor *low_rank = NULL, *signs = NULL;
  sf_cache *cache = NULL;
  sf_ffn *ffn = NULL, *cached = NULL;
  sf_model *model = NULL;
  sf_session *session = NULL;
  int32_t tokens[TOKENS] = {1, 2, 3}, ids[HIDDEN], status = sf_context_open(&context, -1, 1);
  if (status == SF_OK) status = sf_matrix_open(&f32, weights, sizeof weights, SF_F32, HIDDEN, D, 0);
  if (status == SF_OK) status = sf_matrix_open(&square, weights, sizeof weights, SF_F32, D, D, 0);
  if (status == SF_OK) status = sf_matrix_open(&blocks, q8, sizeof q8, SF_Q8_0, HIDDEN, D, 0);
  if (status == SF_OK) status = sf_matrix_multiply(context, blocks, vector, 1, out);
  if (status == SF_OK) status = sf_predictor_open(&low_rank, context, square, blocks, vector, 1);
  if (status == SF_OK) status = sf_predictor_scores(low_rank, weights, TOKENS, out);
  if (status == SF_OK) status = sf_predictor_open_sign(&signs, context, f32, 1);
  if (status == SF_OK) status = sf_ffn_open(&ffn, context, f32, f32, f32, SF_DOWN_BY_NEURON, SF_RELU, 0);
  if (status == SF_OK) status = sf_ffn_set_bias(ffn, vector, vector, vector);
  if (status == SF_OK) status = sf_ffn_set_sub_norm(ffn, vector, 1e-5f);
  if (status == SF_OK) status = sf_ffn_set_predictor(ffn, low_rank);
  if (status == SF_OK) status = sf_predictor_set_rule(low_rank, SF_RULE_TOP_K, 0, 0, HIDDEN / 2, 0);
  for (int32_t mode = SF_DENSE; mode <= SF_SPARSE; mode++) {
    if (status == SF_OK) status = sf_ffn_forward(ffn, mode, weights, TOKENS, out, NULL, NULL);
  }
  if (status == SF_OK) status = sf_cache_open(&cache, HIDDEN, 3 * D * sizeof(float), HIDDEN / 2, SF_CACHE_LFU, 1);
  if (status == SF_OK) status = sf_ffn_open_cached(&cached, context, cache, SF_F32, D, D, 1, SF_RELU, 0);
  sf_matrix *kv = NULL, *router = NULL, *down = NULL;
  sf_experts *experts = NULL;
  if (status == SF_OK) status = sf_matrix_open(&kv, weights, sizeof weights, SF_F32, 16, D, 0);
  if (status == SF_OK) status = sf_matrix_open(&router, weights, sizeof weights, SF_F32, EXPERTS, D, 0);
  if (status == SF_OK) {
    status = sf_matrix_open(&down, weights, sizeof weights, SF_F32, EXPERTS * D, HIDDEN / EXPERTS / 2, 0);
  }
  if (status == SF_OK) { /* gate and up are one matrix */
    status = sf_experts_open(&experts, context, EXPERTS, f32, f32, down, SF_DOWN_BY_OUTPUT, SF_RELU, 0);
  }
  if (status == SF_OK) status = sf_model_open(&model, context, VOCAB, D);
  if (status == SF_OK) status = make_plan(model, ffn, cached, experts, square, kv, router);
  if (status == SF_OK) status = sf_session_open(&session, model, TOKENS);
  if (status == SF_OK) status = sf_session_eval(session, tokens, TOKENS, SF_SPARSE, SF_PROMPT, out, 1);
  int32_t layer;
  if (status == SF_WAITING) status = sf_model_missing(model, &layer, ids) > 0 ? SF_OK : SF_ERROR_ARGUMENT;
  if (status == SF_OK) status = use_head(context, square);
  sf_session_close(session);
  sf_model_close(model);
  sf_experts_close(experts);
  sf_matrix_close(down);
  sf_matrix_close(router);
  sf_ffn_close(cached);
  sf_cache_close(cache);
  sf_ffn_close(ffn);
  sf_predictor_close(signs);
  sf_predictor_close(low_rank);
  sf_matrix_close(kv);
  sf_matrix_close(blocks);
  sf_matrix_close(square);
  sf_matrix_close(f32);
  sf_context_close(context);
  return status;
}

int main(void) {
  for (int i = 0; i < HIDDEN * D; i++) weights[i] = (float)(i % 7 - 3) / 8;
  for (int i = 0; i < HIDDEN; i++) vector[i] = 1;
  CHECK(sf_quantize(SF_Q8_0, weights, HIDDEN, D, q8, sizeof q8) == SF_OK, "quantise");
  CHECK(use_everything() == SF_OK, "without a failure");
  int n = 0;
  for (; n < 1000; n++) {
    left = n;
    int32_t status = use_everything();
    if (left >= 0) break; /* there are fewer allocations than that */
    CHECK(status == SF_ERROR_MEMORY, "allocation %d: status %d", n, (int)status);
  }
  CHECK(n > 50 && n < 1000, "%d allocations", n);
  left = -1;
  CHECK(use_everything() == SF_OK, "once more");
  return check_result();
}
