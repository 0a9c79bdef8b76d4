/* Tests of products by tiles: against sums in double precision of the weights' own definition, each product alone and
 * among others, and, where the processor has tiles, the bits of the reference in plain C. */
#include <float.h>

#include "check.h"
#include "kernels/tiles.h"
#include "rows.h"

enum { MOST_ROWS = 300, MOST_INPUTS = 140 };

/* Inputs of several magnitudes, and their tiles. */
typedef struct {
  int32_t n, columns;
  float *f32;
  uint16_t *tiles;
} tiled_inputs;

static tiled_inputs tiled_make(const sf_tiles *tiles, int32_t n, int32_t columns) {
  const size_t count = (size_t)n * (size_t)columns, numbers = sf_tiles_numbers(n, columns);
  tiled_inputs x = {n, columns, check_alloc(count * sizeof(float), 4), sf_alloc(numbers * sizeof(uint16_t))};
  for (size_t i = 0; i < count; ++i) x.f32[i] = ldexpf(random_unit(), (int)(random_bits() >> 16) % 8);
  memset(x.tiles, 0xff, numbers * sizeof(uint16_t)); /* NaN */
  tiles->pack(x.f32, n, columns, x.tiles);
  return x;
}

static void tiled_free(tiled_inputs *x) {
  check_free(x->f32, 4);
  sf_free(x->tiles);
}

/* out (n, MOST_ROWS + 1): the last column must be left alone. */
typedef float results[MOST_INPUTS][MOST_ROWS + 1];

static void run(const sf_tiles *tiles, const test_rows *w, const int32_t *ids, int32_t n_rows, const tiled_inputs *x,
                float scale, results out) {
  sf_rows rows = rows_view(w, ids);
  rows.scale = scale;
  for (int32_t j = 0; j < x->n; ++j) {
    for (int32_t i = 0; i <= MOST_ROWS; ++i) out[j][i] = 12345.0f;
  }
  tiles->dot_rows(sf_format_find(w->format)->index, &rows, n_rows, x->tiles, x->n, out[0], MOST_ROWS + 1);
}

/* Each number is rounded to 8 bits, and off by 2^-9 of it at most, but for weights in bfloat16. */
static double error_of(int32_t format) { return format == SF_BF16 ? 0x1p-9 : 2 * 0x1p-9 + 0x1p-18; }

static void check_values(const test_rows *w, const int32_t *ids, int32_t n_rows, const tiled_inputs *x, float scale,
                         results out) {
  for (int32_t j = 0; j < x->n; ++j) {
    for (int32_t i = 0; i < n_rows; ++i) {
      double sum = 0, magnitude = 0;
      for (int32_t c = 0; c < x->columns; ++c) {
        const double weight = rows_weight(w, ids ? ids[i] : i, c) * (double)scale;
        const double input = (double)x->f32[(size_t)j * (size_t)x->columns + (size_t)c];
        sum += weight * input;
        magnitude += fabs(weight * input);
      }
      const double bound = magnitude * (error_of(w->format) + (8 + w->columns) * 6e-8);
      CHECK(fabs((double)out[j][i] - sum) <= bound,
            "tiles, %s, %d columns, row %d of %d, input %d of %d: %.9g, not %.9g", format_name(w->format), w->columns,
            i, n_rows, j, x->n, (double)out[j][i], sum);
    }
    for (int32_t i = n_rows; i <= MOST_ROWS; ++i) CHECK(out[j][i] == 12345.0f, "tiles wrote beyond their rows");
  }
}

/* A row alone, with one input alone. */
static void check_company(const sf_tiles *tiles, const test_rows *w, const int32_t *ids, int32_t n_rows,
                          const tiled_inputs *x, float scale, results out) {
  for (int32_t j = 0; j < x->n; j += 13) {
    tiled_inputs one = tiled_make(tiles, 1, x->columns);
    tiles->pack(x->f32 + (size_t)j * (size_t)x->columns, 1, x->columns, one.tiles);
    for (int32_t i = 0; i < n_rows; i += 7) {
      const int32_t id = ids ? ids[i] : i;
      float alone;
      sf_rows row = rows_view(w, &id);
      row.scale = scale;
      tiles->dot_rows(sf_format_find(w->format)->index, &row, 1, one.tiles, 1, &alone, 1);
      CHECK(memcmp(&alone, &out[j][i], sizeof alone) == 0, "tiles, %s: row %d, input %d depend on their company",
            format_name(w->format), i, j);
    }
    tiled_free(&one);
  }
}

static void test_products(const sf_tiles *tiles, const sf_tiles *real, int32_t format, int32_t n_rows, int32_t n,
                          int32_t columns) {
  int32_t ids[MOST_ROWS];
  results out, reference;
  test_rows w = rows_make(format, n_rows, columns, n % 2 ? 6 : 0, (size_t)(n % 4));
  tiled_inputs x = tiled_make(tiles, n, columns);
  for (int32_t i = 0; i < n_rows; ++i) ids[i] = n_rows - 1 - i;
  const int32_t *chosen = n % 2 ? ids : NULL;
  const float scale = n % 2 ? 0.75f : 1.0f;
  run(tiles, &w, chosen, n_rows, &x, scale, out);
  check_values(&w, chosen, n_rows, &x, scale, out);
  check_company(tiles, &w, chosen, n_rows, &x, scale, out);
  if (real) {
    const size_t numbers = sf_tiles_numbers(n, columns);
    tiled_inputs same = tiled_make(real, n, columns);
    real->pack(x.f32, n, columns, same.tiles);
    CHECK(memcmp(same.tiles, x.tiles, numbers * sizeof(uint16_t)) == 0, "tiles of %d inputs of %d", n, columns);
    run(real, &w, chosen, n_rows, &x, scale, reference);
    for (int32_t j = 0; j < n; ++j) {
      CHECK(memcmp(out[j], reference[j], sizeof out[j]) == 0, "tiles, %s, input %d: not the bits of plain C",
            format_name(format), j);
    }
    tiled_free(&same);
  }
  rows_free(&w);
  tiled_free(&x);
}

/* Numbers that are not finite show, in the products that they take part in alone. */
static void test_not_finite(const sf_tiles *tiles) {
  enum { COLUMNS = 40, N = 3 };
  static const float odd[] = {NAN, INFINITY, -INFINITY};
  for (int k = 0; k < 3; ++k) {
    float w[2 * COLUMNS], out[N][2];
    tiled_inputs x = tiled_make(tiles, N, COLUMNS);
    for (int c = 0; c < 2 * COLUMNS; ++c) w[c] = 1;
    x.f32[COLUMNS + 33] = odd[k];
    tiles->pack(x.f32, N, COLUMNS, x.tiles);
    const sf_rows rows = {(const uint8_t *)w, COLUMNS * sizeof(float), NULL, COLUMNS, 1.0f};
    tiles->dot_rows(SF_FORMAT_F32, &rows, 2, x.tiles, N, out[0], 2);
    CHECK(isfinite(out[0][0]) && !isfinite(out[1][0]) && !isfinite(out[1][1]) && isfinite(out[2][1]), "%g in tiles",
          (double)odd[k]);
    tiled_free(&x);
  }
}

int main(void) {
  /* The last ones: more inputs than meet a strip, and more rows than a panel has, of several strips each. */
  static const int32_t shapes[][3] = {{1, 1, 256},    {16, 16, 256},  {33, 17, 512},
                                      {50, 70, 1280}, {18, 140, 256}, {300, 3, 2304}};
  const sf_tiles *real = NULL;
  for (int32_t isa = 0; isa < sf_isa_count(); ++isa) {
    if (sf_isa_tiles(isa) && sf_isa_supported(isa)) real = sf_isa_tiles(isa);
  }
  for (int f = 0; f < ALL_FORMATS; ++f) {
    const int32_t format = format_rows[f].format;
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; ++s) {
      if (s >= 3 && format != SF_Q4_0 && format != SF_F16) continue; /* takes longest */
      test_products(&sf_tiles_c, real, format, shapes[s][0], shapes[s][1], shapes[s][2]);
    }
    if (sf_format_row_bytes(format, 544)) test_products(&sf_tiles_c, real, format, 18, 2, 544);
    if (sf_format_row_bytes(format, 33)) test_products(&sf_tiles_c, real, format, 17, 5, 33);
  }
  test_not_finite(&sf_tiles_c);
  if (real) test_not_finite(real);
  printf("tiles of the processor: %s\n", real ? "the same bits" : "none");
  return check_result();
}
