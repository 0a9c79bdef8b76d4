/* Vector vocabulary: x86 AVX2 with FMA and F16C. Meanings: scalar.h. avx2_vnni.h, which extends it, defines SF_ISA_NAME
 * and SF_ISA_TABLE before it includes this one. */
#ifndef SF_SIMD_H
#define SF_SIMD_H

#include <immintrin.h>
#include <string.h>

#include "simd/avx_parts.h"

#ifndef SF_ISA_NAME
#define SF_ISA_NAME "avx2"
#define SF_ISA_TABLE sf_kernels_avx2
#endif

enum {
  SF_LANES = 8,
  SF_STREAMS = 8,
  SF_IN_ORDER = 4,
  SF_FOLLOWED = 4096,
  SF_TILE_ROWS = 4,
  SF_TILE_INPUTS = 3,
  SF_MATRIX_ROWS = 6,
  SF_MATRIX_VECTORS = 2,
  SF_BLOCK_INPUTS = 1,
  SF_BLOCK_GROUPS = 1
};
typedef __m256 vf;
typedef __m256i vi;
typedef __m256 vm;
typedef struct {
  __m256i r[2];
} vb;

/* All ones in the first n lanes. */
SF_INLINE vi avx2_first(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

SF_INLINE vf v_load(const void *p) { return _mm256_castsi256_ps(_mm256_loadu_si256((const __m256i *)p)); }

SF_INLINE vf v_load_tail(const void *p, int n) {
  return _mm256_castsi256_ps(_mm256_maskload_epi32((const int *)p, avx2_first(n)));
}

SF_INLINE void v_store(float *p, vf a) { _mm256_storeu_ps(p, a); }

SF_INLINE void v_store_tail(float *p, vf a, int n) { _mm256_maskstore_ps(p, avx2_first(n), a); }

SF_INLINE vf v_set1(float x) { return _mm256_set1_ps(x); }

SF_INLINE vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }

SF_INLINE vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }

SF_INLINE vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }

SF_INLINE vf v_div(vf a, vf b) { return _mm256_div_ps(a, b); }

SF_INLINE vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }

SF_INLINE vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }

SF_INLINE vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }

SF_INLINE vf v_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }

SF_INLINE vm v_less(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }

SF_INLINE vf v_select(vm m, vf a, vf b) { return _mm256_blendv_ps(b, a, m); }

SF_INLINE float v_sum(vf a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 pairs = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)));
}

/* The sums of four, each as by v_sum. */
#define SF_SUM4 1
SF_INLINE void v_sum4(const vf *a, float *out) { sum_lanes_of_four(a, out); }

SF_INLINE float v_largest(vf a) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 pairs = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(pairs, _mm_movehdup_ps(pairs)));
}

SF_INLINE vf v_load_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }

SF_INLINE vf v_load_f16_tail(const void *p, int n) {
  int16_t h[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  memcpy(h, p, (size_t)n * sizeof h[0]);
  return v_load_f16(h);
}

SF_INLINE void v_store_f16(void *p, vf a) {
  _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

SF_INLINE float v_half(const void *p) {
  uint16_t half;
  memcpy(&half, p, sizeof half);
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}

SF_INLINE vf v_load_bf16(const void *p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}

SF_INLINE vf v_load_bf16_tail(const void *p, int n) {
  uint16_t h[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  memcpy(h, p, (size_t)n * sizeof h[0]);
  return v_load_bf16(h);
}

/* Half k from the 16 bytes in which it is number k already: one instruction each. */
SF_INLINE __m128i avx2_halves(const uint8_t *p, size_t step, int n) {
  __m128i r = _mm_loadu_si128((const __m128i *)(const void *)p);
#define AVX2_HALF(k) \
  if (n > k) r = _mm_blend_epi16(r, _mm_loadu_si128((const __m128i *)(const void *)(p + k * (step - 2))), 1 << k)
  AVX2_HALF(1);
  AVX2_HALF(2);
  AVX2_HALF(3);
  AVX2_HALF(4);
  AVX2_HALF(5);
  AVX2_HALF(6);
  AVX2_HALF(7);
#undef AVX2_HALF
  return r;
}

SF_INLINE vf v_load_halves(const uint8_t *p, size_t step) { return _mm256_cvtph_ps(avx2_halves(p, step, 8)); }

/* The first n of them, 0 above; step is 16 or more, so that no byte after the last of n steps is read. */
#define SF_HALVES_TAIL 1
SF_INLINE vf v_load_halves_tail(const uint8_t *p, size_t step, int n) {
  const __m128i places = _mm_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7);
  const __m128i first = _mm_cmpgt_epi16(_mm_set1_epi16((int16_t)n), places);
  return _mm256_cvtph_ps(_mm_and_si128(avx2_halves(p, step, n), first));
}

#define SF_K_SCALES 1
SF_INLINE void v_load_k_scales(const uint8_t *p, vf *scale, vf *min) { load_k_scales(p, scale, min); }

SF_INLINE void v_load_u8(const uint8_t *p, vf *r) {
  r[0] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}

SF_INLINE vi v_round(vf a) { return _mm256_cvtps_epi32(a); }

SF_INLINE vf v_float(vi a) { return _mm256_cvtepi32_ps(a); }

SF_INLINE vf v_pow2(vi n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

SF_INLINE vb vb_load_i8(const int8_t *p) {
  vb r;
  r.r[0] = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
  r.r[1] = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(p + 16)));
  return r;
}

SF_INLINE vb vb_load_u8(const uint8_t *p) {
  vb r;
  r.r[0] = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
  r.r[1] = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(p + 16)));
  return r;
}

SF_INLINE vb vb_load_i16(const int16_t *p) {
  vb r;
  r.r[0] = _mm256_loadu_si256((const __m256i *)(const void *)p);
  r.r[1] = _mm256_loadu_si256((const __m256i *)(const void *)(p + 16));
  return r;
}

SF_INLINE void vb_store(int16_t *p, vb a) {
  _mm256_storeu_si256((__m256i *)(void *)p, a.r[0]);
  _mm256_storeu_si256((__m256i *)(void *)(p + 16), a.r[1]);
}

SF_INLINE vb vb_load_nibbles(const uint8_t *p) {
  const __m256i bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
  vb r;
  r.r[0] = _mm256_and_si256(bytes, _mm256_set1_epi16(15));
  r.r[1] = _mm256_srli_epi16(bytes, 4);
  return r;
}

SF_INLINE vb vb_load_levels(const uint8_t *p, const int8_t *levels) {
  const __m128i table = _mm_loadu_si128((const __m128i *)(const void *)levels), halves = _mm_set1_epi8(15);
  const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)p);
  vb r;
  r.r[0] = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(table, _mm_and_si128(bytes, halves)));
  r.r[1] = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16(bytes, 4), halves)));
  return r;
}

SF_INLINE vb vb_high_bits(uint32_t bits) {
  const __m256i each =
      _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, (int16_t)-32768);
  vb r;
  for (int k = 0; k < 2; ++k) {
    const __m256i set = _mm256_and_si256(_mm256_set1_epi16((int16_t)(uint16_t)(bits >> 16 * k)), each);
    r.r[k] = _mm256_and_si256(_mm256_cmpeq_epi16(set, each), _mm256_set1_epi16(16));
  }
  return r;
}

SF_INLINE vb vb_and(vb a, int mask) {
  for (int k = 0; k < 2; ++k) a.r[k] = _mm256_and_si256(a.r[k], _mm256_set1_epi16((int16_t)mask));
  return a;
}

SF_INLINE vb vb_or(vb a, vb b) {
  for (int k = 0; k < 2; ++k) a.r[k] = _mm256_or_si256(a.r[k], b.r[k]);
  return a;
}

SF_INLINE vb vb_shr(vb a, int n) {
  for (int k = 0; k < 2; ++k) a.r[k] = _mm256_srli_epi16(a.r[k], n);
  return a;
}

SF_INLINE vb vb_add(vb a, int n) {
  for (int k = 0; k < 2; ++k) a.r[k] = _mm256_add_epi16(a.r[k], _mm256_set1_epi16((int16_t)n));
  return a;
}

SF_INLINE vb vb_scale(vb a, int first, int last) {
  a.r[0] = _mm256_mullo_epi16(a.r[0], _mm256_set1_epi16((int16_t)first));
  a.r[1] = _mm256_mullo_epi16(a.r[1], _mm256_set1_epi16((int16_t)last));
  return a;
}

SF_INLINE void vb_floats(vb a, vf *r) {
  for (int k = 0; k < 2; ++k) {
    r[2 * k] = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm256_castsi256_si128(a.r[k])));
    r[2 * k + 1] = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm256_extracti128_si256(a.r[k], 1)));
  }
}

SF_INLINE void vb_load_floats(const int8_t *p, vf *r) {
  for (int k = 0; k < 4; ++k) {
    r[k] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + 8 * k))));
  }
}

SF_INLINE vi v_set1_int(int32_t x) { return _mm256_set1_epi32(x); }

SF_INLINE vi v_dot_bytes(const uint8_t *p, vi pair, vi sum) {
  const vi quants = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(quants, pair));
}

SF_INLINE vi v_dot_nibbles(const uint8_t *p, vi lower, vi upper, vi sum) {
  const vi both = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_and_si256(both, _mm256_set1_epi16(15)), lower));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_srli_epi16(both, 4), upper));
}

/* The lower or upper halves of 16 bytes as floats, by way of 32 bits at once: what widens from a register is slow. */
#define SF_HALF_FLOATS 1
SF_INLINE void v_load_half_floats(const uint8_t *p, int upper, vf *r) {
  for (int k = 0; k < 2; ++k) {
    const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + 8 * k)));
    r[k] = _mm256_cvtepi32_ps(upper ? _mm256_srli_epi32(bytes, 4) : _mm256_and_si256(bytes, _mm256_set1_epi32(15)));
  }
}

SF_INLINE vf vb_dot(vb a, vb b) {
  return _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_madd_epi16(a.r[0], b.r[0]), _mm256_madd_epi16(a.r[1], b.r[1])));
}

SF_INLINE void v_store_i16(int16_t *p, vf a) {
  const vi r = _mm256_cvtps_epi32(a);
  const __m128i packed = _mm_packs_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
  _mm_storeu_si128((__m128i *)(void *)p, packed);
}

/* ---- Columns: see columns_tmpl.h ---- */

#define SF_COLUMN_BYTES 32
typedef __m256i vh;

SF_INLINE vh vh_set1(int x) { return _mm256_set1_epi16((int16_t)x); }

SF_INLINE void vh_add_columns(const uint8_t *a, const uint8_t *b, const int8_t *values, vh *sum) {
  int16_t both;
  memcpy(&both, values, sizeof both);
  const vh x = _mm256_set1_epi16(both), nibble = _mm256_set1_epi8(15);
  const vh p = _mm256_loadu_si256((const __m256i *)(const void *)a),
           q = _mm256_loadu_si256((const __m256i *)(const void *)b);
  const vh first = _mm256_unpacklo_epi8(p, q), second = _mm256_unpackhi_epi8(p, q);
  sum[0] = _mm256_add_epi16(sum[0], _mm256_maddubs_epi16(_mm256_and_si256(first, nibble), x));
  sum[1] = _mm256_add_epi16(sum[1], _mm256_maddubs_epi16(_mm256_and_si256(second, nibble), x));
  sum[2] = _mm256_add_epi16(sum[2], _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(first, 4), nibble), x));
  sum[3] = _mm256_add_epi16(sum[3], _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(second, 4), nibble), x));
}

SF_INLINE void vh_floats(vh a, vf *r) {
  r[0] = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm256_castsi256_si128(a)));
  r[1] = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm256_extracti128_si256(a, 1)));
}

SF_INLINE void v_prefetch(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T1); }

#endif
