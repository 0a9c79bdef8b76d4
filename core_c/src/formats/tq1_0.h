/* TQ1_0: w = d · (q - 1), q a digit to the base of 3, in blocks of 256: weights of -1, 0 and 1 (see trits.h). */
#ifdef SF_FORMAT
SF_FORMAT(TQ1_0, tq1_0)
#elif !defined(SF_FORMAT_TQ1_0_H)
#define SF_FORMAT_TQ1_0_H

#include "formats/traits.h"
#include "formats/trits.h"

typedef struct {
  uint8_t quants[SF_TRIT_BYTES];
  uint16_t d;
} sf_tq1_0;
SF_CHECK_BYTES(sf_tq1_0, 54);

static const sf_traits sf_traits_tq1_0 = {
    .block_columns = SF_SUPER_BLOCK,
    .block_bytes = sizeof(sf_tq1_0),
    .storage = SF_QUANTS_TRITS,
    .low = {offsetof(sf_tq1_0, quants), 2, 1},
    .zero_point = 1,
    .scales = SF_SCALES_BLOCK,
    .d = offsetof(sf_tq1_0, d),
    .m = SF_NO_MIN,
};

#ifdef SF_CONVERSIONS
static void quantize_tq1_0(const float *src, size_t blocks, uint8_t *dst) {
  for (size_t b = 0; b < blocks; ++b, src += SF_SUPER_BLOCK, dst += sizeof(sf_tq1_0)) {
    uint8_t quants[SF_SUPER_BLOCK];
    sf_put_half(dst + offsetof(sf_tq1_0, d), ternary_quants(src, quants));
    pack_trits(quants, dst + offsetof(sf_tq1_0, quants));
  }
}
#endif

#endif
