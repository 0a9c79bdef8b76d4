/* IQ2_XXS: w = d / 8 · scale_s · q, in blocks of 256. Sub-block s has 8 bytes: the numbers of four points, and 32 bits,
 * of which 28 are their signs and four n, of scale_s = 2 n + 1. */
#ifdef SF_FORMAT
SF_FORMAT(IQ2_XXS, iq2_xxs)
#elif !defined(SF_FORMAT_IQ2_XXS_H)
#define SF_FORMAT_IQ2_XXS_H

#include "formats/points.h"

typedef struct {
  uint16_t d;
  uint8_t quants[SF_SUB_BLOCKS][8];
} sf_iq2_xxs;
SF_CHECK_BYTES(sf_iq2_xxs, 66);

static inline int sf_iq2_xxs_scale(const uint8_t *block, int s) {
  return 2 * (block[(int)offsetof(sf_iq2_xxs, quants) + 8 * s + 7] >> 4) + 1;
}

void sf_iq2_xxs_quants(const uint8_t *group, int s, uint64_t *quants);

static const sf_traits sf_traits_iq2_xxs = {
    .block_columns = SF_SUPER_BLOCK,
    .block_bytes = sizeof(sf_iq2_xxs),
    .storage = SF_QUANTS_POINTS,
    .quants_of = sf_iq2_xxs_quants,
    .scales = SF_SCALES_SUB_BLOCKS,
    .d = offsetof(sf_iq2_xxs, d),
    .finer = 3,
    .m = SF_NO_MIN,
    .scale_of = sf_iq2_xxs_scale,
};

#ifdef SF_CONVERSIONS
#define quantize_iq2_xxs NULL

void sf_iq2_xxs_quants(const uint8_t *group, int s, uint64_t *quants) {
  const uint8_t *p = group + offsetof(sf_iq2_xxs, quants) + (size_t)s * 8;
  const uint32_t signs = sf_get_long(p + 4);
  for (int i = 0; i < 4; ++i) {
    quants[i] = with_signs(iq2_point(sf_iq2_xxs_grid[p[i]]), even_signs(signs >> 7 * i & 127));
  }
}
#endif

#endif
