/* Steps of attention, and the keys and values that sessions keep for them. Functions here trust their arguments. */
#ifndef SF_ATTENTION_H
#define SF_ATTENTION_H

#include "model/session.h"

enum { SF_KV_SPAN = 16 }; /* positions of a block of which scores are computed in multiples: see sf_products */

/* Keys or values: `stride` bytes of a format for each position of a head. */
typedef struct {
  const sf_format *format;
  int32_t dim;
  size_t stride;
} sf_kv;

/* The arguments of a step, by name. */
typedef struct {
  int32_t heads, kv_heads;
  sf_kv k, v;
  int32_t window, mask;
  const float *sinks, *slopes; /* (heads) or NULL */
  const float *biases;         /* (heads, 2 · reach + 1) or NULL */
  int32_t reach;
  float cap;
} sf_attention;

enum {
  SF_ATTENTION_Q,
  SF_ATTENTION_K,
  SF_ATTENTION_V,
  SF_ATTENTION_OUT,
  SF_ATTENTION_KV_HEADS,
  SF_ATTENTION_K_DIM,
  SF_ATTENTION_V_DIM,
  SF_ATTENTION_WINDOW,
  SF_ATTENTION_MASK,
  SF_ATTENTION_SINKS,
  SF_ATTENTION_SLOPES,
  SF_ATTENTION_BIASES,
  SF_ATTENTION_SOURCE
};

/* Keys or values of a format; numbers of `dim` that are no whole blocks are kept in F16. */
sf_kv sf_kv_of(const sf_format *format, int32_t dim);
sf_attention sf_attention_of(const sf_model *model, const sf_step *step);
/* The state with the keys and values that token j of the batch attends to. */
sf_state *sf_attention_state(const sf_model *model, const sf_step *step, int32_t j);
/* The block with a row. */
uint8_t *sf_block_of(const sf_state *state, int32_t row);
/* The first of the keys, or values, of a head in a block. */
uint8_t *sf_keys_in(uint8_t *block, const sf_attention *a, int32_t kv_head);
uint8_t *sf_values_in(uint8_t *block, const sf_attention *a, int32_t kv_head);
/* How many rows of keys and values there are of the positions below `length`. */
int32_t sf_rows_of(const sf_attention *a, int32_t length);
/* First row that a token at `position` sees, and the last one, in a session that ends before `end`; of none, -1. */
int32_t sf_first_seen(const sf_attention *a, int32_t position);
int32_t sf_last_seen(const sf_attention *a, int32_t position, int32_t end);
/* What the step does to the products of query head `head` of the token at `position` with `count` keys, those at
 * `first` and after. */
void sf_change_scores(const sf_kernels *kernels, const sf_attention *a, int32_t head, int32_t position, int32_t first,
                      int32_t count, float *scores);
/* What head `head` of a token gets: the sum of the weighted values over that of the weights exp(score - most). */
void sf_attention_finish(const sf_model *model, const sf_step *step, int32_t token, int32_t head, float most, float sum,
                         const float *mixed);
/* The step for a batch whose keys and values are in their sessions: of a prompt, and of decoded tokens. */
int32_t sf_attend_prompt(sf_model *model, const sf_step *step);
int32_t sf_attend_decode(sf_model *model, const sf_step *step);

#endif
