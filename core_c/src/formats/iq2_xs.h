/* IQ2_XS: w = d / 8 · scale_i · q, in blocks of 256. Each eight columns have a word, of which nine bits are the number
 * of a point and seven its signs; run i has four bits n, of scale_i = 2 n + 1. */
#ifdef SF_FORMAT
SF_FORMAT(IQ2_XS, iq2_xs)
#elif !defined(SF_FORMAT_IQ2_XS_H)
#define SF_FORMAT_IQ2_XS_H

#include "formats/points.h"

typedef struct {
  uint16_t d;
  uint8_t quants[SF_SUB_BLOCKS][8];
  uint8_t scales[SF_RUNS / 2];
} sf_iq2_xs;
SF_CHECK_BYTES(sf_iq2_xs, 74);

static inline int sf_iq2_xs_scale(const uint8_t *block, int i) {
  return sf_odd_scale(block + offsetof(sf_iq2_xs, scales), i);
}

void sf_iq2_xs_quants(const uint8_t *group, int s, uint64_t *quants);

static const sf_traits sf_traits_iq2_xs = {
    .block_columns = SF_SUPER_BLOCK,
    .block_bytes = sizeof(sf_iq2_xs),
    .storage = SF_QUANTS_POINTS,
    .quants_of = sf_iq2_xs_quants,
    .scales = SF_SCALES_RUNS,
    .d = offsetof(sf_iq2_xs, d),
    .finer = 3,
    .m = SF_NO_MIN,
    .scale_of = sf_iq2_xs_scale,
};

#ifdef SF_CONVERSIONS
#define quantize_iq2_xs NULL

void sf_iq2_xs_quants(const uint8_t *group, int s, uint64_t *quants) {
  const uint8_t *p = group + offsetof(sf_iq2_xs, quants) + (size_t)s * 8;
  for (int i = 0; i < 4; ++i) {
    const unsigned word = sf_get_word(p + 2 * i);
    quants[i] = with_signs(iq2_point(sf_iq2_xs_grid[word & 511]), even_signs(word >> 9));
  }
}
#endif

#endif
