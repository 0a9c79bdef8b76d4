/* Q4_K: w = d · scale_s · q - m · min_s, q of 4 bits, in blocks of 256. */
#ifdef SF_FORMAT
SF_FORMAT(Q4_K, q4_k)
#elif !defined(SF_FORMAT_Q4_K_H)
#define SF_FORMAT_Q4_K_H

#include "formats/packed_scales.h"
#include "formats/traits.h"

typedef struct {
  uint16_t d, m;
  uint8_t scales[SF_PACKED_SCALES];
  uint8_t quants[SF_SUPER_BLOCK / 2];
} sf_q4_k;
SF_CHECK_BYTES(sf_q4_k, 144);

static const sf_traits sf_traits_q4_k = {
    .block_columns = SF_SUPER_BLOCK,
    .block_bytes = sizeof(sf_q4_k),
    .storage = SF_QUANTS_PLANES,
    .low = {offsetof(sf_q4_k, quants), 4, 1},
    .scales = SF_SCALES_6BIT,
    .d = offsetof(sf_q4_k, d),
    .m = offsetof(sf_q4_k, m),
};

#ifdef SF_CONVERSIONS
static void quantize_q4_k(const float *src, size_t blocks, uint8_t *dst) {
  quantize_with_mins(&sf_traits_q4_k, 63, pack_6bit_scales, src, blocks, dst);
}
#endif

#endif
