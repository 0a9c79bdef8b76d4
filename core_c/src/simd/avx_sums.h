/* A part of the vocabularies of AVX2 and AVX-512. */
#ifndef SF_SIMD_AVX_SUMS_H
#define SF_SIMD_AVX_SUMS_H

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

#endif
