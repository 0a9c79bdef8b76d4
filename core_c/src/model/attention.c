/* Steps of attention: of the tokens of a batch to those before them in their sessions, softmax(q · Kᵀ) · V. Prompts and
 * decoded tokens are computed in files of their own; what they share is here. */
#include "model/attention.h"

#include <float.h>
#include <math.h>

sf_kv sf_kv_of(const sf_format *format, int32_t dim) {
  if (dim % format->traits->block_columns != 0) format = sf_format_find(SF_F16);
  const sf_kv kv = {format, dim, sf_format_row_bytes(format->format, dim)};
  return kv;
}

sf_attention sf_attention_of(const sf_model *model, const sf_step *step) {
  const int32_t *a = step->arguments;
  const sf_vector *sinks = sf_vector_of(model, step, SF_ATTENTION_SINKS),
                  *slopes = sf_vector_of(model, step, SF_ATTENTION_SLOPES),
                  *biases = sf_vector_of(model, step, SF_ATTENTION_BIASES);
  int32_t heads = sf_width(model, step, SF_ATTENTION_Q) / a[SF_ATTENTION_K_DIM];
  const sf_attention attention = {.heads = heads,
                                  .kv_heads = a[SF_ATTENTION_KV_HEADS],
                                  .k = sf_kv_of(model->kv_formats[0], a[SF_ATTENTION_K_DIM]),
                                  .v = sf_kv_of(model->kv_formats[1], a[SF_ATTENTION_V_DIM]),
                                  .window = a[SF_ATTENTION_WINDOW],
                                  .mask = a[SF_ATTENTION_MASK],
                                  .sinks = sinks ? sinks->values : NULL,
                                  .slopes = slopes ? slopes->values : NULL,
                                  .biases = biases ? biases->values : NULL,
                                  .reach = biases ? biases->count / heads / 2 : 0,
                                  .cap = step->numbers[0]};
  return attention;
}

/* Keys and values are given, or those of an earlier step are used. */
static int32_t check_source(const sf_model *model, const sf_step *step) {
  const int32_t *a = step->arguments;
  if (a[SF_ATTENTION_SOURCE] < 0) {
    if (a[SF_ATTENTION_K] < 0 || a[SF_ATTENTION_V] < 0) return SF_ERROR_ARGUMENT;
    if (sf_width(model, step, SF_ATTENTION_K) != a[SF_ATTENTION_KV_HEADS] * a[SF_ATTENTION_K_DIM])
      return SF_ERROR_SHAPE;
    return sf_width(model, step, SF_ATTENTION_V) == a[SF_ATTENTION_KV_HEADS] * a[SF_ATTENTION_V_DIM] ? SF_OK
                                                                                                     : SF_ERROR_SHAPE;
  }
  const sf_step *source = &model->steps[a[SF_ATTENTION_SOURCE]];
  if (a[SF_ATTENTION_K] >= 0 || a[SF_ATTENTION_V] >= 0 || source->kind != step->kind ||
      source->arguments[SF_ATTENTION_SOURCE] >= 0)
    return SF_ERROR_ARGUMENT;
  for (int32_t i = SF_ATTENTION_KV_HEADS; i <= SF_ATTENTION_V_DIM; i++) {
    if (source->arguments[i] != a[i]) return SF_ERROR_SHAPE;
  }
  int32_t mask = a[SF_ATTENTION_MASK], theirs = source->arguments[SF_ATTENTION_MASK];
  if ((theirs == SF_MASK_BOTH) != (mask == SF_MASK_BOTH)) return SF_ERROR_ARGUMENT;
  if ((theirs == SF_MASK_POOLED) != (mask == SF_MASK_POOLED)) return SF_ERROR_ARGUMENT;
  if (mask == SF_MASK_POOLED && source->arguments[SF_ATTENTION_WINDOW] != a[SF_ATTENTION_WINDOW])
    return SF_ERROR_ARGUMENT;
  return SF_OK;
}

static int32_t check_attention(const sf_model *model, const sf_step *step) {
  const int32_t *a = step->arguments;
  int32_t q = sf_width(model, step, SF_ATTENTION_Q), out = sf_width(model, step, SF_ATTENTION_OUT);
  const sf_vector *sinks = sf_vector_of(model, step, SF_ATTENTION_SINKS),
                  *slopes = sf_vector_of(model, step, SF_ATTENTION_SLOPES);
  const sf_vector *biases = sf_vector_of(model, step, SF_ATTENTION_BIASES);
  int32_t pooled = a[SF_ATTENTION_MASK] == SF_MASK_POOLED;
  if (step->numbers[0] < 0 || a[SF_ATTENTION_MASK] > SF_MASK_POOLED) return SF_ERROR_ARGUMENT;
  if ((pooled || a[SF_ATTENTION_MASK] == SF_MASK_CHUNKED) && a[SF_ATTENTION_WINDOW] == 0) return SF_ERROR_ARGUMENT;
  if (pooled && (slopes || biases)) return SF_ERROR_ARGUMENT;
  if (a[SF_ATTENTION_KV_HEADS] > SF_MAX_NEURONS / a[SF_ATTENTION_K_DIM] ||
      a[SF_ATTENTION_KV_HEADS] > SF_MAX_NEURONS / a[SF_ATTENTION_V_DIM])
    return SF_ERROR_SHAPE;
  if (q % a[SF_ATTENTION_K_DIM] != 0) return SF_ERROR_SHAPE;
  int32_t heads = q / a[SF_ATTENTION_K_DIM];
  if (out % heads != 0 || heads % a[SF_ATTENTION_KV_HEADS] != 0) return SF_ERROR_SHAPE;
  if (out / heads != a[SF_ATTENTION_V_DIM] && out / heads - 1 != a[SF_ATTENTION_V_DIM]) return SF_ERROR_SHAPE;
  if ((sinks && sinks->count != heads) || (slopes && slopes->count != heads)) return SF_ERROR_SHAPE;
  if (biases && (biases->count % heads != 0 || biases->count / heads % 2 == 0)) return SF_ERROR_SHAPE;
  for (int32_t i = SF_ATTENTION_Q; i < SF_ATTENTION_OUT; i++) {
    if (a[i] == a[SF_ATTENTION_OUT]) return SF_ERROR_ARGUMENT;
  }
  return check_source(model, step);
}

int32_t sf_sees_both_sides(const sf_step *step) {
  return step->kind == &sf_step_attention && step->arguments[SF_ATTENTION_MASK] == SF_MASK_BOTH;
}

void sf_attention_finish(const sf_model *model, const sf_step *step, int32_t token, int32_t head, float most, float sum,
                         const float *mixed) {
  const int32_t dim = step->arguments[SF_ATTENTION_V_DIM], width = sf_width(model, step, SF_ATTENTION_OUT);
  const int32_t heads = sf_width(model, step, SF_ATTENTION_Q) / step->arguments[SF_ATTENTION_K_DIM];
  float *outs = sf_values(model, step, SF_ATTENTION_OUT) + (size_t)token * (size_t)width;
  float *out = outs + (size_t)head * (size_t)dim;
  if (out != mixed) memcpy(out, mixed, (size_t)dim * sizeof(float));
  model->context->kernels->scale(sum > 0 ? 1.0f / sum : 0.0f, out, dim);
  if (width > heads * dim) outs[heads * dim + head] = sum > 0 ? most + (float)log((double)sum) : -FLT_MAX;
}

/* ---- What a token sees ---- */

int32_t sf_rows_of(const sf_attention *a, int32_t length) {
  return a->mask == SF_MASK_POOLED ? length / a->window : length;
}

int32_t sf_first_seen(const sf_attention *a, int32_t position) {
  if (a->window == 0 || a->mask == SF_MASK_POOLED) return 0;
  if (a->mask == SF_MASK_CHUNKED) return position / a->window * a->window;
  int32_t before = a->mask == SF_MASK_BOTH ? a->window / 2 : a->window - 1;
  return position > before ? position - before : 0;
}

int32_t sf_last_seen(const sf_attention *a, int32_t position, int32_t end) {
  if (a->mask != SF_MASK_BOTH) return sf_rows_of(a, position + 1) - 1;
  int32_t after = end - 1 - position;
  return position + (a->window == 0 || after < a->window / 2 ? after : a->window / 2);
}

/* Subtracts slope · distance from the products with keys of which key `own` is the token's. */
static void penalise_distance(float slope, int32_t own, int32_t count, float *scores) {
  for (int32_t i = 0; i < count; i++) scores[i] -= slope * (float)(i < own ? own - i : i - own);
}

/* Adds to them the biases (2 · reach + 1) of their places. */
static void add_biases(const float *biases, int32_t reach, int32_t own, int32_t count, float *scores) {
  for (int32_t i = 0; i < count; i++) {
    int32_t place = i - own;
    place = place < -reach ? -reach : place > reach ? reach : place;
    scores[i] += biases[place + reach];
  }
}

void sf_change_scores(const sf_kernels *kernels, const sf_attention *a, int32_t head, int32_t position, int32_t first,
                      int32_t count, float *scores) {
  if (a->cap > 0) kernels->softcap(a->cap, scores, count);
  if (a->slopes) penalise_distance(a->slopes[head], position - first, count, scores);
  if (a->biases) {
    add_biases(a->biases + (size_t)head * (2 * (size_t)a->reach + 1), a->reach, position - first, count, scores);
  }
}

/* ---- The step ---- */

static int32_t run_attention(sf_model *model, const sf_step *step) {
  /* Those of attention to both sides are there already, see passes.c. */
  if (step->arguments[SF_ATTENTION_MASK] != SF_MASK_BOTH) sf_attention_store(model, step);
  return model->batch.phase == SF_PROMPT ? sf_attend_prompt(model, step) : sf_attend_decode(model, step);
}

const sf_step_kind sf_step_attention = {"iIIocccnnVVVS", 1, 1, check_attention, run_attention, NULL};
