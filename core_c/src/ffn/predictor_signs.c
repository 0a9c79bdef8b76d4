/* Sign-bit predictors: scores count the signs of products, see sf_predictor_open_sign. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "ffn/predictor.h"
#include "matrix/matrix.h"

typedef struct {
  sf_predictor base;
  uint32_t *signs;   /* (hidden, words), bit j of word w is column 32 w + j */
  uint32_t *x_signs; /* (words) */
  int32_t words;
  float alpha;
} sign_bits;

/* Bit j of the result: x[j] is negative. -0 counts as positive, so that the sign of a product is the XOR. */
static void pack_signs(const float *x, int32_t count, uint32_t *words) {
  memset(words, 0, ((size_t)count + 31) / 32 * sizeof *words);
  for (int32_t j = 0; j < count; j++) words[j / 32] |= (uint32_t)(x[j] < 0) << (j % 32);
}

static int32_t count_bits(uint32_t word) {
#if defined(__GNUC__)
  return __builtin_popcount(word);
#else
  word -= word >> 1 & 0x55555555u;
  word = (word & 0x33333333u) + (word >> 2 & 0x33333333u);
  return (int32_t)(((word + (word >> 4)) & 0x0F0F0F0Fu) * 0x01010101u >> 24);
#endif
}

/* Of one vector. */
static void score_one(sign_bits *predictor, const float *x, int32_t first, float *scores) {
  pack_signs(x, predictor->base.d, predictor->x_signs);
  const uint32_t *row = predictor->signs + (size_t)first * (size_t)predictor->words;
  for (int32_t i = first; i < predictor->base.hidden; i++, row += predictor->words) {
    int32_t negative = 0;
    for (int32_t w = 0; w < predictor->words; w++) negative += count_bits(row[w] ^ predictor->x_signs[w]);
    *scores++ = predictor->alpha * (float)(predictor->base.d - negative) - (float)negative;
  }
}

static int32_t score(sf_predictor *base, const float *x, int32_t n, int32_t first, float *scores, size_t stride) {
  for (int32_t j = 0; j < n; j++) {
    score_one((sign_bits *)base, x + (size_t)j * (size_t)base->d, first, scores + (size_t)j * stride);
  }
  return SF_OK;
}

static void close_signs(sf_predictor *base) {
  sign_bits *predictor = (sign_bits *)base;
  sf_free(predictor->signs);
  sf_free(predictor->x_signs);
}

static const sf_predictor_kind kind = {score, NULL, close_signs};

int32_t sf_predictor_open_sign(sf_predictor **out, sf_context *context, const sf_matrix *gate, float alpha) {
  if (!out) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (!context || !gate || !isfinite(alpha)) return SF_ERROR_ARGUMENT;
  if (gate->rows > SF_MAX_NEURONS || gate->columns > SF_MAX_NEURONS) return SF_ERROR_SHAPE;
  sign_bits *predictor = sf_array(1, sizeof(sign_bits));
  if (!predictor) return SF_ERROR_MEMORY;
  int32_t d = gate->columns, words = d / 32 + (d % 32 != 0);
  predictor->base.kind = &kind;
  predictor->alpha = alpha;
  predictor->words = words;
  predictor->x_signs = sf_array((size_t)words, sizeof(uint32_t));
  predictor->signs = sf_array(sf_size_product((size_t)gate->rows, (size_t)words), sizeof(uint32_t));
  float *row = sf_array((size_t)d, sizeof(float));
  int32_t status = sf_predictor_start(&predictor->base, context, d, gate->rows);
  if (!predictor->x_signs || !predictor->signs || !row) status = SF_ERROR_MEMORY;
  for (int32_t i = 0; i < gate->rows && status == SF_OK; i++) {
    sf_matrix_row(gate, i, row);
    pack_signs(row, d, predictor->signs + (size_t)i * (size_t)words);
  }
  sf_free(row);
  if (status != SF_OK) {
    sf_predictor_close(&predictor->base);
    return status;
  }
  *out = &predictor->base;
  return SF_OK;
}

int32_t sf_predictor_signs(const sf_predictor *base, uint32_t *signs, size_t bytes) {
  if (!base || base->kind != &kind || !signs) return SF_ERROR_ARGUMENT;
  const sign_bits *predictor = (const sign_bits *)base;
  size_t wanted = (size_t)base->hidden * (size_t)predictor->words * sizeof *signs;
  if (bytes < wanted) return SF_ERROR_SHAPE;
  memcpy(signs, predictor->signs, wanted);
  return SF_OK;
}
