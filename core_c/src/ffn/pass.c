/* The steps that passes through a layer share. */
#include "ffn/pass.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

enum {
  TILE_BYTES = 256 << 10, /* about what stays in a second-level cache */
  MIN_TILE = 64           /* neurons */
};

int32_t sf_ffn_reserve(sf_ffn *ffn, int32_t n) {
  size_t count = sf_size_product((size_t)n, (size_t)ffn->hidden);
  int32_t status = sf_grow((void **)&ffn->work->gate_values, &ffn->work->gate_capacity, count, sizeof(float));
  if (status == SF_OK) status = sf_grow((void **)&ffn->work->up_values, &ffn->work->up_capacity, count, sizeof(float));
  if (status == SF_OK) status = sf_grow((void **)&ffn->work->ids, &ffn->work->ids_capacity, count, sizeof(int32_t));
  return status;
}

void sf_ffn_close_work(sf_ffn_work *work) {
  sf_free(work->gate_values);
  sf_free(work->up_values);
  sf_free(work->ids);
  sf_free(work->some_values);
  sf_free(work->some_ids);
  sf_free(work->uses);
  sf_free(work->outputs);
}

void sf_ffn_share_work(sf_ffn *ffn, sf_ffn_work *work) {
  const sf_ffn_work none = {0};
  sf_ffn_close_work(&ffn->own_work);
  ffn->own_work = none;
  ffn->work = work;
}

int32_t sf_ffn_prepare(const sf_ffn *ffn, int32_t phase, const float *x, int32_t n, sf_inputs *inputs) {
  const sf_format *formats[] = {ffn->up->format, ffn->gate ? ffn->gate->format : ffn->up->format};
  return sf_prepare(ffn->context, phase, formats, 2, x, n, ffn->d_in, inputs);
}

void sf_ffn_start_output(const sf_ffn *ffn, int32_t n, float *y) {
  size_t d_out = (size_t)ffn->d_out;
  if (!ffn->down_bias) {
    memset(y, 0, (size_t)n * d_out * sizeof(float));
    return;
  }
  for (int32_t j = 0; j < n; j++) memcpy(y + (size_t)j * d_out, ffn->down_bias, d_out * sizeof(float));
}

void sf_ffn_count_fired(const sf_ffn *ffn, const int32_t *ids, const int32_t *counts, int32_t n, uint8_t *fired) {
  const float *activations = ffn->gate ? ffn->work->gate_values : ffn->work->up_values;
  for (int32_t j = 0; j < n; j++) {
    size_t row = (size_t)j * (size_t)ffn->hidden;
    for (int32_t i = 0; ids && i < counts[j]; i++) {
      uint8_t *count = &fired[ids[row + (size_t)i]];
      *count = (uint8_t)(*count + (*count < UINT8_MAX));
    }
    for (int32_t i = 0; !ids && i < ffn->hidden; i++) {
      fired[i] = (uint8_t)(fired[i] + ((fired[i] < UINT8_MAX) & (activations[row + (size_t)i] != 0.0f)));
    }
  }
}

int32_t sf_ffn_tile(const sf_ffn *ffn, const sf_matrix *matrix, int64_t wanted) {
  int64_t used = wanted < ffn->hidden ? wanted : ffn->hidden;
  int64_t rows = (int64_t)(TILE_BYTES / matrix->row_bytes) + 1, tile = rows * ffn->hidden / used;
  tile = tile < MIN_TILE ? MIN_TILE : tile;
  return tile < ffn->hidden ? (int32_t)tile : ffn->hidden;
}

/* NaN stays, so that it shows in the result. */
void sf_ffn_cut_gates(const sf_ffn *ffn, int32_t n, float *gates) {
  int32_t hidden = ffn->hidden;
  for (int32_t j = 0; ffn->deviations > 0 && j < n; j++, gates += hidden) {
    double sum = 0, squares = 0;
    for (int32_t i = 0; i < hidden; i++) sum += (double)gates[i];
    double mean = sum / hidden;
    for (int32_t i = 0; i < hidden; i++) squares += ((double)gates[i] - mean) * ((double)gates[i] - mean);
    double deviation = hidden > 1 ? sqrt(squares / (hidden - 1)) : 0,
           least = mean + (double)ffn->deviations * deviation;
    for (int32_t i = 0; i < hidden; i++) {
      float above = (float)((double)gates[i] - least);
      gates[i] = above <= 0 ? 0 : above;
    }
  }
}

/* The sums are doubles, in the order of the neurons: neurons that are 0 change no bit, so leaving them out does not. */
void sf_ffn_apply_sub_norm(const sf_ffn *ffn, const int32_t *ids, const int32_t *counts, int32_t n, float *alpha) {
  for (int32_t j = 0; ffn->sub_norm && j < n; j++) {
    size_t list = (size_t)j * (size_t)ffn->hidden;
    int32_t count = ids ? counts[j] : ffn->hidden;
    double squares = 0;
    for (int32_t i = 0; i < count; i++) squares += (double)alpha[list + (size_t)i] * (double)alpha[list + (size_t)i];
    double scale = 1 / sqrt(squares / ffn->hidden + (double)ffn->sub_norm_epsilon);
    for (int32_t i = 0; i < count && squares > 0; i++) { /* 0 stays 0, also without an epsilon */
      float weight = ffn->sub_norm[ids ? ids[list + (size_t)i] : i];
      alpha[list + (size_t)i] = (float)((double)alpha[list + (size_t)i] * scale) * weight;
    }
  }
}
