/* Vector vocabulary: WebAssembly SIMD128. Meanings: scalar.h. A header that extends it, as wasm128_relaxed.h does,
 * defines before it includes this one:
 *   SF_ISA_NAME, SF_ISA_TABLE
 *   WASM128_FMA(a, b, c)        a · b + c */
#ifndef SF_SIMD_H
#define SF_SIMD_H

#include <string.h>
#include <wasm_simd128.h>

#include "formats/half.h"

#ifndef SF_ISA_NAME
#define SF_ISA_NAME "wasm128"
#define SF_ISA_TABLE sf_kernels_wasm128
#define WASM128_FMA(a, b, c) wasm_f32x4_add(wasm_f32x4_mul(a, b), c)
#endif

#define SF_PROMPT_LANES 1
#define SF_LOAD_FIELDS 1

enum {
  SF_LANES = 4,
  SF_STREAMS = 8,
  SF_IN_ORDER = 0,
  SF_FOLLOWED = INT32_MAX,
  SF_TILE_ROWS = 4,
  SF_TILE_INPUTS = 2,
  SF_MATRIX_ROWS = 2, /* each number of a row is splat, which takes engines longer than to load a vector */
  SF_MATRIX_VECTORS = 4,
  SF_BLOCK_INPUTS = 2,
  SF_BLOCK_GROUPS = 2
};
typedef v128_t vf;
typedef v128_t vi;
typedef v128_t vm;
typedef struct {
  v128_t r[4];
} vb;

SF_INLINE vf v_load(const void *p) { return wasm_v128_load(p); }

/* Tails are functions of their own, since they are rare, and many. They are not copied with memcpy, a call that costs
 * more than they do. */
SF_NOT_INLINE vf v_load_tail(const void *p, int n) {
  const float *f = p;
  if (n >= 4) return wasm_v128_load(f);
  if (n == 3) return wasm_v128_load32_lane(f + 2, wasm_v128_load64_zero(f), 2);
  return n == 2 ? wasm_v128_load64_zero(f) : n == 1 ? wasm_v128_load32_zero(f) : wasm_f32x4_const_splat(0);
}

SF_INLINE void v_store(float *p, vf a) { wasm_v128_store(p, a); }

SF_NOT_INLINE void v_store_tail(float *p, vf a, int n) {
  if (n >= 4) wasm_v128_store(p, a);
  if (n == 3) wasm_v128_store32_lane(p + 2, a, 2);
  if (n == 3 || n == 2) wasm_v128_store64_lane(p, a, 0);
  if (n == 1) wasm_v128_store32_lane(p, a, 0);
}

SF_INLINE vf v_set1(float x) { return wasm_f32x4_splat(x); }

SF_INLINE vf v_add(vf a, vf b) { return wasm_f32x4_add(a, b); }

SF_INLINE vf v_sub(vf a, vf b) { return wasm_f32x4_sub(a, b); }

SF_INLINE vf v_mul(vf a, vf b) { return wasm_f32x4_mul(a, b); }

SF_INLINE vf v_div(vf a, vf b) { return wasm_f32x4_div(a, b); }

SF_INLINE vf v_fma(vf a, vf b, vf c) { return WASM128_FMA(a, b, c); }

/* pmin(b, a) is a < b ? a : b, one instruction on every machine; wasm's own min also orders NaN and zeros. */
SF_INLINE vf v_min(vf a, vf b) { return wasm_f32x4_pmin(b, a); }

SF_INLINE vf v_max(vf a, vf b) { return wasm_f32x4_pmax(b, a); }

SF_INLINE vf v_abs(vf a) { return wasm_f32x4_abs(a); }

SF_INLINE vm v_less(vf a, vf b) { return wasm_f32x4_lt(a, b); }

SF_INLINE vf v_select(vm m, vf a, vf b) { return wasm_v128_bitselect(a, b, m); }

SF_INLINE float v_sum(vf a) {
  const vf pairs = wasm_f32x4_add(a, wasm_i32x4_shuffle(a, a, 2, 3, 2, 3));
  return wasm_f32x4_extract_lane(pairs, 0) + wasm_f32x4_extract_lane(pairs, 1);
}

SF_INLINE float v_largest(vf a) {
  const vf pairs = v_max(a, wasm_i32x4_shuffle(a, a, 2, 3, 2, 3));
  const float even = wasm_f32x4_extract_lane(pairs, 0), odd = wasm_f32x4_extract_lane(pairs, 1);
  return even > odd ? even : odd;
}

/* Halves, sign-extended and shifted left by 13, to floats as by sf_half_to_float; the sign travels along, since sign
 * extension leaves it in the top bit. */
SF_INLINE vf wasm128_floats(vi shifted) {
  const vi bits = wasm_v128_and(shifted, wasm_i32x4_const_splat((int)0x8fffe000));
  const vi infinite = wasm_i32x4_const_splat(0x0f800000);
  const vi special = wasm_i32x4_eq(wasm_v128_and(bits, infinite), infinite);
  const vf scaled = wasm_f32x4_mul(bits, wasm_f32x4_const_splat(0x1p112f));
  return wasm_v128_or(scaled, wasm_v128_and(special, wasm_i32x4_const_splat(0x7f800000)));
}

SF_INLINE vf v_load_f16(const void *p) { return wasm128_floats(wasm_i32x4_shl(wasm_i32x4_load16x4(p), 13)); }

/* n ≤ 4 halves, zeros above. */
SF_NOT_INLINE v128_t wasm128_load16(const void *p, int n) {
  const uint16_t *h = p;
  v128_t r = wasm_i32x4_const_splat(0);
  if (n >= 4) return wasm_v128_load64_zero(h);
  if (n >= 2) r = wasm_v128_load32_zero(h);
  if (n == 3) r = wasm_v128_load16_lane(h + 2, r, 2);
  if (n == 1) r = wasm_v128_load16_lane(h, r, 0);
  return r;
}

SF_INLINE vf v_load_f16_tail(const void *p, int n) {
  return wasm128_floats(wasm_i32x4_shl(wasm_i32x4_extend_low_i16x8(wasm128_load16(p, n)), 13));
}

SF_INLINE void v_store_f16(void *p, vf a) {
  float f[4];
  v_store(f, a);
  for (int k = 0; k < 4; ++k) sf_put_half((uint8_t *)p + 2 * k, f[k]);
}

SF_INLINE float v_half(const void *p) {
  uint16_t half;
  memcpy(&half, p, sizeof half);
  return sf_half_to_float(half);
}

SF_INLINE vf v_load_bf16(const void *p) { return wasm_i32x4_shl(wasm_u32x4_load16x4(p), 16); }

SF_INLINE vf v_load_bf16_tail(const void *p, int n) {
  return wasm_i32x4_shl(wasm_u32x4_extend_low_u16x8(wasm128_load16(p, n)), 16);
}

SF_INLINE vf v_load_halves(const uint8_t *p, size_t step) {
  vi upper = wasm_i32x4_const_splat(0);
  upper = wasm_v128_load16_lane(p, upper, 1);
  upper = wasm_v128_load16_lane(p + step, upper, 3);
  upper = wasm_v128_load16_lane(p + 2 * step, upper, 5);
  upper = wasm_v128_load16_lane(p + 3 * step, upper, 7);
  return wasm128_floats(wasm_i32x4_shr(upper, 3));
}

/* The same vector, of which clang 14 does not know that: it would merge widening with what follows, and then do both
 * lane by lane. The empty statement may do anything to the integers for all that it knows. Clang 19 keeps them apart by
 * itself, and fails on such statements. */
SF_INLINE v128_t wasm128_apart(v128_t a) {
#if __clang_major__ < 15
  __asm__("" : "+r"(a));
#endif
  return a;
}

/* 8 integers of 16 bits to floats. */
SF_INLINE void wasm128_eight(v128_t wide, vf *r) {
  r[0] = wasm_f32x4_convert_i32x4(wasm128_apart(wasm_i32x4_extend_low_i16x8(wide)));
  r[1] = wasm_f32x4_convert_i32x4(wasm128_apart(wasm_i32x4_extend_high_i16x8(wide)));
}

SF_INLINE void v_load_u8(const uint8_t *p, vf *r) { wasm128_eight(wasm_u16x8_load8x8(p), r); }

/* Engines have no rounding conversion, so round by adding 1.5 · 2^23: the integer is then the difference of bits. */
SF_INLINE vi v_round(vf a) {
  return wasm_i32x4_sub(wasm_f32x4_add(a, wasm_f32x4_const_splat(12582912.0f)), wasm_i32x4_const_splat(0x4b400000));
}

SF_INLINE vf v_float(vi a) { return wasm_f32x4_convert_i32x4(a); }

SF_INLINE vf v_pow2(vi n) { return wasm_i32x4_shl(wasm_i32x4_add(n, wasm_i32x4_const_splat(127)), 23); }

SF_INLINE vb vb_load_i8(const int8_t *p) {
  vb r;
  for (int k = 0; k < 4; ++k) r.r[k] = wasm_i16x8_load8x8(p + 8 * k);
  return r;
}

SF_INLINE vb vb_load_u8(const uint8_t *p) {
  vb r;
  for (int k = 0; k < 4; ++k) r.r[k] = wasm128_apart(wasm_u16x8_load8x8(p + 8 * k));
  return r;
}

SF_INLINE vb vb_load_i16(const int16_t *p) {
  vb r;
  for (int k = 0; k < 4; ++k) r.r[k] = wasm_v128_load(p + 8 * k);
  return r;
}

SF_INLINE void vb_store(int16_t *p, vb a) {
  for (int k = 0; k < 4; ++k) wasm_v128_store(p + 8 * k, a.r[k]);
}

SF_INLINE vb vb_load_nibbles(const uint8_t *p) {
  vb r;
  for (int k = 0; k < 2; ++k) {
    const v128_t bytes = wasm_u16x8_load8x8(p + 8 * k);
    r.r[k] = wasm_v128_and(bytes, wasm_i16x8_const_splat(15));
    r.r[k + 2] = wasm_u16x8_shr(bytes, 4);
  }
  return r;
}

SF_INLINE vb vb_load_levels(const uint8_t *p, const int8_t *levels) {
  const v128_t table = wasm_v128_load(levels), bytes = wasm_v128_load(p);
  const v128_t low = wasm_i8x16_swizzle(table, wasm_v128_and(bytes, wasm_i8x16_const_splat(15)));
  const v128_t high = wasm_i8x16_swizzle(table, wasm_u8x16_shr(bytes, 4));
  const vb r = {{wasm_i16x8_extend_low_i8x16(low), wasm_i16x8_extend_high_i8x16(low), wasm_i16x8_extend_low_i8x16(high),
                 wasm_i16x8_extend_high_i8x16(high)}};
  return r;
}

/* Two vectors of bytes. */
SF_INLINE vb wasm128_wide(v128_t first, v128_t last) {
  const vb r = {{wasm_u16x8_extend_low_u8x16(first), wasm_u16x8_extend_high_u8x16(first),
                 wasm_u16x8_extend_low_u8x16(last), wasm_u16x8_extend_high_u8x16(last)}};
  return r;
}

SF_INLINE vb vb_high_bits(uint32_t bits) {
  const v128_t all = wasm_i32x4_splat((int32_t)bits);
  const v128_t each = wasm_u64x2_const_splat(0x8040201008040201u);
  v128_t r[2] = {wasm_i8x16_shuffle(all, all, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1),
                 wasm_i8x16_shuffle(all, all, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3)};
  for (int k = 0; k < 2; ++k) {
    const v128_t set = wasm_i8x16_eq(wasm_v128_and(r[k], each), each);
    r[k] = wasm_v128_and(set, wasm_i8x16_const_splat(16));
  }
  return wasm128_wide(r[0], r[1]);
}

SF_INLINE vb vb_and(vb a, int mask) {
  for (int k = 0; k < 4; ++k) a.r[k] = wasm_v128_and(a.r[k], wasm_i16x8_splat((int16_t)mask));
  return a;
}

SF_INLINE vb vb_or(vb a, vb b) {
  for (int k = 0; k < 4; ++k) a.r[k] = wasm_v128_or(a.r[k], b.r[k]);
  return a;
}

/* Clang 14 shifts lane by lane where it has moved the making of the vector of counts to another place. */
SF_INLINE vb vb_shr(vb a, int n) {
#if __clang_major__ < 15
  if (!__builtin_constant_p(n)) __asm__ volatile("" : "+r"(n));
#endif
  for (int k = 0; k < 4; ++k) a.r[k] = wasm_u16x8_shr(a.r[k], (uint32_t)n);
  return a;
}

/* `bits` bits of bytes, from bit `shift` on. Machines shift no bytes, so engines would mask a shift of words by a
 * constant that they make anew each time; this one is there already. */
SF_INLINE v128_t wasm128_field(v128_t bytes, int shift, int bits) {
#if __clang_major__ < 15
  if (!__builtin_constant_p(shift)) __asm__ volatile("" : "+r"(shift));
#endif
  return wasm_v128_and(wasm_u16x8_shr(bytes, (uint32_t)shift), wasm_i8x16_splat((int8_t)((1 << bits) - 1)));
}

/* 32 numbers of 8 bits at most, of a field of each byte at p, and of another one above it. */
SF_INLINE vb vb_load_fields(const uint8_t *p, int shift, int bits, const uint8_t *above, int above_shift,
                            int above_bits) {
  v128_t r[2];
  for (int k = 0; k < 2; ++k) {
    const v128_t high = wasm128_field(wasm_v128_load(above + 16 * k), above_shift, above_bits);
    r[k] = wasm_v128_or(wasm128_field(wasm_v128_load(p + 16 * k), shift, bits), wasm_i16x8_shl(high, (uint32_t)bits));
  }
  return wasm128_wide(r[0], r[1]);
}

SF_INLINE vb vb_add(vb a, int n) {
  for (int k = 0; k < 4; ++k) a.r[k] = wasm_i16x8_add(a.r[k], wasm_i16x8_splat((int16_t)n));
  return a;
}

SF_INLINE vb vb_scale(vb a, int first, int last) {
  for (int k = 0; k < 4; ++k) a.r[k] = wasm_i16x8_mul(a.r[k], wasm_i16x8_splat((int16_t)(k < 2 ? first : last)));
  return a;
}

SF_INLINE void vb_floats(vb a, vf *r) {
  for (int k = 0; k < 4; ++k) wasm128_eight(a.r[k], r + 2 * k);
}

SF_INLINE void vb_load_floats(const int8_t *p, vf *r) { vb_floats(vb_load_i8(p), r); }

SF_INLINE vi v_set1_int(int32_t x) { return wasm_i32x4_splat(x); }

SF_INLINE vi v_dot_bytes(const uint8_t *p, vi pair, vi sum) {
  return wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(wasm_i16x8_load8x8(p), pair));
}

SF_INLINE vi v_dot_nibbles(const uint8_t *p, vi lower, vi upper, vi sum) {
  const v128_t both = wasm_u16x8_load8x8(p);
  sum = wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(wasm_v128_and(both, wasm_i16x8_const_splat(15)), lower));
  return wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(wasm_u16x8_shr(both, 4), upper));
}

SF_INLINE vi v_dot_pairs(vi a, vi b, vi sum) { return wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(a, b)); }

SF_INLINE void vb_lanes(const vb *rows, int step, vi *to) {
  for (int k = 0; k < 4; ++k, to += 4 * step) {
    const vi a = wasm_i32x4_shuffle(rows[0].r[k], rows[1].r[k], 0, 4, 1, 5);
    const vi b = wasm_i32x4_shuffle(rows[2].r[k], rows[3].r[k], 0, 4, 1, 5);
    const vi c = wasm_i32x4_shuffle(rows[0].r[k], rows[1].r[k], 2, 6, 3, 7);
    const vi d = wasm_i32x4_shuffle(rows[2].r[k], rows[3].r[k], 2, 6, 3, 7);
    to[0] = wasm_i64x2_shuffle(a, b, 0, 2);
    to[step] = wasm_i64x2_shuffle(a, b, 1, 3);
    to[2 * step] = wasm_i64x2_shuffle(c, d, 0, 2);
    to[3 * step] = wasm_i64x2_shuffle(c, d, 1, 3);
  }
}

SF_INLINE vf vb_dot(vb a, vb b) {
  const vi low = wasm_i32x4_add(wasm_i32x4_dot_i16x8(a.r[0], b.r[0]), wasm_i32x4_dot_i16x8(a.r[1], b.r[1]));
  const vi high = wasm_i32x4_add(wasm_i32x4_dot_i16x8(a.r[2], b.r[2]), wasm_i32x4_dot_i16x8(a.r[3], b.r[3]));
  return wasm_f32x4_convert_i32x4(wasm_i32x4_add(low, high));
}

SF_INLINE void v_store_i16(int16_t *p, vf a) {
  const vi r = v_round(a);
  const v128_t packed = wasm_i16x8_narrow_i32x4(r, r);
  wasm_v128_store64_lane(p, packed, 0);
}

SF_INLINE void v_prefetch(const void *p) { (void)p; }

#endif
