/* Vector vocabulary: AVX-512 with VNNI, whose products of bytes are summed by fours as they are made. Meanings:
 * scalar.h. */
#ifndef SF_SIMD_AVX512_VNNI_H
#define SF_SIMD_AVX512_VNNI_H

#define SF_ISA_NAME "avx512_vnni"
#define SF_ISA_TABLE sf_kernels_avx512_vnni
#define SF_AVX512_VNNI 1
#include "simd/avx512.h"

#endif
