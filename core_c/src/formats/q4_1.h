/* Q4_1: w = d · q + m, q of 4 bits. */
#ifdef SF_FORMAT
SF_FORMAT(Q4_1, q4_1)
#elif !defined(SF_FORMAT_Q4_1_H)
#define SF_FORMAT_Q4_1_H

#include "formats/traits.h"

typedef struct {
  uint16_t d;
  uint16_t m;
  uint8_t quants[16];
} sf_q4_1;
SF_CHECK_BYTES(sf_q4_1, 20);

static const sf_traits sf_traits_q4_1 = {
    .block_columns = SF_BLOCK,
    .block_bytes = sizeof(sf_q4_1),
    .storage = SF_QUANTS_HALVES,
    .low = {offsetof(sf_q4_1, quants), 4, 1},
    .scales = SF_SCALES_BLOCK,
    .d = offsetof(sf_q4_1, d),
    .m = offsetof(sf_q4_1, m),
};

#ifdef SF_CONVERSIONS
static void quantize_q4_1(const float *src, size_t blocks, uint8_t *dst) {
  quantize_small(&sf_traits_q4_1, src, blocks, dst);
}
#endif

#endif
