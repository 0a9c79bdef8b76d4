/* Attention of the tokens of prompts, in products of matrices.
 *
 * Tokens of a session that follow each other, and the query heads that share keys and values, are the rows of a tile,
 * which meets block after block of positions. Of each row the largest score so far is known, and the sums of the
 * weights and of the weighted values so far, which are scaled when it grows (Milakov and Gimelshein 2018; Dao et al.
 * 2022). A block begins at a multiple of SF_KV_BLOCK, and what a token does not see has the weight 0, so that the bits
 * of a row depend neither on the other rows of its tile nor on the batch. */
#include <float.h>
#include <string.h>

#include "base/memory.h"
#include "model/attention.h"

enum {
  MOST_ROWS = 512,        /* of a tile, for which keys and values are laid out once */
  SOME_ROWS = 64,         /* of which scores are there at a time */
  MOST_FLOATS = 64 << 10, /* of the queries and the outputs of a tile, about: for the second-level cache */
  TILES_PER_THREAD = 3
};

typedef struct {
  const sf_model *model;
  const sf_step *step;
  const sf_products *products;
  sf_attention a;
  int32_t group, rows;            /* query heads of a kv head; rows of a tile at most */
  int32_t tiles, first[SF_BATCH]; /* of each, its first token */
  int32_t count[SF_BATCH];        /* and how many it has */
} prompt_job;

/* Work memory of a part. */
typedef struct {
  float *queries, *room;         /* (rows, k_dim), and where products may lay them out */
  const float *left;             /* as products take them */
  float *outs, *most, *sums;     /* (rows, v columns), (rows), (rows) */
  float *scores, *weights;       /* (SOME_ROWS, SF_KV_BLOCK), the second as products take them */
  float *floats, *keys, *values; /* of a block: keys or values as floats, and both as products take them */
} prompt_work;

static int32_t whole(int32_t count) { return (count + SF_KV_SPAN - 1) / SF_KV_SPAN * SF_KV_SPAN; }

/* Sets *array to `count` floats from *at on. */
static void take(float **array, size_t count, float *memory, size_t *at) {
  if (memory) *array = memory + *at;
  *at += (count + SF_KV_SPAN - 1) / SF_KV_SPAN * SF_KV_SPAN;
}

/* Floats of the work memory of a part; cuts it up if it is given. */
static size_t cut_work(const prompt_job *job, float *memory, prompt_work *w) {
  const sf_products *products = job->products;
  const int32_t k_dim = job->a.k.dim, v_dim = job->a.v.dim, widest = k_dim > v_dim ? k_dim : v_dim;
  const size_t rows = (size_t)whole(job->rows);
  size_t at = 0;
  take(&w->queries, rows * (size_t)k_dim, memory, &at);
  take(&w->room, products->left_floats(whole(job->rows), k_dim), memory, &at);
  take(&w->outs, rows * (size_t)whole(v_dim), memory, &at);
  take(&w->most, rows, memory, &at);
  take(&w->sums, rows, memory, &at);
  take(&w->scores, (size_t)SOME_ROWS * SF_KV_BLOCK, memory, &at);
  take(&w->weights, products->left_floats(SOME_ROWS, SF_KV_BLOCK), memory, &at);
  take(&w->floats, (size_t)SF_KV_BLOCK * (size_t)whole(widest), memory, &at);
  take(&w->keys, products->right_floats(k_dim, SF_KV_BLOCK), memory, &at);
  take(&w->values, products->right_floats(SF_KV_BLOCK, v_dim), memory, &at);
  return at;
}

/* Lays out `count` rows of keys (across 1) or values as the right matrix, zeros up to `span` rows. */
static void lay(const prompt_job *job, const sf_kv *kv, const uint8_t *rows, int32_t count, int32_t span,
                int32_t across, float *floats, float *right) {
  const size_t stride = (size_t)whole(kv->dim);
  for (int32_t i = 0; i < count; i++) {
    job->model->context->kernels->unpack(kv->format->index, rows + (size_t)i * kv->stride, 0, kv->dim,
                                         floats + (size_t)i * stride);
  }
  memset(floats + (size_t)count * stride, 0, (size_t)(span - count) * stride * sizeof(float));
  job->products->lay_right(floats, stride, across ? kv->dim : span, across ? span : kv->dim, across, right);
}

/* A row's scores with the positions from `base` on, of which the session has `count`, become its weights. */
static void weigh_row(const prompt_job *job, int32_t token, int32_t head, int32_t base, int32_t count, int32_t span,
                      float *scores, float *most, float *sum, float *outs) {
  const sf_kernels *kernels = job->model->context->kernels;
  const sf_batch *batch = &job->model->batch;
  const int32_t position = batch->positions[token];
  int32_t from = sf_first_seen(&job->a, position) - base;
  int32_t to = sf_last_seen(&job->a, position, batch->sessions[token]->end) + 1 - base;
  from = from < 0 ? 0 : from;
  to = to > count ? count : to;
  if (from >= to) {
    memset(scores, 0, (size_t)span * sizeof(float));
    return;
  }
  sf_change_scores(kernels, &job->a, head, position, base + from, to - from, scores + from);
  for (int32_t i = 0; i < from; i++) scores[i] = -FLT_MAX;
  for (int32_t i = to; i < span; i++) scores[i] = -FLT_MAX;
  float factor = kernels->weigh(scores, span, most, sum);
  if (factor != 1.0f) kernels->scale(factor, outs, job->a.v.dim);
}

/* Whether one of the tokens sees a position from `base` on, of which the session has `count`. */
static int32_t sees(const prompt_job *job, int32_t first, int32_t last, int32_t base, int32_t count) {
  const sf_batch *batch = &job->model->batch;
  return sf_first_seen(&job->a, batch->positions[first]) < base + count &&
         sf_last_seen(&job->a, batch->positions[last], batch->sessions[last]->end) >= base;
}

/* `rows` rows of a tile meet a block. */
static void attend_block(const prompt_job *job, int32_t token, int32_t kv_head, int32_t rows, int32_t base,
                         int32_t count, const prompt_work *w) {
  const sf_products *products = job->products;
  const int32_t k_dim = job->a.k.dim, v_dim = job->a.v.dim, span = whole(count);
  const size_t out_stride = (size_t)whole(v_dim);
  for (int32_t r = 0; r < rows; r += SOME_ROWS) {
    const int32_t m = rows - r < SOME_ROWS ? rows - r : SOME_ROWS;
    if (!sees(job, token + r / job->group, token + (r + m - 1) / job->group, base, count)) continue;
    products->multiply(w->left + products->left_floats(r, k_dim), m, w->keys, k_dim, span, 0, w->scores, (size_t)span);
    for (int32_t i = 0; i < m; i++) {
      const int32_t row = r + i;
      weigh_row(job, token + row / job->group, kv_head * job->group + row % job->group, base, count, span,
                w->scores + (size_t)i * (size_t)span, &w->most[row], &w->sums[row], w->outs + (size_t)row * out_stride);
    }
    const float *weights = products->lay_left(w->scores, m, span, w->weights);
    products->multiply(weights, m, w->values, span, v_dim, 1, w->outs + (size_t)r * out_stride, out_stride);
  }
}

/* The queries of a tile, and rows that have met nothing yet but their sinks. */
static const float *begin_tile(const prompt_job *job, int32_t token, int32_t rows, int32_t kv_head,
                               const prompt_work *w) {
  const sf_attention *a = &job->a;
  const float *q = sf_values(job->model, job->step, SF_ATTENTION_Q);
  const size_t k_dim = (size_t)a->k.dim;
  for (int32_t r = 0; r < rows; r++) {
    const int32_t head = kv_head * job->group + r % job->group;
    const size_t at = (size_t)(token + r / job->group) * (size_t)a->heads + (size_t)head;
    memcpy(w->queries + (size_t)r * k_dim, q + at * k_dim, k_dim * sizeof(float));
    w->most[r] = a->sinks ? a->sinks[head] : -FLT_MAX;
    w->sums[r] = a->sinks ? 1.0f : 0.0f;
  }
  memset(w->outs, 0, (size_t)whole(rows) * (size_t)whole(a->v.dim) * sizeof(float));
  return job->products->lay_left(w->queries, rows, a->k.dim, w->room);
}

static void end_tile(const prompt_job *job, int32_t token, int32_t rows, int32_t kv_head, const prompt_work *w) {
  for (int32_t r = 0; r < rows; r++) {
    const int32_t head = kv_head * job->group + r % job->group;
    sf_attention_finish(job->model, job->step, token + r / job->group, head, w->most[r], w->sums[r],
                        w->outs + (size_t)r * (size_t)whole(job->a.v.dim));
  }
}

static void attend_tile(const prompt_job *job, int32_t tile, int32_t kv_head, prompt_work w) {
  const sf_attention *a = &job->a;
  const sf_batch *batch = &job->model->batch;
  const int32_t token = job->first[tile], last_token = token + job->count[tile] - 1;
  const int32_t rows = job->count[tile] * job->group;
  const int32_t first = sf_first_seen(a, batch->positions[token]);
  const int32_t last = sf_last_seen(a, batch->positions[last_token], batch->sessions[token]->end);
  const sf_state *state = sf_attention_state(job->model, job->step, token);
  w.left = begin_tile(job, token, rows, kv_head, &w);
  for (int32_t b = first / SF_KV_BLOCK; b * SF_KV_BLOCK <= last; b++) {
    const int32_t base = b * SF_KV_BLOCK, rest = last + 1 - base, count = rest < SF_KV_BLOCK ? rest : SF_KV_BLOCK;
    uint8_t *block = sf_block_of(state, base);
    lay(job, &a->k, sf_keys_in(block, a, kv_head), count, whole(count), 1, w.floats, w.keys);
    lay(job, &a->v, sf_values_in(block, a, kv_head), count, whole(count), 0, w.floats, w.values);
    attend_block(job, token, kv_head, rows, base, count, &w);
  }
  end_tile(job, token, rows, kv_head, &w);
}

static void prompt_part(void *argument, int32_t part, int32_t parts) {
  const prompt_job *job = argument;
  const int32_t items = job->tiles * job->a.kv_heads, end = sf_part_begin(items, 1, part + 1, parts);
  prompt_work work = {0};
  const size_t floats = cut_work(job, NULL, &work);
  cut_work(job, job->model->scores + (size_t)part * floats, &work);
  for (int32_t item = sf_part_begin(items, 1, part, parts); item < end; item++) {
    attend_tile(job, item % job->tiles, item / job->tiles, work);
  }
}

/* Tokens of a tile at most: many share what is laid out, but every thread wants some. */
static int32_t tokens_of_tile(const prompt_job *job) {
  const sf_model *model = job->model;
  const int32_t threads = sf_context_threads(model->context), n = model->batch.n;
  int32_t rows = MOST_ROWS;
  while (rows > SOME_ROWS && rows * (job->a.k.dim + job->a.v.dim) > MOST_FLOATS) rows /= 2;
  int32_t tokens = rows / job->group < 1 ? 1 : rows / job->group;
  while (threads > 1 && tokens * job->group > SOME_ROWS &&
         (n + tokens - 1) / tokens * job->a.kv_heads < TILES_PER_THREAD * threads) {
    tokens = (tokens + 1) / 2;
  }
  return tokens < n ? tokens : n;
}

/* Tiles of tokens of a session that follow each other in the batch. */
static void make_tiles(prompt_job *job) {
  const sf_batch *batch = &job->model->batch;
  const int32_t most = tokens_of_tile(job);
  job->rows = most * job->group;
  for (int32_t j = 0; j < batch->n; j++) {
    const int32_t tile = job->tiles - 1;
    if (j > 0 && batch->sessions[j] == batch->sessions[j - 1] && job->count[tile] < most) {
      job->count[tile]++;
    } else {
      job->first[job->tiles] = j;
      job->count[job->tiles++] = 1;
    }
  }
}

int32_t sf_attend_prompt(sf_model *model, const sf_step *step) {
  const sf_batch *batch = &model->batch;
  sf_context *context = model->context;
  prompt_job job = {model, step, sf_context_products(context), sf_attention_of(model, step), 0, 0, 0, {0}, {0}};
  int32_t seen = 0;
  job.group = job.a.heads / job.a.kv_heads;
  make_tiles(&job);
  for (int32_t j = 0; j < batch->n; j++) {
    int32_t position = batch->positions[j], last = sf_last_seen(&job.a, position, batch->sessions[j]->end);
    sf_add_count(&seen, last + 1 - sf_first_seen(&job.a, position));
  }
  int32_t items = job.tiles * job.a.kv_heads;
  int32_t parts =
      sf_parts(context, sf_size_product((size_t)sf_width(model, step, SF_ATTENTION_OUT) * sizeof(float), (size_t)seen));
  parts = parts < items ? parts : items;
  prompt_work none = {0};
  size_t floats = sf_size_product((size_t)parts, cut_work(&job, NULL, &none));
  int32_t status = sf_grow((void **)&model->scores, &model->scores_capacity, floats, sizeof(float));
  if (status == SF_OK) sf_pool_run(context->pool, prompt_part, &job, parts);
  return status;
}
