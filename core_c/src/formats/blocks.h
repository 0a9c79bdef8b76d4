/* The block formats as they lie in memory (GGUF's layouts; all numbers little-endian, d and m are halves), for the
 * conversions of formats.c and for the kernels. q is a level, an integer ≥ 0; sub-block s holds columns 32 s … 32 s
 * + 31. */
/* clang-format off */
/*
 * Blocks of 32 columns:
 *
 *   Q4_0  d, nibbles                  w = d · (q - 8)
 *   Q4_1  d, m, nibbles               w = d · q + m
 *   Q5_0  d, fifth bits, nibbles      w = d · (q - 16)
 *   Q5_1  d, m, fifth bits, nibbles   w = d · q + m
 *   Q8_0  d, signed bytes             w = d · q
 *
 *   Byte j of the nibbles holds columns j (low half) and j + 16; bit c of the fifth bits is column c.
 *
 * Blocks of 256 columns, eight sub-blocks with a scale each:
 *
 *   Q4_K  d, m, 12 bytes of scales, nibbles               w = d · scale_s · q - m · min_s
 *   Q5_K  d, m, 12 bytes of scales, fifth bits, nibbles   w = d · scale_s · q - m · min_s
 *   Q6_K  nibbles, upper pairs of bits, 16 scales, d      w = d · scale_i · (q - 32)
 *
 *   Q4_K, Q5_K: byte 32 (s / 2) + j of the nibbles holds column j of sub-blocks s (low half) and s + 1, s even; bit s of
 *               byte j of the fifth bits is column j of sub-block s.
 *   Q6_K:       scale i, a signed byte, is that of columns 16 i … 16 i + 15. Of each 128 columns, byte j of 64 bytes of
 *               nibbles holds columns j and j + 64, and byte j of 32 bytes of pairs columns j, j + 32, j + 64 and
 *               j + 96, from the lowest pair on.
 */
/* clang-format on */
#ifndef SF_BLOCKS_H
#define SF_BLOCKS_H

#include <stdint.h>
#include <string.h>

enum {
  Q4_0_BYTES = 18,
  Q4_1_BYTES = 20,
  Q5_0_BYTES = 22,
  Q5_1_BYTES = 24,
  Q8_0_BYTES = 34,
  Q4_K_BYTES = 144,
  Q5_K_BYTES = 176,
  Q6_K_BYTES = 210,
  K_SCALES = 4,      /* Q4_K, Q5_K: where the packed scales begin */
  Q4_K_NIBBLES = 16, /* where the nibbles begin */
  Q5_K_FIFTHS = 16,  /* where the fifth bits begin */
  Q5_K_NIBBLES = 48, /* where the nibbles begin */
  Q6_K_PAIRS = 128,  /* where the upper bits begin */
  Q6_K_SCALES = 192, /* where the scales begin */
  Q6_K_D = 208,      /* where d is */
  K_COLUMNS = 256,   /* columns of a block of the K formats */
  K_SUB_BLOCKS = 8   /* and its sub-blocks */
};

/* The 6-bit scales and mins of Q4_K and Q5_K: bytes 0 … 7 of `unpacked` the scales, 8 … 15 the mins. Packed, the low
 * six bits of bytes 0 … 3 are scales 0 … 3 and of bytes 4 … 7 mins 0 … 3; bytes 8 … 11 hold the low four bits of scales
 * and of mins 4 … 7, whose upper two bits top up bytes 0 … 7. */
static inline void sf_unpack_k_scales(const uint8_t *packed, uint8_t *unpacked) {
  uint32_t p[3];
  uint64_t u[2]; /* whole, as they are read again */
  memcpy(p, packed, sizeof p);
  u[0] = (p[0] & 0x3f3f3f3f) | (uint64_t)((p[2] & 0x0f0f0f0f) | (p[0] >> 2 & 0x30303030)) << 32;
  u[1] = (p[1] & 0x3f3f3f3f) | (uint64_t)((p[2] >> 4 & 0x0f0f0f0f) | (p[1] >> 2 & 0x30303030)) << 32;
  memcpy(unpacked, u, sizeof u);
}

#endif
