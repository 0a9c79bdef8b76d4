/* IQ2_S: w = d / 8 · scale_i · q, in blocks of 256. Each eight columns have the number of a point, of which the upper
 * two bits stand apart, and a byte of signs; run i has four bits n, of scale_i = 2 n + 1. */
#ifdef SF_FORMAT
SF_FORMAT(IQ2_S, iq2_s)
#elif !defined(SF_FORMAT_IQ2_S_H)
#define SF_FORMAT_IQ2_S_H

#include "formats/points.h"

typedef struct {
  uint16_t d;
  uint8_t quants[SF_SUB_BLOCKS][4];
  uint8_t signs[SF_SUB_BLOCKS][4];
  uint8_t high[SF_SUB_BLOCKS];
  uint8_t scales[SF_RUNS / 2];
} sf_iq2_s;
SF_CHECK_BYTES(sf_iq2_s, 82);

static inline int sf_iq2_s_scale(const uint8_t *block, int i) {
  return sf_odd_scale(block + offsetof(sf_iq2_s, scales), i);
}

void sf_iq2_s_quants(const uint8_t *group, int s, uint64_t *quants);

static const sf_traits sf_traits_iq2_s = {
    .block_columns = SF_SUPER_BLOCK,
    .block_bytes = sizeof(sf_iq2_s),
    .storage = SF_QUANTS_POINTS,
    .quants_of = sf_iq2_s_quants,
    .scales = SF_SCALES_RUNS,
    .d = offsetof(sf_iq2_s, d),
    .finer = 3,
    .m = SF_NO_MIN,
    .scale_of = sf_iq2_s_scale,
};

#ifdef SF_CONVERSIONS
#define quantize_iq2_s NULL

void sf_iq2_s_quants(const uint8_t *group, int s, uint64_t *quants) {
  const uint8_t *low = group + offsetof(sf_iq2_s, quants) + (size_t)s * 4;
  const uint8_t *signs = group + offsetof(sf_iq2_s, signs) + (size_t)s * 4;
  const unsigned high = group[offsetof(sf_iq2_s, high) + (size_t)s];
  for (int i = 0; i < 4; ++i) {
    quants[i] = with_signs(iq2_point(sf_iq2_s_grid[low[i] | (high >> 2 * i & 3) << 8]), signs[i]);
  }
}
#endif

#endif
