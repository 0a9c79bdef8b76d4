/* Quants that are numbers of points: 32 of them are eight signed bytes for each of four words, made of four or eight
 * coordinates at once. The formats' functions that do it exist once, and not in each set of kernels. */
#ifndef SF_POINTS_H
#define SF_POINTS_H

#include <stdint.h>
#include <string.h>

#include "formats/bytes.h"
#include "formats/traits.h"

/* The integers of a scale of four bits. */
static inline int sf_odd_scale(const uint8_t *scales, int i) { return 2 * (scales[i / 2] >> 4 * (i % 2) & 15) + 1; }

static inline uint16_t sf_get_word(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }

static inline uint32_t sf_get_long(const uint8_t *p) { return sf_get_word(p) | (uint32_t)sf_get_word(p + 2) << 16; }

#ifdef SF_CONVERSIONS
#include "formats/grids.h"

/* The bytes, none of which is 0, less than 0 where a bit of `signs` is set. */
static inline uint64_t with_signs(uint64_t bytes, unsigned signs) {
  const uint64_t set = SF_EACH_BYTE((uint64_t)(signs & 255)) & UINT64_C(0x8040201008040201);
  const uint64_t negative = (set + SF_EACH_BYTE(0x7f)) >> 7 & SF_EACH_BYTE(1);
  return (bytes ^ negative * 255) + negative;
}

/* Seven signs, and the eighth, which makes the number of negative ones even. */
static inline unsigned even_signs(unsigned seven) {
  unsigned odd = seven ^ seven >> 4;
  odd ^= odd >> 2;
  odd ^= odd >> 1;
  return seven | (odd & 1) << 7;
}

/* The magnitudes 8, 25 and 43 of a point of IQ2. */
static inline uint64_t iq2_point(uint16_t places) {
  const uint64_t x = bytes_of_pairs(places);
  return SF_EACH_BYTE(8) + 17 * x + (x >> 1 & SF_EACH_BYTE(1));
}
#endif

#endif
