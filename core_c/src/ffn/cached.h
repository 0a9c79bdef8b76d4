/* Passes through a cached layer. Functions here trust their arguments: the public functions
 * have checked them. */
#ifndef SF_CACHED_H
#define SF_CACHED_H

#include "ffn/pass.h"

/* A pass of n ≤ SF_BATCH vectors through a cached layer, which stops where the host has to read neurons (see cached.c),
 * or through a layer of experts, cached or not (see experts.c). A part of what is wanted is resident at a time. */
typedef struct {
  const struct sf_step *experts; /* the step of experts whose pass has begun, until it ends; else NULL */
  int32_t asked;                 /* 1: the host has just been asked for experts of the part */
  int32_t *ids;                  /* (SF_BATCH, hidden): the neurons of each vector */
  int32_t *wanted;               /* (hidden): the first n_wanted are those that any vector wants, ascending */
  int32_t *missing;              /* (hidden): the first n_missing are those of the part that have to be read */
  size_t ids_capacity, wanted_capacity, missing_capacity;
  int32_t n_wanted, n_missing;
  int32_t first, granted;                                         /* the part: wanted[first …] */
  int32_t layer;                                                  /* of the plan */
  int32_t counts[SF_BATCH], computed[SF_BATCH], active[SF_BATCH]; /* of each vector's neurons */
  /* Of experts: the vectors that go to one, what it makes of them, and what every expert made. */
  float *in, *out, *made; /* (SF_BATCH, d_in), (SF_BATCH, d_out), (n, used, d_out) */
  size_t in_capacity, out_capacity, made_capacity;
} sf_cached_pass;

void sf_cached_close(sf_cached_pass *pass);
/* Chooses the neurons, as sf_ffn_run does, and starts y (n, d_out). */
int32_t sf_cached_begin(sf_cached_pass *pass, sf_ffn *ffn, int32_t mode, const float *hints, int32_t n, float *y);
/* Goes on, with the same arguments each time: SF_OK at the end, SF_WAITING when pass->missing has to be read first, or
 * an error, NOT_RESIDENT when it was not. */
int32_t sf_cached_continue(sf_cached_pass *pass, sf_ffn *ffn, int32_t mode, const float *x, int32_t n, float *y,
                           uint8_t *fired);

#endif
