/* Vector vocabulary: AVX2 with AVX-VNNI, whose products of bytes are summed by fours as they are made. Meanings:
 * scalar.h, scalar_bytes.h. */
#ifndef SF_SIMD_AVX2_VNNI_H
#define SF_SIMD_AVX2_VNNI_H

#define SF_ISA_NAME "avx2_vnni"
#define SF_ISA_TABLE sf_kernels_avx2_vnni
#include "simd/avx2.h"

#define SF_DOT_BYTES 3
#define SF_PROMPT_LANES 1
enum { SF_BYTE_ZERO = 128 }; /* v_dot_split takes quants 0 … 255 */
typedef __m256i vq;

SF_INLINE vq vq_set1(int x) { return _mm256_set1_epi8((char)x); }

SF_INLINE vq vq_load(const uint8_t *p, size_t step, int n) {
  const __m128i first = _mm_loadu_si128((const __m128i *)(const void *)p);
  const __m128i last = n > 1 ? _mm_loadu_si128((const __m128i *)(const void *)(p + step)) : first;
  return _mm256_inserti128_si256(_mm256_castsi128_si256(first), last, 1);
}

SF_INLINE vq vq_load_twos(const uint8_t *p, size_t step) {
  (void)step;
  return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p));
}

SF_INLINE vq vq_low(vq a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }

SF_INLINE vq vq_high(vq a) { return _mm256_and_si256(_mm256_srli_epi16(a, 4), _mm256_set1_epi8(15)); }

SF_INLINE vq vq_put(vq a, vq bytes, const int *left, int mask) {
  const int back = left[0] < 0 || left[1] < 0, first = back ? -left[0] : left[0], last = back ? -left[1] : left[1];
  const __m256i by = _mm256_setr_epi32(first, first, first, first, last, last, last, last);
  const __m256i moved = back ? _mm256_srlv_epi32(bytes, by) : _mm256_sllv_epi32(bytes, by);
  return _mm256_or_si256(a, _mm256_and_si256(moved, _mm256_set1_epi8((char)mask)));
}

SF_INLINE vq vq_signed(vq a) { return _mm256_xor_si256(a, _mm256_set1_epi8(-128)); }

SF_INLINE vq vq_levels(vq a, const int8_t *levels) {
  const __m128i table = _mm_loadu_si128((const __m128i *)(const void *)levels);
  return _mm256_shuffle_epi8(vq_signed(_mm256_broadcastsi128_si256(table)), a);
}

SF_INLINE void vq_split(const int16_t *const *x, vq *high, vq *low) {
  const __m256i half = _mm256_set1_epi16(128), lower = _mm256_set1_epi16(255);
  const __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)x[0]);
  const __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)x[1]);
  const __m256i above = _mm256_packs_epi16(_mm256_srai_epi16(_mm256_add_epi16(a, half), 8),
                                           _mm256_srai_epi16(_mm256_add_epi16(b, half), 8));
  const __m256i below = _mm256_packus_epi16(_mm256_and_si256(a, lower), _mm256_and_si256(b, lower));
  *high = _mm256_permute4x64_epi64(above, _MM_SHUFFLE(3, 1, 2, 0));
  *low = _mm256_permute4x64_epi64(below, _MM_SHUFFLE(3, 1, 2, 0));
}

SF_INLINE vi v_sub_int(vi a, vi b) { return _mm256_sub_epi32(a, b); }

SF_INLINE vi v_dot_bytes4(vq a, vq b, vi sum) { return _mm256_dpbusd_avx_epi32(sum, a, b); }

SF_INLINE void vq_pair(vq *a, vq *b) {
  const vq first = _mm256_unpacklo_epi64(*a, *b);
  *b = _mm256_unpackhi_epi64(*a, *b);
  *a = first;
}

SF_INLINE vi v_dot_split(int vectors, const vq *quants, const vq *high, const vq *low, vi sum) {
  vi above = _mm256_setzero_si256();
  for (int u = 0; u < vectors; ++u) {
    above = v_dot_bytes4(quants[u], high[u], above);
    sum = v_dot_bytes4(quants[u], low[u], sum);
  }
  return _mm256_add_epi32(_mm256_slli_epi32(above, 8), sum);
}

SF_INLINE vi v_dot_pairs(vi a, vi b, vi sum) { return _mm256_dpwssd_avx_epi32(sum, a, b); }

SF_INLINE void vb_lanes(const vb *rows, int step, vi *to) {
  for (int k = 0; k < 2; ++k, to += 8 * step) {
    vi twos[8], fours[8]; /* of rows, side by side: pairs 0 and 1 of both halves or 2 and 3; pair 0, 1, 2 or 3 */
    for (int i = 0; i < 8; i += 2) {
      twos[i] = _mm256_unpacklo_epi32(rows[i].r[k], rows[i + 1].r[k]);
      twos[i + 1] = _mm256_unpackhi_epi32(rows[i].r[k], rows[i + 1].r[k]);
    }
    for (int i = 0; i < 8; i += 4) {
      for (int u = 0; u < 2; ++u) {
        fours[i + 2 * u] = _mm256_unpacklo_epi64(twos[i + u], twos[i + u + 2]);
        fours[i + 2 * u + 1] = _mm256_unpackhi_epi64(twos[i + u], twos[i + u + 2]);
      }
    }
    for (int u = 0; u < 4; ++u) {
      to[u * step] = _mm256_permute2x128_si256(fours[u], fours[u + 4], 0x20);
      to[(u + 4) * step] = _mm256_permute2x128_si256(fours[u], fours[u + 4], 0x31);
    }
  }
}

SF_INLINE void v_load_i8(const int8_t *p, vf *r) {
  const __m128i all = _mm_loadu_si128((const __m128i *)(const void *)p);
  r[0] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(all));
  r[1] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(all, all)));
}

SF_INLINE vf v_spread(const vf *scales, const int *from) { /* of whose indices three bits count */
  const __m256i at = _mm256_setr_epi32(from[0], from[0], from[1], from[1], from[2], from[2], from[3], from[3]);
  return _mm256_permutevar8x32_ps(scales[from[0] / 8], at);
}

#endif
