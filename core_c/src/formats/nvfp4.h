/* NVFP4, NVIDIA's: w = scale_i · q, in blocks of 64. q is a float of 4 bits as in MXFP4; scale_i of run i of 16 columns
 * is one of 8 bits (four of exponent, three of mantissa), without a sign. Each run has 8 bytes, whose low halves are
 * columns 0 … 7, the high halves 8 … 15. */
#ifdef SF_FORMAT
SF_FORMAT(NVFP4, nvfp4)
#elif !defined(SF_FORMAT_NVFP4_H)
#define SF_FORMAT_NVFP4_H

#include "formats/mxfp4.h"
#include "formats/points.h"

enum { SF_NVFP4_RUNS = 4 };

typedef struct {
  uint8_t scales[SF_NVFP4_RUNS];
  uint8_t quants[SF_NVFP4_RUNS][SF_RUN / 2];
} sf_nvfp4;
SF_CHECK_BYTES(sf_nvfp4, 36);

/* Half of the float, as quants are counted by halves. */
static inline float sf_nvfp4_scale(const uint8_t *block, int i) {
  const unsigned bits = block[i], exponent = bits >> 3 & 15, mantissa = bits & 7;
  if (bits == 0x7f) return 0;                         /* not a number */
  const int power = exponent ? (int)exponent - 1 : 0; /* of 2^-10 */
  return (float)((exponent ? 8 + mantissa : mantissa) << power) * (1.0f / 1024);
}

void sf_nvfp4_quants(const uint8_t *group, int s, uint64_t *quants);

static const sf_traits sf_traits_nvfp4 = {
    .block_columns = SF_NVFP4_RUNS * SF_RUN,
    .block_bytes = sizeof(sf_nvfp4),
    .storage = SF_QUANTS_POINTS,
    .quants_of = sf_nvfp4_quants,
    .scales = SF_SCALES_FLOAT_RUNS,
    .m = SF_NO_MIN,
    .float_of = sf_nvfp4_scale,
};

#ifdef SF_CONVERSIONS
#define quantize_nvfp4 NULL

void sf_nvfp4_quants(const uint8_t *group, int s, uint64_t *quants) {
  const uint8_t *block = group + (size_t)(s / 2) * sizeof(sf_nvfp4);
  const uint8_t *p = block + offsetof(sf_nvfp4, quants) + (size_t)(s % 2) * SF_RUN;
  int8_t levels[SF_BLOCK];
  for (int k = 0; k < SF_BLOCK; ++k) {
    levels[k] =
        sf_mxfp4_levels[p[k / SF_RUN * (SF_RUN / 2) + k % (SF_RUN / 2)] >> 4 * (k % SF_RUN / (SF_RUN / 2)) & 15];
  }
  memcpy(quants, levels, sizeof levels);
}
#endif

#endif
