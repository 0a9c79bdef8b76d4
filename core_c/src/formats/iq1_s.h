/* IQ1_S: w = d / 8 · scale_s · (8 t ± 1), t of -1, 0 and 1, in blocks of 256. Each eight columns have the number of a
 * point. A word for sub-block s has the upper three bits of its four numbers, three bits n, of scale_s = 2 n + 1, and
 * whether 1 is subtracted. */
#ifdef SF_FORMAT
SF_FORMAT(IQ1_S, iq1_s)
#elif !defined(SF_FORMAT_IQ1_S_H)
#define SF_FORMAT_IQ1_S_H

#include "formats/points.h"

typedef struct {
  uint16_t d;
  uint8_t quants[SF_SUB_BLOCKS][4];
  uint8_t high[SF_SUB_BLOCKS][2];
} sf_iq1_s;
SF_CHECK_BYTES(sf_iq1_s, 50);

static inline int sf_iq1_s_scale(const uint8_t *block, int s) {
  return 2 * (block[(int)offsetof(sf_iq1_s, high) + 2 * s + 1] >> 4 & 7) + 1;
}

void sf_iq1_s_quants(const uint8_t *group, int s, uint64_t *quants);

static const sf_traits sf_traits_iq1_s = {
    .block_columns = SF_SUPER_BLOCK,
    .block_bytes = sizeof(sf_iq1_s),
    .storage = SF_QUANTS_POINTS,
    .quants_of = sf_iq1_s_quants,
    .scales = SF_SCALES_SUB_BLOCKS,
    .d = offsetof(sf_iq1_s, d),
    .finer = 3,
    .m = SF_NO_MIN,
    .scale_of = sf_iq1_s_scale,
};

#ifdef SF_CONVERSIONS
#define quantize_iq1_s NULL

/* Eight times the weights of a point, plus or minus 1: from bytes 128 above. */
static inline uint64_t iq1_point(unsigned point, int minus) {
  return (8 * bytes_of_pairs(sf_iq1_s_grid[point]) + SF_EACH_BYTE(minus ? 119u : 121u)) ^ SF_EACH_BYTE(128);
}

void sf_iq1_s_quants(const uint8_t *group, int s, uint64_t *quants) {
  const uint8_t *low = group + offsetof(sf_iq1_s, quants) + (size_t)s * 4;
  const unsigned high = sf_get_word(group + offsetof(sf_iq1_s, high) + (size_t)s * 2);
  for (int i = 0; i < 4; ++i) quants[i] = iq1_point(low[i] | (high >> 3 * i & 7) << 8, high >> 15 != 0);
}
#endif

#endif
