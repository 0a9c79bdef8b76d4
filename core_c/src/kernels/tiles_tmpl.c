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
 * of the two is 16 rows times 16 inputs. A strip, a run of columns of 32 rows, is brought into tiles
 * (tile_lines_tmpl.h) once and meets up to 128 inputs; 2 × 2 tiles of sums are in registers at a time.
 *
 * The processor multiplies tiles by themselves, at most one or two steps behind the instructions that follow. So after
 * each step, four products, some of the next strip is unpacked: its tiles never wait for it. Strips of long rows are
 * several, and those of eight bands of rows take turns at the same columns of the inputs, which stay in the
 * second-level cache for so long. */
#include <string.h>

#include "kernels/inline.h"
#include "kernels/tiles.h"

#if defined(SF_TILES_AMX)
#include "simd/avx512.h"
#include "simd/tiles_amx.h"
#elif defined(SF_TILES_C)
#include "simd/scalar.h"
#include "simd/tiles_c.h"
#else
#error "tiles_tmpl.c is compiled with one of -DSF_TILES_AMX, _C"
#endif

#include "kernels/tile_lines_tmpl.h"

enum {
  STRIP = 2048,                   /* columns of a strip at most */
  STRIP_TILES = STRIP / COLUMNS,  /* one after the other, */
  ACROSS = 2,                     /* and so many side by side */
  PANEL = 8,                      /* strips of the same columns that follow each other */
  INPUTS = 128,                   /* which a strip meets: those of a batch */
  BLOCKS = INPUTS / SF_TILE_BAND, /* of 32 inputs */
  QUADS = ACROSS * ACROSS,        /* tiles of sums in registers */
  AHEAD = 16,                     /* groups of weights that are asked for before they are read */
  TERMS = 2                       /* of a number of a matrix of floats */
};

/* A strip in tiles, and sums of its rows with inputs, aligned for whole cache lines. */
typedef struct {
  t_line lines[STRIP_TILES][ACROSS][SF_TILE_SIDE];
} tile_strip;
typedef struct {
  t_line lines[QUADS][SF_TILE_SIDE];
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

/* ---- Products of tiles ---- */

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

/* Sums of one or two tiles of the left side with one or two of the right one: as they are so far, or new. */
static void begin_sums(t_file *f, int is_new, int left_tiles, int right_tiles, const tile_target *sums) {
  const size_t stride = sums->stride * sizeof(float);
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
}

/* Adds the products of n tiles along the columns. Of the terms, all products but that of the two second ones, in an
 * order in which each is loaded once. */
static void add_products(t_file *f, int left_tiles, int right_tiles, int32_t n, const tile_side *left,
                         const tile_side *right) {
  const uint16_t *l = left->at, *r = right->at;
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
}

static void end_sums(t_file *f, int left_tiles, int right_tiles, const tile_target *sums) {
  const size_t stride = sums->stride * sizeof(float);
  (void)f;
  t_store_rows(f, 0, sums->at, stride);
  if (right_tiles > 1) t_store_rows(f, 1, sums->at + sums->beside, stride);
  if (left_tiles > 1) t_store_rows(f, 2, sums->at + sums->below, stride);
  if (left_tiles > 1 && right_tiles > 1) t_store_rows(f, 3, sums->at + sums->below + sums->beside, stride);
}

/* ---- Rows of weights with inputs ---- */

/* Sums that are to be brought to their places: of 32 rows from `row` on with 32 inputs from `input` on. */
typedef struct {
  const tile_sums *sums; /* NULL: none */
  int32_t row, input;
} finished_sums;

/* A product of rows with up to INPUTS inputs. */
typedef struct {
  t_file *file;
  const sf_rows *rows;
  int32_t n_rows, n_inputs, step; /* columns of a strip, but for the last */
  const uint16_t *tiles;
  float *out;
  size_t out_stride;
  take_groups_fn *take_groups;
  line_source at, ahead; /* of the strip that is unpacked */
  finished_sums finished;
} rows_product;

/* Columns of each strip of rows with so many, but for the last. */
static int32_t strip_of(int32_t columns) {
  const int32_t groups = (columns + GROUP_COLUMNS - 1) / GROUP_COLUMNS, strips = (columns + STRIP - 1) / STRIP;
  return (groups + strips - 1) / strips * GROUP_COLUMNS;
}

static line_source strip_at(const rows_product *p, int32_t row, int32_t c) {
  const int32_t rows = p->n_rows - row, columns = p->rows->columns - c;
  const line_source at = {
      p->rows, row, rows < SF_TILE_BAND ? rows : SF_TILE_BAND, c, columns < p->step ? columns : p->step, 0, 0};
  return at;
}

/* The strip after this one: of the next rows of its panel, or the next columns of the panel, or the next panel. */
static line_source strip_after(const rows_product *p, const line_source *strip) {
  const int32_t next = strip->first + SF_TILE_BAND;
  if (next % (PANEL * SF_TILE_BAND) && next < p->n_rows) return strip_at(p, next, strip->c);
  if (strip->c + p->step >= p->rows->columns) return strip_at(p, next, 0);
  return strip_at(p, strip->first / (PANEL * SF_TILE_BAND) * (PANEL * SF_TILE_BAND), strip->c + p->step);
}

static int32_t bands_of(int32_t count) { return (count + SF_TILE_SIDE - 1) / SF_TILE_SIDE; }

/* Groups of a strip, with those that fill up its last tile. */
static int32_t groups_of(const line_source *strip) {
  return bands_of(strip->n_rows) * SF_TILE_SIDE * ((strip->n + GROUP_COLUMNS - 1) / GROUP_COLUMNS);
}

/* From where a strip is unpacked. */
static void begin_strip(rows_product *p, line_source strip) {
  p->at = p->ahead = strip;
  for (int k = 0; k < AHEAD; ++k) next_group(&p->ahead);
}

/* Brings sums to their places, when those of others are being computed. */
static void bring_out(rows_product *p) {
  const finished_sums done = p->finished;
  if (!done.sums) return;
  for (int q = 0; q < QUADS; ++q) {
    const int32_t row = done.row + q / ACROSS * SF_TILE_SIDE, input = done.input + q % ACROSS * SF_TILE_SIDE;
    const int32_t rows = p->n_rows - row, inputs = p->n_inputs - input;
    if (rows <= 0 || inputs <= 0) continue;
    t_store_columns(done.sums->lines[q], rows < SF_TILE_SIDE ? rows : SF_TILE_SIDE,
                    inputs < SF_TILE_SIDE ? inputs : SF_TILE_SIDE, p->rows->scale,
                    p->out + (size_t)input * p->out_stride + (size_t)row, p->out_stride);
  }
  p->finished.sums = NULL;
}

/* Asks for what bring_out will write. */
static void ask_for_outputs(const rows_product *p, int32_t row, int32_t input) {
  const int32_t end = p->n_inputs - input < SF_TILE_BAND ? p->n_inputs : input + SF_TILE_BAND;
  for (; input < end; ++input) {
    const float *out = p->out + (size_t)input * p->out_stride + (size_t)row;
    for (int32_t i = 0; i < SF_TILE_BAND && row + i < p->n_rows; i += SF_TILE_SIDE) v_prefetch(out + i);
  }
}

/* Adds the products of a strip with all inputs, and unpacks `groups` of the next one. */
static void multiply_strip(rows_product *p, const line_source *strip, const tile_strip *in, tile_sums *sums,
                           int32_t groups, tile_strip *next) {
  const size_t apart = (size_t)tiles_of(p->rows->columns) * SF_TILE_NUMBERS;
  const int32_t along = tiles_of(strip->n), across = bands_of(strip->n_rows);
  const int32_t blocks = (p->n_inputs + SF_TILE_BAND - 1) / SF_TILE_BAND;
  const int32_t some = (groups + blocks * along - 1) / (blocks * along);
  const int is_last = strip->c + strip->n == p->rows->columns;
  for (int32_t j = 0; j < blocks; ++j) {
    const int32_t right_tiles = p->n_inputs - j * SF_TILE_BAND > SF_TILE_SIDE ? 2 : 1;
    const tile_target to = {(float *)(void *)sums[j].lines[0], SF_TILE_SIDE, SF_TILE_SIDE * SF_TILE_SIDE,
                            ACROSS * SF_TILE_SIDE * SF_TILE_SIDE};
    tile_side left = {(const uint16_t *)(const void *)in->lines, ACROSS * SF_TILE_NUMBERS, SF_TILE_NUMBERS, 0};
    tile_side right = {p->tiles + (size_t)j * ACROSS * apart + (size_t)(strip->c / COLUMNS) * SF_TILE_NUMBERS,
                       SF_TILE_NUMBERS, apart, 0};
    begin_sums(p->file, strip->c == 0, across, right_tiles, &to);
    if (is_last) ask_for_outputs(p, strip->first, j * SF_TILE_BAND);
    for (int32_t k = 0; k < along; ++k, left.at += left.next, right.at += right.next) {
      const int32_t now = groups < some ? groups : some;
      add_products(p->file, across, right_tiles, 1, &left, &right);
      p->take_groups(&p->at, &p->ahead, now, next->lines[0][0]);
      groups -= now;
      if (k == 0) bring_out(p);
    }
    end_sums(p->file, across, right_tiles, &to);
    if (is_last) {
      const finished_sums finished = {&sums[j], strip->first, j * SF_TILE_BAND};
      p->finished = finished;
    }
  }
}

static void multiply_rows(rows_product *p) {
  tile_strip strips[2];
  tile_sums sums[PANEL][BLOCKS];
  line_source strip = strip_at(p, 0, 0);
  begin_strip(p, strip);
  p->take_groups(&p->at, &p->ahead, groups_of(&strip), strips[0].lines[0][0]);
  for (int s = 0; strip.n_rows > 0; s = !s) {
    const line_source next = strip_after(p, &strip);
    begin_strip(p, next);
    multiply_strip(p, &strip, &strips[s], sums[strip.first / SF_TILE_BAND % PANEL],
                   next.n_rows > 0 ? groups_of(&next) : 0, &strips[!s]);
    strip = next;
  }
  bring_out(p);
}

static void dot_rows(sf_format_index format, const sf_rows *rows, int32_t n_rows, const uint16_t *tiles,
                     int32_t n_inputs, float *out, size_t out_stride) {
  t_file file;
  t_open(&file);
  for (int32_t j = 0; j < n_inputs; j += INPUTS) {
    rows_product p = {.file = &file, .rows = rows, .n_rows = n_rows, .step = strip_of(rows->columns)};
    p.n_inputs = n_inputs - j < INPUTS ? n_inputs - j : INPUTS;
    p.tiles = tiles + sf_tiles_numbers(j, rows->columns);
    p.out = out + (size_t)j * out_stride;
    p.out_stride = out_stride;
    p.take_groups = take_groups_of[format];
    multiply_rows(&p);
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
      const int left_tiles = down - i < 2 ? 1 : 2, right_tiles = across - j < 2 ? 1 : 2;
      begin_sums(&file, !adds, left_tiles, right_tiles, &to);
      add_products(&file, left_tiles, right_tiles, along, &a, &b);
      end_sums(&file, left_tiles, right_tiles, &to);
    }
  }
  t_close(&file);
}

const sf_tiles SF_TILES_TABLE = {{left_floats, right_floats, lay_left, lay_right, multiply}, pack, dot_rows, peak};
