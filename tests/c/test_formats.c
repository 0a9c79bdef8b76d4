/* Weight formats and the list of instruction sets. */
#include "formats/half.h"
#include "rows.h"

/* ---- Halves ---- */

static uint16_t to_half(float value) {
  uint16_t half;
  CHECK(sf_quantize(SF_F16, &value, 1, 1, &half, sizeof half) == SF_OK, "quantise one half");
  return half;
}

static float from_half(uint16_t half) {
  float value;
  CHECK(sf_dequantize(SF_F16, &half, sizeof half, 1, 1, &value) == SF_OK, "dequantise one half");
  return value;
}

static void test_halves(void) {
  check_section("halves");
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const double value = half_value(h);
    const float f = from_half((uint16_t)h);
    CHECK(isnan(value) ? isnan(f) : (double)f == value, "half %04x is %.9g", h, (double)f);
    CHECK(isnan(value) ? isnan(from_half(to_half(f))) : to_half(f) == h, "half %04x came back as %04x", h, to_half(f));
  }
  for (uint32_t h = 0; h < 0x7c00; ++h) { /* between neighbours: to the nearer, from the middle to the even one */
    const double low = half_value(h), high = h == 0x7bff ? 65536 : half_value(h + 1);
    const float middle = (float)((low + high) / 2);
    CHECK(to_half(middle) == h + (h & 1), "%.9g became %04x", (double)middle, to_half(middle));
    CHECK(to_half(-middle) == (0x8000 | (h + (h & 1))), "%.9g became %04x", -(double)middle, to_half(-middle));
    CHECK(to_half(nextafterf(middle, 0)) == h, "just below %.9g became %04x", (double)middle, to_half(middle));
    CHECK(to_half(nextafterf(middle, 1e9f)) == h + 1, "just above %.9g became %04x", (double)middle, to_half(middle));
  }
  CHECK(to_half(3e38f) == 0x7c00 && to_half(-3e38f) == 0xfc00 && to_half(INFINITY) == 0x7c00, "overflow");
  CHECK(to_half(1e-45f) == 0 && to_half(-1e-45f) == 0x8000, "underflow");
  CHECK((to_half(NAN) & 0x7c00) == 0x7c00 && (to_half(NAN) & 0x3ff) != 0, "NaN");
}

/* ---- Q8_0 ---- */

/* By the definition: scale = largest / 127; levels rounded half away from zero. */
static void check_q8_0(const float *x) {
  uint8_t block[34];
  float back[32], most = 0;
  uint16_t half;
  CHECK(sf_quantize(SF_Q8_0, x, 1, 32, block, sizeof block) == SF_OK, "quantise a block");
  CHECK(sf_dequantize(SF_Q8_0, block, sizeof block, 1, 32, back) == SF_OK, "dequantise a block");
  memcpy(&half, block, sizeof half);
  for (int k = 0; k < 32; ++k) most = fmaxf(most, fabsf(x[k]));
  const float scale = most / 127, inverse = scale > 0 ? 1 / scale : 0;
  CHECK(half == to_half(scale), "scale %04x, not %04x", half, to_half(scale));
  for (int k = 0; k < 32; ++k) {
    const float level = roundf(x[k] * inverse);
    CHECK((float)(int8_t)block[2 + k] == level, "%.9g became %d", (double)x[k], (int8_t)block[2 + k]);
    CHECK(back[k] == (float)half_value(half) * level, "%.9g came back as %.9g", (double)x[k], (double)back[k]);
  }
}

static void test_q8_0(void) {
  check_section("q8_0");
  float x[32];
  for (int round = 0; round < 3000; ++round) {
    const float size = ldexpf(1, round % 30 - 20);
    for (int k = 0; k < 32; ++k) x[k] = size * random_unit();
    if (round % 3 == 0) { /* exact halves */
      for (int k = 0; k < 32; ++k) x[k] = (float)(random_bits() % 254) / 2 - 63.5f;
      x[round % 32] = 127;
    }
    check_q8_0(x);
  }
  memset(x, 0, sizeof x);
  check_q8_0(x);
}

/* ---- All formats ---- */

enum { COLUMNS = 768, ROWS = 7 };

/* Any bytes are read as the layouts say. */
static void check_dequantize(int32_t format) {
  test_rows w = rows_make(format, ROWS, COLUMNS, 0, 1);
  float *x = check_alloc(sizeof(float) * ROWS * COLUMNS, 4);
  CHECK(sf_dequantize(format, w.data, w.stride * ROWS, ROWS, COLUMNS, x) == SF_OK, "dequantise");
  for (int32_t i = 0; i < ROWS; ++i) {
    for (int32_t c = 0; c < COLUMNS; ++c) {
      const double wanted = rows_weight(&w, i, c), bound = 2e-7 * rows_level(&w, i, c);
      CHECK(fabs((double)x[i * COLUMNS + c] - wanted) <= bound, "column %d: %.9g, not %.9g", c,
            (double)x[i * COLUMNS + c], wanted);
    }
  }
  check_free(x, 4);
  rows_free(&w);
}

/* What is written is read back near what it was: no further than `share` of the largest in 256 columns. */
static void check_quantize(int32_t format, double share) {
  if (!sf_format_find(format)->quantize) {
    float some[256] = {0};
    uint8_t into[256];
    CHECK(sf_quantize(format, some, 1, 256, into, sizeof into) == SF_ERROR_FORMAT, "only read");
    return;
  }
  float *x = check_alloc(sizeof(float) * COLUMNS, 4), *back = check_alloc(sizeof(float) * COLUMNS, 4);
  const size_t bytes = sf_format_row_bytes(format, COLUMNS);
  uint8_t *packed = check_alloc(bytes, 1);
  for (int32_t round = 0; round < 60; ++round) {
    const float size = ldexpf(1, round % 16 - 4), middle = round % 3 ? 0 : random_unit();
    for (int32_t c = 0; c < COLUMNS; ++c) x[c] = size * (random_unit() + middle);
    if (round == 5) memset(x, 0, sizeof(float) * COLUMNS);
    CHECK(sf_quantize(format, x, 1, COLUMNS, packed, bytes) == SF_OK, "quantise");
    CHECK(sf_dequantize(format, packed, bytes, 1, COLUMNS, back) == SF_OK, "dequantise");
    for (int32_t c = 0; c < COLUMNS; ++c) {
      double most = 0;
      for (int32_t k = c & ~255; k < (c | 255) + 1; ++k) most = fmax(most, fabs((double)x[k]));
      CHECK(fabs((double)back[c] - (double)x[c]) <= share * most + 1e-7, "%.9g came back as %.9g", (double)x[c],
            (double)back[c]);
    }
  }
  const float odd[] = {NAN, INFINITY, -INFINITY, 1e-45f, -1e-40f, 3e38f, -3e38f};
  for (size_t i = 0; i < sizeof odd / sizeof odd[0]; ++i) { /* nothing sensible comes out, but no undefined behaviour */
    for (int32_t c = 0; c < COLUMNS; ++c) x[c] = c % 7 == 3 || c / 256 == 1 ? odd[i] : random_unit();
    CHECK(sf_quantize(format, x, 1, COLUMNS, packed, bytes) == SF_OK, "an odd block");
    CHECK(sf_dequantize(format, packed, bytes, 1, COLUMNS, back) == SF_OK, "an odd block");
  }
  check_free(x, 4), check_free(back, 4), check_free(packed, 1);
}

static void test_all_formats(void) {
  for (int f = 0; f < ALL_FORMATS; ++f) {
    check_section(format_rows[f].name);
    check_dequantize(format_rows[f].format);
    check_quantize(format_rows[f].format, format_rows[f].share);
  }
}

/* ---- Sizes and errors ---- */

static void test_sizes(void) {
  check_section("sizes");
  CHECK(sf_format_row_bytes(SF_F32, 7) == 28 && sf_format_row_bytes(SF_F16, 7) == 14, "plain rows");
  CHECK(sf_format_row_bytes(SF_Q8_0, 96) == 102 && sf_format_row_bytes(SF_Q8_0, 95) == 0, "blocks");
  CHECK(sf_format_row_bytes(SF_Q4_0, 96) == 54 && sf_format_row_bytes(SF_BF16, 7) == 14, "more formats");
  CHECK(sf_format_row_bytes(SF_Q6_K, 512) == 420 && sf_format_row_bytes(SF_Q4_K, 128) == 0, "blocks of 256");
  CHECK(sf_format_row_bytes(999, 32) == 0 && sf_format_row_bytes(-1, 32) == 0, "unknown formats");
  CHECK(sf_format_row_bytes(SF_F32, 0) == 0 && sf_format_row_bytes(SF_F32, -4) == 0, "no columns");
  CHECK(sf_format_bytes(SF_Q8_0, 3, 64) == 204 && sf_format_bytes(SF_Q8_0, 0, 64) == 0, "rows");
  const uint64_t large = (uint64_t)INT32_MAX * INT32_MAX * 4;
  CHECK(sf_format_bytes(SF_F32, INT32_MAX, INT32_MAX) == (SIZE_MAX < large ? 0 : (size_t)large), "large sizes");

  float x[64] = {0};
  uint8_t packed[256];
  CHECK(sf_quantize(SF_F32, x, 2, 32, packed, 255) == SF_ERROR_SHAPE, "destination too small");
  CHECK(sf_dequantize(SF_F32, packed, 255, 2, 32, x) == SF_ERROR_SHAPE, "source too small");
  CHECK(sf_quantize(SF_Q8_0, x, 1, 33, packed, 256) == SF_ERROR_FORMAT, "not whole blocks");
  CHECK(sf_dequantize(77, packed, 256, 1, 32, x) == SF_ERROR_FORMAT, "unknown format");
  CHECK(sf_quantize(SF_F32, NULL, 1, 32, packed, 256) == SF_ERROR_ARGUMENT, "no source");
  CHECK(sf_dequantize(SF_F32, packed, 256, 1, 32, NULL) == SF_ERROR_ARGUMENT, "no destination");
  CHECK(sf_quantize(SF_F32, x, -1, 32, packed, 256) == SF_ERROR_ARGUMENT, "negative rows");
  CHECK(sf_quantize(SF_F32, x, INT32_MAX, INT32_MAX, packed, 256) == SF_ERROR_SHAPE, "rows beyond memory");
}

/* ---- Instruction sets ---- */

static void test_isas(void) {
  check_section("isas");
  const int32_t count = sf_isa_count();
  CHECK(count >= 1 && sf_isa_supported(count - 1), "the last works everywhere");
  for (int32_t i = 0; i < count; ++i) {
    CHECK(sf_isa_kernels(i) && (sf_isa_tiles(i) || strcmp(sf_isa_kernels(i)->name, sf_isa_name(i)) == 0),
          "kernels of %d", i);
    CHECK(!sf_isa_tiles(i) || sf_isa_kernels(i)->unpack, "%s unpacks no rows for its tiles", sf_isa_name(i));
    for (int32_t k = 0; k < i; ++k) CHECK(strcmp(sf_isa_name(i), sf_isa_name(k)) != 0, "%s twice", sf_isa_name(i));
    for (int f = 0; f < SF_FORMATS; ++f) {
      CHECK(sf_isa_kernels(i)->dot_rows[f] && sf_isa_kernels(i)->axpy_rows[f], "%s, format %d", sf_isa_name(i), f);
    }
    printf("%s: %s\n", sf_isa_name(i), sf_isa_supported(i) ? "supported" : "not supported");
  }
  CHECK(
      !sf_isa_name(-1) && !sf_isa_name(count) && !sf_isa_kernels(-1) && !sf_isa_kernels(count) && !sf_isa_tiles(count),
      "out of range");
  CHECK(!sf_isa_supported(-1) && !sf_isa_supported(count), "out of range");
}

int main(void) {
  test_halves();
  test_q8_0();
  test_all_formats();
  test_sizes();
  test_isas();
  return check_result();
}
