/* Vector vocabulary: plain C, with products of bytes. The reference of what a vocabulary with SF_DOT_BYTES has, for the
 * tests alone: plain C is no faster by it. Meanings of the rest: scalar.h. */
#ifndef SF_SIMD_SCALAR_BYTES_H
#define SF_SIMD_SCALAR_BYTES_H

#if SF_BYTE_ROWS == 1
#define SF_ISA_NAME "scalar_bytes"
#define SF_ISA_TABLE sf_kernels_scalar_bytes
#else
#define SF_ISA_NAME "scalar_byte_rows"
#define SF_ISA_TABLE sf_kernels_scalar_byte_rows
#endif
#include "simd/scalar.h"

/* Which quants v_dot_split takes, where that is faster than products of 16 bits: 1 for 0 … 31, or 0 … 63 in two
 * vectors, 2 for levels too, 3 for signed bytes too. SF_BYTE_ZERO is added to signed ones to make them what it takes.
 */
#define SF_DOT_BYTES 3
enum { SF_BYTE_ZERO = 128 };

/* 4 · SF_LANES bytes. */
typedef struct {
  uint8_t b[16];
} vq;

SF_INLINE vq vq_set1(int x) {
  vq r;
  memset(&r, x, sizeof r);
  return r;
}

/* 16 bytes at each of p, p + step, …, as many as there is room for. Of these n may be read; what stands for the others
 * is any number. */
SF_INLINE vq vq_load(const uint8_t *p, size_t step, int n) {
  vq r;
  (void)step, (void)n;
  memcpy(&r, p, sizeof r);
  return r;
}

/* The same at p and p, p + step and p + step, as many as there is room for. All may be read. */
SF_INLINE vq vq_load_twos(const uint8_t *p, size_t step) { return vq_load(p, step, 1); }

/* The lower and the upper halves of bytes. */
SF_INLINE vq vq_low(vq a) {
  for (int k = 0; k < 16; ++k) a.b[k] &= 15;
  return a;
}

SF_INLINE vq vq_high(vq a) {
  for (int k = 0; k < 16; ++k) a.b[k] >>= 4;
  return a;
}

/* a with the bits of `mask`, which are 0 in it, from `bytes`: in the i-th 16 bytes moved left by left[i] bits, or right
 * where that is less than 0, in which case no left[i] is more than 0. */
SF_INLINE vq vq_put(vq a, vq bytes, const int *left, int mask) {
  for (int k = 0; k < 16; ++k) {
    const int moved = left[0] < 0 ? bytes.b[k] >> -left[0] : bytes.b[k] << left[0];
    a.b[k] = (uint8_t)(a.b[k] | (moved & mask));
  }
  return a;
}

/* Signed bytes plus SF_BYTE_ZERO. */
SF_INLINE vq vq_signed(vq a) {
  for (int k = 0; k < 16; ++k) a.b[k] ^= SF_BYTE_ZERO;
  return a;
}

/* The same of the levels that a stands for. */
SF_INLINE vq vq_levels(vq a, const int8_t *levels) {
  for (int k = 0; k < 16; ++k) a.b[k] = (uint8_t)(levels[a.b[k]] + SF_BYTE_ZERO);
  return a;
}

/* The integers at x[0], x[1], …, 16 at each, as 256 · high + low, both -128 … 127; |x| ≤ 32639. */
SF_INLINE void vq_split(const int16_t *const *x, vq *high, vq *low) {
  for (int k = 0; k < 16; ++k) {
    high->b[k] = (uint8_t)((uint32_t)(x[0][k] + 0x8080) / 256 - 128);
    low->b[k] = (uint8_t)((uint32_t)(x[0][k] + 0x8080) % 256 - 128);
  }
}

SF_INLINE vi v_sub_int(vi a, vi b) {
  SF_EACH_LANE a.i[k] -= b.i[k];
  return a;
}

static inline int32_t scalar_signed(uint8_t byte) { return byte - (byte > 127 ? 256 : 0); }

/* sum + Σ a · b over four bytes in each lane; b is signed, and so is a where SF_BYTE_ZERO is 0. */
SF_INLINE vi v_dot_bytes4(vq a, vq b, vi sum) {
  for (int k = 0; k < 16; ++k) sum.i[k / 4] += a.b[k] * scalar_signed(b.b[k]);
  return sum;
}

/* Of each 16 bytes of a and of b: the first halves of both into a, the second ones into b. */
SF_INLINE void vq_pair(vq *a, vq *b) {
  for (int k = 0; k < 8; ++k) {
    const uint8_t second = a->b[8 + k];
    a->b[8 + k] = b->b[k];
    b->b[k] = second;
  }
}

/* 16 signed bytes as floats. */
SF_INLINE void v_load_i8(const int8_t *p, vf *r) {
  for (int i = 0; i < 4; ++i) SF_EACH_LANE r[i].f[k] = p[4 * i + k];
}

/* Of eight scales, or of 16, those of the lanes, from[i] for lanes 2i and 2i + 1. Of 16, all are of one half. */
SF_INLINE vf v_spread(const vf *scales, const int *from) {
  vf r;
  SF_EACH_LANE r.f[k] = scales[from[k / 2] / 4].f[from[k / 2] % 4];
  return r;
}

#if SF_BYTE_ROWS == 1
/* sum + Σ quants · (256 · high + low), over `vectors` of them (2 or 4) and four bytes in each lane. */
SF_INLINE vi v_dot_split(int vectors, const vq *quants, const vq *high, const vq *low, vi sum) {
  for (int u = 0; u < vectors; ++u) {
    for (int k = 0; k < 16; ++k) {
      sum.i[k / 4] += quants[u].b[k] * (256 * scalar_signed(high[u].b[k]) + scalar_signed(low[u].b[k]));
    }
  }
  return sum;
}
#else
/* Of two rows, whose quants are the two halves of each of four vectors, and of an input, whose high bytes are the first
 * half of each of two vectors `high` and two `low`, and whose low bytes are the second: in lane 2 · row what the high
 * bytes, and in lane 2 · row + 1 what the low bytes add to sum. The halves of `high` meet the quants of vectors 0 and
 * 2, those of `low` the others. */
SF_INLINE vi v_dot_split(int vectors, const vq *quants, const vq *high, const vq *low, vi sum) {
  for (int u = 0; u < vectors; ++u) {
    const uint8_t *x = u % 2 ? low[u / 2].b : high[u / 2].b;
    for (int k = 0; k < 32; ++k) {
      const int row = k / 16, byte = k / 8 % 2;
      sum.i[2 * row + byte] += quants[u].b[8 * row + k % 8] * scalar_signed(x[8 * byte + k % 8]);
    }
  }
  return sum;
}

/* 256 · the high bytes' sums + the low ones', of four sub-blocks, which are the lanes of rows[0] and rows[1]. */
SF_INLINE void v_join(const vi *sums, vi *rows) {
  for (int row = 0; row < 2; ++row) {
    SF_EACH_LANE rows[row].i[k] = 256 * sums[k].i[2 * row] + sums[k].i[2 * row + 1];
  }
}
#endif

#endif
