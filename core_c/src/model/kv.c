/* The keys and values that sessions keep: in blocks of SF_KV_BLOCK positions, which are made as the text grows. A block
 * holds the keys (kv_heads, SF_KV_BLOCK, k_dim), and after them the values (kv_heads, SF_KV_BLOCK, v_dim). Where tokens
 * see a window alone, blocks that are far enough behind it become those of new positions. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "formats/half.h"
#include "model/attention.h"

/* Bytes of the keys of a block; its values come after them. */
static size_t keys_bytes(const sf_attention *a) { return (size_t)a->kv_heads * SF_KV_BLOCK * a->k.stride; }

static size_t block_bytes(const sf_attention *a) {
  return sf_size_product((size_t)a->kv_heads * SF_KV_BLOCK, a->k.stride + a->v.stride);
}

/* Whether a step has keys and values of its own. */
static int32_t keeps(const sf_step *step) {
  return step->kind == &sf_step_attention && step->arguments[SF_ATTENTION_SOURCE] < 0;
}

/* ---- What is kept ---- */

/* What tokens see of the keys and values of a step, its own tokens and those of steps that use them; see sf_state. */
static int32_t window_of(const sf_model *model, const sf_step *source) {
  int32_t window = 0;
  for (int32_t i = source->index; i < model->n_steps; i++) {
    const sf_step *step = &model->steps[i];
    const int32_t *a = step->arguments;
    if (step->kind != source->kind || (i != source->index && a[SF_ATTENTION_SOURCE] != source->index)) continue;
    if (a[SF_ATTENTION_WINDOW] == 0 || a[SF_ATTENTION_MASK] > SF_MASK_CHUNKED) return 0;
    if (a[SF_ATTENTION_WINDOW] > window) window = a[SF_ATTENTION_WINDOW];
  }
  return window;
}

void sf_attention_open(const sf_model *model, sf_state *states) {
  for (int32_t i = 0; i < model->n_steps && model->passes == 0; i++) {
    if (keeps(&model->steps[i])) states[i].window = window_of(model, &model->steps[i]);
  }
}

/* The block that is `spare` before the first one that a token at `position` sees. */
static int32_t first_needed(const sf_state *state, int32_t position, int32_t spare) {
  if (state->window == 0 || position < state->window) return 0;
  const int32_t block = (position - state->window + 1) / SF_KV_BLOCK;
  return block > spare ? block - spare : 0;
}

/* What was in front of block `first` goes to the end, and is given back where the blocks are more than `most`. */
static void move_on(sf_state *state, int32_t first, int32_t most) {
  for (; state->first_block < first; state->first_block++) {
    uint8_t *block = state->blocks[0];
    memmove(state->blocks, state->blocks + 1, (size_t)(state->n_blocks - 1) * sizeof(uint8_t *));
    state->blocks[state->n_blocks - 1] = block;
    if (state->n_blocks > most) sf_free(state->blocks[--state->n_blocks]);
  }
}

static int32_t grow(const sf_attention *a, sf_state *state, int32_t blocks) {
  if (state->n_blocks >= blocks) return SF_OK;
  uint8_t **longer = sf_array((size_t)blocks, sizeof(uint8_t *));
  if (!longer) return SF_ERROR_MEMORY;
  if (state->n_blocks > 0) memcpy(longer, state->blocks, (size_t)state->n_blocks * sizeof(uint8_t *));
  sf_free(state->blocks);
  state->blocks = longer;
  for (; state->n_blocks < blocks; state->n_blocks++) {
    longer[state->n_blocks] = sf_array(block_bytes(a), 1);
    if (!longer[state->n_blocks]) return SF_ERROR_MEMORY;
  }
  return SF_OK;
}

int32_t sf_attention_reserve(const sf_model *model, sf_state *states, int32_t position, int32_t length, int32_t spare,
                             int32_t anew) {
  for (int32_t i = 0; i < model->n_steps; i++) {
    const sf_step *step = &model->steps[i];
    sf_state *state = &states[i];
    if (!keeps(step)) continue;
    const sf_attention a = sf_attention_of(model, step);
    const int32_t rows = sf_rows_of(&a, length), end = rows / SF_KV_BLOCK + (rows % SF_KV_BLOCK != 0);
    int32_t first = first_needed(state, position, spare);
    if (!anew) {
      move_on(state, first, end - first + 1); /* one more: often the next one */
      first = state->first_block;
    }
    int32_t status = grow(&a, state, end - first);
    if (status != SF_OK) return status;
  }
  return SF_OK;
}

int32_t sf_attention_earliest(const sf_model *model, const sf_state *states) {
  int32_t earliest = 0;
  for (int32_t i = 0; i < model->n_steps; i++) {
    if (states[i].first_block == 0) continue;
    const int32_t position = states[i].first_block * SF_KV_BLOCK + states[i].window - 1;
    if (position > earliest) earliest = position;
  }
  return earliest;
}

uint8_t *sf_block_of(const sf_state *state, int32_t row) {
  return state->blocks[row / SF_KV_BLOCK - state->first_block];
}

sf_state *sf_attention_state(const sf_model *model, const sf_step *step, int32_t j) {
  int32_t source = step->arguments[SF_ATTENTION_SOURCE];
  return sf_state_of(model, source >= 0 ? &model->steps[source] : step, j);
}

uint8_t *sf_keys_in(uint8_t *block, const sf_attention *a, int32_t kv_head) {
  return block + (size_t)kv_head * SF_KV_BLOCK * a->k.stride;
}

uint8_t *sf_values_in(uint8_t *block, const sf_attention *a, int32_t kv_head) {
  return block + keys_bytes(a) + (size_t)kv_head * SF_KV_BLOCK * a->v.stride;
}

enum { PART = 2 * SF_BLOCK }; /* columns of a row that are converted at a time: whole blocks of every format */

static int32_t part_of(const sf_kv *kv, int32_t first) { return kv->dim - first < PART ? kv->dim - first : PART; }

/* Blocks of so many columns. */
static size_t blocks_of(const sf_kv *kv, int32_t columns) {
  return (size_t)columns / (size_t)kv->format->traits->block_columns;
}

static size_t bytes_of(const sf_kv *kv, int32_t columns) {
  return blocks_of(kv, columns) * (size_t)kv->format->traits->block_bytes;
}

static float within(float x, float largest) {
  if (!isfinite(x)) return x;
  return x > largest ? largest : x < -largest ? -largest : x;
}

/* A part of a row. Numbers that are too large for the format become its largest; what is not finite stays so. */
static void put_part(const sf_kernels *kernels, const sf_kv *kv, const float *x, int32_t count, uint8_t *to) {
  const int32_t format = kv->format->format;
  const float largest = format == SF_F16 ? SF_LARGEST_HALF : 127 * SF_LARGEST_HALF;
  float values[PART];
  if (format == SF_F32) {
    memcpy(to, x, (size_t)count * sizeof(float));
    return;
  }
  for (int32_t i = 0; i < count; i++) values[i] = within(x[i], largest);
  if (format == SF_F16) {
    kernels->halves(values, count, to);
  } else {
    kv->format->quantize(values, blocks_of(kv, count), to);
  }
}

static void put(const sf_kernels *kernels, const sf_kv *kv, const float *x, uint8_t *to) {
  for (int32_t first = 0; first < kv->dim; first += PART) {
    put_part(kernels, kv, x + first, part_of(kv, first), to + bytes_of(kv, first));
  }
}

void sf_attention_store(const sf_model *model, const sf_step *step) {
  if (!keeps(step)) return;
  const sf_attention a = sf_attention_of(model, step);
  const sf_kernels *kernels = model->context->kernels;
  const float *k = sf_values(model, step, SF_ATTENTION_K), *v = sf_values(model, step, SF_ATTENTION_V);
  for (int32_t j = 0; j < model->batch.n; j++, k += a.kv_heads * a.k.dim, v += a.kv_heads * a.v.dim) {
    int32_t position = model->batch.positions[j], row = sf_rows_of(&a, position + 1) - 1;
    if (row < 0 || row == sf_rows_of(&a, position) - 1) continue; /* it is not the last of its run */
    uint8_t *block = sf_block_of(sf_attention_state(model, step, j), row);
    size_t at = (size_t)(row % SF_KV_BLOCK);
    for (int32_t h = 0; h < a.kv_heads; h++) {
      put(kernels, &a.k, k + h * a.k.dim, sf_keys_in(block, &a, h) + at * a.k.stride);
      put(kernels, &a.v, v + h * a.v.dim, sf_values_in(block, &a, h) + at * a.v.stride);
    }
  }
}

/* ---- Saving ---- */

/* A row in another format becomes one of `kv`; `to` may be NULL. 0 if a number of it is not finite. */
static int32_t convert(const sf_kernels *kernels, const sf_kv *theirs, const uint8_t *row, const sf_kv *kv,
                       uint8_t *to) {
  int32_t finite = 1;
  for (int32_t first = 0; first < kv->dim; first += PART) {
    const int32_t count = part_of(kv, first);
    float values[PART];
    theirs->format->dequantize(row + bytes_of(theirs, first), blocks_of(theirs, count), values);
    finite &= kernels->all_finite(values, count);
    if (to) put_part(kernels, kv, values, count, to + bytes_of(kv, first));
  }
  return finite;
}

/* `count` rows of keys or values, of which `rows` are in a session as `kv`, those saved or restored as `theirs`, copied
 * as sf_exchange does. With `finite`, whether the restored ones are is noted there instead. */
static size_t exchange_rows(const sf_model *model, const sf_kv *kv, const sf_kv *theirs, int32_t count, uint8_t *rows,
                            size_t at, uint8_t *saved, const uint8_t *restored, int32_t *finite) {
  const size_t bytes = (size_t)count * theirs->stride;
  if (!restored || (!finite && theirs->format == kv->format)) return sf_exchange(rows, bytes, at, saved, restored);
  for (int32_t i = 0; i < count; i++) {
    const uint8_t *row = restored + at + (size_t)i * theirs->stride;
    int32_t is_finite =
        convert(model->context->kernels, theirs, row, kv, finite ? NULL : rows + (size_t)i * kv->stride);
    if (finite) *finite &= is_finite;
  }
  return bytes;
}

size_t sf_attention_exchange(const sf_model *model, const sf_format *const *formats, sf_state *states, int32_t length,
                             int32_t spare, uint8_t *saved, const uint8_t *restored, int32_t *finite) {
  size_t at = 0;
  for (int32_t i = 0; i < model->n_steps; i++) {
    const sf_step *step = &model->steps[i];
    if (!keeps(step)) continue;
    const sf_attention a = sf_attention_of(model, step);
    const sf_kv k = sf_kv_of(formats[0], a.k.dim), v = sf_kv_of(formats[1], a.v.dim);
    const int32_t rows = sf_rows_of(&a, length), first_block = first_needed(&states[i], length, spare);
    if (restored && !finite) states[i].first_block = first_block;
    for (int32_t first = first_block * SF_KV_BLOCK; first < rows; first += SF_KV_BLOCK) {
      int32_t count = rows - first < SF_KV_BLOCK ? rows - first : SF_KV_BLOCK;
      uint8_t *block = (saved || restored) && !finite ? sf_block_of(&states[i], first) : NULL;
      for (int32_t h = 0; h < a.kv_heads; h++) {
        uint8_t *keys = block ? sf_keys_in(block, &a, h) : NULL, *values = block ? sf_values_in(block, &a, h) : NULL;
        at += exchange_rows(model, &a.k, &k, count, keys, at, saved, restored, finite);
        at += exchange_rows(model, &a.v, &v, count, values, at, saved, restored, finite);
      }
    }
  }
  return at;
}
