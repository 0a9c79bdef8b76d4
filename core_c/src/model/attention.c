/* Attention of a batch of tokens to those before them, whose keys and values are in the session's cache. */
#include "model/attention.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

/* ---- Memory ---- */

/* The frequencies of layer `layer`: base^(-2i / rope_dims) / factor_i, i < rope_dims / 2. */
static void make_frequencies(const sf_model *model, int32_t layer, double *frequencies) {
  const sf_part *part = &model->layers[layer];
  float base = part->numbers[SF_ROPE_BASE] > 0 ? part->numbers[SF_ROPE_BASE] : model->own.numbers[SF_ROPE_BASE];
  const float *factors = part->vectors[SF_ROPE_FACTORS];
  if (!factors) factors = model->own.vectors[SF_ROPE_FACTORS];
  for (int32_t i = 0; i < model->rope_dims / 2; i++) {
    frequencies[i] = pow((double)base, -2.0 * i / model->rope_dims) / (factors ? (double)factors[i] : 1.0);
  }
}

/* Most models have one set of frequencies for all layers, some two. */
static int32_t open_ropes(sf_attention *attention) {
  const sf_model *model = attention->model;
  size_t pairs = (size_t)model->rope_dims / 2, layers = (size_t)model->n_layers;
  attention->rope_of = sf_array(layers, sizeof(int32_t));
  attention->frequencies = sf_array(sf_size_product(layers, pairs), sizeof(double));
  if (!attention->rope_of || !attention->frequencies) return SF_ERROR_MEMORY;
  for (int32_t layer = 0; layer < model->n_layers; layer++) {
    double *last = attention->frequencies + (size_t)attention->ropes * pairs;
    int32_t rope = 0;
    make_frequencies(model, layer, last);
    while (memcmp(attention->frequencies + (size_t)rope * pairs, last, pairs * sizeof(double)) != 0) rope++;
    attention->rope_of[layer] = rope;
    attention->ropes += rope == attention->ropes;
  }
  size_t angles = sf_size_product((size_t)attention->ropes * SF_BATCH, pairs * 2);
  attention->cos_sin = sf_array(angles, sizeof(float));
  return attention->cos_sin ? SF_OK : SF_ERROR_MEMORY;
}

int32_t sf_attention_open(sf_attention *attention, const sf_model *model, int32_t length) {
  attention->model = model;
  attention->context = length;
  size_t kv = (size_t)model->kv_heads * (size_t)model->head_dim, layers = (size_t)model->n_layers;
  size_t heads = (size_t)model->heads * (size_t)model->head_dim;
  size_t group = (size_t)(model->heads / model->kv_heads), context = (size_t)attention->context;
  size_t cache = sf_size_product(sf_size_product(layers, kv), context);
  attention->parts = sf_parts(model->context, SIZE_MAX);
  attention->keys = sf_array(cache, sizeof(float));
  attention->values = sf_array(cache, sizeof(float));
  attention->q = sf_array(sf_size_product(SF_BATCH, heads), sizeof(float));
  attention->heads_out = sf_array(sf_size_product(SF_BATCH, heads), sizeof(float));
  attention->k = sf_array(sf_size_product(SF_BATCH, kv), sizeof(float));
  attention->v = sf_array(sf_size_product(SF_BATCH, kv), sizeof(float));
  attention->scores =
      sf_array(sf_size_product(sf_size_product((size_t)attention->parts, group), context), sizeof(float));
  if (!attention->keys || !attention->values || !attention->q || !attention->heads_out || !attention->k ||
      !attention->v || !attention->scores) {
    return SF_ERROR_MEMORY;
  }
  return open_ropes(attention);
}

void sf_attention_close(sf_attention *attention) {
  sf_free(attention->keys);
  sf_free(attention->values);
  sf_free(attention->q);
  sf_free(attention->heads_out);
  sf_free(attention->k);
  sf_free(attention->v);
  sf_free(attention->scores);
  sf_free(attention->rope_of);
  sf_free(attention->frequencies);
  sf_free(attention->cos_sin);
}

void sf_attention_begin(sf_attention *attention, int32_t position, int32_t n) {
  attention->position = position;
  int32_t pairs = attention->model->rope_dims / 2;
  double amplitude = (double)attention->model->own.numbers[SF_ROPE_AMPLITUDE];
  for (int32_t rope = 0; rope < attention->ropes; rope++) {
    const double *frequencies = attention->frequencies + (size_t)rope * (size_t)pairs;
    float *out = attention->cos_sin + (size_t)rope * SF_BATCH * (size_t)pairs * 2;
    for (int32_t j = 0; j < n; j++) {
      for (int32_t i = 0; i < pairs; i++) {
        double angle = (attention->position + j) * frequencies[i];
        *out++ = (float)(amplitude * cos(angle));
        *out++ = (float)(amplitude * sin(angle));
      }
    }
  }
}

/* ---- Keys and values ---- */

/* Where a head's cached keys or values of a layer begin: (context, head_dim). */
static float *cache_head(const sf_attention *attention, float *cache, int32_t layer, int32_t kv_head) {
  const sf_model *model = attention->model;
  size_t head = (size_t)layer * (size_t)model->kv_heads + (size_t)kv_head;
  return cache + head * (size_t)attention->context * (size_t)model->head_dim;
}

/* Normalises, where the model does, and rotates the heads (n · heads, head_dim) of n tokens. */
static void turn(const sf_attention *attention, int32_t layer, const float *norm, int32_t n, int32_t heads, float *x) {
  const sf_model *model = attention->model;
  int32_t pairs = model->rope_dims / 2, halves = model->own.numbers[SF_ROPE_HALVES] != 0;
  const float *angles = attention->cos_sin + (size_t)attention->rope_of[layer] * SF_BATCH * (size_t)pairs * 2;
  if (norm) sf_model_norm(attention->model, x, norm, NULL, n * heads, model->head_dim, x);
  for (int32_t j = 0; j < n; j++, angles += (size_t)pairs * 2) {
    for (int32_t h = 0; h < heads; h++, x += model->head_dim) {
      model->context->kernels->rope(x, angles, pairs, halves);
    }
  }
}

/* Rotates q and k of n tokens, scales q, and moves k and v into the cache. */
static void place_tokens(sf_attention *attention, int32_t layer, int32_t n) {
  const sf_model *model = attention->model;
  const sf_part *part = &model->layers[layer];
  size_t dim = (size_t)model->head_dim, q_floats = (size_t)n * (size_t)model->heads * dim;
  float scale = model->own.numbers[SF_ATTENTION_SCALE];
  turn(attention, layer, part->vectors[SF_ATTENTION_Q_NORM], n, model->heads, attention->q);
  turn(attention, layer, part->vectors[SF_ATTENTION_K_NORM], n, model->kv_heads, attention->k);
  for (size_t i = 0; i < q_floats; i++) attention->q[i] *= scale;
  for (int32_t j = 0; j < n; j++) {
    for (int32_t h = 0; h < model->kv_heads; h++) {
      size_t from = ((size_t)j * (size_t)model->kv_heads + (size_t)h) * dim;
      size_t to = (size_t)(attention->position + j) * dim;
      memcpy(cache_head(attention, attention->keys, layer, h) + to, attention->k + from, dim * sizeof(float));
      memcpy(cache_head(attention, attention->values, layer, h) + to, attention->v + from, dim * sizeof(float));
    }
  }
}

/* ---- Softmax(q · Kᵀ) · V ---- */

typedef struct {
  sf_attention *attention;
  int32_t layer, n;
} attention_job;

/* First position that a token at `position` of a layer sees. */
static int32_t first_seen(const sf_model *model, int32_t layer, int32_t position) {
  int32_t window = (int32_t)model->layers[layer].numbers[SF_ATTENTION_WINDOW];
  return window > 0 && position >= window ? position - window + 1 : 0;
}

/* One token, one key/value head and the query heads that share it. */
static void attend(const sf_attention *attention, int32_t layer, int32_t token, int32_t kv_head, float *scores) {
  const sf_model *model = attention->model;
  const sf_kernels *kernels = model->context->kernels;
  int32_t dim = model->head_dim, group = model->heads / model->kv_heads;
  int32_t position = attention->position + token, first = first_seen(model, layer, position);
  int32_t length = position + 1 - first;
  float cap = model->own.numbers[SF_ATTENTION_CAP];
  size_t stride = (size_t)dim * sizeof(float), first_head = (size_t)kv_head * (size_t)group;
  size_t start = ((size_t)token * (size_t)model->heads + first_head) * (size_t)dim, skip = (size_t)first * (size_t)dim;
  sf_rows keys = {(const uint8_t *)(cache_head(attention, attention->keys, layer, kv_head) + skip), stride, NULL, dim};
  sf_rows values = {(const uint8_t *)(cache_head(attention, attention->values, layer, kv_head) + skip), stride, NULL,
                    dim};
  sf_inputs queries = {.f32 = attention->q + start};
  kernels->dot_rows[SF_FORMAT_F32](&keys, length, &queries, group, scores, (size_t)attention->context);
  for (int32_t g = 0; g < group; g++) {
    float *weights = scores + (size_t)g * (size_t)attention->context;
    float *out = attention->heads_out + start + (size_t)g * (size_t)dim;
    if (cap > 0) kernels->softcap(cap, weights, length);
    kernels->softmax(weights, length, weights);
    memset(out, 0, stride);
    kernels->axpy_rows[SF_FORMAT_F32](&values, length, weights, 0, dim, out);
  }
}

static void attention_part(void *argument, int32_t part, int32_t parts) {
  const attention_job *job = argument;
  const sf_attention *attention = job->attention;
  const sf_model *model = attention->model;
  size_t scores_size = (size_t)(model->heads / model->kv_heads) * (size_t)attention->context;
  int32_t items = job->n * model->kv_heads, end = sf_part_begin(items, 1, part + 1, parts);
  for (int32_t item = sf_part_begin(items, 1, part, parts); item < end; item++) {
    attend(attention, job->layer, item / model->kv_heads, item % model->kv_heads,
           attention->scores + (size_t)part * scores_size);
  }
}

/* rows (n, d) += bias (d), if there is one. */
static void add_bias(const sf_attention *attention, const float *bias, int32_t n, int32_t d, float *rows) {
  for (int32_t j = 0; bias && j < n; j++, rows += d) attention->model->context->kernels->add(rows, bias, d, rows);
}

/* q, k and v (n, …) of x (n, d). */
static int32_t project(sf_attention *attention, const sf_part *part, const float *x, int32_t n) {
  const sf_model *model = attention->model;
  const sf_matrix *const *matrices = &part->matrices[SF_ATTENTION_Q];
  float *outputs[3] = {attention->q, attention->k, attention->v};
  int32_t status = sf_multiply_each(model->context, matrices, 3, x, n, outputs);
  for (int32_t i = 0; status == SF_OK && i < 3; i++) {
    add_bias(attention, part->vectors[SF_ATTENTION_Q_BIAS + i], n, matrices[i]->rows, outputs[i]);
  }
  return status;
}

int32_t sf_attention_run(sf_attention *attention, int32_t layer, const float *x, int32_t n, float *y) {
  const sf_model *model = attention->model;
  const sf_part *part = &model->layers[layer];
  sf_context *context = model->context;
  int32_t width = model->heads * model->head_dim, status = project(attention, part, x, n);
  if (status != SF_OK) return status;
  place_tokens(attention, layer, n);
  attention_job job = {attention, layer, n};
  int32_t last = attention->position + n, seen = last - first_seen(model, layer, attention->position);
  int32_t parts = sf_parts(context, sf_size_product((size_t)width * sizeof(float) * (size_t)n, (size_t)seen));
  sf_pool_run(context->pool, attention_part, &job, parts < attention->parts ? parts : attention->parts);
  const float *sub_norm = part->vectors[SF_ATTENTION_SUB_NORM];
  if (sub_norm) sf_model_norm(attention->model, attention->heads_out, sub_norm, NULL, n, width, attention->heads_out);
  status = sf_prepare_multiply(context, part->matrices[SF_ATTENTION_OUTPUT], attention->heads_out, n, y);
  add_bias(attention, part->vectors[SF_ATTENTION_OUTPUT_BIAS], n, model->d, y);
  return status;
}
