/* IQ1_M: w = d / 8 · scale_i · (8 t ± 1), t of -1, 0 and 1, in blocks of 256. Each eight columns have the number of a
 * point, of which the upper three bits stand apart with whether 1 is subtracted. Four words have three bits n for each
 * run, of scale_i = 2 n + 1, and in their upper four bits d. */
#ifdef SF_FORMAT
SF_FORMAT(IQ1_M, iq1_m)
#elif !defined(SF_FORMAT_IQ1_M_H)
#define SF_FORMAT_IQ1_M_H

#include "formats/iq1_s.h"
#include "formats/points.h"

typedef struct {
  uint8_t quants[SF_SUB_BLOCKS][4];
  uint8_t high[SF_SUB_BLOCKS][2];
  uint8_t scales[4][2];
} sf_iq1_m;
SF_CHECK_BYTES(sf_iq1_m, 56);

static inline int sf_iq1_m_scale(const uint8_t *block, int i) {
  const unsigned word = sf_get_word(block + (int)offsetof(sf_iq1_m, scales) + i / 4 * 2);
  return 2 * (int)(word >> 3 * (i % 4) & 7) + 1;
}

static inline uint16_t sf_iq1_m_d(const uint8_t *block) {
  unsigned d = 0;
  for (int i = 0; i < 4; ++i) d |= (unsigned)(block[(int)offsetof(sf_iq1_m, scales) + 2 * i + 1] >> 4) << 4 * i;
  return (uint16_t)d;
}

void sf_iq1_m_quants(const uint8_t *group, int s, uint64_t *quants);

static const sf_traits sf_traits_iq1_m = {
    .block_columns = SF_SUPER_BLOCK,
    .block_bytes = sizeof(sf_iq1_m),
    .storage = SF_QUANTS_POINTS,
    .quants_of = sf_iq1_m_quants,
    .scales = SF_SCALES_RUNS,
    .d_of = sf_iq1_m_d,
    .finer = 3,
    .m = SF_NO_MIN,
    .scale_of = sf_iq1_m_scale,
};

#ifdef SF_CONVERSIONS
#define quantize_iq1_m NULL

void sf_iq1_m_quants(const uint8_t *group, int s, uint64_t *quants) {
  const uint8_t *low = group + offsetof(sf_iq1_m, quants) + (size_t)s * 4;
  const unsigned high = sf_get_word(group + offsetof(sf_iq1_m, high) + (size_t)s * 2);
  for (int i = 0; i < 4; ++i) {
    const unsigned bits = high >> 4 * i & 15;
    quants[i] = iq1_point(low[i] | (bits & 7) << 8, bits >> 3 != 0);
  }
}
#endif

#endif
