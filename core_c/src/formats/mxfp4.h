/* MXFP4, the OCP's: w = 2^(d - 127) · q, q a float of 4 bits (two of exponent, one of mantissa), here counted by
 * halves.
 */
#ifdef SF_FORMAT
SF_FORMAT(MXFP4, mxfp4)
#elif !defined(SF_FORMAT_MXFP4_H)
#define SF_FORMAT_MXFP4_H

#include "formats/traits.h"

typedef struct {
  uint8_t d;
  uint8_t quants[SF_BLOCK / 2];
} sf_mxfp4;
SF_CHECK_BYTES(sf_mxfp4, 17);

static const int8_t sf_mxfp4_levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static const sf_traits sf_traits_mxfp4 = {
    .block_columns = SF_BLOCK,
    .block_bytes = sizeof(sf_mxfp4),
    .storage = SF_QUANTS_HALVES,
    .low = {offsetof(sf_mxfp4, quants), 4, 1},
    .levels = sf_mxfp4_levels,
    .scales = SF_SCALES_POWER,
    .d = offsetof(sf_mxfp4, d),
    .m = SF_NO_MIN,
};

#ifdef SF_CONVERSIONS
/* The level nearest to x, of equally near ones the first. */
static int32_t nearest_mxfp4(float x, float d) {
  int32_t best = 0;
  float least = fabsf(d * (float)sf_mxfp4_levels[0] - x);
  for (int32_t q = 1; q < 16; ++q) {
    const float error = fabsf(d * (float)sf_mxfp4_levels[q] - x);
    if (error < least) best = q, least = error;
  }
  return best;
}

/* The power of two that leaves the largest |x| between 4 and 8 units, where levels are 4 and 6: as GGUF's reference
 * does it, and the OCP's specification, which lets values above 6 become 6. */
static void quantize_mxfp4(const float *src, size_t blocks, uint8_t *dst) {
  for (size_t b = 0; b < blocks; ++b, src += SF_BLOCK, dst += sizeof(sf_mxfp4)) {
    float most = 0;
    for (int k = 0; k < SF_BLOCK; ++k) most = fabsf(src[k]) > most ? fabsf(src[k]) : most;
    memset(dst, 0, sizeof(sf_mxfp4));
    const int32_t exponent = (int32_t)(sf_float_to_bits(most) >> 23) - 2; /* of a float, which is 127 more */
    dst[offsetof(sf_mxfp4, d)] = (uint8_t)(exponent > 0 ? exponent : 0);
    const float d = sf_half_power(dst[offsetof(sf_mxfp4, d)]);
    for (int k = 0; k < SF_BLOCK; ++k) put_quant(&sf_traits_mxfp4, dst, k, nearest_mxfp4(src[k], d));
  }
}
#endif

#endif
