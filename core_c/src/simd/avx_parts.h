/* Parts of the vocabularies of AVX2 and AVX-512. */
#ifndef SF_SIMD_AVX_PARTS_H
#define SF_SIMD_AVX_PARTS_H

#include <immintrin.h>

/* The sums of the lanes of four vectors, in the order of additions of v_sum. */
SF_INLINE void sum_lanes_of_four(const __m256 *a, float *out) {
  const __m256 first =
      _mm256_add_ps(_mm256_permute2f128_ps(a[0], a[1], 0x20), _mm256_permute2f128_ps(a[0], a[1], 0x31));
  const __m256 last = _mm256_add_ps(_mm256_permute2f128_ps(a[2], a[3], 0x20), _mm256_permute2f128_ps(a[2], a[3], 0x31));
  const __m256 pairs =
      _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(first), _mm256_castps_pd(last))),
                    _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(first), _mm256_castps_pd(last))));
  const __m256 sums = _mm256_add_ps(_mm256_moveldup_ps(pairs), _mm256_movehdup_ps(pairs));
  const __m256i even = _mm256_setr_epi32(0, 4, 2, 6, 0, 4, 2, 6);
  _mm_storeu_ps(out, _mm256_castps256_ps128(_mm256_permutevar8x32_ps(sums, even)));
}

/* Of a block of Q4_K or Q5_K at p, d times the eight scales and m times the mins. */
SF_INLINE void load_k_scales(const uint8_t *p, __m256 *scale, __m256 *min) {
  const __m128i block = _mm_loadu_si128((const __m128i *)(const void *)p); /* d and m, then three words */
  const __m128i words = _mm_shuffle_epi32(block, _MM_SHUFFLE(3, 2, 3, 1));
  const __m128i low = _mm_and_si128(_mm_srlv_epi32(words, _mm_setr_epi32(0, 0, 0, 4)),
                                    _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f));
  const __m128i tops = _mm_srli_epi32(_mm_shuffle_epi32(block, _MM_SHUFFLE(2, 2, 1, 1)), 2);
  const __m128i bytes = _mm_or_si128(low, _mm_and_si128(tops, _mm_setr_epi32(0, 0x30303030, 0, 0x30303030)));
  const __m128 d_m = _mm_cvtph_ps(block);
  const __m256i mins = _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(bytes, bytes));
  *scale = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)), _mm256_broadcastss_ps(d_m));
  *min = _mm256_mul_ps(_mm256_cvtepi32_ps(mins), _mm256_broadcastss_ps(_mm_movehdup_ps(d_m)));
}

#endif
