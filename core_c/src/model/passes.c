/* Attention to tokens on both sides needs the keys and values of a whole text, which may have more tokens than a batch.
 * So all batches of an evaluation run up to the first step of that kind, where their keys and values go to their
 * sessions; then all of them run from there up to the next. In between, what later steps read is kept. */
#include <string.h>

#include "base/memory.h"
#include "model/plan.h"

int32_t sf_passes_end(const sf_model *model, int32_t place) {
  int32_t end = place + 1;
  while (end < model->n_steps && !sf_sees_both_sides(&model->steps[end])) end++;
  return end;
}

void sf_passes_prepare(sf_model *model) {
  for (int32_t i = 0; i < model->n_buffers; i++) {
    sf_buffer *buffer = &model->buffers[i];
    buffer->kept = 0;
    for (int32_t at = sf_passes_end(model, 0); at < model->n_steps; at = sf_passes_end(model, at)) {
      buffer->kept |= sf_model_live(model, i, at);
    }
  }
}

int32_t sf_passes_begin(sf_model *model, int32_t n) {
  size_t floats = 0;
  for (int32_t i = 0; i < model->n_buffers; i++) floats += model->buffers[i].kept ? (size_t)model->buffers[i].width : 0;
  size_t count = sf_size_product(floats, (size_t)n);
  return sf_grow((void **)&model->kept, &model->kept_capacity, count, sizeof(float));
}

void sf_passes_exchange(const sf_model *model, int32_t n, int32_t restore) {
  const sf_batch *batch = &model->batch;
  float *all = model->kept; /* buffer after buffer, each (n, width) */
  for (int32_t i = 0; i < model->n_buffers; i++) {
    const sf_buffer *buffer = &model->buffers[i];
    if (!buffer->kept) continue;
    size_t width = (size_t)buffer->width, bytes = (size_t)batch->n * width * sizeof(float);
    float *rows = all + (size_t)batch->first * width;
    memcpy(restore ? buffer->values : rows, restore ? rows : buffer->values, bytes);
    all += (size_t)n * width;
  }
}
