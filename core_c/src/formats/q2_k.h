/* Q2_K: w = d · scale_i · q - m · min_i, q of 2 bits, in blocks of 256. Byte i of the scales holds scale_i in its low
 * half and min_i in its high half. */
#ifdef SF_FORMAT
SF_FORMAT(Q2_K, q2_k)
#elif !defined(SF_FORMAT_Q2_K_H)
#define SF_FORMAT_Q2_K_H

#include "formats/traits.h"

typedef struct {
  uint8_t scales[SF_RUNS];
  uint8_t quants[SF_SUPER_BLOCK / 4];
  uint16_t d, m;
} sf_q2_k;
SF_CHECK_BYTES(sf_q2_k, 84);

static inline int sf_q2_k_scale(const uint8_t *block, int i) { return block[(int)offsetof(sf_q2_k, scales) + i] & 15; }

static inline int sf_q2_k_min(const uint8_t *block, int i) { return block[(int)offsetof(sf_q2_k, scales) + i] >> 4; }

static const sf_traits sf_traits_q2_k = {
    .block_columns = SF_SUPER_BLOCK,
    .block_bytes = sizeof(sf_q2_k),
    .storage = SF_QUANTS_PLANES,
    .low = {offsetof(sf_q2_k, quants), 2, 1},
    .scales = SF_SCALES_RUNS,
    .d = offsetof(sf_q2_k, d),
    .m = offsetof(sf_q2_k, m),
    .scale_of = sf_q2_k_scale,
    .min_of = sf_q2_k_min,
};

#ifdef SF_CONVERSIONS
static void pack_q2_k_scales(uint8_t *block, const int32_t *scales, const int32_t *mins) {
  for (int i = 0; i < SF_RUNS; ++i) block[(int)offsetof(sf_q2_k, scales) + i] = (uint8_t)(scales[i] | mins[i] << 4);
}

static void quantize_q2_k(const float *src, size_t blocks, uint8_t *dst) {
  quantize_with_mins(&sf_traits_q2_k, 15, pack_q2_k_scales, src, blocks, dst);
}
#endif

#endif
