/* Vector vocabulary: AArch64 NEON with dot products of bytes (Armv8.2 DotProd). Meanings: scalar.h, scalar_bytes.h.
 * neon_i8mm.h, which extends it, defines SF_ISA_NAME, SF_ISA_TABLE and SF_BYTE_ROWS before it includes this one. */
#ifndef SF_SIMD_NEON_DOT_H
#define SF_SIMD_NEON_DOT_H

#ifndef SF_ISA_NAME
#define SF_ISA_NAME "neon_dot"
#define SF_ISA_TABLE sf_kernels_neon_dot
#define SF_BYTE_ROWS 1
#endif
#include "simd/neon.h"

#define SF_DOT_BYTES 3
enum { SF_BYTE_ZERO = 0 }; /* v_dot_split takes signed bytes */
typedef int8x16_t vq;

SF_INLINE vq vq_set1(int x) { return vdupq_n_s8((int8_t)x); }

SF_INLINE vq vq_load(const uint8_t *p, size_t step, int n) {
  (void)step, (void)n;
  return vreinterpretq_s8_u8(vld1q_u8(p));
}

SF_INLINE vq vq_load_twos(const uint8_t *p, size_t step) { return vq_load(p, step, 1); }

SF_INLINE vq vq_low(vq a) { return vandq_s8(a, vdupq_n_s8(15)); }

SF_INLINE vq vq_high(vq a) { return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(a), 4)); }

SF_INLINE vq vq_put(vq a, vq bytes, const int *left, int mask) {
  const uint8x16_t moved = vshlq_u8(vreinterpretq_u8_s8(bytes), vdupq_n_s8((int8_t)left[0]));
  return vorrq_s8(a, vandq_s8(vreinterpretq_s8_u8(moved), vdupq_n_s8((int8_t)mask)));
}

SF_INLINE vq vq_signed(vq a) { return a; }

SF_INLINE vq vq_levels(vq a, const int8_t *levels) { return vqtbl1q_s8(vld1q_s8(levels), vreinterpretq_u8_s8(a)); }

SF_INLINE void vq_split(const int16_t *const *x, vq *high, vq *low) {
  const int16x8_t first = vld1q_s16(x[0]), last = vld1q_s16(x[0] + 8);
  *high = vrshrn_high_n_s16(vrshrn_n_s16(first, 8), last, 8); /* rounding adds 128 */
  *low = vmovn_high_s16(vmovn_s16(first), last);
}

SF_INLINE vi v_sub_int(vi a, vi b) { return vsubq_s32(a, b); }

SF_INLINE vi v_dot_bytes4(vq a, vq b, vi sum) { return vdotq_s32(sum, a, b); }

SF_INLINE void vq_pair(vq *a, vq *b) {
  const int64x2_t x = vreinterpretq_s64_s8(*a), y = vreinterpretq_s64_s8(*b);
  *a = vreinterpretq_s8_s64(vzip1q_s64(x, y));
  *b = vreinterpretq_s8_s64(vzip2q_s64(x, y));
}

SF_INLINE void v_load_i8(const int8_t *p, vf *r) {
  const int8x16_t all = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(all)), high = vmovl_high_s8(all);
  r[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(low)));
  r[1] = vcvtq_f32_s32(vmovl_high_s16(low));
  r[2] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(high)));
  r[3] = vcvtq_f32_s32(vmovl_high_s16(high));
}

SF_INLINE vf v_spread(const vf *scales, const int *from) {
  float four[2][4];
  for (int i = 0; i < 2; ++i) vst1q_f32(four[i], scales[from[i] / 4]);
  return vcombine_f32(vdup_n_f32(four[0][from[0] % 4]), vdup_n_f32(four[1][from[1] % 4]));
}

#if SF_BYTE_ROWS == 1
SF_INLINE vi v_dot_split(int vectors, const vq *quants, const vq *high, const vq *low, vi sum) {
  vi above = vdupq_n_s32(0);
  for (int u = 0; u < vectors; ++u) {
    above = vdotq_s32(above, quants[u], high[u]);
    sum = vdotq_s32(sum, quants[u], low[u]);
  }
  return vaddq_s32(sum, vshlq_n_s32(above, 8));
}
#endif

#endif
