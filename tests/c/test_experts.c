/* Experts on demand: the same bits as experts in memory, in whatever order the host reads them, and also while the core
 * computes others. */
#include <string.h>

#include "check.h"
#include "reference.h"

#if !defined(_WIN32) && !defined(__EMSCRIPTEN__)
#include <pthread.h>
#define HAVE_THREADS 1
#else
#define HAVE_THREADS 0
#endif

enum { EXPERTS = 6, USED = 3, WIDTH = 8, D = 32, VOCAB = 40, TOKENS = 7, LAYERS = 2, PART = WIDTH * D };
static float embedding[VOCAB * D], routers[LAYERS][EXPERTS * D];
static float parts[LAYERS][3][EXPERTS * PART]; /* gate, up and down of each layer */

/* What a host does when experts are missing. */
typedef enum { READ_ALL, READ_ONE, READ_BESIDE, READ_NOTHING } habit;

/* The host of one evaluation: experts of a layer that are being read, each by a thread of its own. */
typedef struct {
  sf_cache *caches[LAYERS];
  habit how;
  int32_t busy[EXPERTS];
#if HAVE_THREADS
  pthread_t threads[EXPERTS];
#endif
} host;

typedef struct {
  uint8_t *bundle;
  int32_t layer, expert;
} reading;
static reading readings[EXPERTS];

static void *read_expert(void *argument) {
  const reading *r = argument;
  for (int32_t part = 0; part < 3; part++) {
    const float *from = parts[r->layer][part] + (size_t)r->expert * PART;
    memcpy(r->bundle + (size_t)part * PART * sizeof(float), from, PART * sizeof(float));
  }
  return NULL;
}

static void start(host *h, int32_t layer, int32_t expert) {
  void *bundle = NULL;
  CHECK(sf_cache_bundles(h->caches[layer], &expert, 1, &bundle) == SF_OK && bundle, "a place of expert %d", expert);
  if (!bundle) return;
  readings[expert] = (reading){bundle, layer, expert};
  h->busy[expert] = 1;
#if HAVE_THREADS
  CHECK(pthread_create(&h->threads[expert], NULL, read_expert, &readings[expert]) == 0, "a thread");
#else
  read_expert(&readings[expert]);
#endif
}

static void finish(host *h, int32_t layer, int32_t expert) {
#if HAVE_THREADS
  pthread_join(h->threads[expert], NULL);
#endif
  h->busy[expert] = 0;
  CHECK(sf_cache_loaded(h->caches[layer], &expert, 1) == SF_OK, "expert %d is there", expert);
}

/* Reads what the model waits for, or a part of it. */
static void serve(host *h, const sf_model *model) {
  int32_t layer, ids[EXPERTS], named = 0, count = sf_model_missing(model, &layer, ids);
  CHECK(count > 0 && count <= EXPERTS, "%d experts are missing", count);
  for (int32_t i = 0; i < count && h->how != READ_NOTHING; i++) {
    if (!h->busy[ids[i]]) {
      start(h, layer, ids[i]);
      named = 1;
    }
  }
  if (h->how == READ_NOTHING || (h->how == READ_BESIDE && named)) return;
  for (int32_t i = count - 1; i >= 0; i--) {
    finish(h, layer, ids[i]);
    if (h->how != READ_ALL) return;
  }
}

/* The plan's steps after the embedding, for two routers and two layers of experts, and in the middle a feed-forward
 * layer: which of them come when. */
typedef enum { IN_TURN, CROSSED, SAME_ROUTES, BEHIND_A_LAYER, PLANS } order;
enum { LOGITS, X, SCORES, ROUTES, OTHER, OUT, BUFFERS };

static int32_t add(sf_model *model, int32_t kind, const int32_t *arguments, int32_t count) {
  const float one = 1;
  int32_t has_number = kind == SF_STEP_EMBED || kind == SF_STEP_ROUTE;
  return sf_model_add_step(model, kind, arguments, count, &one, has_number);
}

static int32_t add_router(sf_model *model, int32_t layer, int32_t routes) {
  const int32_t products[] = {X, 1 + layer, -1, SCORES};
  const int32_t route[] = {SCORES, routes, -1, SF_ROUTE_SOFTMAX, 1, 1, 1};
  int32_t status = add(model, SF_STEP_PRODUCTS, products, 4);
  return status < 0 ? status : add(model, SF_STEP_ROUTE, route, 7);
}

static int32_t add_layer(sf_model *model, int32_t kind, int32_t layer, int32_t routes) {
  const int32_t experts[] = {layer, X, routes, OUT, 0, 1}, ffn[] = {layer, X, -1, OUT};
  const int32_t sum[] = {X, OUT, X, SF_TILE};
  int32_t status = add(model, kind, kind == SF_STEP_EXPERTS ? experts : ffn, kind == SF_STEP_EXPERTS ? 6 : 4);
  return status < 0 ? status : add(model, SF_STEP_ADD, sum, 4);
}

static int32_t add_layers(sf_model *model, order how) {
  int32_t second = how == IN_TURN || how == SAME_ROUTES ? ROUTES : OTHER, status = add_router(model, 0, ROUTES);
  if (status >= 0 && how == IN_TURN) status = add_layer(model, SF_STEP_EXPERTS, 0, ROUTES);
  if (status >= 0) status = add_router(model, 1, second);
  if (status >= 0 && how == BEHIND_A_LAYER) status = add_layer(model, SF_STEP_FFN, 2, 0);
  if (status >= 0) status = add_layer(model, SF_STEP_EXPERTS, 1, second);
  if (status >= 0 && how != IN_TURN) status = add_layer(model, SF_STEP_EXPERTS, 0, ROUTES);
  return status;
}

static sf_model *make_model(sf_context *context, sf_matrix *const *matrices, sf_experts *const *experts, sf_ffn *ffn,
                            order how) {
  const int32_t widths[BUFFERS] = {VOCAB, D, EXPERTS, 2 * USED, 2 * USED, D};
  const int32_t embed[] = {X, 0}, pick[] = {X}, head[] = {X, 0, -1, LOGITS};
  sf_model *model = NULL;
  int32_t status = sf_model_open(&model, context, VOCAB, D);
  for (int32_t i = X; i < BUFFERS && status >= 0; i++) status = sf_model_add_buffer(model, widths[i]);
  for (int32_t i = 0; i < 3 && status >= 0; i++) status = sf_model_add_matrix(model, matrices[i]);
  for (int32_t i = 0; i < LAYERS && status >= 0; i++) status = sf_model_add_experts(model, experts[i]);
  if (status >= 0) status = sf_model_add_ffn(model, ffn);
  if (status >= 0) status = add(model, SF_STEP_EMBED, embed, 2);
  if (status >= 0) status = add_layers(model, how);
  if (status >= 0) status = add(model, SF_STEP_PICK, pick, 1);
  if (status >= 0) status = add(model, SF_STEP_PRODUCTS, head, 4);
  CHECK(status >= 0, "the plan: %d", status);
  return model;
}

/* Evaluates the tokens, logits (TOKENS, VOCAB). */
static int32_t evaluate(sf_model *model, sf_session *session, host *h, float *logits) {
  int32_t tokens[TOKENS];
  for (int32_t i = 0; i < TOKENS; i++) tokens[i] = (i * 11 + 3) % VOCAB;
  int32_t status = sf_session_eval(session, tokens, TOKENS, SF_EXACT, SF_PROMPT, logits, TOKENS);
  while (status == SF_WAITING) {
    serve(h, model);
    status = sf_model_resume(model, logits);
  }
  return status;
}

/* The neurons of a feed-forward layer, all of which are read as soon as they are missing. */
static int32_t evaluate_behind_a_layer(sf_model *model, sf_session *session, host *h, sf_cache *neurons,
                                       float *logits) {
  int32_t tokens[1] = {5}, layer, ids[WIDTH];
  int32_t status = sf_session_eval(session, tokens, 1, SF_EXACT, SF_DECODE, logits, 1);
  while (status == SF_WAITING) {
    int32_t count = sf_model_missing(model, &layer, ids);
    if (layer < LAYERS) {
      serve(h, model);
    } else {
      void *bundle;
      for (int32_t i = 0; i < count; i++) {
        CHECK(sf_cache_bundles(neurons, &ids[i], 1, &bundle) == SF_OK, "a place");
        for (int32_t part = 0; part < 3; part++) {
          const float *row = parts[0][part] + (size_t)ids[i] * D;
          memcpy((float *)bundle + (size_t)part * D, row, D * sizeof(float));
        }
      }
      CHECK(sf_cache_loaded(neurons, ids, count) == SF_OK, "loaded");
    }
    status = sf_model_resume(model, logits);
  }
  return status;
}

typedef struct {
  sf_matrix *matrices[3 + 3 * LAYERS + 3];
  sf_experts *experts[LAYERS];
  sf_ffn *ffn;
} in_memory;

static in_memory open_in_memory(sf_context *context) {
  in_memory m = {{NULL}, {NULL}, NULL};
  const float *values[] = {embedding, routers[0], routers[1]};
  const int32_t rows[] = {VOCAB, EXPERTS, EXPERTS};
  for (int32_t i = 0; i < 3; i++) {
    size_t bytes = (size_t)rows[i] * D * sizeof(float);
    CHECK(sf_matrix_open(&m.matrices[i], values[i], bytes, SF_F32, rows[i], D, 0) == SF_OK, "matrix");
  }
  for (int32_t layer = 0; layer <= LAYERS; layer++) { /* the last one: of the first layer's first expert */
    sf_matrix **own = &m.matrices[3 + 3 * layer];
    int32_t count = layer < LAYERS ? EXPERTS : 1;
    for (int32_t part = 0; part < 3; part++) {
      const float *data = parts[layer % LAYERS][part];
      size_t bytes = (size_t)count * PART * sizeof(float);
      CHECK(sf_matrix_open(&own[part], data, bytes, SF_F32, count * WIDTH, D, 0) == SF_OK, "matrix");
    }
    int32_t status = layer < LAYERS
                         ? sf_experts_open(&m.experts[layer], context, EXPERTS, own[0], own[1], own[2],
                                           SF_DOWN_BY_NEURON, SF_RELU, 0)
                         : sf_ffn_open(&m.ffn, context, own[0], own[1], own[2], SF_DOWN_BY_NEURON, SF_RELU, 0);
    CHECK(status == SF_OK, "layer %d: %d", layer, status);
  }
  return m;
}

static void close_in_memory(in_memory *m) {
  for (int32_t i = 0; i < LAYERS; i++) sf_experts_close(m->experts[i]);
  sf_ffn_close(m->ffn);
  for (size_t i = 0; i < sizeof m->matrices / sizeof *m->matrices; i++) sf_matrix_close(m->matrices[i]);
}

/* Every order of steps and every habit of the host, with room for so many experts of each layer. */
static void test_plan(sf_context *context, const in_memory *whole, order how, habit habit, int32_t slots) {
  float wanted[TOKENS * VOCAB], found[TOKENS * VOCAB];
  host h = {.how = habit};
  sf_experts *experts[LAYERS];
  sf_cache *neurons;
  sf_ffn *cached_ffn;
  for (int32_t i = 0; i < LAYERS; i++) {
    CHECK(sf_cache_open(&h.caches[i], EXPERTS, 3 * PART * sizeof(float), slots, SF_CACHE_LRU, 1) == SF_OK, "cache");
    CHECK(sf_experts_open_cached(&experts[i], context, h.caches[i], SF_F32, SF_F32, SF_F32, D, D, WIDTH,
                                 SF_DOWN_BY_NEURON, SF_RELU, 0) == SF_OK,
          "cached experts");
  }
  CHECK(sf_cache_open(&neurons, WIDTH, 3 * D * sizeof(float), WIDTH, SF_CACHE_LRU, 1) == SF_OK, "cache");
  CHECK(sf_ffn_open_cached(&cached_ffn, context, neurons, SF_F32, D, D, 1, SF_RELU, 0) == SF_OK, "cached layer");
  sf_model *first = make_model(context, whole->matrices, whole->experts, whole->ffn, how);
  sf_model *second = make_model(context, whole->matrices, experts, cached_ffn, how);
  sf_session *sessions[2];
  CHECK(sf_session_open(&sessions[0], first, 3 * TOKENS) == SF_OK, "session");
  CHECK(sf_session_open(&sessions[1], second, 3 * TOKENS) == SF_OK, "session");
  for (int32_t round = 0; round < 2; round++) {
    int32_t status;
    if (how == BEHIND_A_LAYER) {
      const int32_t token = 5;
      CHECK(sf_session_eval(sessions[0], &token, 1, SF_EXACT, SF_DECODE, wanted, 1) == SF_OK, "in memory");
      status = evaluate_behind_a_layer(second, sessions[1], &h, neurons, found);
    } else {
      CHECK(evaluate(first, sessions[0], &h, wanted) == SF_OK, "in memory");
      status = evaluate(second, sessions[1], &h, found);
    }
    size_t bytes = (size_t)(how == BEHIND_A_LAYER ? 1 : TOKENS) * VOCAB * sizeof(float);
    if (habit == READ_NOTHING) {
      CHECK(status == SF_ERROR_NOT_RESIDENT, "nothing was read: %d", status);
      CHECK(sf_session_position(sessions[1]) == 0, "the tokens are not there");
      break;
    }
    CHECK(status == SF_OK, "order %d, habit %d, %d slots: %d", how, habit, slots, status);
    CHECK(memcmp(found, wanted, bytes) == 0, "order %d, habit %d, %d slots: other bits", how, habit, slots);
  }
  sf_session_close(sessions[0]), sf_session_close(sessions[1]);
  sf_model_close(first), sf_model_close(second);
  sf_ffn_close(cached_ffn);
  sf_cache_close(neurons);
  for (int32_t i = 0; i < LAYERS; i++) {
    sf_experts_close(experts[i]);
    sf_cache_close(h.caches[i]);
  }
}

int main(int argc, char **argv) {
  (void)argc, (void)argv;
  for (int32_t i = 0; i < VOCAB * D; i++) embedding[i] = random_unit();
  for (int32_t layer = 0; layer < LAYERS; layer++) {
    for (int32_t i = 0; i < EXPERTS * D; i++) routers[layer][i] = random_unit();
    for (int32_t part = 0; part < 3; part++) {
      for (int32_t i = 0; i < EXPERTS * PART; i++) parts[layer][part][i] = random_unit();
    }
  }
  sf_context *context;
  CHECK(sf_context_open(&context, -1, 2) == SF_OK, "context");
  in_memory whole = open_in_memory(context);
  for (int32_t how = 0; how < PLANS; how++) {
    for (int32_t slots = 1; slots <= EXPERTS; slots += slots == 1 ? 2 : 3) {
      test_plan(context, &whole, (order)how, READ_ALL, slots);
      test_plan(context, &whole, (order)how, READ_ONE, slots);
      test_plan(context, &whole, (order)how, READ_BESIDE, slots);
    }
  }
  test_plan(context, &whole, IN_TURN, READ_NOTHING, 2);
  close_in_memory(&whole);
  sf_context_close(context);
  return check_result();
}
