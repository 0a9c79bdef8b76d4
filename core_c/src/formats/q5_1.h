/* Q5_1: w = d · q + m, q of 5 bits. */
#ifdef SF_FORMAT
SF_FORMAT(Q5_1, q5_1)
#elif !defined(SF_FORMAT_Q5_1_H)
#define SF_FORMAT_Q5_1_H

#include "formats/traits.h"

typedef struct {
  uint16_t d;
  uint16_t m;
  uint8_t high[4];
  uint8_t quants[16];
} sf_q5_1;
SF_CHECK_BYTES(sf_q5_1, 24);

static const sf_traits sf_traits_q5_1 = {
    .block_columns = SF_BLOCK,
    .block_bytes = sizeof(sf_q5_1),
    .storage = SF_QUANTS_HALVES,
    .low = {offsetof(sf_q5_1, quants), 4, 1},
    .high = {offsetof(sf_q5_1, high), 1, 1},
    .scales = SF_SCALES_BLOCK,
    .d = offsetof(sf_q5_1, d),
    .m = offsetof(sf_q5_1, m),
};

#ifdef SF_CONVERSIONS
static void quantize_q5_1(const float *src, size_t blocks, uint8_t *dst) {
  quantize_small(&sf_traits_q5_1, src, blocks, dst);
}
#endif

#endif
