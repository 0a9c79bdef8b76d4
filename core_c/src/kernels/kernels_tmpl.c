/* The kernels of one instruction set: compiled once for each, with -DSF_ISA_<NAME> and the flags that allow it. The
 * vocabulary of simd/ and the algorithms of kernels/ meet here, and nowhere else. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels/inline.h"
#include "kernels/kernels.h"
#include "sparsefire.h"

/* Before a loop whose counter has to be a constant in each of its few rounds; not in the tests' plain C, of which GCC
 * 12 makes wrong code with -O1 then, and which an older clang warns that it does not unroll. */
#if defined(SF_ISA_SCALAR_BYTES) || defined(SF_ISA_SCALAR_BYTE_ROWS)
#define SF_UNROLLED
#elif defined(__clang__)
#define SF_UNROLLED _Pragma("unroll")
#elif defined(__GNUC__)
#define SF_UNROLLED _Pragma("GCC unroll 16")
#else
#define SF_UNROLLED
#endif

#if defined(SF_ISA_SCALAR)
#include "simd/scalar.h"
#elif defined(SF_ISA_SCALAR_BYTES)
#define SF_BYTE_ROWS 1
#include "simd/scalar_bytes.h"
#elif defined(SF_ISA_SCALAR_BYTE_ROWS)
#define SF_BYTE_ROWS 2
#include "simd/scalar_bytes.h"
#elif defined(SF_ISA_SSE41)
#include "simd/sse41.h"
#elif defined(SF_ISA_AVX2)
#include "simd/avx2.h"
#elif defined(SF_ISA_AVX2_VNNI)
#include "simd/avx2_vnni.h"
#elif defined(SF_ISA_AVX512)
#include "simd/avx512.h"
#elif defined(SF_ISA_AVX512_VNNI)
#include "simd/avx512_vnni.h"
#elif defined(SF_ISA_NEON)
#include "simd/neon.h"
#elif defined(SF_ISA_NEON_DOT)
#include "simd/neon_dot.h"
#elif defined(SF_ISA_NEON_I8MM)
#include "simd/neon_i8mm.h"
#elif defined(SF_ISA_WASM128)
#include "simd/wasm128.h"
#elif defined(SF_ISA_RELAXED128)
#include "simd/wasm128_relaxed.h"
#else
#error \
    "kernels_tmpl.c is compiled with one of -DSF_ISA_SCALAR, _SSE41, _AVX2, _AVX2_VNNI, _AVX512, _AVX512_VNNI, _NEON, " \
       "_NEON_DOT, _NEON_I8MM, _WASM128, _RELAXED128"
#endif

#include "kernels/activations_tmpl.h"
#include "kernels/axpy_tmpl.h"
#include "kernels/dot_panels_tmpl.h"
#include "kernels/dot_tmpl.h"
#include "kernels/elementwise_tmpl.h"
#include "kernels/layer_norm_tmpl.h"
#include "kernels/matrices_tmpl.h"
#include "kernels/peaks_tmpl.h"
#include "kernels/recurrence_tmpl.h"

#if !defined(__wasm__) /* whose modules stay small without */
#include "kernels/columns_tmpl.h"
#endif

/* The kernels of each format, and their places in the table. */
#define SF_FORMAT(NAME, name)                                                                                   \
  static void dot_rows_##name(const sf_rows *rows, int32_t n_rows, const sf_inputs *inputs, int32_t n_inputs,   \
                              float *out, size_t out_stride) {                                                  \
    dot_rows(SF_FORMAT_##NAME, rows, n_rows, inputs, n_inputs, out, out_stride);                                \
  }                                                                                                             \
  static void axpy_rows_##name(const sf_rows *rows, int32_t n_rows, const float *alpha, int32_t c0, int32_t c1, \
                               float *y) {                                                                      \
    axpy_rows(SF_FORMAT_##NAME, rows, n_rows, alpha, c0, c1, y);                                                \
  }
#include "formats/lists.h"
#undef SF_FORMAT

/* Formats of predictors. */
#define SF_FORMAT_WITH_PANELS(NAME, name)                                                                     \
  static void dot_panels_##name(const uint8_t *data, int32_t panels, int32_t columns, const sf_inputs *input, \
                                float *out) {                                                                 \
    dot_panels(SF_FORMAT_##NAME, data, panels, columns, input, out);                                          \
  }
#include "formats/lists.h"
#undef SF_FORMAT_WITH_PANELS

const sf_kernels SF_ISA_TABLE = {
    .name = SF_ISA_NAME,
    .products = {left_floats, right_floats, lay_left, lay_right, multiply_matrices},
    .dot_rows =
        {
#define SF_FORMAT(NAME, name) [SF_FORMAT_##NAME] = dot_rows_##name,
#include "formats/lists.h"
#undef SF_FORMAT
        },
    .axpy_rows =
        {
#define SF_FORMAT(NAME, name) [SF_FORMAT_##NAME] = axpy_rows_##name,
#include "formats/lists.h"
#undef SF_FORMAT
        },
    .axpy_shared_f16 = SF_LANES > 4 ? axpy_shared_f16 : NULL,
    .dot_panels =
        {
#define SF_FORMAT_WITH_PANELS(NAME, name) [SF_FORMAT_##NAME] = dot_panels_##name,
#include "formats/lists.h"
#undef SF_FORMAT_WITH_PANELS
        },
#if !defined(__wasm__)
    .dot_columns = dot_columns,
#endif
    .prompt_floats = SF_PROMPT_FLOATS,
    .prompt_lanes = SF_PROMPT_LANES,
    .lanes_of = lanes_of,
    .unpack = unpack_floats,
    .input_most = input_most,
    .input_shared = input_shared,
    .quantize_i16 = quantize_i16,
#if SF_SPLITS
    .split_form = split_form,
    .split = split,
#endif
    .activate = activate,
    .multiply = multiply,
    .add = add,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .softmax = softmax,
    .weigh = weigh,
    .halves = halves,
    .scale = scale,
    .softcap = softcap,
    .rope = rope,
    .recur = recur,
    .prefetch = prefetch,
    .all_finite = all_finite,
    .count_above = count_above,
    .peak_operations = peak_operations,
    .peak = peak_of,
    .read_floats = read_floats,
};
