/* Instruction sets: which ones this build has, best first, and which of them this machine can run. */
#if defined(SF_TILES)
#define _DEFAULT_SOURCE /* syscall */
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels/isa.h"
#include "sparsefire.h"

#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64) || defined(_M_IX86)
#define SF_X86
#endif

#if defined(__aarch64__) || defined(_M_ARM64)
#define SF_ARM64
#if defined(_WIN32)
#include <windows.h>
#ifndef PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
#define PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE 43
#endif
#ifndef PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE
#define PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE 66
#endif
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
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
  LEAF7_ECX_AVX512_VNNI = 1 << 11,
  LEAF7_EDX_AMX_BF16 = 1 << 22,
  LEAF7_EDX_AMX_TILE = 1 << 24,
  LEAF7_1_EAX_AVX_VNNI = 1 << 4,
  LEAF7_1_EAX_AVX512_BF16 = 1 << 5,
  XCR0_AVX = 0x06,    /* the system saves xmm and ymm */
  XCR0_AVX512 = 0xe6, /* and the mask and zmm registers */
  XCR0_AMX = 0x60000  /* the shapes of tiles, and tiles */
};
#define LEAF7_EBX_AVX512VL (1u << 31)

typedef struct {
  uint32_t eax, ebx, ecx, edx;
} cpuid_leaf;

/* All zeros when the processor has no such leaf. */
static cpuid_leaf cpuid_part(uint32_t leaf, uint32_t part) {
  cpuid_leaf r = {0, 0, 0, 0};
#ifdef _MSC_VER
  int v[4];
  __cpuid(v, 0);
  if ((uint32_t)v[0] >= leaf) {
    __cpuidex(v, (int)leaf, (int)part);
    r.eax = (uint32_t)v[0], r.ebx = (uint32_t)v[1], r.ecx = (uint32_t)v[2], r.edx = (uint32_t)v[3];
  }
#else
  if ((uint32_t)__get_cpuid_max(0, 0) >= leaf) __cpuid_count(leaf, part, r.eax, r.ebx, r.ecx, r.edx);
#endif
  return r;
}

static cpuid_leaf cpuid(uint32_t leaf) { return cpuid_part(leaf, 0); }

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

static int has_sse41(void) { return has(cpuid(1).ecx, LEAF1_ECX_SSE41); }

static int has_avx2(void) {
  return has(cpuid(1).ecx, LEAF1_ECX_OSXSAVE | LEAF1_ECX_AVX | LEAF1_ECX_FMA | LEAF1_ECX_F16C) &&
         has(saved_registers(), XCR0_AVX) && has(cpuid(7).ebx, LEAF7_EBX_AVX2);
}

static int has_avx2_vnni(void) {
  return has_avx2() && cpuid(7).eax >= 1 && has(cpuid_part(7, 1).eax, LEAF7_1_EAX_AVX_VNNI);
}

static int has_avx512(void) {
  return has_avx2() && has(saved_registers(), XCR0_AVX512) &&
         has(cpuid(7).ebx, LEAF7_EBX_AVX512F | LEAF7_EBX_AVX512BW | LEAF7_EBX_AVX512DQ | LEAF7_EBX_AVX512VL);
}

static int has_avx512_vnni(void) { return has_avx512() && has(cpuid(7).ecx, LEAF7_ECX_AVX512_VNNI); }

#if defined(SF_TILES)
/* Linux saves 8 KB of tiles for each thread of a process, and does so only for one that has asked. Asking again changes
 * nothing. */
static int may_use_tiles(void) {
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static int has_amx(void) {
  return has_avx512_vnni() && has(saved_registers(), XCR0_AMX) && cpuid(7).eax >= 1 &&
         has(cpuid(7).edx, LEAF7_EDX_AMX_BF16 | LEAF7_EDX_AMX_TILE) &&
         has(cpuid_part(7, 1).eax, LEAF7_1_EAX_AVX512_BF16) && may_use_tiles();
}
#endif
#endif

#if defined(SF_ARM64)
static int has_dot(void) {
#if defined(__ARM_FEATURE_DOTPROD) || defined(__APPLE__) /* whose processors all have it */
  return 1;
#elif defined(_WIN32)
  return IsProcessorFeaturePresent(PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE) != 0;
#elif defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return 0;
#endif
}

static int has_i8mm(void) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
  return has_dot();
#elif defined(__APPLE__)
  int32_t value = 0;
  size_t size = sizeof value;
  return sysctlbyname("hw.optional.arm.FEAT_I8MM", &value, &size, NULL, 0) == 0 && value != 0;
#elif defined(_WIN32)
  return has_dot() && IsProcessorFeaturePresent(PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE) != 0;
#elif defined(__linux__)
  enum { I8MM = 1 << 13 }; /* HWCAP2_I8MM, which old headers lack */
  return has_dot() && (getauxval(AT_HWCAP2) & I8MM) != 0;
#else
  return 0;
#endif
}
#endif

/* What kernels need of a processor. */
enum {
  NEEDS_NOTHING,
  NEEDS_SSE41,
  NEEDS_AVX2,
  NEEDS_AVX2_VNNI,
  NEEDS_AVX512,
  NEEDS_AVX512_VNNI,
  NEEDS_AMX,
  NEEDS_DOT,
  NEEDS_I8MM
};

static int processor_has(int needs) {
#ifdef SF_X86
  switch (needs) {
    case NEEDS_SSE41:
      return has_sse41();
    case NEEDS_AVX2:
      return has_avx2();
    case NEEDS_AVX2_VNNI:
      return has_avx2_vnni();
    case NEEDS_AVX512:
      return has_avx512();
    case NEEDS_AVX512_VNNI:
      return has_avx512_vnni();
#if defined(SF_TILES)
    case NEEDS_AMX:
      return has_amx();
#endif
    default:
      break;
  }
#endif
#ifdef SF_ARM64
  if (needs == NEEDS_DOT) return has_dot();
  if (needs == NEEDS_I8MM) return has_i8mm();
#endif
  return needs == NEEDS_NOTHING;
}

/* What a build has: all of the architecture that it is compiled for, but for those that it was told to leave out, and
 * for tiles (SF_TILES) where the compiler or the system lacks them. */
static const struct {
  const sf_kernels *kernels;
  int needs;
  const char *name; /* NULL: that of the kernels */
  const sf_tiles *tiles;
} isas[] = {
#if defined(SF_WASM_RELAXED) /* a module of its own, which an engine without these instructions refuses */
    {&sf_kernels_relaxed128, NEEDS_NOTHING, NULL, NULL},
#elif defined(__wasm_simd128__)
    {&sf_kernels_wasm128, NEEDS_NOTHING, NULL, NULL},
#else
#if defined(SF_X86)
#ifndef SF_WITHOUT_AVX512_VNNI
#if defined(SF_TILES)
    {&sf_kernels_avx512_vnni, NEEDS_AMX, "amx", &sf_tiles_amx},
#endif
    {&sf_kernels_avx512_vnni, NEEDS_AVX512_VNNI, NULL, NULL},
#endif
#ifndef SF_WITHOUT_AVX512
    {&sf_kernels_avx512, NEEDS_AVX512, NULL, NULL},
#endif
#if !defined(SF_WITHOUT_AVX2_VNNI) && !defined(_MSC_VER)
    {&sf_kernels_avx2_vnni, NEEDS_AVX2_VNNI, NULL, NULL},
#endif
#ifndef SF_WITHOUT_AVX2
    {&sf_kernels_avx2, NEEDS_AVX2, NULL, NULL},
#endif
#ifndef SF_WITHOUT_SSE41
    {&sf_kernels_sse41, NEEDS_SSE41, NULL, NULL},
#endif
#elif defined(SF_ARM64)
#if !defined(SF_WITHOUT_NEON_I8MM) && !defined(_MSC_VER)
    {&sf_kernels_neon_i8mm, NEEDS_I8MM, NULL, NULL},
#endif
#if !defined(SF_WITHOUT_NEON_DOT) && !defined(_MSC_VER)
    {&sf_kernels_neon_dot, NEEDS_DOT, NULL, NULL},
#endif
#ifndef SF_WITHOUT_NEON
    {&sf_kernels_neon, NEEDS_NOTHING, NULL, NULL},
#endif
#endif
#ifndef SF_WITHOUT_SCALAR
    {&sf_kernels_scalar, NEEDS_NOTHING, NULL, NULL},
#endif
#endif
};

enum { ISAS = sizeof isas / sizeof isas[0] };

const sf_kernels *sf_isa_kernels(int32_t isa) { return isa >= 0 && isa < ISAS ? isas[isa].kernels : NULL; }

const sf_tiles *sf_isa_tiles(int32_t isa) { return isa >= 0 && isa < ISAS ? isas[isa].tiles : NULL; }

int32_t sf_isa_best(void) {
  for (int32_t isa = 0; isa < ISAS; isa++) {
    if (processor_has(isas[isa].needs)) return isa;
  }
  return -1; /* scalar kernels, which always are, were left out */
}

int32_t sf_isa_count(void) { return ISAS; }

const char *sf_isa_name(int32_t isa) {
  if (isa < 0 || isa >= ISAS) return NULL;
  return isas[isa].name ? isas[isa].name : isas[isa].kernels->name;
}

int32_t sf_isa_supported(int32_t isa) { return isa >= 0 && isa < ISAS && processor_has(isas[isa].needs); }
