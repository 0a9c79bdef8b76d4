/* Vector vocabulary: x86 SSE4.1. Meanings: scalar.h. */
#ifndef SF_SIMD_H
#define SF_SIMD_H

#include <smmintrin.h>
#include <string.h>

#include "formats/half.h"

#define SF_ISA_NAME "sse41"
#define SF_ISA_TABLE sf_kernels_sse41
#define SF_PROMPT_LANES 1

enum {
  SF_LANES = 4,
  SF_STREAMS = 8,
  SF_IN_ORDER = 4,
  SF_FOLLOWED = 4096,
  SF_TILE_ROWS = 4,
  SF_TILE_INPUTS = 3,
  SF_MATRIX_ROWS = 6,
  SF_MATRIX_VECTORS = 2,
  SF_BLOCK_INPUTS = 3,
  SF_BLOCK_GROUPS = 2
};
typedef __m128 vf;
typedef __m128i vi;
typedef __m128 vm;
typedef struct {
  __m128i r[4];
} vb;

SF_INLINE vf v_load(const void *p) { return _mm_castsi128_ps(_mm_loadu_si128((const __m128i *)p)); }

SF_INLINE vf v_load_tail(const void *p, int n) {
  float t[4] = {0, 0, 0, 0};
  memcpy(t, p, (size_t)n * sizeof t[0]);
  return _mm_loadu_ps(t);
}

SF_INLINE void v_store(float *p, vf a) { _mm_storeu_ps(p, a); }

SF_INLINE void v_store_tail(float *p, vf a, int n) {
  float t[4];
  _mm_storeu_ps(t, a);
  memcpy(p, t, (size_t)n * sizeof t[0]);
}

SF_INLINE vf v_set1(float x) { return _mm_set1_ps(x); }

SF_INLINE vf v_add(vf a, vf b) { return _mm_add_ps(a, b); }

SF_INLINE vf v_sub(vf a, vf b) { return _mm_sub_ps(a, b); }

SF_INLINE vf v_mul(vf a, vf b) { return _mm_mul_ps(a, b); }

SF_INLINE vf v_div(vf a, vf b) { return _mm_div_ps(a, b); }

SF_INLINE vf v_fma(vf a, vf b, vf c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }

SF_INLINE vf v_min(vf a, vf b) { return _mm_min_ps(a, b); }

SF_INLINE vf v_max(vf a, vf b) { return _mm_max_ps(a, b); }

SF_INLINE vf v_abs(vf a) { return _mm_andnot_ps(_mm_set1_ps(-0.0f), a); }

SF_INLINE vm v_less(vf a, vf b) { return _mm_cmplt_ps(a, b); }

SF_INLINE vf v_select(vm m, vf a, vf b) { return _mm_blendv_ps(b, a, m); }

SF_INLINE float v_sum(vf a) {
  const vf pairs = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)));
}

SF_INLINE float v_largest(vf a) {
  const vf pairs = _mm_max_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_max_ss(pairs, _mm_movehdup_ps(pairs)));
}

/* Halves, sign-extended and shifted left by 13, to floats as by sf_half_to_float; the sign travels along, since sign
 * extension leaves it in the top bit. */
SF_INLINE vf sse41_floats(vi shifted) {
  const vi bits = _mm_and_si128(shifted, _mm_set1_epi32((int)0x8fffe000));
  const vi infinite = _mm_set1_epi32(0x0f800000);
  const vi special = _mm_cmpeq_epi32(_mm_and_si128(bits, infinite), infinite);
  const vf scaled = _mm_mul_ps(_mm_castsi128_ps(bits), _mm_set1_ps(0x1p112f));
  return _mm_or_ps(scaled, _mm_castsi128_ps(_mm_and_si128(special, _mm_set1_epi32(0x7f800000))));
}

SF_INLINE int16_t sse41_bits(const uint8_t *p) {
  int16_t bits;
  memcpy(&bits, p, sizeof bits);
  return bits;
}

SF_INLINE vf v_load_f16(const void *p) {
  return sse41_floats(_mm_slli_epi32(_mm_cvtepi16_epi32(_mm_loadl_epi64((const __m128i *)p)), 13));
}

SF_INLINE vf v_load_f16_tail(const void *p, int n) {
  int16_t h[4] = {0, 0, 0, 0};
  memcpy(h, p, (size_t)n * sizeof h[0]);
  return v_load_f16(h);
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

SF_INLINE vf v_load_bf16(const void *p) {
  return _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)p)), 16));
}

SF_INLINE vf v_load_bf16_tail(const void *p, int n) {
  uint16_t h[4] = {0, 0, 0, 0};
  memcpy(h, p, (size_t)n * sizeof h[0]);
  return v_load_bf16(h);
}

SF_INLINE vf v_load_halves(const uint8_t *p, size_t step) {
  vi upper = _mm_setzero_si128();
  upper = _mm_insert_epi16(upper, sse41_bits(p), 1);
  upper = _mm_insert_epi16(upper, sse41_bits(p + step), 3);
  upper = _mm_insert_epi16(upper, sse41_bits(p + 2 * step), 5);
  upper = _mm_insert_epi16(upper, sse41_bits(p + 3 * step), 7);
  return sse41_floats(_mm_srai_epi32(upper, 3));
}

SF_INLINE void v_load_u8(const uint8_t *p, vf *r) {
  const vi bytes = _mm_loadl_epi64((const __m128i *)(const void *)p);
  r[0] = _mm_cvtepi32_ps(_mm_cvtepu8_epi32(bytes));
  r[1] = _mm_cvtepi32_ps(_mm_cvtepu8_epi32(_mm_srli_si128(bytes, 4)));
}

SF_INLINE vi v_round(vf a) { return _mm_cvtps_epi32(a); }

SF_INLINE vf v_float(vi a) { return _mm_cvtepi32_ps(a); }

SF_INLINE vf v_pow2(vi n) { return _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(n, _mm_set1_epi32(127)), 23)); }

SF_INLINE vb vb_load_i8(const int8_t *p) {
  vb r;
  for (int k = 0; k < 4; ++k) r.r[k] = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)(p + 8 * k)));
  return r;
}

SF_INLINE vb vb_load_u8(const uint8_t *p) {
  vb r;
  for (int k = 0; k < 4; ++k) r.r[k] = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)(p + 8 * k)));
  return r;
}

SF_INLINE vb vb_load_i16(const int16_t *p) {
  vb r;
  for (int k = 0; k < 4; ++k) r.r[k] = _mm_loadu_si128((const __m128i *)(const void *)(p + 8 * k));
  return r;
}

SF_INLINE void vb_store(int16_t *p, vb a) {
  for (int k = 0; k < 4; ++k) _mm_storeu_si128((__m128i *)(void *)(p + 8 * k), a.r[k]);
}

SF_INLINE vb vb_load_nibbles(const uint8_t *p) {
  vb r;
  for (int k = 0; k < 2; ++k) {
    const vi bytes = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)(p + 8 * k)));
    r.r[k] = _mm_and_si128(bytes, _mm_set1_epi16(15));
    r.r[k + 2] = _mm_srli_epi16(bytes, 4);
  }
  return r;
}

SF_INLINE vb vb_load_levels(const uint8_t *p, const int8_t *levels) {
  const vi table = _mm_loadu_si128((const __m128i *)(const void *)levels), halves = _mm_set1_epi8(15);
  const vi bytes = _mm_loadu_si128((const __m128i *)(const void *)p);
  const vi low = _mm_shuffle_epi8(table, _mm_and_si128(bytes, halves));
  const vi high = _mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16(bytes, 4), halves));
  const vb r = {{_mm_cvtepi8_epi16(low), _mm_srai_epi16(_mm_unpackhi_epi8(low, low), 8), _mm_cvtepi8_epi16(high),
                 _mm_srai_epi16(_mm_unpackhi_epi8(high, high), 8)}};
  return r;
}

SF_INLINE vb vb_high_bits(uint32_t bits) {
  const vi each = _mm_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128);
  vb r;
  for (int k = 0; k < 4; ++k) {
    const vi set = _mm_and_si128(_mm_set1_epi16((int16_t)(bits >> 8 * k & 255)), each);
    r.r[k] = _mm_and_si128(_mm_cmpeq_epi16(set, each), _mm_set1_epi16(16));
  }
  return r;
}

SF_INLINE vb vb_and(vb a, int mask) {
  for (int k = 0; k < 4; ++k) a.r[k] = _mm_and_si128(a.r[k], _mm_set1_epi16((int16_t)mask));
  return a;
}

SF_INLINE vb vb_or(vb a, vb b) {
  for (int k = 0; k < 4; ++k) a.r[k] = _mm_or_si128(a.r[k], b.r[k]);
  return a;
}

SF_INLINE vb vb_shr(vb a, int n) {
  for (int k = 0; k < 4; ++k) a.r[k] = _mm_srli_epi16(a.r[k], n);
  return a;
}

SF_INLINE vb vb_add(vb a, int n) {
  for (int k = 0; k < 4; ++k) a.r[k] = _mm_add_epi16(a.r[k], _mm_set1_epi16((int16_t)n));
  return a;
}

SF_INLINE vb vb_scale(vb a, int first, int last) {
  for (int k = 0; k < 4; ++k) a.r[k] = _mm_mullo_epi16(a.r[k], _mm_set1_epi16((int16_t)(k < 2 ? first : last)));
  return a;
}

SF_INLINE vi v_set1_int(int32_t x) { return _mm_set1_epi32(x); }

SF_INLINE vi v_dot_bytes(const uint8_t *p, vi pair, vi sum) {
  const vi quants = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)p));
  return _mm_add_epi32(sum, _mm_madd_epi16(quants, pair));
}

SF_INLINE vi v_dot_nibbles(const uint8_t *p, vi lower, vi upper, vi sum) {
  const vi both = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)p));
  sum = _mm_add_epi32(sum, _mm_madd_epi16(_mm_and_si128(both, _mm_set1_epi16(15)), lower));
  return _mm_add_epi32(sum, _mm_madd_epi16(_mm_srli_epi16(both, 4), upper));
}

SF_INLINE void vb_floats(vb a, vf *r) {
  for (int k = 0; k < 4; ++k) {
    r[2 * k] = _mm_cvtepi32_ps(_mm_cvtepi16_epi32(a.r[k]));
    r[2 * k + 1] = _mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpackhi_epi16(a.r[k], a.r[k]), 16));
  }
}

SF_INLINE void vb_load_floats(const int8_t *p, vf *r) {
  for (int k = 0; k < 8; ++k) {
    int32_t four;
    memcpy(&four, p + 4 * k, sizeof four);
    r[k] = _mm_cvtepi32_ps(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(four)));
  }
}

SF_INLINE vi v_dot_pairs(vi a, vi b, vi sum) { return _mm_add_epi32(sum, _mm_madd_epi16(a, b)); }

SF_INLINE void vb_lanes(const vb *rows, int step, vi *to) {
  for (int k = 0; k < 4; ++k, to += 4 * step) {
    const vi a = _mm_unpacklo_epi32(rows[0].r[k], rows[1].r[k]), b = _mm_unpacklo_epi32(rows[2].r[k], rows[3].r[k]);
    const vi c = _mm_unpackhi_epi32(rows[0].r[k], rows[1].r[k]), d = _mm_unpackhi_epi32(rows[2].r[k], rows[3].r[k]);
    to[0] = _mm_unpacklo_epi64(a, b);
    to[step] = _mm_unpackhi_epi64(a, b);
    to[2 * step] = _mm_unpacklo_epi64(c, d);
    to[3 * step] = _mm_unpackhi_epi64(c, d);
  }
}

SF_INLINE vf vb_dot(vb a, vb b) {
  const vi low = _mm_add_epi32(_mm_madd_epi16(a.r[0], b.r[0]), _mm_madd_epi16(a.r[1], b.r[1]));
  const vi high = _mm_add_epi32(_mm_madd_epi16(a.r[2], b.r[2]), _mm_madd_epi16(a.r[3], b.r[3]));
  return _mm_cvtepi32_ps(_mm_add_epi32(low, high));
}

SF_INLINE void v_store_i16(int16_t *p, vf a) {
  const vi r = _mm_cvtps_epi32(a);
  _mm_storel_epi64((__m128i *)(void *)p, _mm_packs_epi32(r, r));
}

/* ---- Columns: see columns_tmpl.h ---- */

#define SF_COLUMN_BYTES 16
typedef __m128i vh;

SF_INLINE vh vh_set1(int x) { return _mm_set1_epi16((int16_t)x); }

SF_INLINE void vh_add_columns(const uint8_t *a, const uint8_t *b, const int8_t *values, vh *sum) {
  int16_t both;
  memcpy(&both, values, sizeof both);
  const vh x = _mm_set1_epi16(both), nibble = _mm_set1_epi8(15);
  const vh p = _mm_loadu_si128((const __m128i *)(const void *)a), q = _mm_loadu_si128((const __m128i *)(const void *)b);
  const vh first = _mm_unpacklo_epi8(p, q), second = _mm_unpackhi_epi8(p, q);
  sum[0] = _mm_add_epi16(sum[0], _mm_maddubs_epi16(_mm_and_si128(first, nibble), x));
  sum[1] = _mm_add_epi16(sum[1], _mm_maddubs_epi16(_mm_and_si128(second, nibble), x));
  sum[2] = _mm_add_epi16(sum[2], _mm_maddubs_epi16(_mm_and_si128(_mm_srli_epi16(first, 4), nibble), x));
  sum[3] = _mm_add_epi16(sum[3], _mm_maddubs_epi16(_mm_and_si128(_mm_srli_epi16(second, 4), nibble), x));
}

SF_INLINE void vh_floats(vh a, vf *r) {
  r[0] = _mm_cvtepi32_ps(_mm_cvtepi16_epi32(a));
  r[1] = _mm_cvtepi32_ps(_mm_cvtepi16_epi32(_mm_srli_si128(a, 8)));
}

SF_INLINE void v_prefetch(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T1); }

#endif
