/* The kernels of one instruction set: compiled once for each, with -DSF_ISA_<NAME> and the flags that allow it. The
 * vocabulary of simd/ and the algorithms of kernels/ meet here, and nowhere else. */
#include "kernels.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "sparsefire.h"

#if defined(_MSC_VER) && !defined(__clang__)
#define SF_INLINE static __forceinline
#else
#define SF_INLINE static inline __attribute__((always_inline))
#endif

#if defined(SF_ISA_SCALAR)
#include "simd/scalar.h"
#elif defined(SF_ISA_SSE41)
#include "simd/sse41.h"
#elif defined(SF_ISA_AVX2)
#include "simd/avx2.h"
#elif defined(SF_ISA_AVX512)
#include "simd/avx512.h"
#elif defined(SF_ISA_NEON)
#include "simd/neon.h"
#elif defined(SF_ISA_WASM128)
#include "simd/wasm128.h"
#else
#error "kernels.c is compiled with one of -DSF_ISA_SCALAR, _SSE41, _AVX2, _AVX512, _NEON, _WASM128"
#endif

#include "kernels/activations.h"
#include "kernels/axpy.h"
#include "kernels/dot.h"
#include "kernels/elementwise.h"
#include "kernels/layer_norm.h"

const sf_kernels SF_ISA_TABLE = {
    .name = SF_ISA_NAME,
    .dot_rows = {[SF_FORMAT_F32] = dot_rows_f32, [SF_FORMAT_F16] = dot_rows_f16, [SF_FORMAT_Q8_0] = dot_rows_q8_0},
    .axpy_rows = {[SF_FORMAT_F32] = axpy_rows_f32, [SF_FORMAT_F16] = axpy_rows_f16, [SF_FORMAT_Q8_0] = axpy_rows_q8_0},
    .quantize_i16 = quantize_i16,
    .activate = activate,
    .multiply = multiply,
    .add = add,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .softmax = softmax,
    .softcap = softcap,
    .rope = rope,
    .all_finite = all_finite,
};
