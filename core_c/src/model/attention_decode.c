/* Attention of decoded tokens: bound by reading keys and values.
 *
 * The positions that a token sees are cut into chunks that begin at multiples of CHUNK. Of each chunk and each
 * key/value head, whose query heads share what is read, the largest score is known, and the sums of the weights and of
 * the weighted values; then the chunks of a head are added up, in their order. So the bits depend on the token and its
 * session alone, and threads divide heads and positions. */
#include <float.h>
#include <string.h>

#include "base/memory.h"
#include "model/attention.h"

enum {
  CHUNK = 8 * SF_KV_BLOCK, /* positions */
  STEP = SF_KV_SPAN        /* whose keys or values are read before those of the next block are asked for */
};

/* Of a chunk and a query head: the largest score, the sum of the weights, and the weighted values. */
enum { MOST, SUM, HEADER = SF_KV_SPAN };

typedef struct {
  const sf_model *model;
  const sf_step *step;
  sf_attention a;
  sf_inputs queries; /* (tokens · heads) */
  int32_t group;
  size_t floats;               /* of a step's values as such, if their query heads share that, or 0 */
  int32_t begin[SF_BATCH + 1]; /* chunks of the tokens before each */
  size_t record;               /* floats of a chunk and a query head */
  float *records;              /* (chunks, heads, record) */
} decode_job;

static int32_t first_of(const decode_job *job, int32_t token) {
  return sf_first_seen(&job->a, job->model->batch.positions[token]);
}

static int32_t last_of(const decode_job *job, int32_t token) {
  const sf_batch *batch = &job->model->batch;
  return sf_last_seen(&job->a, batch->positions[token], batch->sessions[token]->end);
}

static float *record_of(const decode_job *job, int32_t chunk, int32_t head) {
  return job->records + ((size_t)chunk * (size_t)job->a.heads + (size_t)head) * job->record;
}

/* Columns of a row that begins at a whole vector. */
static size_t whole(int32_t columns) { return (size_t)((columns + SF_KV_SPAN - 1) / SF_KV_SPAN * SF_KV_SPAN); }

/* The keys, or values, of a head from a position on. */
static const uint8_t *rows_at(const decode_job *job, const sf_state *state, int32_t kv_head, int32_t of_values,
                              int32_t position) {
  const sf_attention *a = &job->a;
  uint8_t *block = sf_block_of(state, position);
  const size_t row = (size_t)(position % SF_KV_BLOCK);
  return of_values ? sf_values_in(block, a, kv_head) + row * a->v.stride
                   : sf_keys_in(block, a, kv_head) + row * a->k.stride;
}

/* Before n of them are read, asks for as many in the same place of what is read next: the following block, or, after
 * the keys of the positions first … last, the first block of their values. A processor's own prefetcher begins to
 * follow runs as short as these when they nearly end; WebAssembly has no such instruction. */
static void ask_for_next(const decode_job *job, const sf_state *state, int32_t kv_head, int32_t of_values, int32_t at,
                         int32_t n, int32_t first, int32_t last) {
#if defined(__wasm__)
  (void)job, (void)state, (void)kv_head, (void)of_values, (void)at, (void)n, (void)first, (void)last;
#else
  int32_t next = at + SF_KV_BLOCK;
  if (next / SF_KV_BLOCK > last / SF_KV_BLOCK) {
    if (of_values) return;
    of_values = 1;
    next = first - first % SF_KV_BLOCK + at % SF_KV_BLOCK;
  }
  const size_t stride = of_values ? job->a.v.stride : job->a.k.stride;
  job->model->context->kernels->prefetch(rows_at(job, state, kv_head, of_values, next), (size_t)n * stride);
#endif
}

/* The query heads of a key/value head add `n` rows of values with their weights. Values in F16 are read once for all of
 * the heads: where kernels have no sum of that kind they become floats, in `floats`. */
static void add_values(const decode_job *job, const uint8_t *values, int32_t n, const float *weights, float *floats,
                       float *records) {
  const sf_attention *a = &job->a;
  const sf_kernels *kernels = job->model->context->kernels;
  sf_format_index format = a->v.format->index;
  sf_rows rows = {values, a->v.stride, NULL, a->v.dim, 1.0f};
  if (job->group > 1 && a->v.format->format == SF_F16 && kernels->axpy_shared_f16) {
    kernels->axpy_shared_f16(&rows, n, weights, CHUNK, job->group, records + HEADER, job->record);
    return;
  }
  if (job->floats > 0) {
    const size_t columns = whole(a->v.dim);
    for (int32_t i = 0; i < n; i++) {
      kernels->unpack(format, values + (size_t)i * a->v.stride, 0, a->v.dim, floats + (size_t)i * columns);
    }
    rows.data = (const uint8_t *)floats;
    rows.stride = columns * sizeof(float);
    format = SF_FORMAT_F32;
  }
  for (int32_t g = 0; g < job->group; g++) {
    kernels->axpy_rows[format](&rows, n, weights + (size_t)g * CHUNK, 0, a->v.dim,
                               records + (size_t)g * job->record + HEADER);
  }
}

/* The positions first … last of a chunk, with the query heads of a key/value head. scores (group, CHUNK). */
static void attend_chunk(const decode_job *job, int32_t token, int32_t chunk, int32_t kv_head, int32_t first,
                         int32_t last, float *scores, float *floats) {
  const sf_attention *a = &job->a;
  const sf_kernels *kernels = job->model->context->kernels;
  const sf_state *state = sf_attention_state(job->model, job->step, token);
  const int32_t head = kv_head * job->group, count = last + 1 - first;
  const int32_t span = (count + SF_KV_SPAN - 1) / SF_KV_SPAN * SF_KV_SPAN;
  const sf_inputs queries = sf_input(&job->queries, token * a->heads + head, a->k.dim);
  for (int32_t at = first, next; at <= last; at = next) {
    next = (at / STEP + 1) * STEP;
    const int32_t n = (next <= last ? next : last + 1) - at;
    const sf_rows rows = {rows_at(job, state, kv_head, 0, at), a->k.stride, NULL, a->k.dim, 1.0f};
    ask_for_next(job, state, kv_head, 0, at, n, first, last);
    kernels->dot_rows[a->k.format->index](&rows, n, &queries, job->group, scores + (at - first), CHUNK);
  }
  for (int32_t g = 0; g < job->group; g++) {
    float *weights = scores + (size_t)g * CHUNK, *record = record_of(job, chunk, head + g);
    sf_change_scores(kernels, a, head + g, job->model->batch.positions[token], first, count, weights);
    for (int32_t i = count; i < span; i++) weights[i] = -FLT_MAX;
    record[MOST] = -FLT_MAX;
    record[SUM] = 0;
    kernels->weigh(weights, span, &record[MOST], &record[SUM]);
    memset(record + HEADER, 0, (size_t)a->v.dim * sizeof(float));
  }
  for (int32_t at = first, next; at <= last; at = next) {
    next = (at / STEP + 1) * STEP;
    const int32_t n = (next <= last ? next : last + 1) - at;
    ask_for_next(job, state, kv_head, 1, at, n, first, last);
    add_values(job, rows_at(job, state, kv_head, 1, at), n, scores + (at - first), floats, record_of(job, chunk, head));
  }
}

static void chunks_part(void *argument, int32_t part, int32_t parts) {
  const decode_job *job = argument;
  const int32_t n = job->model->batch.n, kv_heads = job->a.kv_heads, items = job->begin[n] * kv_heads;
  const int32_t end = sf_part_begin(items, 1, part + 1, parts);
  float *scores = job->model->scores + (size_t)part * ((size_t)job->group * CHUNK + job->floats);
  int32_t token = 0;
  for (int32_t item = sf_part_begin(items, 1, part, parts); item < end; item++) {
    const int32_t chunk = item / kv_heads;
    while (chunk >= job->begin[token + 1]) token++;
    const int32_t first = first_of(job, token), last = last_of(job, token);
    const int32_t base = (first / CHUNK + chunk - job->begin[token]) * CHUNK;
    attend_chunk(job, token, chunk, item % kv_heads, first > base ? first : base,
                 last < base + CHUNK - 1 ? last : base + CHUNK - 1, scores, scores + (size_t)job->group * CHUNK);
  }
}

/* Adds up the chunks of a token and a query head. */
static void add_chunks(const decode_job *job, int32_t token, int32_t head) {
  const sf_kernels *kernels = job->model->context->kernels;
  const int32_t v_dim = job->a.v.dim, width = sf_width(job->model, job->step, SF_ATTENTION_OUT);
  float *out = sf_values(job->model, job->step, SF_ATTENTION_OUT) + (size_t)token * (size_t)width + head * v_dim;
  float most = job->a.sinks ? job->a.sinks[head] : -FLT_MAX, sum = job->a.sinks ? 1.0f : 0.0f;
  memset(out, 0, (size_t)v_dim * sizeof(float));
  for (int32_t chunk = job->begin[token]; chunk < job->begin[token + 1]; chunk++) {
    float *record = record_of(job, chunk, head), weight[SF_KV_SPAN], none = 0;
    for (int32_t i = 0; i < SF_KV_SPAN; i++) weight[i] = i == 0 ? record[MOST] : -FLT_MAX;
    const float factor = kernels->weigh(weight, SF_KV_SPAN, &most, &none);
    sum = sum * factor + record[SUM] * weight[0];
    kernels->scale(factor, out, v_dim);
    kernels->scale(weight[0], record + HEADER, v_dim);
    kernels->add(out, record + HEADER, v_dim, out);
  }
  sf_attention_finish(job->model, job->step, token, head, most, sum, out);
}

static void heads_part(void *argument, int32_t part, int32_t parts) {
  const decode_job *job = argument;
  const int32_t heads = job->a.heads, items = job->model->batch.n * heads;
  const int32_t end = sf_part_begin(items, 1, part + 1, parts);
  for (int32_t item = sf_part_begin(items, 1, part, parts); item < end; item++) {
    add_chunks(job, item / heads, item % heads);
  }
}

int32_t sf_attend_decode(sf_model *model, const sf_step *step) {
  const sf_batch *batch = &model->batch;
  sf_context *context = model->context;
  decode_job job = {.model = model, .step = step, .a = sf_attention_of(model, step)};
  const sf_attention *a = &job.a;
  int32_t seen = 0;
  job.group = a->heads / a->kv_heads;
  job.record = HEADER + whole(a->v.dim);
  job.floats =
      job.group > 1 && a->v.format->format == SF_F16 && !context->kernels->axpy_shared_f16 ? STEP * whole(a->v.dim) : 0;
  for (int32_t j = 0; j < batch->n; j++) {
    const int32_t first = first_of(&job, j), last = last_of(&job, j);
    job.begin[j + 1] = job.begin[j] + (last < first ? 0 : last / CHUNK - first / CHUNK + 1);
    sf_add_count(&seen, last + 1 - first);
  }
  const int32_t items = job.begin[batch->n] * a->kv_heads;
  const size_t seen_bytes = sf_size_product((size_t)a->kv_heads * (a->k.stride + a->v.stride), (size_t)seen);
  int32_t parts = sf_parts(context, sf_size_product(seen_bytes, (size_t)job.group));
  parts = parts < items ? parts : items;
  const size_t scores = (size_t)parts * ((size_t)job.group * CHUNK + job.floats);
  const size_t records = sf_size_product((size_t)job.begin[batch->n] * (size_t)a->heads, job.record);
  int32_t status = records > SIZE_MAX - scores
                       ? SF_ERROR_MEMORY
                       : sf_grow((void **)&model->scores, &model->scores_capacity, scores + records, sizeof(float));
  if (status == SF_OK) {
    status = sf_prepare(context, SF_DECODE, &a->k.format, 1, sf_values(model, step, SF_ATTENTION_Q),
                        batch->n * a->heads, a->k.dim, &job.queries);
  }
  if (status != SF_OK) return status;
  job.records = model->scores + scores;
  if (items > 0) sf_pool_run(context->pool, chunks_part, &job, parts);
  sf_pool_run(context->pool, heads_part, &job, sf_parts(context, records * sizeof(float)));
  return SF_OK;
}
