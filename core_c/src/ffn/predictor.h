/* Predictors. Functions here trust their arguments: the public functions
 * have checked them. */
#ifndef SF_PREDICTOR_H
#define SF_PREDICTOR_H

#include "matrix/panels.h"

struct sf_predictor {
  sf_context *context;
  int32_t d, hidden;
  const sf_matrix *p, *q;        /* low-rank; NULL for sign bits */
  sf_interleaved wide_p, wide_q; /* the same rows again, where there are kernels for these */
  uint32_t *signs;               /* sign bits: (hidden, words), bit j of word w is column 32 w + j; NULL for low-rank */
  uint32_t *x_signs;             /* (words) */
  int32_t words;
  float alpha;
  float *bias; /* (hidden) or NULL */
  int32_t relu_between;
  int32_t rule, least, most, hot;
  float threshold;
  float *z;      /* low-rank: (n, rank), grown as needed */
  float *scores; /* (n, hidden), grown as needed */
  size_t z_capacity, scores_capacity;
};

/* Selected neurons of each of n finite vectors x (n, d), ascending, into ids (n, hidden), and how many into counts
 * (n). */
int32_t sf_predict(sf_predictor *predictor, const float *x, int32_t n, int32_t *ids, int32_t *counts);

#endif
