/* IQ3_XXS: w = d / 4 · scale_s · q, in blocks of 256. Each four columns have the number of a point; sub-block s has 32
 * bits after all of these, of which 28 are the signs and four n, of scale_s = 2 n + 1. */
#ifdef SF_FORMAT
SF_FORMAT(IQ3_XXS, iq3_xxs)
#elif !defined(SF_FORMAT_IQ3_XXS_H)
#define SF_FORMAT_IQ3_XXS_H

#include "formats/points.h"

typedef struct {
  uint16_t d;
  uint8_t quants[SF_SUB_BLOCKS][8];
  uint8_t signs[SF_SUB_BLOCKS][4];
} sf_iq3_xxs;
SF_CHECK_BYTES(sf_iq3_xxs, 98);

static inline int sf_iq3_xxs_scale(const uint8_t *block, int s) {
  return 2 * (block[(int)offsetof(sf_iq3_xxs, signs) + 4 * s + 3] >> 4) + 1;
}

void sf_iq3_xxs_quants(const uint8_t *group, int s, uint64_t *quants);

static const sf_traits sf_traits_iq3_xxs = {
    .block_columns = SF_SUPER_BLOCK,
    .block_bytes = sizeof(sf_iq3_xxs),
    .storage = SF_QUANTS_POINTS,
    .quants_of = sf_iq3_xxs_quants,
    .scales = SF_SCALES_SUB_BLOCKS,
    .d = offsetof(sf_iq3_xxs, d),
    .finer = 2,
    .m = SF_NO_MIN,
    .scale_of = sf_iq3_xxs_scale,
};

#ifdef SF_CONVERSIONS
#define quantize_iq3_xxs NULL

/* Magnitudes of 4, 12, …, 52 and 62. */
void sf_iq3_xxs_quants(const uint8_t *group, int s, uint64_t *quants) {
  const uint8_t *p = group + offsetof(sf_iq3_xxs, quants) + (size_t)s * 8;
  const uint32_t signs = sf_get_long(group + offsetof(sf_iq3_xxs, signs) + (size_t)s * 4);
  for (int i = 0; i < 4; ++i) {
    const uint64_t x = bytes_of_nibbles(sf_iq3_xxs_grid[p[2 * i]], sf_iq3_xxs_grid[p[2 * i + 1]]);
    const uint64_t last = x & x >> 1 & x >> 2 & SF_EACH_BYTE(1);
    quants[i] = with_signs(SF_EACH_BYTE(4) + 8 * x + 2 * last, even_signs(signs >> 7 * i & 127));
  }
}
#endif

#endif
