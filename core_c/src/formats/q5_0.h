/* Q5_0: w = d · (q - 16), q of 5 bits. */
#ifdef SF_FORMAT
SF_FORMAT(Q5_0, q5_0)
#elif !defined(SF_FORMAT_Q5_0_H)
#define SF_FORMAT_Q5_0_H

#include "formats/traits.h"

typedef struct {
  uint16_t d;
  uint8_t high[4];
  uint8_t quants[16];
} sf_q5_0;
SF_CHECK_BYTES(sf_q5_0, 22);

static const sf_traits sf_traits_q5_0 = {
    .block_columns = SF_BLOCK,
    .block_bytes = sizeof(sf_q5_0),
    .storage = SF_QUANTS_HALVES,
    .low = {offsetof(sf_q5_0, quants), 4, 1},
    .high = {offsetof(sf_q5_0, high), 1, 1},
    .zero_point = 16,
    .scales = SF_SCALES_BLOCK,
    .d = offsetof(sf_q5_0, d),
    .m = SF_NO_MIN,
};

#ifdef SF_CONVERSIONS
static void quantize_q5_0(const float *src, size_t blocks, uint8_t *dst) {
  quantize_small(&sf_traits_q5_0, src, blocks, dst);
}
#endif

#endif
