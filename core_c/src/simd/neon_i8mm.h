/* Vector vocabulary: AArch64 NEON with products of matrices of bytes (Armv8.6 I8MM): of two rows of quants, 8 columns
 * each, with the high and the low bytes of an input. Meanings: scalar.h, scalar_bytes.h. */
#ifndef SF_SIMD_NEON_I8MM_H
#define SF_SIMD_NEON_I8MM_H

#define SF_ISA_NAME "neon_i8mm"
#define SF_ISA_TABLE sf_kernels_neon_i8mm
#define SF_BYTE_ROWS 2
#include "simd/neon_dot.h"

SF_INLINE vi v_dot_split(int vectors, const vq *quants, const vq *high, const vq *low, vi sum) {
  for (int u = 0; u < vectors; u += 2) {
    sum = vmmlaq_s32(sum, quants[u], high[u / 2]);
    sum = vmmlaq_s32(sum, quants[u + 1], low[u / 2]);
  }
  return sum;
}

SF_INLINE void v_join(const vi *sums, vi *rows) {
  vi both[2]; /* rows, of two sub-blocks each */
  for (int k = 0; k < 2; ++k) {
    const vi above = vuzp1q_s32(sums[2 * k], sums[2 * k + 1]), below = vuzp2q_s32(sums[2 * k], sums[2 * k + 1]);
    both[k] = vmlaq_n_s32(below, above, 256);
  }
  rows[0] = vuzp1q_s32(both[0], both[1]);
  rows[1] = vuzp2q_s32(both[0], both[1]);
}

#endif
