/* Vector vocabulary: WebAssembly relaxed SIMD, which is SIMD128 with instructions whose results may differ between
 * machines: here a fused multiply-add, fused where the machine can. Meanings: scalar.h. */
#ifndef SF_SIMD_RELAXED_H
#define SF_SIMD_RELAXED_H

#define v_fma wasm128_v_fma
#include "wasm128.h"
#undef v_fma
#undef SF_ISA_NAME
#undef SF_ISA_TABLE

#define SF_ISA_NAME "relaxed128"
#define SF_ISA_TABLE sf_kernels_relaxed128

SF_INLINE vf v_fma(vf a, vf b, vf c) { return wasm_f32x4_relaxed_madd(a, b, c); }

#endif
