/* Neuron caches. Functions here trust their arguments: the public functions
 * have checked them. */
#ifndef SF_NEURON_CACHE_H
#define SF_NEURON_CACHE_H

#include "kernels/kernels.h"
#include "sparsefire.h"

struct sf_cache {
  const sf_kernels *kernels; /* a cache has no context */
  int32_t hidden, slots, policy, pinned_count;
  size_t bundle_bytes;
  float decay;        /* of a use's weight, per request */
  uint8_t *arena;     /* (slots, bundle_bytes) */
  int32_t *slot_of;   /* (hidden), -1: none */
  int32_t *neuron_in; /* (slots), -1: empty */
  uint8_t *loaded;    /* (slots) */
  uint8_t *pinned;    /* (hidden) */
  float *uses;        /* (hidden), as of last_use */
  uint32_t *last_use; /* (hidden), a value of `now` */
  uint32_t now;       /* requests so far */
  float *scores;      /* (slots) */
  int32_t *chosen;    /* (slots) */
  int32_t *wanted;    /* (hidden) see sf_cache_counts, as the next two */
  int32_t hits, misses;
};

/* 1 when ids (count) are ascending, unique and in 0 … hidden-1. */
int32_t sf_ids_valid(const int32_t *ids, int32_t count, int32_t hidden);
/* The slots of loaded neurons, or NOT_RESIDENT. */
int32_t sf_cache_slots(const sf_cache *cache, const int32_t *ids, int32_t count, int32_t *slots);

#endif
