/* Vector vocabulary: plain C, four lanes. The reference of the others. Lane assignment and order of operations are
 * those of sse41.h and wasm128.h, so that these three give the same bits.
 *
 * Every vocabulary offers, in this order:
 *   vf SF_LANES floats, vi SF_LANES int32, vm a lane mask, vb 32 values of 16 bits
 *   loads and stores need no alignment; the _tail forms touch just n < SF_LANES elements and load 0 for the others */
#ifndef SF_SIMD_H
#define SF_SIMD_H

#include <math.h>

#include "formats/half.h"

#ifndef SF_ISA_NAME /* scalar_bytes.h extends this */
#define SF_ISA_NAME "scalar"
#define SF_ISA_TABLE sf_kernels_scalar
#define SF_PROMPT_LANES 1
#endif

/* Besides SF_LANES: how many scattered rows of weights a kernel reads side by side, asking for the next (SF_STREAMS);
 * how many rows that lie in order, without asking (SF_IN_ORDER, no more than SF_STREAMS; 0: these like the scattered
 * ones); of how many bytes a scattered row of plain numbers is not asked for either, since the processor's own
 * prefetcher does better (SF_FOLLOWED); and how many rows and inputs a kernel multiplies with one another at a time
 * (SF_TILE_ROWS, SF_TILE_INPUTS, as registers allow), of matrices of floats how many rows of the left one and
 * vectors of the right one (SF_MATRIX_ROWS, SF_MATRIX_VECTORS), of block formats how many inputs, and how many groups
 * of 256 columns before it goes to the next ones (SF_BLOCK_INPUTS, SF_BLOCK_GROUPS, 2 at most). None of these changes a
 * result. */
enum {
  SF_LANES = 4,
  SF_STREAMS = 4,
  SF_IN_ORDER = 0,
  SF_FOLLOWED = INT32_MAX,
  SF_TILE_ROWS = 1,
  SF_TILE_INPUTS = 1,
  SF_MATRIX_ROWS = 1,
  SF_MATRIX_VECTORS = 1,
  SF_BLOCK_INPUTS = 1,
  SF_BLOCK_GROUPS = 2
};
typedef struct {
  float f[4];
} vf;
typedef struct {
  int32_t i[4];
} vi;
typedef struct {
  int m[4];
} vm;
typedef struct {
  int16_t h[32];
} vb;

#define SF_EACH_LANE for (int k = 0; k < 4; ++k)

SF_INLINE vf v_load(const void *p) {
  vf r;
  memcpy(&r, p, sizeof r);
  return r;
}

SF_INLINE vf v_load_tail(const void *p, int n) {
  vf r = {{0, 0, 0, 0}};
  memcpy(&r, p, (size_t)n * sizeof(float));
  return r;
}

SF_INLINE void v_store(float *p, vf a) { memcpy(p, &a, sizeof a); }

SF_INLINE void v_store_tail(float *p, vf a, int n) { memcpy(p, &a, (size_t)n * sizeof(float)); }

SF_INLINE vf v_set1(float x) {
  const vf r = {{x, x, x, x}};
  return r;
}

SF_INLINE vf v_add(vf a, vf b) {
  SF_EACH_LANE a.f[k] += b.f[k];
  return a;
}

SF_INLINE vf v_sub(vf a, vf b) {
  SF_EACH_LANE a.f[k] -= b.f[k];
  return a;
}

SF_INLINE vf v_mul(vf a, vf b) {
  SF_EACH_LANE a.f[k] *= b.f[k];
  return a;
}

SF_INLINE vf v_div(vf a, vf b) {
  SF_EACH_LANE a.f[k] /= b.f[k];
  return a;
}

/* a · b + c; whether the product is rounded first is the instruction set's affair (here it is). */
SF_INLINE vf v_fma(vf a, vf b, vf c) {
  SF_EACH_LANE a.f[k] = a.f[k] * b.f[k] + c.f[k];
  return a;
}

/* Of a number and a NaN, in this order, min and max give the NaN. */
SF_INLINE vf v_min(vf a, vf b) {
  SF_EACH_LANE a.f[k] = a.f[k] < b.f[k] ? a.f[k] : b.f[k];
  return a;
}

SF_INLINE vf v_max(vf a, vf b) {
  SF_EACH_LANE a.f[k] = a.f[k] > b.f[k] ? a.f[k] : b.f[k];
  return a;
}

SF_INLINE vf v_abs(vf a) {
  SF_EACH_LANE a.f[k] = fabsf(a.f[k]);
  return a;
}

SF_INLINE vm v_less(vf a, vf b) {
  vm r;
  SF_EACH_LANE r.m[k] = a.f[k] < b.f[k];
  return r;
}

/* m ? a : b */
SF_INLINE vf v_select(vm m, vf a, vf b) {
  SF_EACH_LANE a.f[k] = m.m[k] ? a.f[k] : b.f[k];
  return a;
}

SF_INLINE float v_sum(vf a) { return (a.f[0] + a.f[2]) + (a.f[1] + a.f[3]); }

SF_INLINE float v_largest(vf a) {
  const float even = a.f[0] > a.f[2] ? a.f[0] : a.f[2];
  const float odd = a.f[1] > a.f[3] ? a.f[1] : a.f[3];
  return even > odd ? even : odd;
}

/* SF_LANES half precision floats, exactly converted. */
SF_INLINE vf v_load_f16(const void *p) {
  uint16_t h[4];
  vf r;
  memcpy(h, p, sizeof h);
  SF_EACH_LANE r.f[k] = sf_half_to_float(h[k]);
  return r;
}

SF_INLINE vf v_load_f16_tail(const void *p, int n) {
  uint16_t h[4] = {0, 0, 0, 0};
  memcpy(h, p, (size_t)n * sizeof h[0]);
  return v_load_f16(h);
}

/* SF_LANES floats in half precision. */
SF_INLINE void v_store_f16(void *p, vf a) { SF_EACH_LANE sf_put_half((uint8_t *)p + 2 * k, a.f[k]); }

/* One half precision float, exactly converted. */
SF_INLINE float v_half(const void *p) {
  uint16_t half;
  memcpy(&half, p, sizeof half);
  return sf_half_to_float(half);
}

/* SF_LANES bfloats. */
SF_INLINE vf v_load_bf16(const void *p) {
  uint16_t h[4];
  vf r;
  memcpy(h, p, sizeof h);
  SF_EACH_LANE r.f[k] = sf_bfloat_to_float(h[k]);
  return r;
}

SF_INLINE vf v_load_bf16_tail(const void *p, int n) {
  uint16_t h[4] = {0, 0, 0, 0};
  memcpy(h, p, (size_t)n * sizeof h[0]);
  return v_load_bf16(h);
}

/* The halves at p, p + step, …: as many as there are lanes, but no more than 8; 0 above. */
SF_INLINE vf v_load_halves(const uint8_t *p, size_t step) {
  vf r;
  SF_EACH_LANE r.f[k] = v_half(p + (size_t)k * step);
  return r;
}

/* 8 unsigned bytes as floats, in as many vectors as that takes; 0 above. */
SF_INLINE void v_load_u8(const uint8_t *p, vf *r) {
  for (int k = 0; k < 8; ++k) r[k / 4].f[k % 4] = (float)p[k];
}

/* To the nearest integer, ties to even, for |a| < 2^22; else any integer. Adding 1.5 · 2^23 leaves no room for a
 * fraction. */
SF_INLINE vi v_round(vf a) {
  vi r;
  SF_EACH_LANE {
    const float whole = (a.f[k] + 12582912.0f) - 12582912.0f;
    r.i[k] = whole > -0x1p31f && whole < 0x1p31f ? (int32_t)whole : INT32_MIN;
  }
  return r;
}

SF_INLINE vf v_float(vi a) {
  vf r;
  SF_EACH_LANE r.f[k] = (float)a.i[k];
  return r;
}

/* 2^n for -127 ≤ n ≤ 127, where 2^-127 is given as 0. */
SF_INLINE vf v_pow2(vi n) {
  vf r;
  SF_EACH_LANE r.f[k] = sf_bits_to_float((uint32_t)(n.i[k] + 127) << 23);
  return r;
}

SF_INLINE vb vb_load_i8(const int8_t *p) {
  vb r;
  for (int k = 0; k < 32; ++k) r.h[k] = p[k];
  return r;
}

SF_INLINE vb vb_load_u8(const uint8_t *p) {
  vb r;
  for (int k = 0; k < 32; ++k) r.h[k] = p[k];
  return r;
}

SF_INLINE vb vb_load_i16(const int16_t *p) {
  vb r;
  memcpy(&r, p, sizeof r);
  return r;
}

SF_INLINE void vb_store(int16_t *p, vb a) { memcpy(p, &a, sizeof a); }

/* 16 bytes: the low halves of them, then the high ones. */
SF_INLINE vb vb_load_nibbles(const uint8_t *p) {
  vb r;
  for (int k = 0; k < 16; ++k) {
    r.h[k] = p[k] & 15;
    r.h[k + 16] = p[k] >> 4;
  }
  return r;
}

/* The same, each half replaced by its level, of which there are 16. */
SF_INLINE vb vb_load_levels(const uint8_t *p, const int8_t *levels) {
  vb r = vb_load_nibbles(p);
  for (int k = 0; k < 32; ++k) r.h[k] = levels[r.h[k]];
  return r;
}

/* 16 where the bit is set, else 0. */
SF_INLINE vb vb_high_bits(uint32_t bits) {
  vb r;
  for (int k = 0; k < 32; ++k) r.h[k] = (int16_t)((bits >> k & 1) << 4);
  return r;
}

SF_INLINE vb vb_and(vb a, int mask) {
  for (int k = 0; k < 32; ++k) a.h[k] = (int16_t)(a.h[k] & mask);
  return a;
}

SF_INLINE vb vb_or(vb a, vb b) {
  for (int k = 0; k < 32; ++k) a.h[k] |= b.h[k];
  return a;
}

/* Of values ≥ 0. */
SF_INLINE vb vb_shr(vb a, int n) {
  for (int k = 0; k < 32; ++k) a.h[k] = (int16_t)(a.h[k] >> n);
  return a;
}

SF_INLINE vb vb_add(vb a, int n) {
  for (int k = 0; k < 32; ++k) a.h[k] = (int16_t)(a.h[k] + n);
  return a;
}

/* The first 16 times one number, the last 16 times another. */
SF_INLINE vb vb_scale(vb a, int first, int last) {
  for (int k = 0; k < 32; ++k) a.h[k] = (int16_t)(a.h[k] * (k < 16 ? first : last));
  return a;
}

SF_INLINE vi v_set1_int(int32_t x) {
  vi r;
  SF_EACH_LANE r.i[k] = x;
  return r;
}

static inline int32_t scalar_dot_pair(int32_t first, int32_t second, int32_t pair) {
  int16_t x[2];
  memcpy(x, &pair, sizeof x);
  return first * x[0] + second * x[1];
}

/* Rows in the lanes: sum + the dot product of each lane's two signed bytes with its pair of 16-bit numbers. */
SF_INLINE vi v_dot_bytes(const uint8_t *p, vi pair, vi sum) {
  SF_EACH_LANE sum.i[k] += scalar_dot_pair((int8_t)p[2 * k], (int8_t)p[2 * k + 1], pair.i[k]);
  return sum;
}

/* The same of the lower halves of two bytes with one pair, and of the upper ones with another. */
SF_INLINE vi v_dot_nibbles(const uint8_t *p, vi lower, vi upper, vi sum) {
  SF_EACH_LANE {
    sum.i[k] += scalar_dot_pair(p[2 * k] & 15, p[2 * k + 1] & 15, lower.i[k]);
    sum.i[k] += scalar_dot_pair(p[2 * k] >> 4, p[2 * k + 1] >> 4, upper.i[k]);
  }
  return sum;
}

/* sum + the dot product of each lane's pair of 16-bit numbers with that of b. */
SF_INLINE vi v_dot_pairs(vi a, vi b, vi sum) {
  SF_EACH_LANE {
    int16_t x[2];
    memcpy(x, &a.i[k], sizeof x);
    sum.i[k] += scalar_dot_pair(x[0], x[1], b.i[k]);
  }
  return sum;
}

/* to[u · step] = values 2u and 2u + 1 of each of SF_LANES rows, which become lanes, u < 16. */
SF_INLINE void vb_lanes(const vb *rows, int step, vi *to) {
  for (int u = 0; u < 16; ++u) SF_EACH_LANE memcpy(&to[u * step].i[k], rows[k].h + 2 * u, sizeof(int32_t));
}

/* 32 floats, in 32 / SF_LANES vectors. */
SF_INLINE void vb_floats(vb a, vf *r) {
  for (int k = 0; k < 32; ++k) r[k / 4].f[k % 4] = (float)a.h[k];
}

/* 32 signed bytes as floats. */
SF_INLINE void vb_load_floats(const int8_t *p, vf *r) { vb_floats(vb_load_i8(p), r); }

/* Σ a · b over 32 values as lane sums: each lane sums, exactly, the products that its instruction set puts there. */
SF_INLINE vf vb_dot(vb a, vb b) {
  vf r;
  SF_EACH_LANE {
    int32_t sum = 0;
    for (int j = 2 * k; j < 32; j += 8) sum += a.h[j] * b.h[j] + a.h[j + 1] * b.h[j + 1];
    r.f[k] = (float)sum;
  }
  return r;
}

/* SF_LANES floats within ±32767, rounded as by v_round. */
SF_INLINE void v_store_i16(int16_t *p, vf a) {
  const vi r = v_round(a);
  SF_EACH_LANE p[k] = (int16_t)r.i[k];
}

/* Asks for the cache line at p, for soon but not at once: into the second-quant cache. */
SF_INLINE void v_prefetch(const void *p) { (void)p; }

#endif
