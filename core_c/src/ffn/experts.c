/* Layers of experts: feed-forward layers side by side, of which a router has chosen a few for each token.
 *
 * The neurons of all experts are numbered one after another, so an expert is a run of neurons, and whatever is counted
 * or skipped by neuron is so in an expert too. Each expert is computed for all tokens that want it together. A token's
 * sum is made at the end, in ascending order of its experts, so it depends neither on the other tokens nor on the order
 * in which experts were read: those of a cache that are there are computed while the host reads others. */
#include "ffn/experts.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "ffn/layer.h"

enum { GATE, UP, DOWN, PARTS };

/* A layer without its experts, or NULL when out of memory. */
static sf_experts *new_experts(sf_context *context, int32_t count, int32_t width) {
  sf_experts *experts = sf_array(1, sizeof(sf_experts));
  if (!experts) return NULL;
  experts->context = context;
  experts->count = count;
  experts->hidden = count * width;
  experts->matrices = sf_array(sf_size_product((size_t)count, PARTS), sizeof(sf_matrix));
  experts->ffns = sf_array((size_t)count, sizeof(sf_ffn *));
  if (experts->matrices && experts->ffns) return experts;
  sf_experts_close(experts);
  return NULL;
}

void sf_experts_close(sf_experts *experts) {
  if (!experts) return;
  for (int32_t i = 0; experts->ffns && i < experts->count; i++) sf_ffn_close(experts->ffns[i]);
  sf_free(experts->ffns);
  sf_free(experts->matrices);
  sf_ffn_close_work(&experts->work);
  sf_free(experts);
}

/* Opens the layers of the experts, whose matrices are set. */
static int32_t open_ffns(sf_experts *experts, int32_t down_layout, int32_t activation, float parameter) {
  for (int32_t i = 0; i < experts->count; i++) {
    const sf_matrix *own = experts->matrices + (size_t)i * PARTS;
    int32_t status = sf_ffn_open(&experts->ffns[i], experts->context, experts->gated ? &own[GATE] : NULL, &own[UP],
                                 &own[DOWN], down_layout, activation, parameter);
    if (status != SF_OK) return status;
    sf_ffn_share_work(experts->ffns[i], &experts->work);
  }
  experts->d_in = experts->ffns[0]->d_in;
  experts->d_out = experts->ffns[0]->d_out;
  return SF_OK;
}

static int32_t finish_open(sf_experts **out, sf_experts *experts, int32_t down_layout, int32_t activation,
                           float parameter) {
  int32_t status = open_ffns(experts, down_layout, activation, parameter);
  if (status == SF_OK) {
    *out = experts;
  } else {
    sf_experts_close(experts);
  }
  return status;
}

int32_t sf_experts_open(sf_experts **out, sf_context *context, int32_t count, const sf_matrix *gate,
                        const sf_matrix *up, const sf_matrix *down, int32_t down_layout, int32_t activation,
                        float parameter) {
  if (!out) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (!context || count < 1 || !up || !down) return SF_ERROR_ARGUMENT;
  const sf_matrix *whole[PARTS] = {gate, up, down};
  for (int32_t k = 0; k < PARTS; k++) {
    if (whole[k] && whole[k]->rows % count != 0) return SF_ERROR_SHAPE;
  }
  const int32_t halves = gate == up ? 2 : 1; /* the gate's rows of each expert before its up's */
  if (up->rows > SF_MAX_NEURONS || up->rows / count % halves != 0) return SF_ERROR_SHAPE;
  sf_experts *experts = new_experts(context, count, up->rows / count / halves);
  if (!experts) return SF_ERROR_MEMORY;
  experts->gated = gate != NULL;
  for (int32_t i = 0; i < count; i++) {
    for (int32_t k = 0; k < PARTS; k++) {
      sf_matrix *own = &experts->matrices[i * PARTS + k];
      if (!whole[k]) continue;
      int32_t parts = k == DOWN ? 1 : halves, part = i * parts + (k == UP ? parts - 1 : 0);
      *own = *whole[k];
      own->rows /= count * parts;
      own->data += (size_t)part * (size_t)own->rows * own->stride;
    }
  }
  return finish_open(out, experts, down_layout, activation, parameter);
}

int32_t sf_experts_open_cached(sf_experts **out, sf_context *context, sf_cache *cache, int32_t gate_format,
                               int32_t up_format, int32_t down_format, int32_t d_in, int32_t d_out, int32_t width,
                               int32_t down_layout, int32_t activation, float parameter) {
  if (!out) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (!context || !cache || d_in < 1 || d_out < 1 || width < 1) return SF_ERROR_ARGUMENT;
  if (down_layout != SF_DOWN_BY_NEURON && down_layout != SF_DOWN_BY_OUTPUT) return SF_ERROR_ARGUMENT;
  if (d_in > SF_MAX_NEURONS || d_out > SF_MAX_NEURONS || width > SF_MAX_NEURONS / cache->hidden) return SF_ERROR_SHAPE;
  const int32_t by_neuron = down_layout == SF_DOWN_BY_NEURON;
  const int32_t formats[PARTS] = {gate_format, up_format, down_format};
  const int32_t rows[PARTS] = {width, width, by_neuron ? width : d_out};
  const int32_t columns[PARTS] = {d_in, d_in, by_neuron ? d_out : width};
  sf_experts *experts = new_experts(context, cache->hidden, width);
  if (!experts) return SF_ERROR_MEMORY;
  experts->gated = gate_format >= 0;
  experts->cache = cache;
  size_t bytes = 0;
  for (int32_t k = experts->gated ? GATE : UP; k < PARTS; k++) {
    size_t row_bytes = sf_format_row_bytes(formats[k], columns[k]);
    experts->offsets[k] = bytes;
    bytes += sf_size_product((size_t)rows[k], row_bytes);
    const sf_matrix matrix = {cache->arena, row_bytes,  row_bytes, sf_format_find(formats[k]),
                              rows[k],      columns[k], 1.0f,      NULL};
    for (int32_t i = 0; i < experts->count; i++) experts->matrices[i * PARTS + k] = matrix;
    if (row_bytes == 0 || bytes > cache->bundle_bytes) break;
  }
  if (bytes != cache->bundle_bytes) {
    sf_experts_close(experts);
    return SF_ERROR_SHAPE;
  }
  return finish_open(out, experts, down_layout, activation, parameter);
}

int32_t sf_experts_set_bias(sf_experts *experts, const float *gate_bias, const float *up_bias, const float *down_bias) {
  if (!experts) return SF_ERROR_ARGUMENT;
  size_t width = (size_t)experts->hidden / (size_t)experts->count, d_out = (size_t)experts->d_out;
  for (int32_t i = 0; i < experts->count; i++) {
    size_t first = (size_t)i * width;
    int32_t status =
        sf_ffn_set_bias(experts->ffns[i], gate_bias ? gate_bias + first : NULL, up_bias ? up_bias + first : NULL,
                        down_bias ? down_bias + (size_t)i * d_out : NULL);
    if (status != SF_OK) return status;
  }
  return SF_OK;
}

int32_t sf_experts_set_scales(sf_experts *experts, const float *gate, const float *up, const float *down) {
  if (!experts) return SF_ERROR_ARGUMENT;
  const float *const scales[PARTS] = {gate, up, down};
  for (int32_t k = 0; k < PARTS; k++) {
    for (int32_t i = 0; scales[k] && i < experts->count; i++) {
      int32_t status = sf_matrix_set_scale(&experts->matrices[i * PARTS + k], scales[k][i]);
      if (status != SF_OK) return status;
    }
  }
  return SF_OK;
}

int32_t sf_experts_set_up_parameter(sf_experts *experts, float parameter) {
  if (!experts) return SF_ERROR_ARGUMENT;
  int32_t status = SF_OK;
  for (int32_t i = 0; status == SF_OK && i < experts->count; i++) {
    status = sf_ffn_set_up_parameter(experts->ffns[i], parameter);
  }
  return status;
}

int32_t sf_experts_set_cutoff(sf_experts *experts, int32_t kind, float cutoff) {
  if (!experts) return SF_ERROR_ARGUMENT;
  int32_t status = SF_OK;
  for (int32_t i = 0; status == SF_OK && i < experts->count; i++) {
    status = sf_ffn_set_cutoff(experts->ffns[i], kind, cutoff);
  }
  return status;
}

int32_t sf_experts_set_predictor(sf_experts *experts, int32_t expert, sf_predictor *predictor) {
  if (!experts || expert < 0 || expert >= experts->count) return SF_ERROR_ARGUMENT;
  return sf_ffn_set_predictor(experts->ffns[expert], predictor);
}

/* ---- A pass ---- */

/* n vectors on their way through the layer. */
typedef struct {
  sf_experts *experts;
  int32_t mode, phase, used, before, share, n;
  const float *x, *routes;
  sf_cached_pass *state;
  uint8_t *fired;
} pass;

/* Makes the matrices of a cached expert those of the slot that it is in: SF_OK, or NOT_RESIDENT. */
static int32_t place_expert(sf_experts *experts, int32_t expert) {
  int32_t slot;
  if (!experts->cache) return SF_OK;
  int32_t status = sf_cache_slots(experts->cache, &expert, 1, &slot);
  if (status != SF_OK) return status;
  const uint8_t *bundle = experts->cache->arena + (size_t)slot * experts->cache->bundle_bytes;
  for (int32_t k = 0; k < PARTS; k++) experts->matrices[expert * PARTS + k].data = bundle + experts->offsets[k];
  return SF_OK;
}

/* The layer's expert of a route, of which `share` have the same. */
static int32_t expert_of(const float *ids, int32_t k, int32_t share) { return (int32_t)ids[k] / share; }

/* The weight of an expert whose first route is k: the sum of those that it is wanted with. */
static float weight_of(const pass *p, const float *routes, int32_t k) {
  int32_t expert = expert_of(routes, k, p->share);
  float weight = routes[p->used + k];
  for (k++; k < p->used && expert_of(routes, k, p->share) == expert; k++) weight += routes[p->used + k];
  return weight;
}

/* Whether a route is the first of its expert. */
static int32_t is_listed(const pass *p, const float *routes, int32_t k) {
  return k == 0 || expert_of(routes, k - 1, p->share) != expert_of(routes, k, p->share);
}

static const float *routes_of(const pass *p, int32_t j) { return p->routes + (size_t)j * 2 * (size_t)p->used; }

/* The vectors that want an expert, and which of a vector's routes it is: places (≤ n) in (n, used). */
static int32_t find_vectors(const pass *p, int32_t expert, int32_t *places) {
  int32_t count = 0;
  for (int32_t j = 0; j < p->n; j++) {
    const float *routes = routes_of(p, j);
    for (int32_t k = 0; k < p->used; k++) {
      if (is_listed(p, routes, k) && expert_of(routes, k, p->share) == expert) places[count++] = j * p->used + k;
    }
  }
  return count;
}

/* What an expert that is there makes of the vectors that want it, into state->made. */
static int32_t compute_expert(const pass *p, int32_t expert) {
  sf_experts *experts = p->experts;
  sf_cached_pass *state = p->state;
  int32_t places[SF_BATCH], counts[2][SF_BATCH];
  int32_t m = find_vectors(p, expert, places), width = experts->hidden / experts->count;
  size_t d_in = (size_t)experts->d_in, d_out = (size_t)experts->d_out;
  for (int32_t k = 0; k < m; k++) {
    float *in = state->in + (size_t)k * d_in;
    float weight = weight_of(p, routes_of(p, places[k] / p->used), places[k] % p->used);
    memcpy(in, p->x + (size_t)(places[k] / p->used) * d_in, d_in * sizeof(float));
    for (size_t i = 0; p->before && i < d_in; i++) in[i] *= weight;
  }
  uint8_t *fired = p->fired ? p->fired + (size_t)expert * (size_t)width : NULL;
  int32_t status =
      sf_ffn_run(experts->ffns[expert], p->mode, p->phase, state->in, NULL, m, state->out, counts[0], counts[1], fired);
  for (int32_t k = 0; status == SF_OK && k < m; k++) {
    memcpy(state->made + (size_t)places[k] * d_out, state->out + (size_t)k * d_out, d_out * sizeof(float));
    state->counts[places[k] / p->used] += counts[0][k];
    state->active[places[k] / p->used] += counts[1][k];
  }
  return status;
}

/* y (n, d_out) = the sums of what the experts made. */
static void add_up(const pass *p, float *y) {
  size_t d_out = (size_t)p->experts->d_out;
  memset(y, 0, (size_t)p->n * d_out * sizeof(float));
  for (int32_t j = 0; j < p->n; j++, y += d_out) {
    const float *routes = routes_of(p, j), *made = p->state->made + (size_t)j * (size_t)p->used * d_out;
    for (int32_t k = 0; k < p->used; k++, made += d_out) {
      if (!is_listed(p, routes, k)) continue;
      float weight = p->before ? 1.0f : weight_of(p, routes, k);
      for (size_t i = 0; i < d_out; i++) y[i] += weight * made[i];
    }
  }
}

/* The experts that any vector wants, ascending, into pass->wanted; in a cache, how often each is. */
static void unite(const sf_experts *experts, const float *routes, int32_t used, int32_t share, int32_t n,
                  sf_cached_pass *found) {
  int32_t *times = found->missing, count = experts->count;
  memset(times, 0, (size_t)count * sizeof(int32_t));
  for (int32_t j = 0; j < n; j++) {
    const float *ids = routes + (size_t)j * 2 * (size_t)used;
    for (int32_t k = 0; k < used; k++) times[expert_of(ids, k, share)]++;
  }
  found->n_wanted = 0;
  for (int32_t i = 0; i < count; i++) {
    if (times[i] == 0) continue;
    found->wanted[found->n_wanted++] = i;
    if (experts->cache) sf_add_count(&experts->cache->wanted[i], times[i]);
  }
}

/* Asks for the next part of the wanted experts, as many as fit into the cache. */
static int32_t ask(const sf_experts *experts, sf_cached_pass *cached) {
  cached->granted = cached->n_wanted - cached->first;
  cached->n_missing = 0;
  if (!experts->cache) return SF_OK;
  const int32_t *wanted = cached->wanted + cached->first;
  cached->granted = sf_cache_request(experts->cache, wanted, cached->granted, cached->missing, &cached->n_missing);
  cached->asked = cached->n_missing > 0;
  if (cached->asked) return SF_WAITING;
  return SF_OK;
}

int32_t sf_experts_begin(sf_experts *experts, sf_cached_pass *cached, const float *routes, int32_t used, int32_t share,
                         int32_t n) {
  size_t count = (size_t)experts->count, d_in = (size_t)experts->d_in, d_out = (size_t)experts->d_out;
  size_t made = sf_size_product((size_t)n * (size_t)used, d_out);
  int32_t status = sf_grow((void **)&cached->wanted, &cached->wanted_capacity, count, sizeof(int32_t));
  if (status == SF_OK) status = sf_grow((void **)&cached->missing, &cached->missing_capacity, count, sizeof(int32_t));
  if (status == SF_OK) status = sf_grow((void **)&cached->in, &cached->in_capacity, SF_BATCH * d_in, sizeof(float));
  if (status == SF_OK) status = sf_grow((void **)&cached->out, &cached->out_capacity, SF_BATCH * d_out, sizeof(float));
  if (status == SF_OK) status = sf_grow((void **)&cached->made, &cached->made_capacity, made, sizeof(float));
  if (status != SF_OK) return status;
  unite(experts, routes, used, share, n, cached);
  memset(cached->counts, 0, sizeof cached->counts);
  memset(cached->active, 0, sizeof cached->active);
  cached->first = cached->asked = 0;
  return ask(experts, cached);
}

/* Computes the experts of the part that are there, and moves the others to its end: those are missing. How many were
 * computed, or an error. */
static int32_t compute_part(const pass *p, sf_cached_pass *cached) {
  int32_t *wanted = cached->wanted + cached->first, done = 0;
  cached->n_missing = 0;
  for (int32_t i = 0; i < cached->granted; i++) {
    int32_t expert = wanted[i];
    if (place_expert(p->experts, expert) != SF_OK) {
      cached->missing[cached->n_missing++] = expert;
      continue;
    }
    int32_t status = compute_expert(p, expert);
    if (status != SF_OK) return status;
    done++;
  }
  memcpy(wanted + done, cached->missing, (size_t)cached->n_missing * sizeof(int32_t));
  cached->first += done;
  cached->granted -= done;
  return done;
}

int32_t sf_experts_run(sf_experts *experts, sf_cached_pass *cached, int32_t mode, int32_t phase, const float *x,
                       const float *routes, int32_t used, int32_t before, int32_t share, int32_t n, float *y,
                       int32_t *selected, int32_t *active, uint8_t *fired) {
  const pass p = {experts, mode, phase, used, before, share, n, x, routes, cached, fired};
  while (cached->first < cached->n_wanted) {
    if (cached->granted == 0) {
      int32_t status = ask(experts, cached);
      if (status != SF_OK) return status;
    }
    int32_t done = compute_part(&p, cached);
    if (done < 0) return done;
    if (cached->n_missing == 0) continue;
    if (done == 0 && !cached->asked) return SF_ERROR_NOT_RESIDENT;
    cached->asked = 0;
    return SF_WAITING;
  }
  add_up(&p, y);
  memcpy(selected, cached->counts, (size_t)n * sizeof(int32_t));
  memcpy(active, cached->active, (size_t)n * sizeof(int32_t));
  return SF_OK;
}
