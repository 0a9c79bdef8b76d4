/* IQ4_XS: w = d · scale_s · level_q, q of 4 bits with the levels of IQ4_NL, in blocks of 256. Scales are 6-bit numbers
 * less 32: the low four bits of scale s are a half of byte s / 2, the high two bits 2s … of a number of 16 bits. */
#ifdef SF_FORMAT
SF_FORMAT(IQ4_XS, iq4_xs)
#elif !defined(SF_FORMAT_IQ4_XS_H)
#define SF_FORMAT_IQ4_XS_H

#include <string.h>

#include "formats/bytes.h"
#include "formats/iq4_nl.h"
#include "formats/traits.h"

typedef struct {
  uint16_t d;
  uint8_t high[2];
  uint8_t low[SF_SUB_BLOCKS / 2];
  uint8_t quants[SF_SUPER_BLOCK / 2];
} sf_iq4_xs;
SF_CHECK_BYTES(sf_iq4_xs, 136);

static inline int sf_iq4_xs_scale(const uint8_t *block, int s) {
  const unsigned i = (unsigned)s, low = block[offsetof(sf_iq4_xs, low) + i / 2] >> 4 * (i % 2) & 15u;
  const unsigned high = block[offsetof(sf_iq4_xs, high) + i / 4] >> 2 * (i % 4) & 3u;
  return (int)(low | high << 4) - 32;
}

static inline uint64_t sf_iq4_xs_scales(const uint8_t *block) {
  uint16_t high, low[2];
  memcpy(&high, block + offsetof(sf_iq4_xs, high), sizeof high);
  memcpy(low, block + offsetof(sf_iq4_xs, low), sizeof low);
  return (bytes_of_nibbles(low[0], low[1]) | bytes_of_pairs(high) << 4) + SF_EACH_BYTE(128 - 32);
}

static const sf_traits sf_traits_iq4_xs = {
    .block_columns = SF_SUPER_BLOCK,
    .block_bytes = sizeof(sf_iq4_xs),
    .storage = SF_QUANTS_HALVES,
    .low = {offsetof(sf_iq4_xs, quants), 4, 1},
    .levels = sf_iq4_levels,
    .scales = SF_SCALES_SUB_BLOCKS,
    .d = offsetof(sf_iq4_xs, d),
    .m = SF_NO_MIN,
    .scale_of = sf_iq4_xs_scale,
    .scales_of = sf_iq4_xs_scales,
};

#ifdef SF_CONVERSIONS
static void pack_iq4_xs_scales(uint8_t *block, const int32_t *scales, const int32_t *mins) {
  (void)mins;
  for (int s = 0; s < SF_SUB_BLOCKS; ++s) {
    const int bits = scales[s] + 32;
    uint8_t *low = block + (int)offsetof(sf_iq4_xs, low) + s / 2,
            *high = block + (int)offsetof(sf_iq4_xs, high) + s / 4;
    *low = (uint8_t)(*low | (bits & 15) << 4 * (s % 2));
    *high = (uint8_t)(*high | (bits >> 4) << 2 * (s % 4));
  }
}

static void quantize_iq4_xs(const float *src, size_t blocks, uint8_t *dst) {
  quantize_with_zero_point(&sf_traits_iq4_xs, 32, pack_iq4_xs_scales, src, blocks, dst);
}
#endif

#endif
