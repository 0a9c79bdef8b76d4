/* Attention of the tokens of a batch to those before them in their sessions.
 *
 * A session keeps keys and values in blocks of KV_BLOCK positions, which are made as the text grows. A block holds the
 * keys (kv_heads, KV_BLOCK, k_dim), and after them the values (kv_heads, KV_BLOCK, v_dim). */
#include <string.h>

#include "base/memory.h"
#include "model/session.h"

enum { KV_BLOCK = 64 }; /* positions */

/* The arguments of the step, by name. */
typedef struct {
  int32_t heads, kv_heads, k_dim, v_dim;
  int32_t window, mask;
  const float *sinks, *slopes; /* (heads) or NULL */
  const float *biases;         /* (heads, 2 · reach + 1) or NULL */
  int32_t reach;
  float cap;
} shape;

enum { Q, K, V, OUT, KV_HEADS, K_DIM, V_DIM, WINDOW, MASK, SINKS, SLOPES, BIASES, SOURCE };

static shape shape_of(const sf_model *model, const sf_step *step) {
  const int32_t *a = step->arguments;
  const sf_vector *sinks = sf_vector_of(model, step, SINKS), *slopes = sf_vector_of(model, step, SLOPES);
  const sf_vector *biases = sf_vector_of(model, step, BIASES);
  int32_t heads = sf_width(model, step, Q) / a[K_DIM];
  const shape s = {.heads = heads,
                   .kv_heads = a[KV_HEADS],
                   .k_dim = a[K_DIM],
                   .v_dim = a[V_DIM],
                   .window = a[WINDOW],
                   .mask = a[MASK],
                   .sinks = sinks ? sinks->values : NULL,
                   .slopes = slopes ? slopes->values : NULL,
                   .biases = biases ? biases->values : NULL,
                   .reach = biases ? biases->count / heads / 2 : 0,
                   .cap = step->numbers[0]};
  return s;
}

/* Keys and values are given, or those of an earlier step are used. */
static int32_t check_source(const sf_model *model, const sf_step *step) {
  const int32_t *a = step->arguments;
  if (a[SOURCE] < 0) {
    if (a[K] < 0 || a[V] < 0) return SF_ERROR_ARGUMENT;
    if (sf_width(model, step, K) != a[KV_HEADS] * a[K_DIM]) return SF_ERROR_SHAPE;
    return sf_width(model, step, V) == a[KV_HEADS] * a[V_DIM] ? SF_OK : SF_ERROR_SHAPE;
  }
  const sf_step *source = &model->steps[a[SOURCE]];
  if (a[K] >= 0 || a[V] >= 0 || source->kind != step->kind || source->arguments[SOURCE] >= 0) return SF_ERROR_ARGUMENT;
  for (int32_t i = KV_HEADS; i <= V_DIM; i++) {
    if (source->arguments[i] != a[i]) return SF_ERROR_SHAPE;
  }
  if ((source->arguments[MASK] == SF_MASK_BOTH) != (a[MASK] == SF_MASK_BOTH)) return SF_ERROR_ARGUMENT;
  return SF_OK;
}

static int32_t check_attention(const sf_model *model, const sf_step *step) {
  const int32_t *a = step->arguments;
  int32_t q = sf_width(model, step, Q), out = sf_width(model, step, OUT);
  const sf_vector *sinks = sf_vector_of(model, step, SINKS), *slopes = sf_vector_of(model, step, SLOPES);
  const sf_vector *biases = sf_vector_of(model, step, BIASES);
  if (step->numbers[0] < 0 || a[MASK] > SF_MASK_BOTH) return SF_ERROR_ARGUMENT;
  if (a[MASK] == SF_MASK_CHUNKED && a[WINDOW] == 0) return SF_ERROR_ARGUMENT;
  if (a[KV_HEADS] > SF_MAX_NEURONS / a[K_DIM] || a[KV_HEADS] > SF_MAX_NEURONS / a[V_DIM]) return SF_ERROR_SHAPE;
  if (q % a[K_DIM] != 0 || out % a[V_DIM] != 0) return SF_ERROR_SHAPE;
  int32_t heads = q / a[K_DIM];
  if (out / a[V_DIM] != heads || heads % a[KV_HEADS] != 0) return SF_ERROR_SHAPE;
  if ((sinks && sinks->count != heads) || (slopes && slopes->count != heads)) return SF_ERROR_SHAPE;
  if (biases && (biases->count % heads != 0 || biases->count / heads % 2 == 0)) return SF_ERROR_SHAPE;
  for (int32_t i = Q; i < OUT; i++) {
    if (a[i] == a[OUT]) return SF_ERROR_ARGUMENT;
  }
  return check_source(model, step);
}

/* ---- Keys and values ---- */

static size_t block_floats(const sf_step *step) {
  const int32_t *a = step->arguments;
  return sf_size_product((size_t)a[KV_HEADS] * KV_BLOCK, (size_t)a[K_DIM] + (size_t)a[V_DIM]);
}

int32_t sf_attention_reserve(const sf_model *model, sf_state *states, int32_t length) {
  int32_t blocks = length / KV_BLOCK + (length % KV_BLOCK != 0);
  for (int32_t i = 0; i < model->n_steps; i++) {
    const sf_step *step = &model->steps[i];
    sf_state *state = &states[i];
    if (step->kind != &sf_step_attention || step->arguments[SOURCE] >= 0 || state->n_blocks >= blocks) continue;
    float **longer = sf_array((size_t)blocks, sizeof(float *));
    if (!longer) return SF_ERROR_MEMORY;
    if (state->n_blocks > 0) memcpy(longer, state->blocks, (size_t)state->n_blocks * sizeof(float *));
    sf_free(state->blocks);
    state->blocks = longer;
    for (; state->n_blocks < blocks; state->n_blocks++) {
      longer[state->n_blocks] = sf_array(block_floats(step), sizeof(float));
      if (!longer[state->n_blocks]) return SF_ERROR_MEMORY;
    }
  }
  return SF_OK;
}

static sf_state *kv_of(const sf_model *model, const sf_step *step, int32_t j) {
  int32_t source = step->arguments[SOURCE];
  return sf_state_of(model, source >= 0 ? &model->steps[source] : step, j);
}

static float *keys_in(float *block, const shape *s, int32_t kv_head) {
  return block + (size_t)kv_head * KV_BLOCK * (size_t)s->k_dim;
}

static float *values_in(float *block, const shape *s, int32_t kv_head) {
  return block + KV_BLOCK * ((size_t)s->kv_heads * (size_t)s->k_dim + (size_t)kv_head * (size_t)s->v_dim);
}

size_t sf_attention_exchange(const sf_model *model, sf_state *states, int32_t length, uint8_t *saved,
                             const uint8_t *restored) {
  size_t at = 0;
  for (int32_t i = 0; i < model->n_steps; i++) {
    const sf_step *step = &model->steps[i];
    if (step->kind != &sf_step_attention || step->arguments[SOURCE] >= 0) continue;
    const shape s = shape_of(model, step);
    for (int32_t first = 0; first < length; first += KV_BLOCK) {
      size_t count = (size_t)(length - first < KV_BLOCK ? length - first : KV_BLOCK);
      float *block = saved || restored ? states[i].blocks[first / KV_BLOCK] : NULL;
      for (int32_t h = 0; h < s.kv_heads; h++) {
        at += sf_exchange(block ? keys_in(block, &s, h) : NULL, count * (size_t)s.k_dim, at, saved, restored);
        at += sf_exchange(block ? values_in(block, &s, h) : NULL, count * (size_t)s.v_dim, at, saved, restored);
      }
    }
  }
  return at;
}

int32_t sf_sees_both_sides(const sf_step *step) {
  return step->kind == &sf_step_attention && step->arguments[MASK] == SF_MASK_BOTH;
}

void sf_attention_store(const sf_model *model, const sf_step *step) {
  if (step->arguments[SOURCE] >= 0) return;
  const shape shaped = shape_of(model, step), *s = &shaped;
  const float *k = sf_values(model, step, K), *v = sf_values(model, step, V);
  size_t k_dim = (size_t)s->k_dim, v_dim = (size_t)s->v_dim;
  for (int32_t j = 0; j < model->batch.n; j++) {
    int32_t position = model->batch.positions[j];
    float *block = kv_of(model, step, j)->blocks[position / KV_BLOCK];
    size_t at = (size_t)(position % KV_BLOCK);
    for (int32_t h = 0; h < s->kv_heads; h++, k += k_dim, v += v_dim) {
      memcpy(keys_in(block, s, h) + at * k_dim, k, k_dim * sizeof(float));
      memcpy(values_in(block, s, h) + at * v_dim, v, v_dim * sizeof(float));
    }
  }
}

/* ---- Softmax(q · Kᵀ) · V ---- */

typedef struct {
  const sf_model *model;
  const sf_step *step;
  shape s;
  size_t span; /* floats of the scores of a head */
} attention_job;

/* First position that a token at `position` sees. */
static int32_t first_seen(const shape *s, int32_t position) {
  if (s->window == 0) return 0;
  if (s->mask == SF_MASK_CHUNKED) return position / s->window * s->window;
  int32_t before = s->mask == SF_MASK_BOTH ? s->window / 2 : s->window - 1;
  return position > before ? position - before : 0;
}

/* Last position that it sees, in a session that ends before `end`. */
static int32_t last_seen(const shape *s, int32_t position, int32_t end) {
  if (s->mask != SF_MASK_BOTH) return position;
  int32_t after = end - 1 - position;
  return position + (s->window == 0 || after < s->window / 2 ? after : s->window / 2);
}

/* Subtracts slope · distance from the products with `length` keys, of which key `own` is the token's. */
static void penalise_distance(float slope, int32_t length, int32_t own, float *products) {
  for (int32_t i = 0; i < length; i++) products[i] -= slope * (float)(i < own ? own - i : i - own);
}

/* Adds to them the biases (2 · reach + 1) of their places. */
static void add_biases(const float *biases, int32_t reach, int32_t length, int32_t own, float *products) {
  for (int32_t i = 0; i < length; i++) {
    int32_t place = i - own;
    place = place < -reach ? -reach : place > reach ? reach : place;
    products[i] += biases[place + reach];
  }
}

/* One token, one key/value head and the query heads that share it. */
static void attend(const attention_job *job, int32_t token, int32_t kv_head, float *scores) {
  const sf_model *model = job->model;
  const sf_kernels *kernels = model->context->kernels;
  const shape *s = &job->s;
  const sf_state *kv = kv_of(model, job->step, token);
  int32_t group = s->heads / s->kv_heads, position = model->batch.positions[token], first = first_seen(s, position);
  int32_t last = last_seen(s, position, model->batch.sessions[token]->end), length = last + 1 - first;
  size_t k_stride = (size_t)s->k_dim * sizeof(float), v_stride = (size_t)s->v_dim * sizeof(float);
  size_t head = (size_t)token * (size_t)s->heads + (size_t)kv_head * (size_t)group;
  sf_inputs queries = {.f32 = sf_values(model, job->step, Q) + head * (size_t)s->k_dim};
  float *outs = sf_values(model, job->step, OUT) + head * (size_t)s->v_dim;
  for (int32_t at = first, next; at <= last; at = next) {
    next = (at / KV_BLOCK + 1) * KV_BLOCK;
    int32_t count = (next <= last ? next : last + 1) - at;
    const float *keys = keys_in(kv->blocks[at / KV_BLOCK], s, kv_head) + (size_t)(at % KV_BLOCK) * (size_t)s->k_dim;
    sf_rows rows = {(const uint8_t *)keys, k_stride, NULL, s->k_dim, 1.0f};
    kernels->dot_rows[SF_FORMAT_F32](&rows, count, &queries, group, scores + (at - first), job->span);
  }
  for (int32_t g = 0; g < group; g++) {
    float *weights = scores + (size_t)g * job->span, *out = outs + (size_t)g * (size_t)s->v_dim;
    if (s->cap > 0) kernels->softcap(s->cap, weights, length);
    int32_t h = kv_head * group + g;
    if (s->slopes) penalise_distance(s->slopes[h], length, position - first, weights);
    if (s->biases) {
      const float *biases = s->biases + (size_t)h * (2 * (size_t)s->reach + 1);
      add_biases(biases, s->reach, length, position - first, weights);
    }
    if (s->sinks) weights[length] = s->sinks[h];
    kernels->softmax(weights, length + (s->sinks != NULL), weights);
    memset(out, 0, v_stride);
  }
  for (int32_t at = first, next; at <= last; at = next) {
    next = (at / KV_BLOCK + 1) * KV_BLOCK;
    int32_t count = (next <= last ? next : last + 1) - at;
    const float *values = values_in(kv->blocks[at / KV_BLOCK], s, kv_head) + (size_t)(at % KV_BLOCK) * (size_t)s->v_dim;
    sf_rows rows = {(const uint8_t *)values, v_stride, NULL, s->v_dim, 1.0f};
    for (int32_t g = 0; g < group; g++) {
      kernels->axpy_rows[SF_FORMAT_F32](&rows, count, scores + (size_t)g * job->span + (at - first), 0, s->v_dim,
                                        outs + (size_t)g * (size_t)s->v_dim);
    }
  }
}

static void attention_part(void *argument, int32_t part, int32_t parts) {
  const attention_job *job = argument;
  const shape *s = &job->s;
  size_t scores_size = (size_t)(s->heads / s->kv_heads) * job->span;
  int32_t items = job->model->batch.n * s->kv_heads, end = sf_part_begin(items, 1, part + 1, parts);
  for (int32_t item = sf_part_begin(items, 1, part, parts); item < end; item++) {
    attend(job, item / s->kv_heads, item % s->kv_heads, job->model->scores + (size_t)part * scores_size);
  }
}

static int32_t run_attention(sf_model *model, const sf_step *step) {
  const sf_batch *batch = &model->batch;
  sf_context *context = model->context;
  attention_job job = {model, step, shape_of(model, step), 0};
  int32_t longest = 0, seen = 0;
  if (job.s.mask != SF_MASK_BOTH) sf_attention_store(model, step); /* else they are there already, see passes.c */
  for (int32_t j = 0; j < batch->n; j++) {
    int32_t position = batch->positions[j], last = last_seen(&job.s, position, batch->sessions[j]->end);
    int32_t length = last + 1 - first_seen(&job.s, position);
    longest = length > longest ? length : longest;
    sf_add_count(&seen, length);
  }
  job.span = ((size_t)longest + 1 + 15) / 16 * 16;
  int32_t parts = sf_parts(context, sf_size_product((size_t)sf_width(model, step, OUT) * sizeof(float), (size_t)seen));
  size_t scores = sf_size_product((size_t)parts * (size_t)(job.s.heads / job.s.kv_heads), job.span);
  int32_t status = sf_grow((void **)&model->scores, &model->scores_capacity, scores, sizeof(float));
  if (status == SF_OK) sf_pool_run(context->pool, attention_part, &job, parts);
  return status;
}

const sf_step_kind sf_step_attention = {"iIIocccnnVVVS", 1, 1, check_attention, run_attention, NULL};
