/* F32: single precision floats. */
#ifdef SF_FORMAT
SF_FORMAT(F32, f32)
#elif !defined(SF_FORMAT_F32_H)
#define SF_FORMAT_F32_H

#include "formats/traits.h"

static const sf_traits sf_traits_f32 = {
    .block_columns = 1, .block_bytes = sizeof(float), .storage = SF_FLOATS_32, .m = SF_NO_MIN};

#ifdef SF_CONVERSIONS
static void quantize_f32(const float *src, size_t blocks, uint8_t *dst) { memcpy(dst, src, blocks * sizeof *src); }
#endif

#endif
