/* The neuron cache: what it holds, what gives way, and that a layer computed through it equals, bit for bit, the same
 * layer in memory. */
#include <string.h>

#include "check.h"
#include "reference.h"

enum { HIDDEN = 90, D = 64, OUT = 96 };

/* Neurons, the low ones far oftener than the high ones. */
static int32_t random_ids(int32_t *ids) {
  int32_t count = 0;
  for (int32_t i = 0; i < HIDDEN; i++) {
    if (random_unit() < 1.8f / (1.0f + 0.2f * (float)i) - 1) ids[count++] = i;
  }
  return count;
}

static void *bundle_of(sf_cache *cache, int32_t neuron) {
  void *bundle = NULL;
  CHECK(sf_cache_bundles(cache, &neuron, 1, &bundle) == SF_OK, "the place of neuron %d", neuron);
  return bundle;
}

static void test_policy(int32_t policy, int32_t neuron_to_go) {
  sf_cache *cache;
  int32_t missing[4], missing_count;
  CHECK(sf_cache_open(&cache, 10, 8, 3, policy, 2) == SF_OK, "open");
  /* 0 is used three times, 1 twice but latest, 2 once in between. */
  const int32_t requests[6] = {0, 0, 0, 1, 2, 1};
  for (int32_t i = 0; i < 6; i++) {
    CHECK(sf_cache_request(cache, &requests[i], 1, missing, &missing_count) == 1, "request");
    CHECK(sf_cache_loaded(cache, missing, missing_count) == SF_OK, "loaded");
  }
  CHECK(sf_cache_resident(cache) == 3, "three are resident");
  const int32_t another = 7;
  CHECK(sf_cache_request(cache, &another, 1, missing, &missing_count) == 1 && missing_count == 1, "a fourth");
  CHECK(!bundle_of(cache, neuron_to_go), "policy %d: %d gives way", policy, neuron_to_go);
  CHECK(bundle_of(cache, 7), "the fourth has a place");
  CHECK(sf_cache_resident(cache) == 2, "but is not loaded");
  sf_cache_close(cache);
}

static void test_errors(void) {
  sf_cache *cache;
  int32_t missing[4], missing_count;
  const int32_t ids[4] = {1, 2, 5, 10}, unsorted[2] = {2, 1};
  CHECK(sf_cache_open(&cache, 10, 8, 11, SF_CACHE_LRU, 1) == SF_ERROR_ARGUMENT, "more slots than neurons");
  CHECK(sf_cache_open(&cache, 10, 8, 3, 9, 1) == SF_ERROR_ARGUMENT, "policy");
  CHECK(sf_cache_open(&cache, 10, SIZE_MAX / 2, 3, 0, 1) == SF_ERROR_MEMORY, "bundle size");
  CHECK(sf_cache_open(&cache, 10, 8, 3, SF_CACHE_LRU, 1) == SF_OK, "open");
  CHECK(sf_cache_request(cache, ids, 4, missing, &missing_count) == SF_ERROR_ARGUMENT, "id out of range");
  CHECK(sf_cache_request(cache, unsorted, 2, missing, &missing_count) == SF_ERROR_ARGUMENT, "order");
  CHECK(sf_cache_pin(cache, ids, 3) == SF_ERROR_SHAPE, "no slot left");
  CHECK(sf_cache_pin(cache, ids, 2) == SF_OK, "pin");
  CHECK(sf_cache_request(cache, ids, 3, missing, &missing_count) == 3 && missing_count == 3, "pinned and one more");
  CHECK(sf_cache_loaded(cache, ids, 3) == SF_OK, "loaded");
  const int32_t others[3] = {3, 4, 6};
  CHECK(sf_cache_request(cache, others, 3, missing, &missing_count) == 1 && missing_count == 1, "one at a time");
  CHECK(bundle_of(cache, 1) && bundle_of(cache, 2) && !bundle_of(cache, 5), "pinned ones stay");
  CHECK(sf_cache_loaded(cache, ids, 3) == SF_ERROR_NOT_RESIDENT, "loaded without a place");
  sf_cache_close(cache);
}

typedef struct {
  size_t in_bytes, out_bytes;
  uint8_t *bundles; /* (HIDDEN, 2 · in_bytes + out_bytes) */
  sf_matrix *gate, *up, *down;
} layer;

static layer make_layer(int32_t format) {
  layer l = {sf_format_row_bytes(format, D), sf_format_row_bytes(format, OUT), NULL, NULL, NULL, NULL};
  size_t stride = 2 * l.in_bytes + l.out_bytes, bytes = stride * HIDDEN;
  float row[OUT];
  l.bundles = sf_alloc(bytes);
  for (int32_t i = 0; i < HIDDEN; i++) {
    uint8_t *bundle = l.bundles + (size_t)i * stride;
    for (int32_t part = 0; part < 3; part++) {
      for (int32_t c = 0; c < OUT; c++) row[c] = random_unit();
      size_t part_bytes = part < 2 ? l.in_bytes : l.out_bytes;
      sf_quantize(format, row, 1, part < 2 ? D : OUT, bundle + (size_t)part * l.in_bytes, part_bytes);
    }
  }
  CHECK(sf_matrix_open(&l.gate, l.bundles, bytes, format, HIDDEN, D, stride) == SF_OK, "gate");
  CHECK(sf_matrix_open(&l.up, l.bundles + l.in_bytes, bytes - l.in_bytes, format, HIDDEN, D, stride) == SF_OK, "up");
  CHECK(
      sf_matrix_open(&l.down, l.bundles + 2 * l.in_bytes, bytes - 2 * l.in_bytes, format, HIDDEN, OUT, stride) == SF_OK,
      "down");
  return l;
}

/* Computes the neurons ids through the cache, reading what is missing from l->bundles. */
static void forward_cached(sf_ffn *ffn, sf_cache *cache, const layer *l, const int32_t *ids, int32_t count,
                           const float *x, float *y, int32_t slots) {
  int32_t missing[HIDDEN], missing_count;
  size_t stride = 2 * l->in_bytes + l->out_bytes;
  CHECK(sf_ffn_forward_active(ffn, NULL, 0, x, y) == SF_OK, "the bias");
  for (int32_t done = 0; done < count;) {
    int32_t granted = sf_cache_request(cache, ids + done, count - done, missing, &missing_count);
    CHECK(granted > 0, "request: %d", granted);
    if (granted <= 0) return;
    if (missing_count > 0) {
      CHECK(sf_ffn_add_active(ffn, ids + done, granted, x, y) == SF_ERROR_NOT_RESIDENT, "not read yet");
    }
    for (int32_t i = 0; i < missing_count; i++) {
      memcpy(bundle_of(cache, missing[i]), l->bundles + (size_t)missing[i] * stride, stride);
    }
    CHECK(sf_cache_loaded(cache, missing, missing_count) == SF_OK, "loaded");
    CHECK(sf_cache_resident(cache) <= slots, "never more than the budget");
    CHECK(sf_ffn_add_active(ffn, ids + done, granted, x, y) >= 0, "add");
    done += granted;
  }
}

static void test_cached_layer(sf_context *context, int32_t format, int32_t slots, int32_t pinned) {
  layer l = make_layer(format);
  sf_cache *cache;
  sf_ffn *whole, *cached;
  int32_t ids[HIDDEN];
  float x[D], bias[OUT], y[OUT], expected[OUT];
  size_t bundle = 2 * l.in_bytes + l.out_bytes;
  CHECK(sf_cache_open(&cache, HIDDEN, bundle, slots, SF_CACHE_WINDOW, 8) == SF_OK, "cache");
  for (int32_t i = 0; i < pinned; i++) ids[i] = i;
  CHECK(sf_cache_pin(cache, ids, pinned) == SF_OK, "pin");
  CHECK(sf_ffn_open(&whole, context, l.gate, l.up, l.down, SF_DOWN_BY_NEURON, SF_RELU, 0) == SF_OK, "whole");
  CHECK(sf_ffn_open_cached(&cached, context, cache, format, D, OUT, 1, SF_RELU, 0) == SF_OK, "cached");
  for (int32_t i = 0; i < OUT; i++) bias[i] = random_unit();
  CHECK(sf_ffn_set_bias(whole, NULL, NULL, bias) == SF_OK && sf_ffn_set_bias(cached, NULL, NULL, bias) == SF_OK,
        "bias");
  for (int32_t round = 0; round < 40; round++) {
    int32_t count = random_ids(ids);
    for (int32_t i = 0; i < D; i++) x[i] = random_unit();
    CHECK(sf_ffn_forward_active(whole, ids, count, x, expected) >= 0, "in memory");
    forward_cached(cached, cache, &l, ids, count, x, y, slots);
    CHECK(memcmp(y, expected, sizeof y) == 0, "the cached layer differs");
  }
  CHECK(sf_ffn_forward(cached, SF_EXACT, x, 1, y, NULL, NULL) == SF_ERROR_UNSUPPORTED, "forward");
  sf_ffn *wrong;
  CHECK(sf_ffn_open_cached(&wrong, context, cache, format, D, OUT, 0, SF_RELU, 0) == SF_ERROR_SHAPE, "bundle size");
  sf_ffn_close(whole), sf_ffn_close(cached);
  sf_cache_close(cache);
  sf_matrix_close(l.gate), sf_matrix_close(l.up), sf_matrix_close(l.down);
  sf_free(l.bundles);
}

int main(int argc, char **argv) {
  (void)argc, (void)argv;
  test_policy(SF_CACHE_LRU, 0);
  test_policy(SF_CACHE_LFU, 2);
  test_policy(SF_CACHE_WINDOW, 0);
  test_errors();
  for (int32_t isa = 0; isa < sf_isa_count(); isa++) {
    if (!check_isa(sf_isa_supported(isa))) continue;
    check_section(sf_isa_name(isa));
    sf_context *context;
    CHECK(sf_context_open(&context, isa, 2) == SF_OK, "context");
    const int32_t formats[] = {SF_F32, SF_F16, SF_Q8_0, SF_Q5_0};
    for (int32_t f = 0; f < 4; f++) {
      test_cached_layer(context, formats[f], 9, 4);
      test_cached_layer(context, formats[f], HIDDEN, HIDDEN);
      test_cached_layer(context, formats[f], 1, 0);
    }
    sf_context_close(context);
  }
  return check_result();
}
