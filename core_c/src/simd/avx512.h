/* Vector vocabulary: x86 AVX-512 (F, BW, DQ, VL). Meanings: scalar.h. avx512_vnni.h, which extends it, defines before
 * it includes this one:
 *   SF_ISA_NAME, SF_ISA_TABLE
 *   SF_AVX512_VNNI              1 */
#ifndef SF_SIMD_H
#define SF_SIMD_H

#include <immintrin.h>
#include <string.h>

#include "formats/trits.h"
#include "simd/avx_parts.h"

#ifndef SF_ISA_NAME
#define SF_ISA_NAME "avx512"
#define SF_ISA_TABLE sf_kernels_avx512
#define SF_AVX512_VNNI 0
#endif

enum {
  SF_LANES = 16,
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
#define SF_PROMPT_FLOATS 1
#if SF_AVX512_VNNI
#define SF_PROMPT_LANES 1
#define SF_LANE_INPUTS 4
#endif
typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;
typedef __m512i vb;

/* Ones for the first n lanes. */
SF_INLINE __mmask16 avx512_first(int n) { return (__mmask16)((1u << n) - 1u); }

SF_INLINE vf v_load(const void *p) { return _mm512_loadu_ps(p); }

SF_INLINE vf v_load_tail(const void *p, int n) { return _mm512_maskz_loadu_ps(avx512_first(n), p); }

SF_INLINE void v_store(float *p, vf a) { _mm512_storeu_ps(p, a); }

SF_INLINE void v_store_tail(float *p, vf a, int n) { _mm512_mask_storeu_ps(p, avx512_first(n), a); }

SF_INLINE vf v_set1(float x) { return _mm512_set1_ps(x); }

SF_INLINE vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }

SF_INLINE vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }

SF_INLINE vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }

SF_INLINE vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }

SF_INLINE vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }

SF_INLINE vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }

SF_INLINE vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }

SF_INLINE vf v_abs(vf a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }

SF_INLINE vm v_less(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }

SF_INLINE vf v_select(vm m, vf a, vf b) { return _mm512_mask_blend_ps(m, b, a); }

SF_INLINE float v_sum(vf a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 pairs = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)));
}

/* The sums of four, each as by v_sum. */
#define SF_SUM4 1
SF_INLINE void v_sum4(const vf *a, float *out) {
  __m256 eight[4];
  for (int k = 0; k < 4; ++k) eight[k] = _mm256_add_ps(_mm512_castps512_ps256(a[k]), _mm512_extractf32x8_ps(a[k], 1));
  sum_lanes_of_four(eight, out);
}

SF_INLINE float v_largest(vf a) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 pairs = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(pairs, _mm_movehdup_ps(pairs)));
}

SF_INLINE vf v_load_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }

SF_INLINE vf v_load_f16_tail(const void *p, int n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(avx512_first(n), p));
}

SF_INLINE void v_store_f16(void *p, vf a) {
  const __m256i halves = _mm512_maskz_cvtps_ph(avx512_first(16), a, _MM_FROUND_TO_NEAREST_INT);
  _mm256_storeu_si256((__m256i *)p, halves);
}

SF_INLINE float v_half(const void *p) {
  uint16_t half;
  memcpy(&half, p, sizeof half);
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}

SF_INLINE vf v_load_bf16(const void *p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}

SF_INLINE vf v_load_bf16_tail(const void *p, int n) {
  const __m256i bits = _mm256_maskz_loadu_epi16(avx512_first(n), p);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

/* Ones for the first `bytes` bytes of a vector. */
SF_INLINE __mmask64 avx512_bytes(size_t bytes) { return bytes >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << bytes) - 1; }

/* n ≤ 8 halves at p, p + step, …, step being 18 or 20. Where all are asked for, 16 bytes follow the last one. */
SF_INLINE vf avx512_load_halves(const uint8_t *p, size_t step, int32_t n) {
  const int16_t w = (int16_t)(step / 2);
  const __m512i places = _mm512_zextsi128_si512(_mm_setr_epi16(0, w, 2 * w, 3 * w, 0, w, 2 * w, 3 * w));
  const size_t bytes = (size_t)(n - 1) * step + 2, half = 4 * step;
  const __mmask64 first = n < 8 ? avx512_bytes(bytes) : ~(__mmask64)0;
  const __mmask64 last = n < 8 ? avx512_bytes(bytes > half ? bytes - half : 0) : ~(__mmask64)0;
  const __m512i four = _mm512_maskz_permutexvar_epi16(0x0f, places, _mm512_maskz_loadu_epi8(first, p));
  const __m512i all = _mm512_mask_permutexvar_epi16(four, 0xf0, places, _mm512_maskz_loadu_epi8(last, p + half));
  return _mm512_cvtph_ps(_mm512_castsi512_si256(all));
}

SF_INLINE vf v_load_halves(const uint8_t *p, size_t step) {
  int16_t h[8];
  if (step == 18 || step == 20) return avx512_load_halves(p, step, 8);
  for (int k = 0; k < 8; ++k) memcpy(&h[k], p + (size_t)k * step, sizeof h[k]);
  const __m128i eight = _mm_setr_epi16(h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7]);
  return _mm512_cvtph_ps(_mm256_zextsi128_si256(eight));
}

#define SF_HALVES_TAIL 1
SF_INLINE vf v_load_halves_tail(const uint8_t *p, size_t step, int32_t n) {
  int16_t some[8];
  if (step == 18 || step == 20) return avx512_load_halves(p, step, n);
  for (int i = 0; i < 8; ++i) memcpy(&some[i], p + (size_t)(i < n ? i : n - 1) * step, sizeof some[i]);
  return v_load_halves((const uint8_t *)some, sizeof some[0]);
}

/* As products of two powers that are normal floats. */
#define SF_LOAD_POWERS 1
SF_INLINE vf v_load_powers(const uint8_t *p, size_t step) {
  char d[8];
  for (int k = 0; k < 8; ++k) memcpy(&d[k], p + (size_t)k * step, sizeof d[k]);
  const __m128i eight = _mm_setr_epi8(d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7], 0, 0, 0, 0, 0, 0, 0, 0);
  const __m256i all = _mm256_cvtepu8_epi32(eight), half = _mm256_srli_epi32(all, 1);
  const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, _mm256_set1_epi32(64)), 23);
  const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(all, half), _mm256_set1_epi32(62)), 23);
  return _mm512_zextps256_ps512(_mm256_mul_ps(_mm256_castsi256_ps(first), _mm256_castsi256_ps(second)));
}

#define SF_K_SCALES 1
SF_INLINE void v_load_k_scales(const uint8_t *p, vf *scale, vf *min) {
  __m256 scales, mins;
  load_k_scales(p, &scales, &mins);
  *scale = _mm512_zextps256_ps512(scales);
  *min = _mm512_zextps256_ps512(mins);
}

SF_INLINE void v_load_u8(const uint8_t *p, vf *r) {
  r[0] = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}

SF_INLINE vi v_round(vf a) { return _mm512_cvtps_epi32(a); }

SF_INLINE vf v_float(vi a) { return _mm512_cvtepi32_ps(a); }

SF_INLINE vf v_pow2(vi n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}

SF_INLINE vb vb_load_i8(const int8_t *p) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

SF_INLINE vb vb_load_u8(const uint8_t *p) {
  return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

SF_INLINE vb vb_load_i16(const int16_t *p) { return _mm512_loadu_si512(p); }

SF_INLINE void vb_store(int16_t *p, vb a) { _mm512_storeu_si512(p, a); }

SF_INLINE vb vb_load_nibbles(const uint8_t *p) {
  const __m256i bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p));
  const __m512i low_high = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_set1_epi16(0)), _mm256_set1_epi16(4), 1);
  return _mm512_and_si512(_mm512_srlv_epi16(_mm512_cvtepu8_epi16(bytes), low_high), _mm512_set1_epi16(15));
}

SF_INLINE vb vb_load_levels(const uint8_t *p, const int8_t *levels) {
  const __m128i eight_bits = _mm_loadu_si128((const __m128i *)(const void *)levels);
  const __m512i table = _mm512_cvtepi8_epi16(_mm256_broadcastsi128_si256(eight_bits));
  return _mm512_permutexvar_epi16(vb_load_nibbles(p), table);
}

SF_INLINE vb vb_high_bits(uint32_t bits) { return _mm512_maskz_set1_epi16(bits, 16); }

SF_INLINE vb vb_and(vb a, int mask) { return _mm512_and_si512(a, _mm512_set1_epi16((int16_t)mask)); }

SF_INLINE vb vb_or(vb a, vb b) { return _mm512_or_si512(a, b); }

SF_INLINE vb vb_shr(vb a, int n) { return _mm512_srl_epi16(a, _mm_cvtsi32_si128(n)); }

SF_INLINE vb vb_add(vb a, int n) { return _mm512_add_epi16(a, _mm512_set1_epi16((int16_t)n)); }

SF_INLINE vb vb_scale(vb a, int first, int last) {
  const __m256i low = _mm256_set1_epi16((int16_t)first), high = _mm256_set1_epi16((int16_t)last);
  return _mm512_mullo_epi16(a, _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
}

SF_INLINE void vb_floats(vb a, vf *r) {
  r[0] = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_castsi512_si256(a)));
  r[1] = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(a, 1)));
}

SF_INLINE void vb_load_floats(const int8_t *p, vf *r) {
  for (int k = 0; k < 2; ++k) {
    r[k] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p + 16 * k))));
  }
}

SF_INLINE vi v_set1_int(int32_t x) { return _mm512_set1_epi32(x); }

SF_INLINE vi v_dot_bytes(const uint8_t *p, vi pair, vi sum) {
  const vi quants = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)p));
  return _mm512_add_epi32(sum, _mm512_madd_epi16(quants, pair));
}

SF_INLINE vi v_dot_nibbles(const uint8_t *p, vi lower, vi upper, vi sum) {
  const vi both = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)p));
  sum = _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_and_si512(both, _mm512_set1_epi16(15)), lower));
  return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_srli_epi16(both, 4), upper));
}

/* 256 numbers of an input, 256 · high + low, in the order of the fields of 64 bytes that hold 256 quants, and what
 * v_dot_fields takes from a product for the zero point. Two bits each are four fields: byte k of field f is column
 * 32 f + k, for k ≥ 32 column 128 + 32 f + k - 32. Digits to the base of 3 are five (see trits.h): byte k of field f is
 * digit f of byte k, and bytes that are no column have inputs of 0. */
#define SF_DOT_FIELDS 1
typedef struct {
  __m512i high[5], low[5], zero;
} v_fields;

/* 256 Σ high + Σ low, in four or five places each of 16 bits. */
SF_INLINE vi avx512_sum_fields(int fields, const __m512i *high, const __m512i *low) {
  __m512i h = _mm512_add_epi16(_mm512_add_epi16(high[0], high[1]), _mm512_add_epi16(high[2], high[3]));
  __m512i l = _mm512_add_epi16(_mm512_add_epi16(low[0], low[1]), _mm512_add_epi16(low[2], low[3]));
  if (fields > 4) {
    h = _mm512_add_epi16(h, high[4]);
    l = _mm512_add_epi16(l, low[4]);
  }
  return _mm512_add_epi32(_mm512_madd_epi16(h, _mm512_set1_epi16(256)), _mm512_madd_epi16(l, _mm512_set1_epi16(1)));
}

/* The columns of the upper half of field f. */
SF_INLINE __m512i avx512_upper_field(int fields, const int16_t *x, int f) {
  if (fields == 4) return _mm512_loadu_si512(x + 128 + 32 * f);
  const __m256i some = _mm256_loadu_si256((const __m256i *)(const void *)(x + 160 + 16 * f));
  const __m128i last = f < 4 ? _mm_loadl_epi64((const __m128i *)(const void *)(x + 240 + 4 * f)) : _mm_setzero_si128();
  return _mm512_inserti32x4(_mm512_inserti64x4(_mm512_setzero_si512(), some, 0), last, 2);
}

/* |x| ≤ 32639, so that the upper byte of x + 128 is no more than 127. */
SF_INLINE void v_load_fields(int fields, const int16_t *x, int zero_point, v_fields *r) {
  const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), lower = _mm512_set1_epi16(255);
  const __m512i half = _mm512_set1_epi16(128), zeros = _mm512_set1_epi8((char)zero_point);
  __m512i high[5], low[5];
  for (int f = 0; f < fields; ++f) {
    const __m512i a = _mm512_loadu_si512(x + 32 * f), b = avx512_upper_field(fields, x, f);
    const __m512i above = _mm512_packs_epi16(_mm512_srai_epi16(_mm512_add_epi16(a, half), 8),
                                             _mm512_srai_epi16(_mm512_add_epi16(b, half), 8));
    const __m512i below = _mm512_packus_epi16(_mm512_and_si512(a, lower), _mm512_and_si512(b, lower));
    r->high[f] = _mm512_permutexvar_epi64(order, above);
    r->low[f] = _mm512_permutexvar_epi64(order, below);
    high[f] = _mm512_maddubs_epi16(zeros, r->high[f]);
    low[f] = _mm512_maddubs_epi16(zeros, r->low[f]);
  }
  r->zero = avx512_sum_fields(fields, high, low);
}

/* The fields of the bytes at p. A digit is ⌊3 x / 256⌋, and averages round up, so they are taken of 255 - x. */
SF_INLINE void avx512_load_fields(int fields, const uint8_t *p, __m512i *r) {
  const __m512i lowest = _mm512_set1_epi8(3), all = _mm512_set1_epi8(-1);
  if (fields == 4) {
    const __m512i bytes = _mm512_loadu_si512(p);
    r[0] = _mm512_and_si512(bytes, lowest);
    r[1] = _mm512_and_si512(_mm512_srli_epi16(bytes, 2), lowest);
    r[2] = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), lowest);
    r[3] = _mm512_and_si512(_mm512_srli_epi16(bytes, 6), lowest);
    return;
  }
  __m512i bytes = _mm512_maskz_loadu_epi8(((__mmask64)1 << SF_TRIT_BYTES) - 1, p);
  for (int f = 0; f < fields; ++f) {
    const __m512i rest = _mm512_xor_si512(bytes, all);
    const __m512i part = _mm512_avg_epu8(rest, _mm512_avg_epu8(rest, all));
    r[f] = _mm512_andnot_si512(_mm512_srli_epi16(part, 6), lowest);
    bytes = _mm512_add_epi8(bytes, _mm512_add_epi8(bytes, bytes));
  }
}

/* Σ (q - zero point) · x over the lanes, exactly, where the bytes at p hold the quants. */
SF_INLINE vi v_dot_fields(int fields, const uint8_t *p, const v_fields *x) {
  __m512i quants[5], high[5], low[5];
  avx512_load_fields(fields, p, quants);
  for (int f = 0; f < fields; ++f) {
    high[f] = _mm512_maddubs_epi16(quants[f], x->high[f]);
    low[f] = _mm512_maddubs_epi16(quants[f], x->low[f]);
  }
  return _mm512_sub_epi32(avx512_sum_fields(fields, high, low), x->zero);
}

/* ---- What only a vocabulary with SF_PROMPT_LANES has ---- */

#if SF_AVX512_VNNI
SF_INLINE vi v_dot_pairs(vi a, vi b, vi sum) { return _mm512_dpwssd_epi32(sum, a, b); }

/* The lanes of rows become rows of lanes: blocks of 8, 4, 2 and 1 of them change places across the diagonal. */
SF_INLINE void vb_lanes(const vb *rows, int step, vi *to) {
  const vi lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  vi r[16];
  SF_UNROLLED for (int i = 0; i < 16; ++i) r[i] = rows[i];
  SF_UNROLLED for (int d = 8; d > 0; d /= 2) {
    const __mmask16 second = _mm512_test_epi32_mask(lane, _mm512_set1_epi32(d));
    const vi low = _mm512_mask_add_epi32(lane, second, lane, _mm512_set1_epi32(16 - d));
    const vi high = _mm512_add_epi32(low, _mm512_set1_epi32(d));
    SF_UNROLLED for (int i = 0; i < 16; ++i) {
      if (i & d) continue;
      const vi first = _mm512_permutex2var_epi32(r[i], low, r[i + d]);
      r[i + d] = _mm512_permutex2var_epi32(r[i], high, r[i + d]);
      r[i] = first;
    }
  }
  SF_UNROLLED for (int u = 0; u < 16; ++u) to[u * step] = r[u];
}
#endif

/* ---- What only a vocabulary with SF_DOT_BYTES has: see scalar_bytes.h ---- */

#if SF_AVX512_VNNI
#define SF_DOT_BYTES 3
#else
#define SF_DOT_BYTES 1 /* whose sums of 16 bits hold 8 products of 31 or 4 of 63 with -128 */
#endif
enum { SF_BYTE_ZERO = 128 }; /* v_dot_split takes quants 0 … 255 */
typedef __m512i vq;

SF_INLINE vq vq_set1(int x) { return _mm512_set1_epi8((char)x); }

/* 64 bytes of blocks of 20, of which n may be read. */
SF_INLINE __m512i avx512_load_blocks(const uint8_t *p, int n) {
  return _mm512_maskz_loadu_epi32(n < 4 ? avx512_first(5 * n) : avx512_first(16), p);
}

/* The last 16 bytes each of four blocks of 20, or of n; 0 above. */
SF_INLINE __m512i avx512_load_runs(const uint8_t *p, int n) {
  const __m512i places = _mm512_setr_epi32(1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14, 28, 29, 30, 31);
  const __m512i blocks = avx512_load_blocks(p, n);
  if (n < 4) return _mm512_maskz_permutexvar_epi32(0xfff, places, blocks);
  return _mm512_permutex2var_epi32(blocks, places, _mm512_loadu_si512(p + 16));
}

/* As two lanes, the two halves each of n <= 8 blocks of 20 bytes; 0 above. */
#define SF_HALF_PAIRS 1
SF_INLINE vf v_load_half_pairs(const uint8_t *p, int32_t n) {
  const __m512i places = _mm512_setr_epi32(0, 5, 10, 15, 16, 21, 26, 31, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m512i blocks = avx512_load_blocks(p, n);
  const __m512i pairs = n > 4 ? _mm512_permutex2var_epi32(blocks, places, avx512_load_blocks(p + 80, n - 4))
                              : _mm512_maskz_permutexvar_epi32(0xf, places, blocks);
  return _mm512_cvtph_ps(_mm512_castsi512_si256(pairs));
}

SF_INLINE vq vq_load(const uint8_t *p, size_t step, int n) {
  const __mmask64 first = n < 4 ? avx512_bytes((size_t)(n - 1) * step + 16) : ~(__mmask64)0;
  if (step == 16) return _mm512_maskz_loadu_epi8(first, p);
  if (step == 20) return avx512_load_runs(p - 4, n);
  if (step == 32 && n >= 4) return _mm512_shuffle_i32x4(_mm512_loadu_si512(p), _mm512_loadu_si512(p + 48), 0xd8);
  if (step != 18) {
    __m512i all = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)p));
    for (int k = 1; k < 4 && k < n; ++k) {
      const __m128i next = _mm_loadu_si128((const __m128i *)(const void *)(p + (size_t)k * step));
      all = _mm512_mask_broadcast_i32x4(all, (__mmask16)(0xf << 4 * k), next);
    }
    return all;
  }
  /* Three runs of 16 and a part of the fourth are in 64 bytes. */
  const int w = (int)step / 2, pair = w * 65537 + 65536; /* indices of words */
  const __m512i places =
      _mm512_setr_epi32(65536, 65536 + 2 * 65537, 65536 + 4 * 65537, 65536 + 6 * 65537, pair, pair + 2 * 65537,
                        pair + 4 * 65537, pair + 6 * 65537, pair + w * 65537, pair + (w + 2) * 65537,
                        pair + (w + 4) * 65537, pair + (w + 6) * 65537, 0, 0, 0, 0);
  const __m512i three = _mm512_permutexvar_epi16(places, _mm512_maskz_loadu_epi8(first, p));
  if (n < 4) return three;
  return _mm512_mask_broadcast_i32x4(three, 0xf000, _mm_loadu_si128((const __m128i *)(const void *)(p + 3 * step)));
}

SF_INLINE vq vq_load_twos(const uint8_t *p, size_t step) {
  const __m512i first = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)p));
  if (!step) return first;
  return _mm512_mask_broadcast_i32x4(first, 0xff00, _mm_loadu_si128((const __m128i *)(const void *)(p + step)));
}

SF_INLINE vq vq_low(vq a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }

SF_INLINE vq vq_high(vq a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15)); }

SF_INLINE vq vq_put(vq a, vq bytes, const int *left, int mask) {
  int by[16];
  for (int k = 0; k < 16; ++k) by[k] = left[k / 4]; /* of which five bits count, so that -1 is 31 */
  const __m512i moved = _mm512_rolv_epi32(bytes, _mm512_loadu_si512(by));
  return _mm512_or_si512(a, _mm512_and_si512(moved, _mm512_set1_epi8((char)mask)));
}

SF_INLINE vq vq_signed(vq a) { return _mm512_xor_si512(a, _mm512_set1_epi8(-128)); }

SF_INLINE vq vq_levels(vq a, const int8_t *levels) {
  const __m128i table = _mm_loadu_si128((const __m128i *)(const void *)levels);
  return _mm512_shuffle_epi8(vq_signed(_mm512_broadcast_i32x4(table)), a);
}

SF_INLINE __m512i avx512_sixteens(const int16_t *first, const int16_t *last) {
  const __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)first);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), _mm256_loadu_si256((const __m256i *)(const void *)last), 1);
}

SF_INLINE void vq_split(const int16_t *const *x, vq *high, vq *low) {
  const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), lower = _mm512_set1_epi16(255);
  const __m512i half = _mm512_set1_epi16(128);
  const __m512i a = avx512_sixteens(x[0], x[1]), b = avx512_sixteens(x[2], x[3]);
  const __m512i above = _mm512_packs_epi16(_mm512_srai_epi16(_mm512_add_epi16(a, half), 8),
                                           _mm512_srai_epi16(_mm512_add_epi16(b, half), 8));
  const __m512i below = _mm512_packus_epi16(_mm512_and_si512(a, lower), _mm512_and_si512(b, lower));
  *high = _mm512_permutexvar_epi64(order, above);
  *low = _mm512_permutexvar_epi64(order, below);
}

SF_INLINE vi v_sub_int(vi a, vi b) { return _mm512_sub_epi32(a, b); }

SF_INLINE vi v_dot_bytes4(vq a, vq b, vi sum) {
#if SF_AVX512_VNNI
  return _mm512_dpbusd_epi32(sum, a, b);
#else
  return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(a, b), _mm512_set1_epi16(1)));
#endif
}

SF_INLINE void vq_pair(vq *a, vq *b) {
  const vq first = _mm512_unpacklo_epi64(*a, *b);
  *b = _mm512_unpackhi_epi64(*a, *b);
  *a = first;
}

SF_INLINE vi v_dot_split(int vectors, const vq *quants, const vq *high, const vq *low, vi sum) {
#if SF_AVX512_VNNI
  vi above = _mm512_setzero_si512();
  for (int u = 0; u < vectors; ++u) {
    above = v_dot_bytes4(quants[u], high[u], above);
    sum = v_dot_bytes4(quants[u], low[u], sum);
  }
  return _mm512_add_epi32(_mm512_slli_epi32(above, 8), sum);
#else
  vi above = _mm512_maddubs_epi16(quants[0], high[0]), below = _mm512_maddubs_epi16(quants[0], low[0]);
  for (int u = 1; u < vectors; ++u) {
    above = _mm512_add_epi16(above, _mm512_maddubs_epi16(quants[u], high[u]));
    below = _mm512_add_epi16(below, _mm512_maddubs_epi16(quants[u], low[u]));
  }
  sum = _mm512_add_epi32(sum, _mm512_madd_epi16(above, _mm512_set1_epi16(256)));
  return _mm512_add_epi32(sum, _mm512_madd_epi16(below, _mm512_set1_epi16(1)));
#endif
}

SF_INLINE void v_load_i8(const int8_t *p, vf *r) {
  r[0] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}

SF_INLINE vf v_spread(const vf *scales, const int *from) {
  int32_t at[16];
  for (int k = 0; k < 16; ++k) at[k] = from[k / 2];
  return _mm512_permutexvar_ps(_mm512_loadu_si512(at), scales[0]);
}

SF_INLINE vf vb_dot(vb a, vb b) { return _mm512_cvtepi32_ps(_mm512_madd_epi16(a, b)); }

SF_INLINE void v_store_i16(int16_t *p, vf a) {
  _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(a)));
}

/* ---- Columns: see columns_tmpl.h ---- */

#define SF_COLUMN_BYTES 64
typedef __m512i vh;

SF_INLINE vh vh_set1(int x) { return _mm512_set1_epi16((int16_t)x); }

SF_INLINE void vh_add_columns(const uint8_t *a, const uint8_t *b, const int8_t *values, vh *sum) {
  int16_t both;
  memcpy(&both, values, sizeof both);
  const vh x = _mm512_set1_epi16(both), nibble = _mm512_set1_epi8(15);
  const vh p = _mm512_loadu_si512(a), q = _mm512_loadu_si512(b);
  const vh first = _mm512_unpacklo_epi8(p, q), second = _mm512_unpackhi_epi8(p, q);
  sum[0] = _mm512_add_epi16(sum[0], _mm512_maddubs_epi16(_mm512_and_si512(first, nibble), x));
  sum[1] = _mm512_add_epi16(sum[1], _mm512_maddubs_epi16(_mm512_and_si512(second, nibble), x));
  sum[2] = _mm512_add_epi16(sum[2], _mm512_maddubs_epi16(_mm512_and_si512(_mm512_srli_epi16(first, 4), nibble), x));
  sum[3] = _mm512_add_epi16(sum[3], _mm512_maddubs_epi16(_mm512_and_si512(_mm512_srli_epi16(second, 4), nibble), x));
}

SF_INLINE void vh_floats(vh a, vf *r) {
  r[0] = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_castsi512_si256(a)));
  r[1] = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(a, 1)));
}

SF_INLINE void v_prefetch(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T1); }

#endif
