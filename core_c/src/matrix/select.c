/* Selection of active neurons from scores, without a sort: passes that only count, and one that writes the ids, which
 * come out ascending by themselves. */
#include "matrix/select.h"

#include <math.h>
#include <string.h>

#include "kernels/isa.h"
#include "matrix/context.h"

/* Floats in their order as unsigned integers, from the least one, -infinity, to the largest, infinity. */
enum { LEAST_KEY = 0x007FFFFF };
static const uint32_t largest_key = 0xFF800000u;

static float score_of(uint32_t key) {
  uint32_t bits = key & 0x80000000u ? key & 0x7FFFFFFFu : ~key;
  float score;
  memcpy(&score, &bits, sizeof score);
  return score;
}

/* How many scores are above `limit`; NaN is not. */
static int32_t count_above(const sf_kernels *kernels, const float *scores, int32_t count, float limit) {
  int32_t found = 0;
  for (int32_t i = 0; i < count;) { /* as many at a time as a kernel takes */
    int32_t some = count - i < SF_MAX_NEURONS ? count - i : SF_MAX_NEURONS;
    found += kernels->count_above(scores + i, some, limit);
    i += some;
  }
  return found;
}

/* The ids of the scores above `limit`. Without a branch: an id is written always, and kept only when counted;
 * chosen ≤ i < count. */
static int32_t take_above(const float *scores, int32_t count, float limit, int32_t *ids) {
  int32_t chosen = 0;
  for (int32_t i = 0; i < count; i++) {
    ids[chosen] = i;
    chosen += scores[i] > limit;
  }
  return chosen;
}

/* The ids of the scores above `limit`, and of the first `ties` of those equal to it. */
static int32_t take_some(const float *scores, int32_t count, float limit, int32_t ties, int32_t *ids) {
  int32_t chosen = 0;
  for (int32_t i = 0; i < count; i++) {
    int32_t tie = (scores[i] == limit) & (ties > 0);
    ids[chosen] = i;
    chosen += (scores[i] > limit) | tie;
    ties -= tie;
  }
  return chosen;
}

/* A range of keys in which the k-th score lies: `more` scores are above the key `low`, at least k of them unless there
 * are NaN, and `fewer` than k above `high`. */
typedef struct {
  uint32_t low, high;
  int32_t more, fewer;
} range;

/* Counts the scores above a key and narrows the range by them. Whether just k are. */
static int32_t narrow(range *keys, uint32_t key, const sf_kernels *kernels, const float *scores, int32_t count,
                      int32_t k) {
  int32_t found = count_above(kernels, scores, count, score_of(key));
  if (found >= k) {
    keys->low = key;
    keys->more = found;
  } else {
    keys->high = key;
    keys->fewer = found;
  }
  return found == k;
}

/* The key where the k-th score would lie, were they spread evenly over the range. */
static uint32_t between(const range *keys, int32_t k) {
  double share = (double)(keys->more - k) / (double)(keys->more - keys->fewer);
  uint32_t width = keys->high - keys->low, step = (uint32_t)(share * (double)width);
  if (step < 1) step = 1;
  return keys->low + (step < width ? step : width - 1);
}

/* Narrows the range until just k scores are above its low end, or one key is left. Of three keys that are tried, two
 * are where the k-th score is to be expected, and one halves the range. Whether just k are above. */
static int32_t search(range *keys, const sf_kernels *kernels, const float *scores, int32_t count, int32_t k) {
  for (int32_t i = 0; keys->high - keys->low > 1; i++) {
    uint32_t key = i % 3 < 2 ? between(keys, k) : keys->low + (keys->high - keys->low) / 2;
    if (narrow(keys, key, kernels, scores, count, k)) return 1;
  }
  return 0;
}

static range all_keys(int32_t count) {
  range keys = {LEAST_KEY - 1, largest_key, count, 0};
  return keys;
}

enum { SAMPLE = 1024, LEAST_SAMPLED = 8 * SAMPLE };

/* Narrows the range by what is to be expected from a sample of the scores. */
static void narrow_by_sample(range *keys, const sf_kernels *kernels, const float *scores, int32_t count, int32_t k) {
  float sample[SAMPLE];
  int32_t stride = count / SAMPLE, middle = k / stride;
  int32_t spread = 2 + (int32_t)(2 * sqrtf((float)middle)); /* two standard deviations, roughly */
  for (int32_t i = 0; i < SAMPLE; i++) sample[i] = scores[(size_t)i * (size_t)stride];
  for (int32_t side = 0; side < 2; side++) {
    int32_t rank = side ? middle - spread : middle + spread;
    if (rank < 1 || rank >= SAMPLE) continue;
    range found = all_keys(SAMPLE);
    uint32_t key = search(&found, kernels, sample, SAMPLE, rank) ? found.low : found.high;
    if (key <= keys->low || key >= keys->high) continue;
    if (narrow(keys, key, kernels, scores, count, k)) return;
  }
}

int32_t sf_top_k(const sf_kernels *kernels, const float *scores, int32_t count, int32_t k, int32_t *ids) {
  if (k <= 0 || count == 0) return 0;
  range keys = all_keys(count);
  if (k >= count) return take_some(scores, count, score_of(LEAST_KEY), k, ids); /* all but NaN */
  if (count >= LEAST_SAMPLED) narrow_by_sample(&keys, kernels, scores, count, k);
  if (keys.more == k || search(&keys, kernels, scores, count, k)) {
    return take_above(scores, count, score_of(keys.low), ids);
  }
  return take_some(scores, count, score_of(keys.high), k - keys.fewer, ids);
}

int32_t sf_above_threshold(const sf_kernels *kernels, const float *scores, int32_t count, float threshold,
                           int32_t least, int32_t most, int32_t *ids) {
  int32_t chosen = take_above(scores, count, threshold, ids);
  if (chosen < least) return sf_top_k(kernels, scores, count, least, ids);
  if (chosen > most) return sf_top_k(kernels, scores, count, most, ids);
  return chosen;
}

int32_t sf_select_top_k(sf_context *context, const float *scores, int32_t count, int32_t k, int32_t *ids) {
  if (!context || !scores || !ids || count < 0) return SF_ERROR_ARGUMENT;
  return sf_top_k(context->kernels, scores, count, k, ids);
}

int32_t sf_select_threshold(sf_context *context, const float *scores, int32_t count, float threshold, int32_t least,
                            int32_t most, int32_t *ids) {
  if (!context || !scores || !ids || count < 0 || isnan(threshold) || least > most) return SF_ERROR_ARGUMENT;
  return sf_above_threshold(context->kernels, scores, count, threshold, least, most, ids);
}
