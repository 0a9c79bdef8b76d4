/* TQ2_0: w = d · (q - 1), q of 2 bits, in blocks of 256: weights of -1, 0 and 1. */
#ifdef SF_FORMAT
SF_FORMAT(TQ2_0, tq2_0)
#elif !defined(SF_FORMAT_TQ2_0_H)
#define SF_FORMAT_TQ2_0_H

#include "formats/traits.h"

typedef struct {
  uint8_t quants[SF_SUPER_BLOCK / 4];
  uint16_t d;
} sf_tq2_0;
SF_CHECK_BYTES(sf_tq2_0, 66);

static const sf_traits sf_traits_tq2_0 = {
    .block_columns = SF_SUPER_BLOCK,
    .block_bytes = sizeof(sf_tq2_0),
    .storage = SF_QUANTS_PLANES,
    .low = {offsetof(sf_tq2_0, quants), 2, 1},
    .zero_point = 1,
    .scales = SF_SCALES_BLOCK,
    .d = offsetof(sf_tq2_0, d),
    .m = SF_NO_MIN,
};

#ifdef SF_CONVERSIONS
static void quantize_tq2_0(const float *src, size_t blocks, uint8_t *dst) {
  for (size_t b = 0; b < blocks; ++b, src += SF_SUPER_BLOCK, dst += sizeof(sf_tq2_0)) {
    uint8_t quants[SF_SUPER_BLOCK];
    memset(dst, 0, sizeof(sf_tq2_0));
    sf_put_half(dst + offsetof(sf_tq2_0, d), ternary_quants(src, quants));
    for (int k = 0; k < SF_SUPER_BLOCK; ++k) put_quant(&sf_traits_tq2_0, dst, k, quants[k]);
  }
}
#endif

#endif
