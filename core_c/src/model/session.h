/* A session: what one sequence of tokens has of its own. */
#ifndef SF_SESSION_H
#define SF_SESSION_H

#include "model/plan.h"

enum { SF_TAPS = SF_TAP_HIDDEN + 1 };

struct sf_session {
  sf_model *model;
  int32_t context, position;
  int32_t pending;      /* tokens of the present eval */
  int32_t end;          /* its length when the present eval is done */
  sf_state *states;     /* (steps) */
  int32_t *counts[2];   /* (layers) selected and active neurons of the present eval; then tokens and rows of the head,
                           and inputs and those that were multiplied, see sf_session_input_counts */
  int32_t *totals[2];   /* (sf_count_places) the same since they were asked for */
  float *taps[SF_TAPS]; /* what the caller wants to see, or NULL */
  size_t tap_floats[SF_TAPS];
  uint8_t *fired; /* (neurons of all layers), see sf_session_activity */
  size_t fired_bytes;
  int32_t head;   /* an sf_head */
  int32_t *exact; /* (n_exact) rows of the head that are always multiplied, ascending */
  int32_t n_exact;
};

static inline size_t sf_count_places(const sf_model *model) { return (size_t)model->n_layers + 2; }

static inline int32_t sf_layer_neurons(const sf_layer *layer) {
  return layer->ffn ? layer->ffn->hidden : layer->experts->hidden;
}

/* Adds to the counts of the sessions what was computed of a layer for each token of the batch. */
void sf_batch_count(const sf_batch *batch, int32_t layer, const int32_t *selected, const int32_t *active);
/* Where the counts of a layer begin in the session's `fired`, or NULL. */
uint8_t *sf_session_fired(const sf_session *session, int32_t layer);

#endif
