/* What a weight format is made of: the constants that kernels and conversions take. Each format is one file, which
 * lists.h includes; adding a format is such a file, its line there and its number in sparsefire.h.
 *
 * A format's file has three parts. Included with SF_FORMAT(NAME, name) defined, it expands to its row of a list; with
 * SF_FORMAT_WITH_PANELS, the same if the format has panels. Otherwise it defines, once, its block and
 * `sf_traits_<name>`, and, with SF_CONVERSIONS, `quantize_<name>`. */
#ifndef SF_TRAITS_H
#define SF_TRAITS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
  SF_BLOCK = 32,        /* columns of a sub-block: of a block in the small block formats, and of an I16 input */
  SF_SUPER_BLOCK = 256, /* columns of a block in the K formats */
  SF_RUN = 16,          /* columns that share a scale in SF_SCALES_RUNS */
  SF_SUB_BLOCKS = SF_SUPER_BLOCK / SF_BLOCK,
  SF_RUNS = SF_SUPER_BLOCK / SF_RUN
};

/* How weights are stored. */
typedef enum {
  SF_FLOATS_32,    /* plain numbers: float */
  SF_FLOATS_16,    /* half */
  SF_FLOATS_B16,   /* bfloat16 */
  SF_QUANTS_BYTES, /* a signed byte each */
  SF_QUANTS_HALVES, /* 16 bytes for each sub-block, whose low halves are columns 0 … 15, the high halves 16 … 31; bit c
                       of four bytes of high bits is column c */
  SF_QUANTS_PLANES, /* see sf_plane */
  SF_QUANTS_TRITS,  /* see trits.h; `bits` as if they were in planes */
  SF_QUANTS_POINTS  /* numbers of points: quants_of gives a signed byte for each */
} sf_storage;

/* How scales are stored; d and m are halves. z is the zero point. */
typedef enum {
  SF_SCALES_BLOCK,      /* each block has its own: w = d · (q - z), or d · q + m */
  SF_SCALES_POWER,      /* each block of 32 has a byte d: w = 2^(d - 128) · q */
  SF_SCALES_6BIT,       /* sub-block s has 6-bit numbers (packed_scales.h): w = d · scale_s · q - m · min_s */
  SF_SCALES_SUB_BLOCKS, /* sub-block s has a small integer: w = d · scale_s · q */
  SF_SCALES_RUNS, /* run i of 16 columns has small integers: w = d · scale_i · (q - z), or with m less m · min_i */
  SF_SCALES_FLOAT_RUNS /* run i of 16 columns has a float: w = scale_i · q */
} sf_scales;

/* Bits of the quants of eight sub-blocks, in runs of 32 bytes: byte k of a run holds column k of 8 / bits sub-blocks,
 * from the lowest bits on, which are s, s + apart, s + 2 · apart, …. */
typedef struct {
  int at;    /* offset of the first byte in a block */
  int bits;  /* 0: none */
  int apart; /* 1 or 2 */
} sf_plane;

typedef struct {
  int block_columns, block_bytes;
  sf_storage storage;
  sf_plane low, high;   /* a quant is low + high · 2^low.bits; only `at` and `bits` count outside of planes */
  int zero_point;       /* z: subtracted from quants that count from 0 */
  const int8_t *levels; /* what the 16 quants of 4 bits stand for, where that is not themselves; else NULL */
  sf_scales scales;
  int d, m;  /* offsets in a block, of halves but for SF_SCALES_POWER; m -1: none */
  int finer; /* SF_SCALES_RUNS and _SUB_BLOCKS: d is 2^finer times as much as it says above */
  /* SF_SCALES_RUNS and _SUB_BLOCKS: the integers of run or sub-block i of the block; min_of is NULL where there is no
   * m.
   */
  int (*scale_of)(const uint8_t *block, int i);
  int (*min_of)(const uint8_t *block, int i);
  uint64_t (*scales_of)(const uint8_t *block);    /* SF_SCALES_SUB_BLOCKS: all eight, each and 128, in bytes; or NULL */
  float (*float_of)(const uint8_t *block, int i); /* SF_SCALES_FLOAT_RUNS: the scale of run i of the block */
  uint16_t (*d_of)(const uint8_t *block);         /* d, where it is no half in one place; else NULL */
  /* SF_QUANTS_POINTS: the quants of sub-block s from a block on, of 32 or 64 columns from the first of 256. */
  void (*quants_of)(const uint8_t *group, int s, uint64_t *quants);
} sf_traits;

enum { SF_NO_MIN = -1 };

/* That a block has as many bytes as GGUF says. */
#define SF_CHECK_BYTES(block, bytes) typedef char block##_has_its_size[sizeof(block) == (bytes) ? 1 : -1]

/* The bits of d. */
static inline uint16_t sf_d_bits(const sf_traits *traits, const uint8_t *block) {
  uint16_t bits;
  if (traits->d_of) return traits->d_of(block);
  memcpy(&bits, block + traits->d, sizeof bits);
  return bits;
}

/* What d counts. */
static inline float sf_d_unit(const sf_traits *traits) { return 1.0f / (float)(1 << traits->finer); }

static inline int sf_is_plain(const sf_traits *traits) { return traits->block_columns == 1; }

/* Offset of the run of 32 bytes that holds sub-block s, and the place of its lowest bit in these. */
static inline int sf_plane_run(sf_plane plane, int s) {
  const unsigned apart = (unsigned)plane.apart, sharing = 8u / (unsigned)plane.bits * apart, at = (unsigned)s;
  return plane.at + SF_BLOCK * (int)(at / sharing * apart + at % apart);
}

static inline int sf_plane_shift(sf_plane plane, int s) {
  const unsigned apart = (unsigned)plane.apart, sharing = 8u / (unsigned)plane.bits;
  return plane.bits * (int)((unsigned)s / apart % sharing);
}

#endif
