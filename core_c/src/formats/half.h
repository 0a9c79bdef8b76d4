/* IEEE 754 half precision in plain C: the only conversions that need no instruction set. */
#ifndef SF_HALF_H
#define SF_HALF_H

#include <stdint.h>
#include <string.h>

static inline float sf_bits_to_float(uint32_t bits) {
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

static inline uint32_t sf_float_to_bits(float f) {
  uint32_t bits;
  memcpy(&bits, &f, sizeof bits);
  return bits;
}

/* Exact, subnormals, infinities and NaN included. Shifting exponent and mantissa into place leaves an exponent that
 * is 112 too small; multiplying by 2^112 repairs it, and normalises subnormals on the way. */
static inline float sf_half_to_float(uint16_t half) {
  const uint32_t magnitude = (uint32_t)(half & 0x7fff) << 13;
  const uint32_t sign = (uint32_t)(half & 0x8000) << 16;
  const uint32_t bits = sf_float_to_bits(sf_bits_to_float(magnitude) * 0x1p112f);
  const uint32_t special = magnitude >= 0x0f800000 ? 0x7f800000 : 0;
  return sf_bits_to_float(bits | sign | special);
}

/* Rounds to nearest, ties to even; too large becomes infinity; NaN stays NaN, made quiet. */
static inline uint16_t sf_float_to_half(float f) {
  const uint32_t bits = sf_float_to_bits(f);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  uint32_t half;
  if (magnitude > 0x7f800000) { /* NaN */
    half = 0x7e00 | ((magnitude >> 13) & 0x01ff);
  } else if (magnitude >= 0x477ff000) { /* 65520 and more round past the largest half */
    half = 0x7c00;
  } else if (magnitude < 0x38800000) { /* below 2^-14: adding 1/2 leaves multiples of 2^-24 in the low bits */
    half = sf_float_to_bits(sf_bits_to_float(magnitude) + 0.5f) - 0x3f000000;
  } else {
    const uint32_t odd = (magnitude >> 13) & 1;
    half = (magnitude - 0x38000000 + 0xfff + odd) >> 13;
  }
  return (uint16_t)(sign | half);
}

#define SF_LARGEST_HALF 65504.0f

/* The half at p, which needs no alignment. */
static inline float sf_get_half(const uint8_t *p) {
  uint16_t half;
  memcpy(&half, p, sizeof half);
  return sf_half_to_float(half);
}

static inline void sf_put_half(uint8_t *p, float value) {
  const uint16_t half = sf_float_to_half(value);
  memcpy(p, &half, sizeof half);
}

/* 2^(e - 128), exactly: half of what a scale of the OCP's MX formats stands for, whose quants count twice. */
static inline float sf_half_power(uint8_t e) {
  return sf_bits_to_float(e < 2 ? (uint32_t)0x00200000 << e : (uint32_t)(e - 1) << 23);
}

/* bfloat16, the upper half of a float. Rounds to nearest, ties to even; too large becomes infinity; NaN stays NaN, made
 * quiet. */
static inline uint16_t sf_float_to_bfloat(float f) {
  const uint32_t bits = sf_float_to_bits(f);
  if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float sf_bfloat_to_float(uint16_t bfloat) { return sf_bits_to_float((uint32_t)bfloat << 16); }

#endif
