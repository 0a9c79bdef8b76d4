/* Predictors. Each kind is a file, which puts its own fields after those that every kind has, and opens it. Functions
 * here trust their arguments: the public functions have checked them. */
#ifndef SF_PREDICTOR_H
#define SF_PREDICTOR_H

#include "matrix/context.h"
#include "matrix/panels.h"

/* What differs between kinds. */
typedef struct {
  /* scores (n, hidden - first), rows `stride` apart, of the neurons from `first` on; n ≤ SF_BATCH. */
  int32_t (*score)(sf_predictor *predictor, const float *x, int32_t n, int32_t first, float *scores, size_t stride);
  /* How far each of the scores (hidden) of one x (d) may be from what it stands for, or NULL: it may be anything. */
  int32_t (*bound)(sf_predictor *predictor, const float *x, float *errors);
  /* Frees what the kind has of its own; the predictor may be half open. */
  void (*close)(sf_predictor *predictor);
} sf_predictor_kind;

struct sf_predictor {
  const sf_predictor_kind *kind;
  sf_context *context;
  int32_t d, hidden;
  int32_t rule, least, most, hot;
  float threshold;
  float *scores; /* (n, hidden), grown as needed */
  size_t scores_capacity;
};

/* Sets what every kind has. `kind` has to be set before. */
int32_t sf_predictor_start(sf_predictor *predictor, sf_context *context, int32_t d, int32_t hidden);
/* Selected neurons of each of n finite vectors x (n, d), ascending, into ids (n, hidden), and how many into counts
 * (n). */
int32_t sf_predict(sf_predictor *predictor, const float *x, int32_t n, int32_t *ids, int32_t *counts);
/* out (n, rows - first), rows `stride` apart: the products of the matrix's rows from `first` on with x (n, columns), by
 * the products of decoding; panels, or NULL, are the same rows again. */
int32_t sf_predictor_multiply(sf_context *context, const sf_matrix *matrix, const sf_panels *panels, int32_t first,
                              const float *x, int32_t n, float *out, size_t stride);

#endif
