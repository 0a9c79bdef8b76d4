/* 256 digits to the base of 3 in 52 bytes. A byte is a fraction, byte / 256, whose first digits after the point are
 * five columns, or four: digit n is the whole part of 3 · the fraction of 3^n · byte / 256. Bytes 0 … 31 hold columns 0
 * … 159, digit n of byte k column 32 n + k; bytes 32 … 47 alike columns 160 … 239, and bytes 48 … 51, of four digits,
 * the rest. */
#ifndef SF_TRITS_H
#define SF_TRITS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "formats/traits.h"

enum {
  SF_TRIT_BYTES = 52,
  SF_TRIT_FIRST = 5, /* sub-blocks that bytes 0 … 31 hold */
  SF_TRIT_AT = 32,   /* the bytes after these */
  SF_TRIT_LAST = 48  /* the last four */
};

/* 3^n */
static inline int sf_power_of_3(int n) {
  static const int powers[5] = {1, 3, 9, 27, 81};
  return powers[n];
}

/* The byte that holds a column, and which digit of it that is. */
static inline int sf_trit_byte(int column, int *digit) {
  const int first = SF_TRIT_FIRST * SF_TRIT_AT, last = first + 5 * 16;
  const int start = column < first ? 0 : column < last ? first : last;
  const int bytes = column < first ? SF_TRIT_AT : column < last ? 16 : 4;
  *digit = (column - start) / bytes;
  return (column < first ? 0 : column < last ? SF_TRIT_AT : SF_TRIT_LAST) + (column - start) % bytes;
}

static inline int sf_trit(const uint8_t *trits, int column) {
  int digit;
  const int byte = trits[sf_trit_byte(column, &digit)];
  return (byte * sf_power_of_3(digit) & 255) * 3 >> 8;
}

/* For sub-block s, 5 … 7: 32 bytes whose first 16 and whose last 16 fractions are still to be multiplied by numbers. */
static inline void sf_trits_gather(const uint8_t *trits, int s, uint8_t *bytes, int *first, int *last) {
  const int digit = 2 * (s - SF_TRIT_FIRST);
  memcpy(bytes, trits + SF_TRIT_AT, 16);
  *first = sf_power_of_3(digit);
  if (s < SF_SUB_BLOCKS - 1) {
    memcpy(bytes + 16, trits + SF_TRIT_AT, 16);
    *last = sf_power_of_3(digit + 1);
    return;
  }
  uint32_t word;
  memcpy(&word, trits + SF_TRIT_LAST, sizeof word);
  uint32_t even = word & 0x00ff00ff, odd = word >> 8 & 0x00ff00ff;
  for (int n = 0; n < 4; ++n) { /* four bytes at once */
    word = even | odd << 8;
    memcpy(bytes + 16 + 4 * n, &word, sizeof word);
    even = even * 3 & 0x00ff00ff;
    odd = odd * 3 & 0x00ff00ff;
  }
  *last = 1;
}

#ifdef SF_CONVERSIONS
/* The scale of 256 columns, which is the largest magnitude, and their quants: x / scale, rounded, plus 1. */
static float ternary_quants(const float *x, uint8_t *quants) {
  float most = 0;
  for (int k = 0; k < SF_SUPER_BLOCK; ++k) most = fabsf(x[k]) > most ? fabsf(x[k]) : most;
  const float inverse = most == 0 ? 0.0f : 1.0f / most;
  for (int k = 0; k < SF_SUPER_BLOCK; ++k) {
    const float q = x[k] * inverse;
    quants[k] = q >= 0.5f ? 2 : q <= -0.5f ? 0 : 1;
  }
  return most;
}

/* The fractions are rounded up, so that no digit comes out less. */
static void pack_trits(const uint8_t *quants, uint8_t *trits) {
  int sums[SF_TRIT_BYTES] = {0};
  for (int k = 0; k < SF_SUPER_BLOCK; ++k) {
    int digit;
    const int byte = sf_trit_byte(k, &digit);
    sums[byte] += quants[k] * sf_power_of_3(4 - digit);
  }
  for (int i = 0; i < SF_TRIT_BYTES; ++i) trits[i] = (uint8_t)((sums[i] * 256 + 242) / 243);
}
#endif

#endif
