/* BF16: bfloat16, the upper halves of floats. */
#ifdef SF_FORMAT
SF_FORMAT(BF16, bf16)
#elif !defined(SF_FORMAT_BF16_H)
#define SF_FORMAT_BF16_H

#include "formats/traits.h"

static const sf_traits sf_traits_bf16 = {
    .block_columns = 1, .block_bytes = sizeof(uint16_t), .storage = SF_FLOATS_B16, .m = SF_NO_MIN};

#ifdef SF_CONVERSIONS
static void quantize_bf16(const float *src, size_t blocks, uint8_t *dst) {
  for (size_t i = 0; i < blocks; ++i) {
    const uint16_t bfloat = sf_float_to_bfloat(src[i]);
    memcpy(dst + sizeof bfloat * i, &bfloat, sizeof bfloat);
  }
}
#endif

#endif
