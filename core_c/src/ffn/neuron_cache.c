/* The neuron cache: bundles of neurons in a fixed number of slots, filled by the host from wherever the rest lies. */
#include "ffn/neuron_cache.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/isa.h"
#include "matrix/select.h"

int32_t sf_cache_open(sf_cache **out, int32_t hidden, size_t bundle_bytes, int32_t slots, int32_t policy,
                      int32_t window) {
  if (!out) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (hidden < 1 || bundle_bytes < 1 || slots < 1 || slots > hidden || window < 1) return SF_ERROR_ARGUMENT;
  if (policy < SF_CACHE_LRU || policy > SF_CACHE_WINDOW) return SF_ERROR_ARGUMENT;
  const sf_kernels *kernels = sf_isa_kernels(sf_isa_best());
  if (!kernels) return SF_ERROR_UNSUPPORTED;
  sf_cache *cache = sf_array(1, sizeof(sf_cache));
  if (!cache) return SF_ERROR_MEMORY;
  cache->kernels = kernels;
  cache->hidden = hidden;
  cache->slots = slots;
  cache->bundle_bytes = bundle_bytes;
  cache->policy = policy;
  cache->decay = policy == SF_CACHE_WINDOW ? 1.0f - 1.0f / (float)window : 1.0f;
  cache->arena = sf_array((size_t)slots, bundle_bytes);
  cache->slot_of = sf_array((size_t)hidden, sizeof(int32_t));
  cache->neuron_in = sf_array((size_t)slots, sizeof(int32_t));
  cache->loaded = sf_array((size_t)slots, 1);
  cache->pinned = sf_array((size_t)hidden, 1);
  cache->uses = sf_array((size_t)hidden, sizeof(float));
  cache->last_use = sf_array((size_t)hidden, sizeof(uint32_t));
  cache->scores = sf_array((size_t)slots, sizeof(float));
  cache->chosen = sf_array((size_t)slots, sizeof(int32_t));
  cache->wanted = sf_array((size_t)hidden, sizeof(int32_t));
  if (!cache->arena || !cache->slot_of || !cache->neuron_in || !cache->loaded || !cache->pinned || !cache->uses ||
      !cache->last_use || !cache->scores || !cache->chosen || !cache->wanted) {
    sf_cache_close(cache);
    return SF_ERROR_MEMORY;
  }
  for (int32_t i = 0; i < hidden; i++) cache->slot_of[i] = -1;
  for (int32_t i = 0; i < slots; i++) cache->neuron_in[i] = -1;
  *out = cache;
  return SF_OK;
}

void sf_cache_close(sf_cache *cache) {
  if (!cache) return;
  sf_free(cache->arena);
  sf_free(cache->slot_of);
  sf_free(cache->neuron_in);
  sf_free(cache->loaded);
  sf_free(cache->pinned);
  sf_free(cache->uses);
  sf_free(cache->last_use);
  sf_free(cache->scores);
  sf_free(cache->chosen);
  sf_free(cache->wanted);
  sf_free(cache);
}

int32_t sf_ids_valid(const int32_t *ids, int32_t count, int32_t hidden) {
  if (count < 0 || (count > 0 && !ids)) return 0;
  for (int32_t i = 0; i < count; i++) {
    if (ids[i] < 0 || ids[i] >= hidden || (i > 0 && ids[i] <= ids[i - 1])) return 0;
  }
  return 1;
}

int32_t sf_cache_pin(sf_cache *cache, const int32_t *ids, int32_t count) {
  if (!cache || !sf_ids_valid(ids, count, cache->hidden)) return SF_ERROR_ARGUMENT;
  /* At least one slot is left for the others, unless there are no others. */
  if (count > cache->slots || (count == cache->slots && count < cache->hidden)) return SF_ERROR_SHAPE;
  memset(cache->pinned, 0, (size_t)cache->hidden);
  for (int32_t i = 0; i < count; i++) cache->pinned[ids[i]] = 1;
  cache->pinned_count = count;
  return SF_OK;
}

static void empty_slot(sf_cache *cache, int32_t slot) {
  if (cache->neuron_in[slot] < 0) return;
  cache->slot_of[cache->neuron_in[slot]] = -1;
  cache->neuron_in[slot] = -1;
  cache->loaded[slot] = 0;
}

/* The uses of a neuron as they count now: each weighs decay^(requests since). */
static float present_uses(const sf_cache *cache, int32_t neuron) {
  float age = (float)(cache->now - cache->last_use[neuron]);
  return cache->decay < 1 ? cache->uses[neuron] * powf(cache->decay, age) : cache->uses[neuron];
}

static void record_use(sf_cache *cache, int32_t neuron) {
  cache->uses[neuron] = present_uses(cache, neuron) + 1;
  cache->last_use[neuron] = cache->now;
}

/* Empties `count` slots whose neurons are neither pinned nor part of the present request: by the policy, the least
 * worth keeping first. There are enough of them: see how sf_cache_request bounds a request. */
static void evict(sf_cache *cache, int32_t count) {
  for (int32_t slot = 0; slot < cache->slots; slot++) {
    int32_t neuron = cache->neuron_in[slot];
    int32_t free_to_go = neuron >= 0 && !cache->pinned[neuron] && cache->last_use[neuron] != cache->now;
    float score = NAN; /* never selected */
    if (free_to_go && cache->policy == SF_CACHE_LRU) score = (float)(cache->now - cache->last_use[neuron]);
    if (free_to_go && cache->policy != SF_CACHE_LRU) score = -present_uses(cache, neuron);
    cache->scores[slot] = score;
  }
  int32_t chosen = sf_top_k(cache->kernels, cache->scores, cache->slots, count, cache->chosen);
  for (int32_t i = 0; i < chosen; i++) empty_slot(cache, cache->chosen[i]);
}

int32_t sf_cache_request(sf_cache *cache, const int32_t *ids, int32_t count, int32_t *missing, int32_t *missing_count) {
  if (!cache || !missing_count || !sf_ids_valid(ids, count, cache->hidden) || (count > 0 && !missing)) {
    return SF_ERROR_ARGUMENT;
  }
  int32_t empty = 0, room = cache->slots - cache->pinned_count, granted = 0;
  cache->now++;
  *missing_count = 0;
  for (int32_t slot = 0; slot < cache->slots; slot++) {
    if (!cache->loaded[slot]) empty_slot(cache, slot); /* asked for earlier, and never read */
    empty += cache->neuron_in[slot] < 0;
  }
  for (; granted < count; granted++) {
    int32_t neuron = ids[granted];
    if (!cache->pinned[neuron] && room-- == 0) break;
    record_use(cache, neuron);
    if (cache->slot_of[neuron] < 0) missing[(*missing_count)++] = neuron;
  }
  if (*missing_count > empty) evict(cache, *missing_count - empty);
  int32_t slot = 0;
  for (int32_t i = 0; i < *missing_count; i++) {
    while (cache->neuron_in[slot] >= 0) slot++;
    cache->neuron_in[slot] = missing[i];
    cache->slot_of[missing[i]] = slot;
  }
  sf_add_count(&cache->misses, *missing_count);
  sf_add_count(&cache->hits, granted - *missing_count);
  return granted;
}

int32_t sf_cache_bundles(sf_cache *cache, const int32_t *ids, int32_t count, void **bundles) {
  if (!cache || !sf_ids_valid(ids, count, cache->hidden) || (count > 0 && !bundles)) return SF_ERROR_ARGUMENT;
  for (int32_t i = 0; i < count; i++) {
    int32_t slot = cache->slot_of[ids[i]];
    bundles[i] = slot < 0 ? NULL : cache->arena + (size_t)slot * cache->bundle_bytes;
  }
  return SF_OK;
}

int32_t sf_cache_loaded(sf_cache *cache, const int32_t *ids, int32_t count) {
  if (!cache || !sf_ids_valid(ids, count, cache->hidden)) return SF_ERROR_ARGUMENT;
  for (int32_t i = 0; i < count; i++) {
    if (cache->slot_of[ids[i]] < 0) return SF_ERROR_NOT_RESIDENT;
  }
  for (int32_t i = 0; i < count; i++) cache->loaded[cache->slot_of[ids[i]]] = 1;
  return SF_OK;
}

int32_t sf_cache_counts(sf_cache *cache, int32_t *hits, int32_t *misses, int32_t *wanted) {
  if (!cache || !hits || !misses || !wanted) return SF_ERROR_ARGUMENT;
  *hits = cache->hits;
  *misses = cache->misses;
  cache->hits = cache->misses = 0;
  memcpy(wanted, cache->wanted, (size_t)cache->hidden * sizeof(int32_t));
  memset(cache->wanted, 0, (size_t)cache->hidden * sizeof(int32_t));
  return SF_OK;
}

int32_t sf_cache_resident(const sf_cache *cache) {
  if (!cache) return SF_ERROR_ARGUMENT;
  int32_t resident = 0;
  for (int32_t slot = 0; slot < cache->slots; slot++) resident += cache->loaded[slot];
  return resident;
}

int32_t sf_cache_slots(const sf_cache *cache, const int32_t *ids, int32_t count, int32_t *slots) {
  for (int32_t i = 0; i < count; i++) {
    int32_t slot = cache->slot_of[ids[i]];
    if (slot < 0 || !cache->loaded[slot]) return SF_ERROR_NOT_RESIDENT;
    slots[i] = slot;
  }
  return SF_OK;
}
