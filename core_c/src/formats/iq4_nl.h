/* IQ4_NL: w = d · level_q, q of 4 bits, whose levels are denser around 0. */
#ifdef SF_FORMAT
SF_FORMAT(IQ4_NL, iq4_nl)
#elif !defined(SF_FORMAT_IQ4_NL_H)
#define SF_FORMAT_IQ4_NL_H

#include "formats/traits.h"

typedef struct {
  uint16_t d;
  uint8_t quants[SF_BLOCK / 2];
} sf_iq4_nl;
SF_CHECK_BYTES(sf_iq4_nl, 18);

static const int8_t sf_iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static const sf_traits sf_traits_iq4_nl = {
    .block_columns = SF_BLOCK,
    .block_bytes = sizeof(sf_iq4_nl),
    .storage = SF_QUANTS_HALVES,
    .low = {offsetof(sf_iq4_nl, quants), 4, 1},
    .levels = sf_iq4_levels,
    .scales = SF_SCALES_BLOCK,
    .d = offsetof(sf_iq4_nl, d),
    .m = SF_NO_MIN,
};

#ifdef SF_CONVERSIONS
static void quantize_iq4_nl(const float *src, size_t blocks, uint8_t *dst) {
  for (size_t b = 0; b < blocks; ++b, src += SF_BLOCK, dst += sizeof(sf_iq4_nl)) {
    memset(dst, 0, sizeof(sf_iq4_nl));
    const float d = block_scale(centred_search(&sf_traits_iq4_nl, src, SF_BLOCK), 1, dst + offsetof(sf_iq4_nl, d));
    put_nearest(&sf_traits_iq4_nl, src, 0, SF_BLOCK, d, dst);
  }
}
#endif

#endif
