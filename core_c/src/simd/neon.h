/* Vector vocabulary: AArch64 NEON. Meanings: scalar.h. */
#ifndef SF_SIMD_H
#define SF_SIMD_H

#include <arm_neon.h>
#include <string.h>

#ifndef SF_ISA_NAME /* neon_dot.h and neon_i8mm.h extend this */
#define SF_ISA_NAME "neon"
#define SF_ISA_TABLE sf_kernels_neon
#endif

enum {
  SF_LANES = 4,
  SF_STREAMS = 8,
  SF_IN_ORDER = 0,
  SF_FOLLOWED = INT32_MAX,
  SF_TILE_ROWS = 4,
  SF_TILE_INPUTS = 4,
  SF_MATRIX_ROWS = 6,
  SF_MATRIX_VECTORS = 4,
  SF_BLOCK_INPUTS = 4,
  SF_BLOCK_GROUPS = 2
};
typedef float32x4_t vf;
typedef int32x4_t vi;
typedef uint32x4_t vm;
typedef struct {
  int16x8_t r[4];
} vb;

SF_INLINE vf v_load(const void *p) { return vreinterpretq_f32_u8(vld1q_u8((const uint8_t *)p)); }

SF_INLINE vf v_load_tail(const void *p, int n) {
  float t[4] = {0, 0, 0, 0};
  memcpy(t, p, (size_t)n * sizeof t[0]);
  return vld1q_f32(t);
}

SF_INLINE void v_store(float *p, vf a) { vst1q_f32(p, a); }

SF_INLINE void v_store_tail(float *p, vf a, int n) {
  float t[4];
  vst1q_f32(t, a);
  memcpy(p, t, (size_t)n * sizeof t[0]);
}

SF_INLINE vf v_set1(float x) { return vdupq_n_f32(x); }

SF_INLINE vf v_add(vf a, vf b) { return vaddq_f32(a, b); }

SF_INLINE vf v_sub(vf a, vf b) { return vsubq_f32(a, b); }

SF_INLINE vf v_mul(vf a, vf b) { return vmulq_f32(a, b); }

SF_INLINE vf v_div(vf a, vf b) { return vdivq_f32(a, b); }

SF_INLINE vf v_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }

SF_INLINE vf v_min(vf a, vf b) { return vminq_f32(a, b); }

SF_INLINE vf v_max(vf a, vf b) { return vmaxq_f32(a, b); }

SF_INLINE vf v_abs(vf a) { return vabsq_f32(a); }

SF_INLINE vm v_less(vf a, vf b) { return vcltq_f32(a, b); }

SF_INLINE vf v_select(vm m, vf a, vf b) { return vbslq_f32(m, a, b); }

SF_INLINE float v_sum(vf a) { return vaddvq_f32(a); }

SF_INLINE float v_largest(vf a) { return vmaxvq_f32(a); }

SF_INLINE vf v_load_f16(const void *p) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8((const uint8_t *)p))); }

SF_INLINE vf v_load_f16_tail(const void *p, int n) {
  uint16_t h[4] = {0, 0, 0, 0};
  memcpy(h, p, (size_t)n * sizeof h[0]);
  return v_load_f16(h);
}

SF_INLINE void v_store_f16(void *p, vf a) { vst1_u8((uint8_t *)p, vreinterpret_u8_f16(vcvt_f16_f32(a))); }

SF_INLINE float v_half(const void *p) {
  __fp16 half;
  memcpy(&half, p, sizeof half);
  return (float)half;
}

SF_INLINE vf v_load_bf16(const void *p) {
  return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8((const uint8_t *)p)), 16));
}

SF_INLINE vf v_load_bf16_tail(const void *p, int n) {
  uint16_t h[4] = {0, 0, 0, 0};
  memcpy(h, p, (size_t)n * sizeof h[0]);
  return v_load_bf16(h);
}

SF_INLINE vf v_load_halves(const uint8_t *p, size_t step) {
  const float four[4] = {v_half(p), v_half(p + step), v_half(p + 2 * step), v_half(p + 3 * step)};
  return vld1q_f32(four);
}

SF_INLINE void v_load_u8(const uint8_t *p, vf *r) {
  const uint16x8_t wide = vmovl_u8(vld1_u8(p));
  r[0] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide)));
  r[1] = vcvtq_f32_u32(vmovl_high_u16(wide));
}

SF_INLINE vi v_round(vf a) { return vcvtnq_s32_f32(a); }

SF_INLINE vf v_float(vi a) { return vcvtq_f32_s32(a); }

SF_INLINE vf v_pow2(vi n) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23)); }

SF_INLINE vb vb_load_i8(const int8_t *p) {
  vb r;
  for (int k = 0; k < 4; ++k) r.r[k] = vmovl_s8(vld1_s8(p + 8 * k));
  return r;
}

SF_INLINE vb vb_load_u8(const uint8_t *p) {
  vb r;
  for (int k = 0; k < 4; ++k) r.r[k] = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(p + 8 * k)));
  return r;
}

SF_INLINE vb vb_load_i16(const int16_t *p) {
  vb r;
  for (int k = 0; k < 4; ++k) r.r[k] = vld1q_s16(p + 8 * k);
  return r;
}

SF_INLINE void vb_store(int16_t *p, vb a) {
  for (int k = 0; k < 4; ++k) vst1q_s16(p + 8 * k, a.r[k]);
}

SF_INLINE vb vb_load_nibbles(const uint8_t *p) {
  const uint8x16_t bytes = vld1q_u8(p), low = vandq_u8(bytes, vdupq_n_u8(15)), high = vshrq_n_u8(bytes, 4);
  vb r;
  r.r[0] = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(low)));
  r.r[1] = vreinterpretq_s16_u16(vmovl_high_u8(low));
  r.r[2] = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(high)));
  r.r[3] = vreinterpretq_s16_u16(vmovl_high_u8(high));
  return r;
}

SF_INLINE vb vb_load_levels(const uint8_t *p, const int8_t *levels) {
  const uint8x16_t bytes = vld1q_u8(p);
  const int8x16_t table = vld1q_s8(levels);
  const int8x16_t low = vqtbl1q_s8(table, vandq_u8(bytes, vdupq_n_u8(15)));
  const int8x16_t high = vqtbl1q_s8(table, vshrq_n_u8(bytes, 4));
  const vb r = {{vmovl_s8(vget_low_s8(low)), vmovl_high_s8(low), vmovl_s8(vget_low_s8(high)), vmovl_high_s8(high)}};
  return r;
}

SF_INLINE vb vb_high_bits(uint32_t bits) {
  static const int16_t powers[8] = {1, 2, 4, 8, 16, 32, 64, 128};
  const int16x8_t each = vld1q_s16(powers);
  vb r;
  for (int k = 0; k < 4; ++k) {
    const uint16x8_t set = vtstq_s16(vdupq_n_s16((int16_t)(bits >> 8 * k & 255)), each);
    r.r[k] = vreinterpretq_s16_u16(vandq_u16(set, vdupq_n_u16(16)));
  }
  return r;
}

SF_INLINE vb vb_and(vb a, int mask) {
  for (int k = 0; k < 4; ++k) a.r[k] = vandq_s16(a.r[k], vdupq_n_s16((int16_t)mask));
  return a;
}

SF_INLINE vb vb_or(vb a, vb b) {
  for (int k = 0; k < 4; ++k) a.r[k] = vorrq_s16(a.r[k], b.r[k]);
  return a;
}

SF_INLINE vb vb_shr(vb a, int n) {
  for (int k = 0; k < 4; ++k) a.r[k] = vshlq_s16(a.r[k], vdupq_n_s16((int16_t)-n));
  return a;
}

SF_INLINE vb vb_add(vb a, int n) {
  for (int k = 0; k < 4; ++k) a.r[k] = vaddq_s16(a.r[k], vdupq_n_s16((int16_t)n));
  return a;
}

SF_INLINE vb vb_scale(vb a, int first, int last) {
  for (int k = 0; k < 4; ++k) a.r[k] = vmulq_n_s16(a.r[k], (int16_t)(k < 2 ? first : last));
  return a;
}

SF_INLINE void vb_floats(vb a, vf *r) {
  for (int k = 0; k < 4; ++k) {
    r[2 * k] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(a.r[k])));
    r[2 * k + 1] = vcvtq_f32_s32(vmovl_high_s16(a.r[k]));
  }
}

SF_INLINE void vb_load_floats(const int8_t *p, vf *r) { vb_floats(vb_load_i8(p), r); }

SF_INLINE vi v_set1_int(int32_t x) { return vdupq_n_s32(x); }

static inline vi neon_dot_pairs(int16x8_t quants, vi pair, vi sum) {
  const int16x8_t x = vreinterpretq_s16_s32(pair);
  return vaddq_s32(sum, vpaddq_s32(vmull_s16(vget_low_s16(quants), vget_low_s16(x)), vmull_high_s16(quants, x)));
}

SF_INLINE vi v_dot_bytes(const uint8_t *p, vi pair, vi sum) {
  return neon_dot_pairs(vmovl_s8(vreinterpret_s8_u8(vld1_u8(p))), pair, sum);
}

SF_INLINE vi v_dot_nibbles(const uint8_t *p, vi lower, vi upper, vi sum) {
  const uint8x8_t both = vld1_u8(p);
  sum = neon_dot_pairs(vreinterpretq_s16_u16(vmovl_u8(vand_u8(both, vdup_n_u8(15)))), lower, sum);
  return neon_dot_pairs(vreinterpretq_s16_u16(vmovl_u8(vshr_n_u8(both, 4))), upper, sum);
}

/* Two chains of multiply-adds, so that one does not wait for the other. */
SF_INLINE vf vb_dot(vb a, vb b) {
  vi low = vmull_s16(vget_low_s16(a.r[0]), vget_low_s16(b.r[0]));
  vi high = vmull_high_s16(a.r[0], b.r[0]);
  for (int k = 1; k < 4; ++k) {
    low = vmlal_s16(low, vget_low_s16(a.r[k]), vget_low_s16(b.r[k]));
    high = vmlal_high_s16(high, a.r[k], b.r[k]);
  }
  return vcvtq_f32_s32(vaddq_s32(low, high));
}

SF_INLINE void v_store_i16(int16_t *p, vf a) { vst1_s16(p, vqmovn_s32(vcvtnq_s32_f32(a))); }

SF_INLINE void v_prefetch(const void *p) { __builtin_prefetch(p, 0, 2); }

#endif
