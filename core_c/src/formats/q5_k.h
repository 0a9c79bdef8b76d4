/* Q5_K: w = d · scale_s · q - m · min_s, q of 5 bits, in blocks of 256. */
#ifdef SF_FORMAT
SF_FORMAT(Q5_K, q5_k)
#elif !defined(SF_FORMAT_Q5_K_H)
#define SF_FORMAT_Q5_K_H

#include "formats/packed_scales.h"
#include "formats/traits.h"

typedef struct {
  uint16_t d, m;
  uint8_t scales[SF_PACKED_SCALES];
  uint8_t high[SF_SUPER_BLOCK / 8];
  uint8_t quants[SF_SUPER_BLOCK / 2];
} sf_q5_k;
SF_CHECK_BYTES(sf_q5_k, 176);

static const sf_traits sf_traits_q5_k = {
    .block_columns = SF_SUPER_BLOCK,
    .block_bytes = sizeof(sf_q5_k),
    .storage = SF_QUANTS_PLANES,
    .low = {offsetof(sf_q5_k, quants), 4, 1},
    .high = {offsetof(sf_q5_k, high), 1, 1},
    .scales = SF_SCALES_6BIT,
    .d = offsetof(sf_q5_k, d),
    .m = offsetof(sf_q5_k, m),
};

#ifdef SF_CONVERSIONS
static void quantize_q5_k(const float *src, size_t blocks, uint8_t *dst) {
  quantize_with_mins(&sf_traits_q5_k, 63, pack_6bit_scales, src, blocks, dst);
}
#endif

#endif
