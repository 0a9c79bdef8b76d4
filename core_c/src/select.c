/* Selection of active neurons from scores, without a sort: passes that only count, and one that writes the ids, which
 * come out ascending by themselves. */
#include <math.h>
#include <string.h>

#include "internal.h"

/* Floats in their order as unsigned integers, from the least one, -infinity, on. */
enum { LEAST_KEY = 0x007FFFFF };
static const uint32_t beyond_keys = 0xFF800001u; /* the key after +infinity's */

static float score_of(uint32_t key) {
  uint32_t bits = key & 0x80000000u ? key & 0x7FFFFFFFu : ~key;
  float score;
  memcpy(&score, &bits, sizeof score);
  return score;
}

/* How many scores are `least` or more; NaN is not. Compilers make vectors of this loop. */
static int32_t count_from(const float *scores, int32_t count, float least) {
  int32_t found = 0;
  for (int32_t i = 0; i < count; i++) found += scores[i] >= least;
  return found;
}

/* The ids of the scores that are `least` or more. Without a branch: an id is written always, and kept only when
 * counted; chosen ≤ i < count. */
static int32_t take_from(const float *scores, int32_t count, float least, int32_t *ids) {
  int32_t chosen = 0;
  for (int32_t i = 0; i < count; i++) {
    ids[chosen] = i;
    chosen += scores[i] >= least;
  }
  return chosen;
}

/* The ids of the scores above `least`, and of the first `ties` of those equal to it. */
static int32_t take_some(const float *scores, int32_t count, float least, int32_t ties, int32_t *ids) {
  int32_t chosen = 0;
  for (int32_t i = 0; i < count; i++) {
    int32_t tie = (scores[i] == least) & (ties > 0);
    ids[chosen] = i;
    chosen += (scores[i] > least) | tie;
    ties -= tie;
  }
  return chosen;
}

/* Halves the range of keys in which the k-th score lies, until just k scores are in its upper part, or it is one key:
 * some 20 counts for scores that differ, 32 at most. */
int32_t sf_select_top_k(const float *scores, int32_t count, int32_t k, int32_t *ids) {
  if (!scores || !ids || count < 0) return SF_ERROR_ARGUMENT;
  if (k <= 0 || count == 0) return 0;
  if (k >= count) return take_from(scores, count, -INFINITY, ids);
  uint32_t low = LEAST_KEY, high = beyond_keys;
  int32_t above = 0; /* scores from `high` on, fewer than k */
  while (high - low > 1) {
    uint32_t middle = low + (high - low) / 2;
    int32_t found = count_from(scores, count, score_of(middle));
    if (found == k) return take_from(scores, count, score_of(middle), ids);
    if (found > k) {
      low = middle;
    } else {
      high = middle;
      above = found;
    }
  }
  return take_some(scores, count, score_of(low), k - above, ids);
}

int32_t sf_select_threshold(const float *scores, int32_t count, float threshold, int32_t least, int32_t most,
                            int32_t *ids) {
  if (!scores || !ids || count < 0 || isnan(threshold) || least > most) return SF_ERROR_ARGUMENT;
  int32_t chosen = 0;
  for (int32_t i = 0; i < count; i++) {
    ids[chosen] = i; /* without a branch: written always, kept only when counted; chosen ≤ i < count */
    chosen += scores[i] > threshold;
  }
  if (chosen < least) return sf_select_top_k(scores, count, least, ids);
  if (chosen > most) return sf_select_top_k(scores, count, most, ids);
  return chosen;
}
