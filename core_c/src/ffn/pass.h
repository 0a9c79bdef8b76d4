/* A feed-forward layer, and the steps that every pass through it has; n ≤ SF_BATCH. Functions here trust their
 * arguments: the public functions have checked them. */
#ifndef SF_PASS_H
#define SF_PASS_H

#include "ffn/neuron_cache.h"
#include "ffn/predictor.h"
#include "matrix/matrix.h"

/* Work memory of a pass of n vectors, each (n, hidden), grown as needed. */
typedef struct {
  float *gate_values, *up_values;
  int32_t *ids;       /* the neurons of each vector */
  float *some_values; /* what a part of the neurons gives, before it is put in its place */
  int32_t *some_ids;
  int32_t *uses;  /* (2, hidden): see sparse.c */
  float *outputs; /* (n, d_out): see down.c */
  size_t gate_capacity, up_capacity, ids_capacity, some_capacity, some_ids_capacity, uses_capacity, outputs_capacity;
} sf_ffn_work;

void sf_ffn_close_work(sf_ffn_work *work);

struct sf_ffn {
  sf_context *context;
  const sf_matrix *gate, *up;
  const sf_matrix *by_neuron, *by_output; /* down in either layout, or in both */
  int32_t first_layout, activation;
  float parameter;
  float gate_cutoff, product_cutoff;
  float deviations; /* > 0: gates are cut, see sf_ffn_cut_gates */
  int32_t d_in, d_out, hidden;
  float *gate_bias, *up_bias, *down_bias;
  int32_t up_activation; /* of up, beside a gate's `activation` */
  float up_parameter;
  float *sub_norm; /* (hidden) or NULL */
  float sub_norm_epsilon;
  sf_predictor *predictor;
  sf_cache *cache;          /* NULL: the matrices have a row for each neuron. Else: for each slot of the cache */
  sf_matrix *slot_matrices; /* of a cached layer: (3) gate, up, down; owned */
  int32_t *rows;            /* (hidden) of a cached layer: the rows of the neurons that are computed */
  sf_ffn_work *work;        /* `own_work`, or what several layers share */
  sf_ffn_work own_work;
};

/* Lets a layer use work memory that several share, in place of its own. */
void sf_ffn_share_work(sf_ffn *ffn, sf_ffn_work *work);
/* Makes room for n vectors. */
int32_t sf_ffn_reserve(sf_ffn *ffn, int32_t n);
/* x (n, d_in) in the form, or forms, that gate and up multiply. */
int32_t sf_ffn_prepare(const sf_ffn *ffn, int32_t phase, const float *x, int32_t n, sf_inputs *inputs);
/* y (n, d_out) starts as the bias. */
void sf_ffn_start_output(const sf_ffn *ffn, int32_t n, float *y);
/* Where the layer does, cuts the gates (n, hidden) of each vector by their mean and standard deviation. */
void sf_ffn_cut_gates(const sf_ffn *ffn, int32_t n, float *gates);
/* Normalises each vector's neurons, where the layer does: alpha[j * hidden + i], i < counts[j], of the neurons
 * ids[j * hidden + i] (NULL: of every neuron). Those that are not listed count as zeros. */
void sf_ffn_apply_sub_norm(const sf_ffn *ffn, const int32_t *ids, const int32_t *counts, int32_t n, float *alpha);
/* Neurons of a tile: rows that stay in cache while each vector of a batch uses those it wants, `wanted` ≥ 1 of them in
 * all (counted once for each vector). */
int32_t sf_ffn_tile(const sf_ffn *ffn, const sf_matrix *matrix, int64_t wanted);
/* Counts in fired (hidden) the neurons ids (n, hidden), of each vector the first counts[j]; ids NULL: those whose
 * activation, left by a pass with every neuron, is not 0. */
void sf_ffn_count_fired(const sf_ffn *ffn, const int32_t *ids, const int32_t *counts, int32_t n, uint8_t *fired);

#endif
