/* A model: a plan of steps over buffers, and the batch of tokens that runs through it. Functions here trust their
 * arguments: the public functions have checked them. */
#ifndef SF_PLAN_H
#define SF_PLAN_H

#include <string.h>

#include "ffn/cached.h"
#include "ffn/experts.h"
#include "matrix/matrix.h"

enum {
  SF_STEP_ARGUMENTS = 16, /* most of a step */
  SF_STEP_NUMBERS = 4,
  SF_LOGITS = 0 /* the buffer that the caller's logits are */
};

/* Floats of each token of a batch. */
typedef struct {
  int32_t width;
  int32_t written; /* 1: by a step of the plan */
  int32_t kept;    /* 1: between passes, see passes.c */
  float *values;   /* (SF_BATCH, width) */
} sf_buffer;

typedef struct {
  int32_t count;
  float *values; /* owned */
} sf_vector;

/* A rotary embedding, and its angles at the positions of the batch. */
typedef struct {
  int32_t pairs;
  float amplitude;
  double *frequencies; /* (pairs) */
  float *cos_sin;      /* (SF_BATCH, pairs, 2) */
} sf_rope;

/* A feed-forward layer: one of the two. */
typedef struct {
  sf_ffn *ffn;
  sf_experts *experts;
} sf_layer;

/* Where the inputs of a site go. */
typedef struct {
  float *values;
  size_t room; /* floats */
} sf_record;

enum { SF_SITES = SF_SITE_DOWN + 1 };

typedef struct sf_step {
  const struct sf_step_kind *kind;
  int32_t index; /* of it in the plan */
  int32_t count; /* of its arguments */
  int32_t arguments[SF_STEP_ARGUMENTS];
  float numbers[SF_STEP_NUMBERS];
  float limits[SF_SITES]; /* of inputs in sparse mode, see sf_model_set_input_limit */
  sf_record records[SF_SITES];
} sf_step;

enum { SF_KV_BLOCK = 64 }; /* positions whose keys and values lie together */

/* What a session keeps for a step: keys and values, see kv.c, or a recurrent state. */
typedef struct {
  uint8_t **blocks; /* (n_blocks) of rows, of which the first is block `first_block` */
  int32_t n_blocks, first_block;
  int32_t window; /* positions that a token sees of them at most, itself counted; 0: any number */
  float *values;  /* a recurrent state; zeros before the first token */
} sf_state;

/* n ≤ SF_BATCH tokens on their way through the plan. */
typedef struct {
  int32_t n, mode, phase;
  int32_t step;    /* where they are */
  int32_t until;   /* and before which step they stop */
  int32_t waiting; /* 1: for neurons that the host reads */
  int32_t tokens[SF_BATCH], types[SF_BATCH], positions[SF_BATCH];
  int32_t wanted[SF_BATCH];  /* 1: the logits of that token */
  int32_t origins[SF_BATCH]; /* after a pick, which of the sessions is that of the token */
  sf_session *sessions[SF_BATCH];
  int32_t first; /* of them, in the eval of a single session */
  float *logits; /* of the wanted tokens */
} sf_batch;

struct sf_model {
  sf_context *context;
  int32_t vocab, d;
  int32_t types;    /* of tokens */
  int32_t sessions; /* that are open: the plan cannot change meanwhile, and stays until they are closed */
  int32_t closed;
  sf_buffer *buffers;
  const sf_matrix **matrices;
  sf_vector *vectors;
  sf_rope *ropes;
  sf_layer *layers;
  sf_predictor **screens;
  sf_step *steps;
  int32_t n_buffers, n_matrices, n_vectors, n_ropes, n_layers, n_screens, n_steps;
  int32_t picked; /* 1: a step has left only the tokens whose logits are wanted */
  int32_t tapped; /* 1: a step taps the hidden states */
  int32_t passes; /* steps of attention to both sides */
  sf_batch batch;
  const sf_format *kv_formats[2]; /* of keys and of values */
  sf_cached_pass cached;          /* of the layer where the batch is, if that is cached */
  float *scores;                  /* work memory of attention */
  size_t scores_capacity;
  float *work; /* of one step at a time */
  size_t work_capacity;
  float *kept; /* between passes, see passes.c */
  size_t kept_capacity;
  int32_t *rows; /* ids of rows, of one step at a time */
  size_t rows_capacity;
};

/* A kind of step. */
typedef struct sf_step_kind {
  /* What its arguments are, one character each; those after '*' repeat. i: a buffer that is read, I: or none, o: one
   * that is written, x: one that is changed in place, m: a matrix, v: a vector, V: or none, r: a rope, l: a
   * feed-forward layer, e: a layer of experts, P: a screen, or none, s: an earlier step, S: or none, n: a number from 0
   * on, c: one from 1 on. None is -1. */
  const char *arguments;
  int32_t whole;   /* 1: it is for whole batches, so it cannot follow a pick */
  int32_t numbers; /* finite floats */
  /* Whether shapes fit: SF_OK, SHAPE or ARGUMENT. */
  int32_t (*check)(const sf_model *model, const sf_step *step);
  int32_t (*run)(sf_model *model, const sf_step *step);
  /* Floats of the recurrent state of a session; NULL: none. */
  size_t (*state)(const sf_model *model, const sf_step *step);
} sf_step_kind;

/* The kind `kind`, an sf_step_name, or NULL. */
const sf_step_kind *sf_step_find(int32_t kind);

static inline int32_t sf_width(const sf_model *model, const sf_step *step, int32_t argument) {
  return model->buffers[step->arguments[argument]].width;
}

static inline float *sf_values(const sf_model *model, const sf_step *step, int32_t argument) {
  return model->buffers[step->arguments[argument]].values;
}

/* Floats of all tokens in a buffer. */
static inline int32_t sf_floats(const sf_model *model, const sf_step *step, int32_t argument) {
  return model->batch.n * sf_width(model, step, argument);
}

static inline int32_t sf_same_widths(const sf_model *model, const sf_step *step, int32_t a, int32_t b) {
  return sf_width(model, step, a) == sf_width(model, step, b) ? SF_OK : SF_ERROR_SHAPE;
}

/* NULL for none. */
static inline const sf_vector *sf_vector_of(const sf_model *model, const sf_step *step, int32_t argument) {
  return step->arguments[argument] < 0 ? NULL : &model->vectors[step->arguments[argument]];
}

static inline const sf_matrix *sf_matrix_of(const sf_model *model, const sf_step *step, int32_t argument) {
  return model->matrices[step->arguments[argument]];
}

/* The last step that writes a buffer, or -1. */
int32_t sf_model_writer(const sf_model *model, int32_t buffer);
/* 1 when a step from `place` on, where keys and values are in their sessions already, reads what a buffer holds. */
int32_t sf_model_live(const sf_model *model, int32_t buffer, int32_t place);
/* The state that the session of token j keeps for a step. */
sf_state *sf_state_of(const sf_model *model, const sf_step *step, int32_t j);

/* Products of a step, and a layer, that leave out inputs (sites.c), for every token by itself. */
int32_t sf_run_some_products(const sf_model *model, const sf_step *step, const sf_matrix *const *matrices,
                             int32_t count, float *const *outs);
int32_t sf_run_some_ffn(const sf_model *model, const sf_step *step, const float *x, float *y, int32_t *selected,
                        int32_t *active, uint8_t *fired);
/* Records what a site of the batch gets, x (n, width), if that is wanted. */
void sf_record_inputs(const sf_model *model, const sf_step *step, int32_t site, const float *x, int32_t width);
/* 1 when the batch leaves out inputs of a step. */
static inline int32_t sf_leaves_out(const sf_model *model, const sf_step *step) {
  return SF_HAS_COLUMNS && model->batch.mode == SF_SPARSE && model->batch.phase == SF_DECODE &&
         (step->limits[SF_SITE_IN] > 0 || step->limits[SF_SITE_DOWN] > 0);
}

/* Steps of their own files. */
extern const sf_step_kind sf_step_attention, sf_step_route, sf_step_experts, sf_step_convolution, sf_step_recurrence,
    sf_step_head, sf_step_head_dots, sf_step_mix, sf_step_softmax, sf_step_pool, sf_step_mark;
/* 1 for a step of attention to tokens on both sides. */
int32_t sf_sees_both_sides(const sf_step *step);
/* The keys and values of the batch go to their sessions. */
void sf_attention_store(const sf_model *model, const sf_step *step);
/* Passes through the plan. The step before which the pass ends that begins at the step `place`. */
int32_t sf_passes_end(const sf_model *model, int32_t place);
/* Notes what is kept between them, when the plan is complete. */
void sf_passes_prepare(sf_model *model);
/* Makes room for what is kept of `n` tokens. */
int32_t sf_passes_begin(sf_model *model, int32_t n);
/* Keeps what the buffers of the batch hold, one of the batches of `n` tokens, or puts it back with `restore` 1. */
void sf_passes_exchange(const sf_model *model, int32_t n, int32_t restore);
/* Notes what tokens see of the keys and values of each step of attention. */
void sf_attention_open(const sf_model *model, sf_state *states);
/* Makes room in a session for the keys and values of positions below `length`, for every step of attention: of those
 * that the token at `position` does not see, the last `spare` blocks are kept. What is there stays, but for keys and
 * values before those, whose memory is used again; unless `anew` is 1, when all of them will be restored. */
int32_t sf_attention_reserve(const sf_model *model, sf_state *states, int32_t position, int32_t length, int32_t spare,
                             int32_t anew);
/* The first position from which on tokens see nothing but what is kept. */
int32_t sf_attention_earliest(const sf_model *model, const sf_state *states);
/* Bytes of the keys and values of positions below `length` in these formats (2), which are the model's own when they
 * are saved: those that a token at `length` sees, and `spare` blocks before them. Copies them to `saved`, or from
 * `restored` to the session; both may be NULL. With `finite`, those to be restored are looked at instead, and *finite
 * is 0 if one is not. */
size_t sf_attention_exchange(const sf_model *model, const sf_format *const *formats, sf_state *states, int32_t length,
                             int32_t spare, uint8_t *saved, const uint8_t *restored, int32_t *finite);
/* The formats of keys and of values (2) of these numbers; 0 if one is for neither. */
int32_t sf_kv_formats_find(int32_t k_format, int32_t v_format, const sf_format **formats);
/* Copies so many bytes to or from those at `at` of saved or restored. Returns them. */
static inline size_t sf_exchange(void *values, size_t bytes, size_t at, uint8_t *saved, const uint8_t *restored) {
  if (saved) memcpy(saved + at, values, bytes);
  if (restored) memcpy(values, restored + at, bytes);
  return bytes;
}

#endif
