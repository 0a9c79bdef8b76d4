/* F16: half precision floats. */
#ifdef SF_FORMAT
SF_FORMAT(F16, f16)
#elif !defined(SF_FORMAT_F16_H)
#define SF_FORMAT_F16_H

#include "formats/traits.h"

static const sf_traits sf_traits_f16 = {
    .block_columns = 1, .block_bytes = sizeof(uint16_t), .storage = SF_FLOATS_16, .m = SF_NO_MIN};

#ifdef SF_CONVERSIONS
static void quantize_f16(const float *src, size_t blocks, uint8_t *dst) {
  for (size_t i = 0; i < blocks; ++i) sf_put_half(dst + sizeof(uint16_t) * i, src[i]);
}
#endif

#endif
