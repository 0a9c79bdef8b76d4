/* Q3_K: w = d · scale_i · (q - 4), q of 3 bits, in blocks of 256. Scales are 6-bit numbers less 32: the low four bits
 * of scale i are a half of byte i % 8, the high two are in byte 8 + i % 4. */
#ifdef SF_FORMAT
SF_FORMAT(Q3_K, q3_k)
#elif !defined(SF_FORMAT_Q3_K_H)
#define SF_FORMAT_Q3_K_H

#include "formats/traits.h"

typedef struct {
  uint8_t high[SF_SUPER_BLOCK / 8];
  uint8_t quants[SF_SUPER_BLOCK / 4]; /* the lower two bits */
  uint8_t scales[12];
  uint16_t d;
} sf_q3_k;
SF_CHECK_BYTES(sf_q3_k, 110);

static inline int sf_q3_k_scale(const uint8_t *block, int i) {
  const uint8_t *packed = block + offsetof(sf_q3_k, scales);
  const unsigned run = (unsigned)i, low = packed[run % 8] >> 4 * (run / 8) & 15u;
  const unsigned high = packed[8 + run % 4] >> 2 * (run / 4) & 3u;
  return (int)(low | high << 4) - 32;
}

static const sf_traits sf_traits_q3_k = {
    .block_columns = SF_SUPER_BLOCK,
    .block_bytes = sizeof(sf_q3_k),
    .storage = SF_QUANTS_PLANES,
    .low = {offsetof(sf_q3_k, quants), 2, 1},
    .high = {offsetof(sf_q3_k, high), 1, 1},
    .zero_point = 4,
    .scales = SF_SCALES_RUNS,
    .d = offsetof(sf_q3_k, d),
    .m = SF_NO_MIN,
    .scale_of = sf_q3_k_scale,
};

#ifdef SF_CONVERSIONS
static void pack_q3_k_scales(uint8_t *block, const int32_t *scales, const int32_t *mins) {
  uint8_t *packed = block + offsetof(sf_q3_k, scales);
  (void)mins;
  for (int i = 0; i < SF_RUNS; ++i) {
    const int bits = scales[i] + 32;
    packed[i % 8] = (uint8_t)(packed[i % 8] | (bits & 15) << 4 * (i / 8));
    packed[8 + i % 4] = (uint8_t)(packed[8 + i % 4] | (bits >> 4) << 2 * (i / 4));
  }
}

static void quantize_q3_k(const float *src, size_t blocks, uint8_t *dst) {
  quantize_with_zero_point(&sf_traits_q3_k, 32, pack_q3_k_scales, src, blocks, dst);
}
#endif

#endif
