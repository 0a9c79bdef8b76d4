/* Passes that stream whole matrices. */
#ifndef SF_DENSE_H
#define SF_DENSE_H

#include "ffn/pass.h"

/* values (n, hidden) = rows of a matrix · inputs + bias (NULL: none), of every neuron. */
void sf_ffn_every_row(const sf_ffn *ffn, const sf_matrix *matrix, const float *bias, const sf_inputs *inputs, int32_t n,
                      float *values);
/* Leaves activation(gate) ∘ up, or activation(up), of every neuron in up_values (n, hidden); keep 1: and
 * activation(gate) in gate_values (n, hidden), which else hold anything. */
void sf_ffn_every_neuron(const sf_ffn *ffn, const sf_inputs *inputs, int32_t n, int32_t keep);
/* A pass with every neuron. */
int32_t sf_ffn_dense(sf_ffn *ffn, int32_t phase, const float *x, int32_t n, int32_t keep, float *y);

#endif
