/* Instruction sets: which ones this build has, best first, and which of them this machine can run. */
#include "kernels/isa.h"

#include "sparsefire.h"

#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64) || defined(_M_IX86)
#define SF_X86
#endif

#ifdef SF_X86
#ifdef _MSC_VER
#include <intrin.h>
#else
#include <cpuid.h>
#endif

/* Bits of CPUID leaves 1 and 7 and of the extended control register, by Intel's manual, volume 2A and 1. */
enum {
  LEAF1_ECX_FMA = 1 << 12,
  LEAF1_ECX_SSE41 = 1 << 19,
  LEAF1_ECX_OSXSAVE = 1 << 27,
  LEAF1_ECX_AVX = 1 << 28,
  LEAF1_ECX_F16C = 1 << 29,
  LEAF7_EBX_AVX2 = 1 << 5,
  LEAF7_EBX_AVX512F = 1 << 16,
  LEAF7_EBX_AVX512DQ = 1 << 17,
  LEAF7_EBX_AVX512BW = 1 << 30,
  XCR0_AVX = 0x06,   /* the system saves xmm and ymm */
  XCR0_AVX512 = 0xe6 /* and the mask and zmm registers */
};
#define LEAF7_EBX_AVX512VL (1u << 31)

typedef struct {
  uint32_t eax, ebx, ecx, edx;
} cpuid_leaf;

/* All zeros when the processor has no such leaf. */
static cpuid_leaf cpuid(uint32_t leaf) {
  cpuid_leaf r = {0, 0, 0, 0};
#ifdef _MSC_VER
  int v[4];
  __cpuid(v, 0);
  if ((uint32_t)v[0] >= leaf) {
    __cpuidex(v, (int)leaf, 0);
    r.eax = (uint32_t)v[0], r.ebx = (uint32_t)v[1], r.ecx = (uint32_t)v[2], r.edx = (uint32_t)v[3];
  }
#else
  if ((uint32_t)__get_cpuid_max(0, 0) >= leaf) __cpuid_count(leaf, 0, r.eax, r.ebx, r.ecx, r.edx);
#endif
  return r;
}

/* Which registers the operating system saves. Only asked when OSXSAVE says that it may be. */
static uint32_t saved_registers(void) {
#ifdef _MSC_VER
  return (uint32_t)_xgetbv(0);
#else
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
#endif
}

static int has(uint32_t value, uint32_t bits) { return (value & bits) == bits; }

static int supports_sse41(void) { return has(cpuid(1).ecx, LEAF1_ECX_SSE41); }

static int supports_avx2(void) {
  return has(cpuid(1).ecx, LEAF1_ECX_OSXSAVE | LEAF1_ECX_AVX | LEAF1_ECX_FMA | LEAF1_ECX_F16C) &&
         has(saved_registers(), XCR0_AVX) && has(cpuid(7).ebx, LEAF7_EBX_AVX2);
}

static int supports_avx512(void) {
  return supports_avx2() && has(saved_registers(), XCR0_AVX512) &&
         has(cpuid(7).ebx, LEAF7_EBX_AVX512F | LEAF7_EBX_AVX512BW | LEAF7_EBX_AVX512DQ | LEAF7_EBX_AVX512VL);
}
#endif

static int supports_always(void) { return 1; }

/* What a build has depends on the architecture it is compiled for alone, so that every build of one has the same. */
static const struct {
  const sf_kernels *kernels;
  int (*supported)(void);
} isas[] = {
#if defined(SF_WASM_RELAXED) /* a module of its own, which an engine without these instructions refuses */
    {&sf_kernels_relaxed128, supports_always},
#elif defined(__wasm_simd128__)
    {&sf_kernels_wasm128, supports_always},
#else
#if defined(SF_X86)
    {&sf_kernels_avx512, supports_avx512},
    {&sf_kernels_avx2, supports_avx2},
    {&sf_kernels_sse41, supports_sse41},
#elif defined(__aarch64__) || defined(_M_ARM64)
    {&sf_kernels_neon, supports_always},
#endif
    {&sf_kernels_scalar, supports_always},
#endif
};

enum { ISAS = sizeof isas / sizeof isas[0] };

const sf_kernels *sf_isa_kernels(int32_t isa) { return isa >= 0 && isa < ISAS ? isas[isa].kernels : NULL; }

int32_t sf_isa_best(void) {
  int32_t isa = 0;
  while (!isas[isa].supported()) isa++; /* the last one always is */
  return isa;
}

int32_t sf_isa_count(void) { return ISAS; }

const char *sf_isa_name(int32_t isa) { return isa >= 0 && isa < ISAS ? isas[isa].kernels->name : NULL; }

int32_t sf_isa_supported(int32_t isa) { return isa >= 0 && isa < ISAS && isas[isa].supported(); }
