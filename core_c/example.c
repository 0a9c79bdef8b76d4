/* A feed-forward layer that computes only its active neurons: y = down · relu(up · x).
 *
 * The exact mode needs no predictor: it computes `up` of every neuron and reads the rows of `down` only for those that
 * ReLU leaves above zero. See README.md for how to build this file. */
#include <stdio.h>
#include <stdlib.h>

#include "sparsefire.h"

enum { D = 64, HIDDEN = 256 };

static void check(int32_t status) {
  if (status >= SF_OK) return;
  fprintf(stderr, "sparsefire: %s\n", sf_status_text(status));
  exit(EXIT_FAILURE);
}

static float up_weights[HIDDEN * D], down_weights[HIDDEN * D]; /* down transposed: one row a neuron */

int main(void) {
  for (int i = 0; i < HIDDEN * D; i++) {
    up_weights[i] = (float)rand() / (float)RAND_MAX - 0.55f;
    down_weights[i] = (float)rand() / (float)RAND_MAX - 0.5f;
  }
  float x[D], y[D];
  for (int i = 0; i < D; i++) x[i] = (float)(i % 3) - 0.5f;

  sf_context *context;
  sf_matrix *up, *down;
  sf_ffn *ffn;
  check(sf_context_open(&context, -1, 2)); /* the best instruction set, two threads */
  check(sf_matrix_open(&up, up_weights, sizeof up_weights, SF_F32, HIDDEN, D, 0));
  check(sf_matrix_open(&down, down_weights, sizeof down_weights, SF_F32, HIDDEN, D, 0));
  check(sf_ffn_open(&ffn, context, NULL, up, down, SF_DOWN_BY_NEURON, SF_RELU, 0));

  int32_t active;
  check(sf_ffn_forward(ffn, SF_EXACT, x, 1, y, NULL, &active));
  printf("sparsefire %s, %s: %d of %d neurons active, y[0] = %g\n", sf_version(), sf_isa_name(sf_context_isa(context)),
         (int)active, HIDDEN, (double)y[0]);

  sf_ffn_close(ffn);
  sf_matrix_close(down);
  sf_matrix_close(up);
  sf_context_close(context);
  return active > 0 && active < HIDDEN ? EXIT_SUCCESS : EXIT_FAILURE;
}
