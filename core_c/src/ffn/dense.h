/* Passes that stream whole matrices. */
#ifndef SF_DENSE_H
#define SF_DENSE_H

#include "ffn/pass.h"

/* Leaves activation(gate) ∘ up, or activation(up), of every neuron in up_values (n, hidden). */
void sf_ffn_every_neuron(const sf_ffn *ffn, const sf_inputs *inputs, int32_t n);
/* A pass with every neuron. */
int32_t sf_ffn_dense(sf_ffn *ffn, const float *x, int32_t n, float *y);

#endif
