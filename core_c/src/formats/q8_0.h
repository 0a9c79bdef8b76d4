/* Q8_0: w = d · q, q a signed byte. */
#ifdef SF_FORMAT
SF_FORMAT(Q8_0, q8_0)
#elif defined(SF_FORMAT_WITH_PANELS)
SF_FORMAT_WITH_PANELS(Q8_0, q8_0)
#elif !defined(SF_FORMAT_Q8_0_H)
#define SF_FORMAT_Q8_0_H

#include "formats/traits.h"

typedef struct {
  uint16_t d;
  int8_t quants[SF_BLOCK];
} sf_q8_0;
SF_CHECK_BYTES(sf_q8_0, 34);

static const sf_traits sf_traits_q8_0 = {
    .block_columns = SF_BLOCK,
    .block_bytes = sizeof(sf_q8_0),
    .storage = SF_QUANTS_BYTES,
    .low = {offsetof(sf_q8_0, quants), 8, 1},
    .scales = SF_SCALES_BLOCK,
    .d = offsetof(sf_q8_0, d),
    .m = SF_NO_MIN,
};

#ifdef SF_CONVERSIONS
/* x to the nearest integer within ±127, halves away from zero; NaN to 0. */
static int8_t round_to_i8(float x) {
  const float magnitude = fabsf(x), whole = floorf(magnitude);
  const float rounded = whole + (magnitude - whole >= 0.5f ? 1.0f : 0.0f);
  const int quant = rounded < 127.0f ? (int)rounded : rounded >= 127.0f ? 127 : 0;
  return (int8_t)(x < 0 ? -quant : quant);
}

/* The scale is the largest |x| / 127; quants are x / scale, by the unrounded scale. */
static void quantize_q8_0(const float *src, size_t blocks, uint8_t *dst) {
  for (size_t b = 0; b < blocks; ++b, src += SF_BLOCK, dst += sizeof(sf_q8_0)) {
    float most = 0;
    for (int k = 0; k < SF_BLOCK; ++k) {
      if (!(fabsf(src[k]) <= most)) most = fabsf(src[k]); /* a NaN, once met, stays: nothing compares with it */
      if (most != most) break;
    }
    const float scale = most / 127.0f;
    const float inverse = scale == 0 ? 0.0f : 1.0f / scale;
    sf_put_half(dst + offsetof(sf_q8_0, d), scale);
    for (int k = 0; k < SF_BLOCK; ++k) {
      const int8_t quant = round_to_i8(src[k] * inverse);
      memcpy(dst + offsetof(sf_q8_0, quants) + k, &quant, 1);
    }
  }
}
#endif

#endif
