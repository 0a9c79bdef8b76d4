/* Vocabulary of tiles: plain C, the reference, which tests compare with and run where there is no other. Its sums are
 * those of AMX by Intel's description: for each tile, the even and the odd columns are summed apart, with products that
 * are not rounded, then added to each other and to the sum so far. Numbers below the normal ones count as 0. */
#ifndef SF_SIMD_TILES_H
#define SF_SIMD_TILES_H

#include <math.h>

#include "formats/half.h"

#define SF_TILES_TABLE sf_tiles_c

/* 64 bytes: a row of a tile, 32 bfloats or 16 floats. */
typedef union {
  uint16_t h[32];
  float f[16];
} t_line;
/* The registers, eight tiles. */
typedef struct {
  t_line tiles[8][16];
} t_file;

static void t_open(t_file *f) { memset(f, 0, sizeof *f); }

static void t_close(t_file *f) { (void)f; }

static void t_zero(t_file *f, int i) { memset(f->tiles[i], 0, sizeof f->tiles[i]); }

/* Rows that are `stride` bytes apart, or one after the other. */
static void t_load_rows(t_file *f, int i, const void *p, size_t stride) {
  for (int r = 0; r < 16; ++r) memcpy(&f->tiles[i][r], (const uint8_t *)p + (size_t)r * stride, sizeof(t_line));
}

static void t_load(t_file *f, int i, const void *p) { memcpy(f->tiles[i], p, sizeof f->tiles[i]); }

static void t_store_rows(const t_file *f, int i, void *p, size_t stride) {
  for (int r = 0; r < 16; ++r) memcpy((uint8_t *)p + (size_t)r * stride, &f->tiles[i][r], sizeof(t_line));
}

static float tiles_normal(float x) { return fabsf(x) < 0x1p-126f ? x * 0.0f : x; }

/* sums += a · b */
static void t_dot(t_file *f, int sums, int a, int b) {
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) {
      float sum[2] = {0, 0};
      for (int k = 0; k < 32; ++k) {
        const float x = tiles_normal(sf_bfloat_to_float(f->tiles[a][i].h[k]));
        const float y = tiles_normal(sf_bfloat_to_float(f->tiles[b][k / 2].h[2 * j + k % 2]));
        sum[k % 2] = tiles_normal(x * y + sum[k % 2]); /* the product of two bfloats has no more bits than a float */
      }
      float *to = &f->tiles[sums][i].f[j];
      *to = tiles_normal(tiles_normal(*to) + tiles_normal(sum[0] + sum[1]));
    }
  }
}

/* To the nearest bfloat, ties to even. */
static uint16_t tiles_round(float x) {
  uint32_t bits;
  x = tiles_normal(x);
  memcpy(&bits, &x, sizeof bits);
  if (x != x) return (uint16_t)(bits >> 16 | 64);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* 32 floats in two terms, the second of which is left out if `low` is NULL. */
static void t_split(const float *x, t_line *high, t_line *low) {
  for (int k = 0; k < 32; ++k) {
    high->h[k] = tiles_round(x[k]);
    if (low) low->h[k] = tiles_round(x[k] - sf_bfloat_to_float(high->h[k]));
  }
}

/* Numbers in memory, which a vocabulary may want to be read from there. */
#define t_keep(numbers) ((void)(numbers))

/* 32 floats in one term. */
static void t_round(const vf *x, t_line *to) {
  for (int k = 0; k < 32; ++k) to->h[k] = tiles_round(x[k / SF_LANES].f[k % SF_LANES]);
}

/* Those of a table that 32 integers of less than 32 choose. */
static void t_look_up(vb quants, const t_line *table, t_line *to) {
  for (int k = 0; k < 32; ++k) to->h[k] = table->h[quants.h[k]];
}

/* The terms of 16 floats x and of 16 floats y, by turns. */
static void t_pair(const float *x, const float *y, t_line *high, t_line *low) {
  float both[32];
  for (int k = 0; k < 16; ++k) {
    both[2 * k] = x[k];
    both[2 * k + 1] = y[k];
  }
  t_split(both, high, low);
}

/* n ≤ 16 inputs, `stride` apart, of which a tile takes `columns` ≤ 32, zeros for the rest: two terms, or
 * one if `low` is NULL. */
static void t_pack(const float *x, int n, size_t stride, int columns, uint16_t *high, uint16_t *low) {
  for (int j = 0; j < 16; ++j) {
    float some[32] = {0};
    t_line first, second;
    if (j < n) memcpy(some, x + (size_t)j * stride, (size_t)columns * sizeof some[0]);
    t_split(some, &first, low ? &second : NULL);
    for (int k = 0; k < 32; ++k) {
      high[k / 2 * 32 + 2 * j + k % 2] = first.h[k];
      if (low) low[k / 2 * 32 + 2 * j + k % 2] = second.h[k];
    }
  }
}

/* out[j * stride + i] = scale · row i, column j of a tile of sums, i < n_rows, j < n_columns. */
static void t_store_columns(const t_line *sums, int n_rows, int n_columns, float scale, float *out, size_t stride) {
  for (int j = 0; j < n_columns; ++j) {
    for (int i = 0; i < n_rows; ++i) out[(size_t)j * stride + (size_t)i] = sums[i].f[j] * scale;
  }
}

#endif
