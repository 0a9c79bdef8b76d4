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

/* Halves the range of keys in which the k-th score lies, until just k scores are above a key, or one is left: some 20
 * counts for scores that differ, 32 at most. The scores above `high` are fewer than k. */
int32_t sf_top_k(const sf_kernels *kernels, const float *scores, int32_t count, int32_t k, int32_t *ids) {
  if (k <= 0 || count == 0) return 0;
  uint32_t low = LEAST_KEY - 1, high = largest_key;
  int32_t above = 0;
  while (k < count && high - low > 1) {
    uint32_t middle = low + (high - low) / 2;
    int32_t found = count_above(kernels, scores, count, score_of(middle));
    if (found == k) return take_above(scores, count, score_of(middle), ids);
    if (found > k) {
      low = middle;
    } else {
      high = middle;
      above = found;
    }
  }
  if (k >= count) high = LEAST_KEY; /* all but NaN */
  return take_some(scores, count, score_of(high), k - above, ids);
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
