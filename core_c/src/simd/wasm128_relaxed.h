/* Vector vocabulary: WebAssembly relaxed SIMD, which is SIMD128 with instructions whose results may differ between
 * machines. Meanings: scalar.h. Two of them are used:
 *   multiply-add of floats, fused where the machine can
 *   dot products of bytes (SF_DOT8), with operands for which every machine gives the same: the second one is 0 … 127,
 *   and no sum of two products leaves 16 bits. */
#ifndef SF_SIMD_RELAXED_H
#define SF_SIMD_RELAXED_H

#define SF_ISA_NAME "relaxed128"
#define SF_ISA_TABLE sf_kernels_relaxed128
#define SF_DOT8 1
#define WASM128_FMA(a, b, c) wasm_f32x4_relaxed_madd(a, b, c)
#include "simd/wasm128.h"

/* ---- What only a vocabulary with SF_DOT8 has: v8, 32 values of 8 bits ---- */

typedef struct {
  v128_t r[2];
} v8;

SF_INLINE v8 v8_load(const uint8_t *p) {
  const v8 r = {{wasm_v128_load(p), wasm_v128_load(p + 16)}};
  return r;
}

/* 32 integers of 16 bits, each within -128 … 127. */
SF_INLINE v8 v8_load_i16(const int16_t *p) {
  v8 r;
  for (int k = 0; k < 2; ++k) {
    r.r[k] = wasm_i8x16_narrow_i16x8(wasm_v128_load(p + 16 * k), wasm_v128_load(p + 16 * k + 8));
  }
  return r;
}

/* wasm128_field of 32 bytes. */
SF_INLINE v8 v8_field(v8 a, int shift, int bits) {
  for (int k = 0; k < 2; ++k) a.r[k] = wasm128_field(a.r[k], shift, bits);
  return a;
}

/* 16 bytes: first the lower halves, then the upper ones. */
SF_INLINE v8 v8_load_nibbles(const uint8_t *p) {
  const v128_t bytes = wasm_v128_load(p);
  const v8 r = {{wasm128_field(bytes, 0, 4), wasm128_field(bytes, 4, 4)}};
  return r;
}

SF_INLINE v8 v8_add_64(v8 a) {
  for (int k = 0; k < 2; ++k) a.r[k] = wasm_i8x16_add(a.r[k], wasm_i8x16_const_splat(64));
  return a;
}

/* Sums of eight neighbours of 16 bits, two and two, as floats. */
SF_INLINE vf wasm128_pairs(v128_t sums) {
  return wasm_f32x4_convert_i32x4(wasm_i32x4_dot_i16x8(sums, wasm_i16x8_const_splat(1)));
}

/* Σ quants · x over the lanes, quants 0 … 63 and x -127 … 127: 4 · 63 · 127 fits in 16 bits. */
SF_INLINE vf v8_dot_quants(v8 quants, v8 x) {
  return wasm128_pairs(wasm_i16x8_add(wasm_i16x8_relaxed_dot_i8x16_i7x16(x.r[0], quants.r[0]),
                                      wasm_i16x8_relaxed_dot_i8x16_i7x16(x.r[1], quants.r[1])));
}

/* Σ w · x over the lanes, w -128 … 127 and x + 64 given, x -63 … 63: Σ w · (x + 64) - Σ w · 64, which wraps around on
 * the way, but fits in 16 bits at the end: 4 · 128 · 63. */
SF_INLINE vf v8_dot_signed(v8 w, v8 x) {
  const v128_t offset = wasm_i8x16_const_splat(64);
  v128_t part[2];
  for (int k = 0; k < 2; ++k) {
    part[k] = wasm_i16x8_sub(wasm_i16x8_relaxed_dot_i8x16_i7x16(w.r[k], x.r[k]),
                             wasm_i16x8_relaxed_dot_i8x16_i7x16(w.r[k], offset));
  }
  return wasm128_pairs(wasm_i16x8_add(part[0], part[1]));
}

#endif
