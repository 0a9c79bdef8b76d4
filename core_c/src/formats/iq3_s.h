/* IQ3_S: w = d · scale_s · q, in blocks of 256. Each four columns have the number of a point, of which the ninth bit
 * stands apart; each eight a byte of signs; sub-block s has four bits n, of scale_s = 2 n + 1. */
#ifdef SF_FORMAT
SF_FORMAT(IQ3_S, iq3_s)
#elif !defined(SF_FORMAT_IQ3_S_H)
#define SF_FORMAT_IQ3_S_H

#include "formats/points.h"

typedef struct {
  uint16_t d;
  uint8_t quants[SF_SUB_BLOCKS][8];
  uint8_t high[SF_SUB_BLOCKS];
  uint8_t signs[SF_SUB_BLOCKS][4];
  uint8_t scales[SF_SUB_BLOCKS / 2];
} sf_iq3_s;
SF_CHECK_BYTES(sf_iq3_s, 110);

static inline int sf_iq3_s_scale(const uint8_t *block, int s) {
  return sf_odd_scale(block + offsetof(sf_iq3_s, scales), s);
}

void sf_iq3_s_quants(const uint8_t *group, int s, uint64_t *quants);

static const sf_traits sf_traits_iq3_s = {
    .block_columns = SF_SUPER_BLOCK,
    .block_bytes = sizeof(sf_iq3_s),
    .storage = SF_QUANTS_POINTS,
    .quants_of = sf_iq3_s_quants,
    .scales = SF_SCALES_SUB_BLOCKS,
    .d = offsetof(sf_iq3_s, d),
    .m = SF_NO_MIN,
    .scale_of = sf_iq3_s_scale,
};

#ifdef SF_CONVERSIONS
#define quantize_iq3_s NULL

/* Magnitudes of 1, 3, …, 15. */
void sf_iq3_s_quants(const uint8_t *group, int s, uint64_t *quants) {
  const uint8_t *p = group + offsetof(sf_iq3_s, quants) + (size_t)s * 8;
  const uint8_t *signs = group + offsetof(sf_iq3_s, signs) + (size_t)s * 4;
  const unsigned high = group[offsetof(sf_iq3_s, high) + (size_t)s];
  for (int i = 0; i < 4; ++i) {
    const uint16_t first = sf_iq3_s_grid[p[2 * i] | (high >> 2 * i & 1) << 8];
    const uint16_t second = sf_iq3_s_grid[p[2 * i + 1] | (high >> (2 * i + 1) & 1) << 8];
    quants[i] = with_signs(2 * bytes_of_nibbles(first, second) + SF_EACH_BYTE(1), signs[i]);
  }
}
#endif

#endif
