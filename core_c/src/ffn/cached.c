/* Passes through a cached layer: the neurons that n vectors want become resident part by part, as many at once as the
 * cache has room for, and each part is computed before the next is asked for. The parts ascend, so every output is
 * summed in the order of a pass in memory, and has its bits. */
#include "ffn/cached.h"

#include <string.h>

#include "base/memory.h"
#include "ffn/sparse.h"

/* Makes room for a layer of `hidden` neurons. */
static int32_t reserve(sf_cached_pass *pass, int32_t hidden) {
  size_t count = (size_t)hidden;
  int32_t status = sf_grow((void **)&pass->ids, &pass->ids_capacity, SF_BATCH * count, sizeof(int32_t));
  if (status == SF_OK) status = sf_grow((void **)&pass->wanted, &pass->wanted_capacity, count, sizeof(int32_t));
  if (status == SF_OK) status = sf_grow((void **)&pass->missing, &pass->missing_capacity, count, sizeof(int32_t));
  return status;
}

void sf_cached_close(sf_cached_pass *pass) {
  sf_free(pass->ids);
  sf_free(pass->wanted);
  sf_free(pass->missing);
  sf_free(pass->in);
  sf_free(pass->out);
  sf_free(pass->made);
}

/* The neurons that any of the n vectors wants, and in the cache how often each was wanted. */
static void unite(sf_cached_pass *pass, sf_cache *cache, int32_t n) {
  int32_t *times = pass->missing, hidden = cache->hidden;
  memset(times, 0, (size_t)hidden * sizeof(int32_t));
  for (int32_t j = 0; j < n; j++) {
    const int32_t *ids = pass->ids + (size_t)j * (size_t)hidden;
    for (int32_t i = 0; i < pass->counts[j]; i++) times[ids[i]]++;
  }
  pass->n_wanted = 0;
  for (int32_t i = 0; i < hidden; i++) {
    if (times[i] == 0) continue;
    pass->wanted[pass->n_wanted++] = i;
    sf_add_count(&cache->wanted[i], times[i]);
  }
}

int32_t sf_cached_begin(sf_cached_pass *pass, sf_ffn *ffn, int32_t mode, const float *hints, int32_t n, float *y) {
  size_t hidden = (size_t)ffn->hidden;
  int32_t status = reserve(pass, ffn->hidden);
  if (status != SF_OK) return status;
  if (mode == SF_SPARSE && ffn->predictor) {
    status = sf_predict(ffn->predictor, hints, n, pass->ids, pass->counts);
    if (status != SF_OK) return status;
  } else {
    for (int32_t j = 0; j < n; j++) {
      pass->counts[j] = ffn->hidden;
      for (int32_t i = 0; i < ffn->hidden; i++) pass->ids[(size_t)j * hidden + (size_t)i] = i;
    }
  }
  memset(pass->computed, 0, sizeof(pass->computed));
  memset(pass->active, 0, sizeof(pass->active));
  unite(pass, ffn->cache, n);
  pass->first = pass->granted = pass->n_missing = 0;
  sf_ffn_start_output(ffn, n, y);
  return SF_OK;
}

/* The present part, for each vector the neurons of it that it wants. */
static int32_t add_part(sf_cached_pass *pass, sf_ffn *ffn, int32_t mode, const float *x, int32_t n, float *y,
                        uint8_t *fired) {
  int32_t last = pass->wanted[pass->first + pass->granted - 1];
  for (int32_t j = 0; j < n; j++) {
    const int32_t *ids = pass->ids + (size_t)j * (size_t)ffn->hidden + pass->computed[j];
    int32_t left = pass->counts[j] - pass->computed[j], count = 0;
    while (count < left && ids[count] <= last) count++;
    if (count == 0) continue;
    int32_t active = sf_ffn_add_neurons(ffn, mode, ids, count, x + (size_t)j * (size_t)ffn->d_in,
                                        y + (size_t)j * (size_t)ffn->d_out, fired);
    if (active < 0) return active;
    pass->computed[j] += count;
    pass->active[j] += active;
  }
  return SF_OK;
}

int32_t sf_cached_continue(sf_cached_pass *pass, sf_ffn *ffn, int32_t mode, const float *x, int32_t n, float *y,
                           uint8_t *fired) {
  int32_t status = SF_OK;
  while (status == SF_OK && pass->first < pass->n_wanted) {
    if (pass->granted == 0) {
      pass->granted = sf_cache_request(ffn->cache, pass->wanted + pass->first, pass->n_wanted - pass->first,
                                       pass->missing, &pass->n_missing);
      if (pass->n_missing > 0) return SF_WAITING;
    }
    status = add_part(pass, ffn, mode, x, n, y, fired);
    pass->first += pass->granted;
    pass->granted = 0;
  }
  return status;
}
