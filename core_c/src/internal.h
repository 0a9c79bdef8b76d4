/* What the files of the core share: the structs behind the public handles, and the steps they are made of.
 * Functions here trust their arguments: the public functions have checked them. */
#ifndef SF_INTERNAL_H
#define SF_INTERNAL_H

#include "formats.h"
#include "kernels.h"
#include "pool.h"
#include "sparsefire.h"

/* ---- Memory ---- */

/* count elements of `size` bytes, 64-byte aligned, zeroed; NULL when that overflows or memory is out. */
void *sf_array(size_t count, size_t size);
/* The product of two sizes, SIZE_MAX when it overflows (no allocation of that size succeeds). */
size_t sf_size_product(size_t a, size_t b);
/* Makes *array hold at least `count` elements of `size` bytes; contents are lost when it grows. */
int32_t sf_grow(void **array, size_t *capacity, size_t count, size_t size);
/* A count that would overflow stays at the largest number. */
void sf_add_count(int32_t *count, int32_t more);
/* A copy of `count` floats (NULL for NULL), or an error: MEMORY, NOT_FINITE. Replaces and frees *copy. */
int32_t sf_copy_floats(float **copy, const float *values, int32_t count);

/* ---- Context ---- */

/* What sparse passes choose their way by: see sf_context_set_costs. */
typedef struct {
  float scattered, batched;
} sf_costs;

struct sf_context {
  const sf_kernels *kernels;
  int32_t isa;
  sf_pool *pool;
  int16_t *values; /* work memory of sf_prepare */
  float *scales;   /* and the sums after them */
  size_t values_capacity, scales_capacity;
  sf_costs costs[SF_FORMATS];
};

/* Into how many parts to cut work that touches `bytes` of weights: 1 when waking threads would cost more. */
int32_t sf_parts(const sf_context *context, size_t bytes);
/* First item of part `part` when `count` items are cut into `parts`, in multiples of `grain`. */
int32_t sf_part_begin(int32_t count, int32_t grain, int32_t part, int32_t parts);

/* ---- Matrix ---- */

struct sf_matrix {
  const uint8_t *data;
  size_t stride;    /* bytes from row to row */
  size_t row_bytes; /* of which these hold weights */
  const sf_format *format;
  int32_t rows, columns;
};

/* The rows `ids` of a matrix (NULL: all, from row `first` on) as the kernels take them. */
sf_rows sf_matrix_rows(const sf_matrix *matrix, const int32_t *ids, int32_t first);
/* Brings n vectors x (n, columns) into the form that a format multiplies, beside the floats themselves, which it
 * borrows. Valid until the next call. */
int32_t sf_prepare(sf_context *context, const sf_format *format, const float *x, int32_t n, int32_t columns,
                   sf_inputs *inputs);
/* Input j of several, of `columns` numbers. */
sf_inputs sf_input(const sf_inputs *inputs, int32_t j, int32_t columns);
/* out[j * out_stride + i] = row i · input j for `n_rows` rows: ids, or the first ones when ids is NULL. */
void sf_multiply(sf_context *context, const sf_matrix *matrix, const int32_t *ids, int32_t n_rows,
                 const sf_inputs *inputs, int32_t n, float *out, size_t out_stride);
/* The same x (n, columns) times up to SF_EACH matrices: ys[k] (n, rows of matrices[k]). x is prepared once, and the
 * threads are woken once. */
enum { SF_EACH = 3 };
int32_t sf_multiply_each(sf_context *context, const sf_matrix *const *matrices, int32_t count, const float *x,
                         int32_t n, float *const *ys);
/* sf_prepare, then sf_multiply with every row: y (n, rows). */
int32_t sf_prepare_multiply(sf_context *context, const sf_matrix *matrix, const float *x, int32_t n, float *y);
/* y (columns) += Σ_i alpha[i] · row ids[i] (ids NULL: row i), i < count. */
void sf_accumulate(sf_context *context, const sf_matrix *matrix, const int32_t *ids, int32_t count, const float *alpha,
                   float *y);

/* A second layout of a matrix, for products of all its rows, many and short ones: see sf_dot_panels_fn. */
typedef struct {
  uint8_t *data; /* NULL where the kernels have none for the format */
  const sf_format *format;
  int32_t rows, columns;
  size_t row_bytes;
} sf_interleaved;

/* A copy of the matrix's rows; frees what was there before. Errors: MEMORY. */
int32_t sf_interleave(sf_interleaved *interleaved, const sf_context *context, const sf_matrix *matrix);
void sf_interleaved_close(sf_interleaved *interleaved);
/* out[j * out_stride + i - first] = row i · input j for the rows from `first` on. */
void sf_multiply_interleaved(sf_context *context, const sf_interleaved *matrix, int32_t first, const sf_inputs *inputs,
                             int32_t n, float *out, size_t out_stride);

/* ---- Selection ---- */

/* sf_select_top_k and sf_select_threshold with the kernels of a context. */
int32_t sf_top_k(const sf_kernels *kernels, const float *scores, int32_t count, int32_t k, int32_t *ids);
int32_t sf_above_threshold(const sf_kernels *kernels, const float *scores, int32_t count, float threshold,
                           int32_t least, int32_t most, int32_t *ids);

/* ---- Predictor and feed-forward layer ---- */

enum {
  SF_FFN_BATCH = 32, /* vectors of one pass through a layer: bounds its work memory */
  SF_MOST = 1 << 24  /* neurons or inputs, far above any layer; keeps SF_FFN_BATCH times it within 32 bits */
};

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

struct sf_ffn {
  sf_context *context;
  const sf_matrix *gate, *up;
  const sf_matrix *by_neuron, *by_output; /* down in either layout, or in both */
  int32_t first_layout, activation;
  float parameter;
  float gate_cutoff, product_cutoff;
  int32_t d_in, d_out, hidden;
  float *gate_bias, *up_bias, *down_bias;
  int32_t both_active; /* 1: up is activated too */
  float *sub_norm;     /* (hidden) or NULL */
  float sub_norm_epsilon;
  sf_predictor *predictor;
  sf_cache *cache;          /* NULL: the matrices have a row for each neuron. Else: for each slot of the cache */
  sf_matrix *slot_matrices; /* of a cached layer: (3) gate, up, down; owned */
  int32_t *rows;            /* (hidden) of a cached layer: the rows of the neurons that are computed */
  /* Work memory of a pass of n vectors, each (n, hidden), grown as needed. */
  float *gate_values, *up_values;
  int32_t *ids;       /* the neurons of each vector */
  float *some_values; /* what a part of the neurons gives, before it is put in its place */
  int32_t *some_ids;
  int32_t *uses;  /* (2, hidden): see ffn_sparse.c */
  float *outputs; /* (n, d_out): see ffn_down.c */
  size_t gate_capacity, up_capacity, ids_capacity, some_capacity, some_ids_capacity, uses_capacity, outputs_capacity;
};

/* sf_ffn_forward without its checks. The predictor is given `hints` (n, d_in), NULL: x. Counts the neurons that fired
 * in fired (hidden), NULL: does not. */
int32_t sf_ffn_run(sf_ffn *ffn, int32_t mode, const float *x, const float *hints, int32_t n, float *y,
                   int32_t *selected, int32_t *active, uint8_t *fired);

/* Steps of a pass; n ≤ SF_FFN_BATCH. */

/* Makes room for n vectors. */
int32_t sf_ffn_reserve(sf_ffn *ffn, int32_t n);
/* x (n, d_in) in the form, or forms, that gate and up multiply. */
int32_t sf_ffn_prepare(const sf_ffn *ffn, const float *x, int32_t n, sf_inputs *inputs);
/* y (n, d_out) starts as the bias. */
void sf_ffn_start_output(const sf_ffn *ffn, int32_t n, float *y);
/* Leaves activation(gate) ∘ up, or activation(up), of every neuron in up_values (n, hidden). */
void sf_ffn_every_neuron(const sf_ffn *ffn, const sf_inputs *inputs, int32_t n);
/* Normalises each vector's neurons, where the layer does: alpha[j * hidden + i], i < counts[j], of the neurons
 * ids[j * hidden + i] (NULL: of every neuron). Those that are not listed count as zeros. */
void sf_ffn_apply_sub_norm(const sf_ffn *ffn, const int32_t *ids, const int32_t *counts, int32_t n, float *alpha);
/* y (n, d_out) += of each vector j, Σ_i alpha[j * hidden + i] · down row ids[j * hidden + i], i < counts[j], in that
 * order, the ids ascending; ids NULL: of every row. Not for a cached layer unless n is 1 and the ids are its rows.
 * With down by output the sum is the product of the whole matrix with 0 for what is not listed: that is what happens
 * without down by neuron and, unless `lists` is 1, where it is faster. Errors then: MEMORY, NOT_FINITE. */
int32_t sf_ffn_add_down(sf_ffn *ffn, const int32_t *ids, const int32_t *counts, const float *alpha, int32_t n,
                        int32_t lists, float *y);
/* Neurons of a tile: rows that stay in cache while each vector of a batch uses those it wants, `wanted` ≥ 1 of them in
 * all (counted once for each vector). */
int32_t sf_ffn_tile(const sf_ffn *ffn, const sf_matrix *matrix, int64_t wanted);
/* A pass with every neuron. */
int32_t sf_ffn_dense(sf_ffn *ffn, const float *x, int32_t n, float *y);
/* A pass in exact or sparse mode, y starting as the bias. Writes counts (n), see sf_ffn_forward. */
int32_t sf_ffn_sparse(sf_ffn *ffn, int32_t mode, const float *x, const float *hints, int32_t n, float *y,
                      int32_t *selected, int32_t *active, uint8_t *fired);
/* Counts in fired (hidden) the neurons ids (n, hidden), of each vector the first counts[j]; ids NULL: those whose
 * activation, left by a pass with every neuron, is not 0. */
void sf_ffn_count_fired(const sf_ffn *ffn, const int32_t *ids, const int32_t *counts, int32_t n, uint8_t *fired);
/* Adds to y what the neurons ids (count) make of one x. Dense mode leaves out exact zeros alone, the others what lies
 * below the cutoffs. Returns how many were active, or an error. Counts those in fired (hidden), NULL: does not. */
int32_t sf_ffn_add_neurons(sf_ffn *ffn, int32_t mode, const int32_t *ids, int32_t count, const float *x, float *y,
                           uint8_t *fired);

/* A pass of n ≤ SF_FFN_BATCH vectors through a cached layer, which stops where the host has to read neurons: see
 * ffn_cached.c. A part of what is wanted is resident at a time. */
typedef struct {
  int32_t *ids;     /* (SF_FFN_BATCH, hidden): the neurons of each vector */
  int32_t *wanted;  /* (hidden): the first n_wanted are those that any vector wants, ascending */
  int32_t *missing; /* (hidden): the first n_missing are those of the part that have to be read */
  size_t ids_capacity, wanted_capacity, missing_capacity;
  int32_t n_wanted, n_missing;
  int32_t first, granted;                                                     /* the part: wanted[first …] */
  int32_t counts[SF_FFN_BATCH], computed[SF_FFN_BATCH], active[SF_FFN_BATCH]; /* of each vector's neurons */
} sf_cached_pass;

void sf_cached_close(sf_cached_pass *pass);
/* Chooses the neurons, as sf_ffn_run does, and starts y (n, d_out). */
int32_t sf_cached_begin(sf_cached_pass *pass, sf_ffn *ffn, int32_t mode, const float *hints, int32_t n, float *y);
/* Goes on, with the same arguments each time: SF_OK at the end, SF_WAITING when pass->missing has to be read first, or
 * an error, NOT_RESIDENT when it was not. */
int32_t sf_cached_continue(sf_cached_pass *pass, sf_ffn *ffn, int32_t mode, const float *x, int32_t n, float *y,
                           uint8_t *fired);

/* ---- Model ---- */

enum {
  SF_MATRIX_ROLES = SF_ATTENTION_OUTPUT + 1,
  SF_VECTOR_ROLES = SF_ATTENTION_SUB_NORM + 1,
  SF_NUMBER_ROLES = SF_PREDICTOR_INPUT + 1
};

/* What a model has once, or a layer has, by role; NULL where there is none. A role that is not of that kind has an
 * empty place. */
typedef struct {
  const sf_matrix *matrices[SF_MATRIX_ROLES];
  float *vectors[SF_VECTOR_ROLES];
  float numbers[SF_NUMBER_ROLES];
  sf_ffn *ffn; /* of a layer */
} sf_part;

struct sf_model {
  sf_context *context;
  int32_t n_layers, d, heads, kv_heads, head_dim, vocab, rope_dims;
  float norm_epsilon;
  sf_part own;
  sf_part *layers;
};

/* 1 when every tensor that a model cannot do without is there. */
int32_t sf_model_complete(const sf_model *model);

#endif
