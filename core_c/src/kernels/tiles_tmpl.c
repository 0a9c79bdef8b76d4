/* Products of prompts by tiles (tiles.h): compiled once for each vocabulary of tiles, with -DSF_TILES_<NAME> and the
 * flags that allow it.
 *
 * Weights and inputs are rounded to bfloat16, to the nearest, and so off by 2^-9 of themselves at most. Products are
 * exact, sums are those of floats. In products of matrices of floats, those of attention, what the rounding leaves is
 * rounded again: a number is two terms, and off by 2^-17 of itself at most, and the products of two second terms are
 * left out.
 *
 * A tile of weights holds 16 rows, 32 columns of each, as they lie in memory. A tile of inputs holds 32 columns of 16
 * inputs, which change places when they are packed: row p holds columns 2 p and 2 p + 1 of every input. So the product
 * of the two is 16 rows times 16 inputs. A strip, a run of columns of 32 rows, is unpacked once, by the function that
 * the format has for it, and meets up to 128 inputs; 2 × 2 tiles of sums are in registers at a time. */
#include <string.h>

#include "kernels/tiles.h"

#if defined(SF_TILES_AMX)
#include "simd/tiles_amx.h"
#elif defined(SF_TILES_C)
#include "simd/tiles_c.h"
#else
#error "tiles_tmpl.c is compiled with one of -DSF_TILES_AMX, _C"
#endif

enum {
  COLUMNS = 2 * SF_TILE_PAIRS,          /* of a tile */
  STRIP = 1024,                         /* columns of a strip at most, */
  STRIP_GRAIN = 256,                    /* multiples of these, see sf_unpack_fn */
  STRIP_TILES = STRIP / COLUMNS,        /* one after the other, */
  ACROSS = SF_TILE_BAND / SF_TILE_SIDE, /* and so many side by side */
  INPUTS = 128,                         /* which a strip meets: those of a batch */
  INPUT_TILES = INPUTS / SF_TILE_SIDE,
  TERMS = 2 /* of a number of a matrix of floats */
};

/* A strip in tiles, and the sums of its rows with the inputs, aligned for whole cache lines. */
typedef struct {
  t_line lines[ACROSS][STRIP_TILES][SF_TILE_SIDE];
} tile_strip;
typedef struct {
  t_line lines[ACROSS][INPUT_TILES][SF_TILE_SIDE];
} tile_sums;

static int32_t tiles_of(int32_t columns) { return (columns + COLUMNS - 1) / COLUMNS; }

/* n rows of x, `stride` apart, each of `columns` numbers of so many terms: what a right matrix has as its columns. */
static void pack_rows(const float *x, size_t stride, int32_t n, int32_t columns, int32_t terms, uint16_t *tiles) {
  for (int32_t j = 0; j < n; j += SF_TILE_SIDE) {
    for (int32_t c = 0; c < columns; c += COLUMNS, tiles += terms * SF_TILE_NUMBERS) {
      t_pack(x + (size_t)j * stride + (size_t)c, n - j < SF_TILE_SIDE ? n - j : SF_TILE_SIDE, stride,
             columns - c < COLUMNS ? columns - c : COLUMNS, tiles, terms > 1 ? tiles + SF_TILE_NUMBERS : NULL);
    }
  }
}

static void pack(const float *x, int32_t n, int32_t columns, uint16_t *tiles) {
  pack_rows(x, (size_t)columns, n, columns, 1, tiles);
}

/* Columns c … c + n - 1 of the rows, `across` tiles of them; the last row fills up the last tile. */
static void load_strip(sf_format_index format, sf_unpack_fn *unpack, const sf_rows *rows, int32_t n_rows,
                       int32_t across, int32_t c, int32_t n, tile_strip *strip) {
  t_line buffer[STRIP / SF_TILE_SIDE];
  float *floats = (float *)(void *)buffer;
  for (int32_t i = 0; i < across * SF_TILE_SIDE; ++i) {
    unpack(format, sf_row_at(rows, i < n_rows ? i : n_rows - 1), c, n, floats);
    for (int32_t k = n; k % COLUMNS; ++k) floats[k] = 0;
    for (int32_t k = 0; k < tiles_of(n); ++k) {
      t_split(floats + k * COLUMNS, &strip->lines[i / SF_TILE_SIDE][k][i % SF_TILE_SIDE], NULL);
    }
  }
}

/* Tiles of one side of a product, in numbers of 16 bits: from one to the next along the columns, to the one beside it,
 * and to its second term, or 0 where there is none. */
typedef struct {
  const uint16_t *at;
  size_t next, beside, second;
} tile_side;

/* Sums, in floats: from row to row, to the tile beside it, and to the one below. */
typedef struct {
  float *at;
  size_t stride, beside, below;
} tile_target;

static void load_left(t_file *f, int tiles, const uint16_t *at, size_t beside) {
  (void)f;
  t_load(f, 4, at);
  if (tiles > 1) t_load(f, 5, at + beside);
}

static void load_right(t_file *f, int tiles, const uint16_t *at, size_t beside) {
  (void)f;
  t_load(f, 6, at);
  if (tiles > 1) t_load(f, 7, at + beside);
}

static void dot_loaded(t_file *f, int left_tiles, int right_tiles) {
  (void)f;
  t_dot(f, 0, 4, 6);
  if (right_tiles > 1) t_dot(f, 1, 4, 7);
  if (left_tiles > 1) t_dot(f, 2, 5, 6);
  if (left_tiles > 1 && right_tiles > 1) t_dot(f, 3, 5, 7);
}

/* Adds the products of n tiles along the columns: of one or two tiles of the left side with one or two of the right
 * one; the sums are new at first. Of the terms, all products but that of the two second ones, in an order in which each
 * is loaded once. */
static void add_products(t_file *f, int is_new, int left_tiles, int right_tiles, int32_t n, const tile_side *left,
                         const tile_side *right, const tile_target *sums) {
  const size_t stride = sums->stride * sizeof(float);
  const uint16_t *l = left->at, *r = right->at;
  if (is_new) {
    t_zero(f, 0);
    t_zero(f, 1);
    t_zero(f, 2);
    t_zero(f, 3);
  } else {
    t_load_rows(f, 0, sums->at, stride);
    if (right_tiles > 1) t_load_rows(f, 1, sums->at + sums->beside, stride);
    if (left_tiles > 1) t_load_rows(f, 2, sums->at + sums->below, stride);
    if (left_tiles > 1 && right_tiles > 1) t_load_rows(f, 3, sums->at + sums->below + sums->beside, stride);
  }
  for (int32_t k = 0; k < n; ++k, l += left->next, r += right->next) {
    load_right(f, right_tiles, r, right->beside);
    if (left->second) {
      load_left(f, left_tiles, l + left->second, left->beside);
      dot_loaded(f, left_tiles, right_tiles);
    }
    load_left(f, left_tiles, l, left->beside);
    dot_loaded(f, left_tiles, right_tiles);
    if (right->second) {
      load_right(f, right_tiles, r + right->second, right->beside);
      dot_loaded(f, left_tiles, right_tiles);
    }
  }
  t_store_rows(f, 0, sums->at, stride);
  if (right_tiles > 1) t_store_rows(f, 1, sums->at + sums->beside, stride);
  if (left_tiles > 1) t_store_rows(f, 2, sums->at + sums->below, stride);
  if (left_tiles > 1 && right_tiles > 1) t_store_rows(f, 3, sums->at + sums->below + sums->beside, stride);
}

/* ---- Rows of weights with inputs ---- */

/* Columns of each strip of rows with so many, but for the last. */
static int32_t strip_of(int32_t columns) {
  const int32_t grains = (columns + STRIP_GRAIN - 1) / STRIP_GRAIN, strips = (columns + STRIP - 1) / STRIP;
  return (grains + strips - 1) / strips * STRIP_GRAIN;
}

/* n_rows ≤ SF_TILE_BAND rows with n_inputs ≤ INPUTS inputs, whose tiles begin at `tiles`. */
static void dot_group(t_file *f, sf_format_index format, sf_unpack_fn *unpack, const sf_rows *rows, int32_t n_rows,
                      const uint16_t *tiles, int32_t n_inputs, float *out, size_t out_stride) {
  tile_strip strip;
  tile_sums sums;
  const int32_t across = (n_rows + SF_TILE_SIDE - 1) / SF_TILE_SIDE, step = strip_of(rows->columns),
                input_tiles = (n_inputs + SF_TILE_SIDE - 1) / SF_TILE_SIDE;
  const size_t apart = (size_t)tiles_of(rows->columns) * SF_TILE_NUMBERS;
  for (int32_t c = 0; c < rows->columns; c += step) {
    const int32_t n = rows->columns - c < step ? rows->columns - c : step;
    const uint16_t *inputs = tiles + (size_t)(c / COLUMNS) * SF_TILE_NUMBERS;
    load_strip(format, unpack, rows, n_rows, across, c, n, &strip);
    for (int32_t t = 0; t < input_tiles; t += 2) {
      const tile_side left = {(const uint16_t *)(const void *)strip.lines, SF_TILE_NUMBERS,
                              STRIP_TILES * SF_TILE_NUMBERS, 0};
      const tile_side right = {inputs + (size_t)t * apart, SF_TILE_NUMBERS, apart, 0};
      const tile_target to = {(float *)(void *)sums.lines[0][t], SF_TILE_SIDE, SF_TILE_SIDE * SF_TILE_SIDE,
                              INPUT_TILES * SF_TILE_SIDE * SF_TILE_SIDE};
      add_products(f, c == 0, across, input_tiles - t < 2 ? 1 : 2, tiles_of(n), &left, &right, &to);
    }
  }
  for (int32_t i = 0; i < n_rows; i += SF_TILE_SIDE) {
    for (int32_t j = 0; j < n_inputs; j += SF_TILE_SIDE) {
      t_store_columns(sums.lines[i / SF_TILE_SIDE][j / SF_TILE_SIDE],
                      n_rows - i < SF_TILE_SIDE ? n_rows - i : SF_TILE_SIDE,
                      n_inputs - j < SF_TILE_SIDE ? n_inputs - j : SF_TILE_SIDE, rows->scale,
                      out + (size_t)j * out_stride + (size_t)i, out_stride);
    }
  }
}

static void dot_rows(sf_format_index format, sf_unpack_fn *unpack, const sf_rows *rows, int32_t n_rows,
                     const uint16_t *tiles, int32_t n_inputs, float *out, size_t out_stride) {
  t_file file;
  t_open(&file);
  for (int32_t i = 0; i < n_rows; i += SF_TILE_BAND) {
    sf_rows some = *rows;
    some.data += rows->ids ? 0 : (size_t)i * rows->stride;
    some.ids += rows->ids ? i : 0;
    for (int32_t j = 0; j < n_inputs; j += INPUTS) {
      dot_group(&file, format, unpack, &some, n_rows - i < SF_TILE_BAND ? n_rows - i : SF_TILE_BAND,
                tiles + sf_tiles_numbers(j, rows->columns), n_inputs - j < INPUTS ? n_inputs - j : INPUTS,
                out + (size_t)j * out_stride + (size_t)i, out_stride);
    }
  }
  t_close(&file);
}

static float peak(int32_t repeats) {
  t_file file;
  t_line lines[SF_TILE_SIDE];
  memset(lines, 0, sizeof lines);
  t_open(&file);
  t_zero(&file, 0);
  t_zero(&file, 1);
  t_zero(&file, 2);
  t_zero(&file, 3);
  t_load(&file, 4, lines);
  t_load(&file, 5, lines);
  for (int32_t i = 0; i < repeats; ++i) {
    t_dot(&file, 0, 4, 5);
    t_dot(&file, 1, 4, 5);
    t_dot(&file, 2, 4, 5);
    t_dot(&file, 3, 4, 5);
  }
  t_close(&file);
  return 0;
}

/* ---- Matrices of floats: each number is two terms ---- */

enum { FLOATS_OF_TILES = TERMS * SF_TILE_NUMBERS / 2 }; /* what the terms of a tile take, in floats */

static int32_t bands_of(int32_t count) { return (count + SF_TILE_SIDE - 1) / SF_TILE_SIDE; }

static size_t left_floats(int32_t m, int32_t k) { return (size_t)bands_of(m) * (size_t)tiles_of(k) * FLOATS_OF_TILES; }

static size_t right_floats(int32_t k, int32_t n) { return left_floats(n, k); }

static const float *lay_left(const float *a, int32_t m, int32_t k, float *room) {
  t_line *lines = (t_line *)(void *)room;
  for (int32_t i = 0; i < m; i += SF_TILE_SIDE) {
    for (int32_t c = 0; c < k; c += COLUMNS, lines += TERMS * SF_TILE_SIDE) {
      const int32_t n = k - c < COLUMNS ? k - c : COLUMNS;
      for (int32_t r = 0; r < SF_TILE_SIDE; ++r) {
        float some[COLUMNS] = {0};
        const float *from = i + r < m ? a + (size_t)(i + r) * (size_t)k + (size_t)c : some;
        if (n < COLUMNS && i + r < m) from = memcpy(some, from, (size_t)n * sizeof(float));
        t_split(from, lines + r, lines + SF_TILE_SIDE + r);
      }
    }
  }
  return room;
}

/* Rows of x by twos, 16 columns at a time. */
static void pair_rows(const float *x, size_t stride, int32_t k, int32_t n, t_line *lines) {
  static const float zeros[SF_TILE_SIDE];
  for (int32_t j = 0; j < n; j += SF_TILE_SIDE) {
    const int32_t some = n - j < SF_TILE_SIDE ? n - j : SF_TILE_SIDE;
    for (int32_t c = 0; c < k; c += COLUMNS, lines += TERMS * SF_TILE_SIDE) {
      for (int32_t p = 0; p < SF_TILE_PAIRS; ++p) {
        float rest[2][SF_TILE_SIDE] = {{0}};
        const float *row[2];
        for (int32_t t = 0; t < 2; ++t) {
          const int32_t i = c + 2 * p + t;
          row[t] = i < k ? x + (size_t)i * stride + (size_t)j : zeros;
          if (i < k && some < SF_TILE_SIDE) row[t] = memcpy(rest[t], row[t], (size_t)some * sizeof(float));
        }
        t_pair(row[0], row[1], lines + p, lines + SF_TILE_SIDE + p);
      }
    }
  }
}

static void lay_right(const float *x, size_t stride, int32_t k, int32_t n, int32_t across, float *right) {
  if (across) {
    pack_rows(x, stride, n, k, TERMS, (uint16_t *)(void *)right);
  } else {
    pair_rows(x, stride, k, n, (t_line *)(void *)right);
  }
}

static void multiply(const float *left, int32_t m, const float *right, int32_t k, int32_t n, int32_t adds, float *c,
                     size_t c_stride) {
  const int32_t along = tiles_of(k), down = bands_of(m), across = bands_of(n);
  const size_t beside = (size_t)along * TERMS * SF_TILE_NUMBERS;
  t_file file;
  t_open(&file);
  for (int32_t j = 0; j < across; j += 2) {
    for (int32_t i = 0; i < down; i += 2) {
      const tile_side a = {(const uint16_t *)(const void *)left + (size_t)i * beside, TERMS * SF_TILE_NUMBERS, beside,
                           SF_TILE_NUMBERS};
      const tile_side b = {(const uint16_t *)(const void *)right + (size_t)j * beside, TERMS * SF_TILE_NUMBERS, beside,
                           SF_TILE_NUMBERS};
      const tile_target to = {c + (size_t)(i * SF_TILE_SIDE) * c_stride + (size_t)(j * SF_TILE_SIDE), c_stride,
                              SF_TILE_SIDE, SF_TILE_SIDE * c_stride};
      add_products(&file, !adds, down - i < 2 ? 1 : 2, across - j < 2 ? 1 : 2, along, &a, &b, &to);
    }
  }
  t_close(&file);
}

const sf_tiles SF_TILES_TABLE = {{left_floats, right_floats, lay_left, lay_right, multiply}, pack, dot_rows, peak};
