/* The 6-bit scales and mins of Q4_K and Q5_K, which both have at byte 4, after d and m. Packed, the low six bits of
 * bytes 0 … 3 are scales 0 … 3 and of bytes 4 … 7 mins 0 … 3; bytes 8 … 11 hold the low four bits of scales and of mins
 * 4 … 7, whose upper two bits top up bytes 0 … 7. */
#ifndef SF_PACKED_SCALES_H
#define SF_PACKED_SCALES_H

#include <stdint.h>
#include <string.h>

enum { SF_PACKED_SCALES = 12, SF_PACKED_SCALES_AT = 4 };

/* Bytes 0 … 7 of `unpacked` become the scales of the block, 8 … 15 the mins. */
static inline void sf_unpack_6bit_scales(const uint8_t *block, uint8_t *unpacked) {
  uint32_t p[3];
  uint64_t u[2]; /* whole, as they are read again */
  memcpy(p, block + SF_PACKED_SCALES_AT, sizeof p);
  u[0] = (p[0] & 0x3f3f3f3f) | (uint64_t)((p[2] & 0x0f0f0f0f) | (p[0] >> 2 & 0x30303030)) << 32;
  u[1] = (p[1] & 0x3f3f3f3f) | (uint64_t)((p[2] >> 4 & 0x0f0f0f0f) | (p[1] >> 2 & 0x30303030)) << 32;
  memcpy(unpacked, u, sizeof u);
}

#ifdef SF_CONVERSIONS
static void pack_6bit_scales(uint8_t *block, const int32_t *scales, const int32_t *mins) {
  uint8_t *packed = block + SF_PACKED_SCALES_AT;
  for (int s = 0; s < 4; ++s) {
    packed[s] = (uint8_t)(scales[s] | (scales[s + 4] >> 4) << 6);
    packed[s + 4] = (uint8_t)(mins[s] | (mins[s + 4] >> 4) << 6);
    packed[s + 8] = (uint8_t)((scales[s + 4] & 15) | (mins[s + 4] & 15) << 4);
  }
}
#endif

#endif
