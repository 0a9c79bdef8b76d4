/* Selection of active neurons from scores. One pass per 11 bits of the key instead of a sort: linear in the number of
 * neurons, and the ids come out ascending by themselves. */
#include <math.h>
#include <string.h>

#include "internal.h"

enum { DIGIT_BITS = 11, DIGITS = 3, BINS = 1 << DIGIT_BITS };

/* Orders floats as unsigned integers; NaN becomes 0, below every number. -0 and +0 are equal. */
static uint32_t order_key(float score) {
  uint32_t bits;
  if (isnan(score)) return 0;
  score += 0.0f;
  memcpy(&bits, &score, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* The key of rank k (1-based, from the top), and in *ties how many scores with just that key belong to the top k. */
static uint32_t kth_key(const float *scores, int32_t count, int32_t k, int32_t *ties) {
  static const int shifts[DIGITS] = {21, 10, 0};
  uint32_t prefix = 0, prefix_mask = 0;
  int32_t bins[BINS];
  for (int digit = 0; digit < DIGITS; digit++) {
    int shift = shifts[digit];
    memset(bins, 0, sizeof bins);
    for (int32_t i = 0; i < count; i++) {
      uint32_t key = order_key(scores[i]);
      if ((key & prefix_mask) == prefix) bins[key >> shift & (BINS - 1)]++;
    }
    int32_t bin = BINS - 1;
    while (bin > 0 && k > bins[bin]) k -= bins[bin--];
    prefix |= (uint32_t)bin << shift;
    prefix_mask |= (uint32_t)(BINS - 1) << shift;
    /* The middle digit overlaps the last by one bit, which then is part of the prefix already. */
  }
  *ties = k;
  return prefix;
}

int32_t sf_select_top_k(const float *scores, int32_t count, int32_t k, int32_t *ids) {
  if (!scores || !ids || count < 0) return SF_ERROR_ARGUMENT;
  if (k <= 0 || count == 0) return 0;
  int32_t ties = 0, chosen = 0;
  uint32_t least = k >= count ? 0 : kth_key(scores, count, k, &ties);
  for (int32_t i = 0; i < count; i++) {
    uint32_t key = order_key(scores[i]);
    if (key > least || (key != 0 && key == least && ties-- > 0)) ids[chosen++] = i;
  }
  return chosen;
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
