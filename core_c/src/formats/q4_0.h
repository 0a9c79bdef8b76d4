/* Q4_0: w = d · (q - 8), q of 4 bits. */
#ifdef SF_FORMAT
SF_FORMAT(Q4_0, q4_0)
#elif defined(SF_FORMAT_WITH_PANELS)
SF_FORMAT_WITH_PANELS(Q4_0, q4_0)
#elif !defined(SF_FORMAT_Q4_0_H)
#define SF_FORMAT_Q4_0_H

#include "formats/traits.h"

typedef struct {
  uint16_t d;
  uint8_t quants[16];
} sf_q4_0;
SF_CHECK_BYTES(sf_q4_0, 18);

static const sf_traits sf_traits_q4_0 = {
    .block_columns = SF_BLOCK,
    .block_bytes = sizeof(sf_q4_0),
    .storage = SF_QUANTS_HALVES,
    .low = {offsetof(sf_q4_0, quants), 4, 1},
    .zero_point = 8,
    .scales = SF_SCALES_BLOCK,
    .d = offsetof(sf_q4_0, d),
    .m = SF_NO_MIN,
};

#ifdef SF_CONVERSIONS
static void quantize_q4_0(const float *src, size_t blocks, uint8_t *dst) {
  quantize_small(&sf_traits_q4_0, src, blocks, dst);
}
#endif

#endif
