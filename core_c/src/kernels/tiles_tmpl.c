/* Products of prompts by tiles (tiles.h): compiled once for each vocabulary of tiles, with -DSF_TILES_<NAME> and the
 * flags that allow it.
 *
 * Weights and inputs are rounded to bfloat16, and what the rounding leaves is rounded again: a number is two terms, of
 * which a format takes one or both (products_of). Products are exact, sums are those of floats.
 *
 * A tile of weights holds 16 rows, 32 columns of each, as they lie in memory. A tile of inputs holds 32 columns of 16
 * inputs, which change places when they are packed: row p holds columns 2 p and 2 p + 1 of every input. So the product
 * of the two is 16 rows times 16 inputs. A strip, a run of columns of 32 rows, is unpacked once, by the function that
 * the format has for it, and meets up to 64 inputs; 2 × 2 tiles of sums are in registers at a time. */
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
  STRIP = 512,                          /* columns of a strip */
  STRIP_TILES = STRIP / COLUMNS,        /* one after the other, */
  ACROSS = SF_TILE_BAND / SF_TILE_SIDE, /* and so many side by side */
  INPUTS = 64,                          /* which a strip meets */
  INPUT_TILES = INPUTS / SF_TILE_SIDE,
  TERMS = 2
};

/* A strip in tiles, and the sums of its rows with the inputs, aligned for whole cache lines. */
typedef struct {
  t_line lines[TERMS][ACROSS][STRIP_TILES][SF_TILE_SIDE];
} tile_strip;
typedef struct {
  t_line lines[ACROSS][INPUT_TILES][SF_TILE_SIDE];
} tile_sums;

/* How many products a format takes: 1, of the first terms; 2, with the second terms of the inputs too; 3, also with
 * those of the weights. Weights that were rounded to 8 bits or less when they were stored lose no more here than 8-bit
 * inputs would. */
static int products_of(sf_format_index format) {
  return format == SF_FORMAT_F32 || format == SF_FORMAT_F16 ? 3 : format == SF_FORMAT_BF16 ? 2 : 1;
}

static int32_t tiles_of(int32_t columns) { return (columns + COLUMNS - 1) / COLUMNS; }

static void pack(const float *x, int32_t n, int32_t columns, uint16_t *tiles) {
  for (int32_t j = 0; j < n; j += SF_TILE_SIDE) {
    for (int32_t c = 0; c < columns; c += COLUMNS, tiles += TERMS * SF_TILE_NUMBERS) {
      t_pack(x + (size_t)j * (size_t)columns + (size_t)c, n - j < SF_TILE_SIDE ? n - j : SF_TILE_SIDE, (size_t)columns,
             columns - c < COLUMNS ? columns - c : COLUMNS, tiles, tiles + SF_TILE_NUMBERS);
    }
  }
}

/* Columns c … c + n - 1 of the rows, `across` tiles of them; the last row fills up the last tile. */
static void load_strip(sf_format_index format, sf_unpack_fn *unpack, const sf_rows *rows, int32_t n_rows,
                       int32_t across, int32_t c, int32_t n, tile_strip *strip) {
  const int two = products_of(format) > 2;
  t_line buffer[STRIP / SF_TILE_SIDE];
  float *floats = (float *)(void *)buffer;
  for (int32_t i = 0; i < across * SF_TILE_SIDE; ++i) {
    unpack(format, sf_row_at(rows, i < n_rows ? i : n_rows - 1), c, n, floats);
    for (int32_t k = n; k % COLUMNS; ++k) floats[k] = 0;
    for (int32_t k = 0; k < tiles_of(n); ++k) {
      t_line *high = &strip->lines[0][i / SF_TILE_SIDE][k][i % SF_TILE_SIDE],
             *low = &strip->lines[1][i / SF_TILE_SIDE][k][i % SF_TILE_SIDE];
      t_split(floats + k * COLUMNS, high, two ? low : NULL);
    }
  }
}

/* Adds the products of n tiles along the rows: of one or two across, whose tiles begin at `weights`, with one or two of
 * inputs, which begin at `inputs` and are `apart`; the sums, which are new at first, begin at `sums`. */
static void add_products(t_file *f, int is_new, int weight_tiles, int input_tiles, int32_t n, const t_line *weights,
                         const uint16_t *inputs, size_t apart, int products, t_line *sums) {
  t_line *below = sums + INPUT_TILES * SF_TILE_SIDE;
  if (is_new) {
    t_zero(f, 0);
    t_zero(f, 1);
    t_zero(f, 2);
    t_zero(f, 3);
  } else { /* of tiles that are not used, whatever is there */
    t_load(f, 0, sums);
    t_load(f, 1, sums + SF_TILE_SIDE);
    t_load(f, 2, below);
    t_load(f, 3, below + SF_TILE_SIDE);
  }
  for (int32_t k = 0; k < n; ++k, weights += SF_TILE_SIDE, inputs += TERMS * SF_TILE_NUMBERS) {
    for (int p = 0; p < products; ++p) {
      const t_line *w = weights + (p == 2 ? ACROSS * STRIP_TILES * SF_TILE_SIDE : 0);
      const uint16_t *x = inputs + (p == 1 ? SF_TILE_NUMBERS : 0);
      t_load(f, 4, w);
      t_load(f, 6, x);
      t_dot(f, 0, 4, 6);
      if (input_tiles > 1) {
        t_load(f, 7, x + apart);
        t_dot(f, 1, 4, 7);
      }
      if (weight_tiles > 1) {
        t_load(f, 5, w + STRIP_TILES * SF_TILE_SIDE);
        t_dot(f, 2, 5, 6);
        if (input_tiles > 1) t_dot(f, 3, 5, 7);
      }
    }
  }
  t_store(f, 0, sums);
  t_store(f, 1, sums + SF_TILE_SIDE);
  t_store(f, 2, below);
  t_store(f, 3, below + SF_TILE_SIDE);
}

/* n_rows ≤ SF_TILE_BAND rows with n_inputs ≤ INPUTS inputs, whose tiles begin at `tiles`. */
static void dot_group(t_file *f, sf_format_index format, sf_unpack_fn *unpack, const sf_rows *rows, int32_t n_rows,
                      const uint16_t *tiles, int32_t n_inputs, float *out, size_t out_stride) {
  tile_strip strip;
  tile_sums sums;
  const int32_t across = (n_rows + SF_TILE_SIDE - 1) / SF_TILE_SIDE,
                input_tiles = (n_inputs + SF_TILE_SIDE - 1) / SF_TILE_SIDE;
  const size_t apart = (size_t)tiles_of(rows->columns) * TERMS * SF_TILE_NUMBERS;
  for (int32_t c = 0; c < rows->columns; c += STRIP) {
    const int32_t n = rows->columns - c < STRIP ? rows->columns - c : STRIP;
    const uint16_t *inputs = tiles + (size_t)(c / COLUMNS) * TERMS * SF_TILE_NUMBERS;
    load_strip(format, unpack, rows, n_rows, across, c, n, &strip);
    for (int32_t t = 0; t < input_tiles; t += 2) {
      add_products(f, c == 0, across, input_tiles - t < 2 ? 1 : 2, tiles_of(n), strip.lines[0][0][0],
                   inputs + (size_t)t * apart, apart, products_of(format), sums.lines[0][t]);
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

const sf_tiles SF_TILES_TABLE = {pack, dot_rows, peak};
