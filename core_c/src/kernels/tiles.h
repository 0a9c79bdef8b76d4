/* Products of prompts by tiles: matrices of 16 × 32 numbers of 16 bits (bfloat16), which a processor multiplies in one
 * instruction. tiles_tmpl.c is compiled once for each instruction set that has them. As other kernels these check
 * nothing and allocate nothing. */
#ifndef SF_TILES_H
#define SF_TILES_H

#include "kernels/kernels.h"

enum {
  SF_TILE_SIDE = 16,               /* rows of weights, or inputs, of a tile */
  SF_TILE_BAND = 2 * SF_TILE_SIDE, /* rows that share what they read of the inputs: a multiple to cut work by */
  SF_TILE_PAIRS = 16,              /* pairs of columns of a tile */
  SF_TILE_NUMBERS = SF_TILE_SIDE * 2 * SF_TILE_PAIRS /* numbers of 16 bits in a tile */
};

typedef struct {
  sf_products products; /* of matrices of floats, in which a number is two terms */
  /* Brings n inputs x (n, columns) into tiles, of which sf_tiles_numbers says how many numbers they have; `tiles` is
   * aligned to 64 bytes. */
  void (*pack)(const float *x, int32_t n, int32_t columns, uint16_t *tiles);
  /* As sf_dot_rows_fn, with n_inputs inputs that `pack` has brought into `tiles`. The bits of a (row, input) pair
   * depend on nothing but the two. */
  void (*dot_rows)(sf_format_index format, const sf_rows *rows, int32_t n_rows, const uint16_t *tiles, int32_t n_inputs,
                   float *out, size_t out_stride);
  float (*peak)(int32_t repeats); /* SF_TILE_PEAK operations a repeat, in registers; the result says nothing */
} sf_tiles;

enum { SF_TILE_PEAK = 4 * 2 * SF_TILE_SIDE * SF_TILE_SIDE * 2 * SF_TILE_PAIRS };

/* Numbers of 16 bits that n inputs take, in whole tiles. */
static inline size_t sf_tiles_numbers(int32_t n, int32_t columns) {
  const size_t across = ((size_t)n + SF_TILE_SIDE - 1) / SF_TILE_SIDE,
               along = ((size_t)columns + 2 * SF_TILE_PAIRS - 1) / (2 * SF_TILE_PAIRS);
  return across * along * SF_TILE_NUMBERS;
}

/* Whether rows of a format are multiplied by tiles: not those that were not rounded when they were stored. */
static inline int sf_tiles_take(sf_format_index format) { return format != SF_FORMAT_F32; }

/* Those of AMX, where the compiler has it; and, for tests alone, in plain C. They take up to half a MiB of the stack.
 */
extern const sf_tiles sf_tiles_amx, sf_tiles_c;

#endif
