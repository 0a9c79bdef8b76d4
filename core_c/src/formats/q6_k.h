/* Q6_K: w = d · scale_i · (q - 32), q of 6 bits, in blocks of 256 with a signed byte of scale for each 16 columns. */
#ifdef SF_FORMAT
SF_FORMAT(Q6_K, q6_k)
#elif !defined(SF_FORMAT_Q6_K_H)
#define SF_FORMAT_Q6_K_H

#include "formats/traits.h"

typedef struct {
  uint8_t quants[SF_SUPER_BLOCK / 2]; /* the lower four bits */
  uint8_t high[SF_SUPER_BLOCK / 4];
  int8_t scales[SF_RUNS];
  uint16_t d;
} sf_q6_k;
SF_CHECK_BYTES(sf_q6_k, 210);

static inline int sf_q6_k_scale(const uint8_t *block, int i) {
  return ((const int8_t *)block)[(int)offsetof(sf_q6_k, scales) + i];
}

static const sf_traits sf_traits_q6_k = {
    .block_columns = SF_SUPER_BLOCK,
    .block_bytes = sizeof(sf_q6_k),
    .storage = SF_QUANTS_PLANES,
    .low = {offsetof(sf_q6_k, quants), 4, 2},
    .high = {offsetof(sf_q6_k, high), 2, 1},
    .zero_point = 32,
    .scales = SF_SCALES_RUNS,
    .d = offsetof(sf_q6_k, d),
    .m = SF_NO_MIN,
    .scale_of = sf_q6_k_scale,
};

#ifdef SF_CONVERSIONS
static void pack_q6_k_scales(uint8_t *block, const int32_t *scales, const int32_t *mins) {
  (void)mins;
  for (int i = 0; i < SF_RUNS; ++i) block[(int)offsetof(sf_q6_k, scales) + i] = (uint8_t)(scales[i] & 255);
}

static void quantize_q6_k(const float *src, size_t blocks, uint8_t *dst) {
  quantize_with_zero_point(&sf_traits_q6_k, 128, pack_q6_k_scales, src, blocks, dst);
}
#endif

#endif
