/* The kernels over single vectors: activations, softmax, norm, rotation, sums and products, quantisation of inputs;
 * for every instruction set, against double precision, at every length up to a few vectors. */
#include <float.h>

#include "rows.h"

enum { MOST = 1031 };

/* Lengths: 0 … 130, then a few longer ones. */
static int32_t next_length(int32_t n) { return n < 130 ? n + 1 : n == 130 ? 191 : n == 191 ? 1024 : n + 7; }

/* `count` values that end where memory does. */
static float *guarded(const float *values, int32_t count) {
  float *copy = check_alloc((size_t)count * sizeof *copy, 4);
  memcpy(copy, values, (size_t)count * sizeof *copy);
  return copy;
}

static void fill(float *values, int32_t count, float scale) {
  for (int32_t i = 0; i < count; ++i) values[i] = scale * random_unit();
}

static int same(const float *a, const float *b, int32_t count) { return memcmp(a, b, (size_t)count * sizeof *a) == 0; }

/* ---- Activations ---- */

static void check_activation(const sf_kernels *kernels, int32_t activation, float parameter, const float *x,
                             int32_t count) {
  float *input = guarded(x, count), *y = guarded(x, count), *reference = guarded(x, count);
  kernels->activate(activation, parameter, input, count, y);
  kernels->activate(activation, parameter, input, count, input);
  CHECK(same(input, y, count), "activation %d in place differs", activation);
  for (int32_t i = 0; i < count; ++i) {
    const double v = (double)x[i], wanted = reference_activation(activation, (double)parameter, v);
    if (fabs(wanted) > (double)FLT_MAX) continue;
    const double bound = activation == SF_RELU2 ? 1e-7 * fabs(wanted) + 1e-45 : 2e-6 * fmax(1, fabs(v));
    CHECK(fabs((double)y[i] - wanted) <= bound, "activation %d of %.9g is %.9g, not %.9g", activation, v, (double)y[i],
          wanted);
    if (activation >= SF_SILU && activation <= SF_GELU_ERF && v > -9 &&
        v < 1e30) { /* small results keep their digits */
      CHECK(fabs((double)y[i] - wanted) <= 1e-6 * (1 + v * v) * fabs(wanted) + 2e-45,
            "activation %d of %.9g is %.9g, not %.9g: relative error", activation, v, (double)y[i], wanted);
    }
  }
  if (same_bits_as(kernels)) {
    same_bits_as(kernels)->activate(activation, parameter, x, count, reference);
    CHECK(same(y, reference, count), "activation %d: not the scalar bits", activation);
  }
  check_free(input, 4), check_free(y, 4), check_free(reference, 4);
}

static void test_activations(const sf_kernels *kernels) {
  static const float special[] = {0.0f,        -0.0f,   FLT_MIN, -FLT_MIN, FLT_MAX, -FLT_MAX, 1e-45f, -1e-45f,
                                  FLT_EPSILON, -1e-30f, 1e18f,   -1e18f,   3e38f,   -3e38f,   87.5f,  -87.5f,
                                  -88.1f,      88.1f,   -104.0f, 104.0f,   -12.0f,  12.0f,    -14.0f, 14.0f};
  float x[MOST];
  for (int32_t activation = SF_IDENTITY; activation <= SF_CAPPED; ++activation) {
    check_activation(kernels, activation, 0.25f, special, sizeof special / sizeof special[0]);
    for (int32_t count = 0; count <= MOST; count = next_length(count)) {
      fill(x, count, count % 2 ? 4.0f : 30.0f);
      check_activation(kernels, activation, 0.25f, x, count);
    }
    for (int32_t place = 0; place < 40; ++place) { /* NaN comes through, and spoils no neighbour */
      float y[40];
      fill(x, 40, 3);
      x[place] = NAN;
      kernels->activate(activation, 0.25f, x, 40, y);
      for (int32_t i = 0; i < 40; ++i) CHECK(isnan(y[i]) == (i == place), "activation %d of NaN", activation);
    }
    for (int32_t block = 0; block < 200; ++block) { /* 1e5 values each over ±1e4, ±20 and, by exponent, all floats */
      for (int32_t i = 0; i < 1000; ++i) {
        const float t = (float)(block * 1000 + i) / 1e5f - 1.0f;
        x[i] = i % 2 ? 20 * t : 1e4f * t;
        if (i % 8 == 0) x[i] = random_unit() * ldexpf(1, (int)(random_bits() % 250) - 123);
      }
      check_activation(kernels, activation, 0.25f, x, 1000);
    }
  }
}

/* ---- Softmax ---- */

static void check_softmax(const sf_kernels *kernels, const float *x, int32_t count) {
  float *input = guarded(x, count), *y = guarded(x, count), *reference = guarded(x, count);
  double most = (double)x[0], sum = 0;
  for (int32_t i = 0; i < count; ++i) most = fmax(most, (double)x[i]);
  for (int32_t i = 0; i < count; ++i) sum += exp((double)x[i] - most);
  kernels->softmax(input, count, y);
  kernels->softmax(input, count, input);
  CHECK(same(input, y, count), "softmax of %d in place differs", count);
  for (int32_t i = 0; i < count; ++i) {
    const double wanted = exp((double)x[i] - most) / sum;
    /* The exponent's own rounding counts: x - max is rounded to float. */
    const double bound = 1e-6 * wanted + 6e-8 * fabs((double)x[i] - most) * wanted + 1e-37;
    CHECK(fabs((double)y[i] - wanted) <= bound, "softmax of %d, place %d: %.9g, not %.9g", count, i, (double)y[i],
          wanted);
  }
  if (same_bits_as(kernels)) {
    same_bits_as(kernels)->softmax(x, count, reference);
    CHECK(same(y, reference, count), "softmax: not the scalar bits");
  }
  check_free(input, 4), check_free(y, 4), check_free(reference, 4);
}

static void test_softmax(const sf_kernels *kernels) {
  static const float scales[] = {1e-3f, 1, 10, 1e3f, FLT_MAX};
  float x[MOST];
  for (int32_t count = 1; count <= MOST; count = next_length(count)) {
    for (int s = 0; s < 5; ++s) {
      fill(x, count, scales[s]);
      check_softmax(kernels, x, count);
    }
    for (int32_t i = 0; i < count; ++i) x[i] = -FLT_MAX;
    check_softmax(kernels, x, count);
    x[count / 2] = FLT_MAX;
    check_softmax(kernels, x, count);
  }
}

/* ---- Norm, rotation, sums and products ---- */

static void check_rms_norm(const sf_kernels *kernels, const float *x, const float *weight, int32_t d, float epsilon) {
  float *input = guarded(x, d), *w = guarded(weight, d), *y = guarded(x, d), *reference = guarded(x, d);
  double squares = 0;
  for (int32_t i = 0; i < d; ++i) squares += (double)x[i] * (double)x[i];
  const double scale = 1 / sqrt(squares / d + (double)epsilon);
  kernels->rms_norm(input, w, d, epsilon, y);
  kernels->rms_norm(input, w, d, epsilon, input);
  CHECK(same(input, y, d), "rms_norm of %d in place differs", d);
  for (int32_t i = 0; i < d; ++i) {
    const double wanted = (double)x[i] * scale * (double)weight[i];
    CHECK(fabs((double)y[i] - wanted) <= (4 + d / 8.0) * 6e-8 * fabs(wanted) + 1e-44,
          "rms_norm of %d, place %d: %.9g, not %.9g", d, i, (double)y[i], wanted);
  }
  if (same_bits_as(kernels)) {
    same_bits_as(kernels)->rms_norm(x, weight, d, epsilon, reference);
    CHECK(same(y, reference, d), "rms_norm: not the scalar bits");
  }
  check_free(input, 4), check_free(w, 4), check_free(y, 4), check_free(reference, 4);
}

static void test_rms_norm(const sf_kernels *kernels) {
  float x[MOST], weight[MOST];
  for (int32_t d = 1; d <= MOST; d = next_length(d)) {
    fill(weight, d, 2);
    fill(x, d, 3);
    check_rms_norm(kernels, x, weight, d, 1e-5f);
    fill(x, d, 1e-4f);
    check_rms_norm(kernels, x, weight, d, 1e-5f);
    fill(x, d, 1e15f);
    check_rms_norm(kernels, x, weight, d, 1e-5f);
    fill(x, d, 1e18f);
    check_rms_norm(kernels, x, weight, d, 1e-5f);
    fill(x, d, FLT_MAX);
    check_rms_norm(kernels, x, weight, d, 0);
    fill(x, d, 0);
    check_rms_norm(kernels, x, weight, d, 1e-6f);
  }
}

static void check_layer_norm(const sf_kernels *kernels, const float *x, const float *weight, const float *bias,
                             int32_t d, float epsilon) {
  float *input = guarded(x, d), *y = guarded(x, d), *reference = guarded(x, d);
  float *w = guarded(weight, d), *b = guarded(bias ? bias : weight, d);
  double mean = 0, squares = 0, most = 0;
  for (int32_t i = 0; i < d; ++i) mean += (double)x[i] / d, most = fmax(most, fabs((double)x[i]));
  for (int32_t i = 0; i < d; ++i) squares += ((double)x[i] - mean) * ((double)x[i] - mean);
  const double spread = sqrt(squares / d + (double)epsilon);
  kernels->layer_norm(input, w, bias ? b : NULL, d, epsilon, y);
  kernels->layer_norm(input, w, bias ? b : NULL, d, epsilon, input);
  CHECK(same(input, y, d), "layer_norm of %d in place differs", d);
  for (int32_t i = 0; i < d; ++i) {
    const double normed = (double)x[i] - mean == 0 ? 0 : ((double)x[i] - mean) / spread;
    const double wanted = normed * (double)weight[i] + (bias ? (double)bias[i] : 0);
    const double bound = (8 + d / 8.0) * 6e-8 * (fabs(wanted) + fabs((double)weight[i]) * (1 + most / spread));
    CHECK(fabs((double)y[i] - wanted) <= bound + 1e-44, "layer_norm of %d, place %d: %.9g, not %.9g", d, i,
          (double)y[i], wanted);
  }
  if (same_bits_as(kernels)) {
    same_bits_as(kernels)->layer_norm(x, weight, bias, d, epsilon, reference);
    CHECK(same(y, reference, d), "layer_norm: not the scalar bits");
  }
  check_free(input, 4), check_free(y, 4), check_free(reference, 4), check_free(w, 4), check_free(b, 4);
}

static void test_layer_norm(const sf_kernels *kernels) {
  static const float scales[] = {3, 1e-4f, 1e15f, 1e18f, FLT_MAX};
  float x[MOST], weight[MOST], bias[MOST];
  for (int32_t d = 1; d <= MOST; d = next_length(d)) {
    fill(weight, d, 2), fill(bias, d, 1);
    for (int s = 0; s < 5; ++s) {
      fill(x, d, scales[s]);
      check_layer_norm(kernels, x, weight, s % 2 ? bias : NULL, d, 1e-5f);
    }
    fill(x, d, 0.1f);
    for (int32_t i = 0; i < d; ++i) x[i] += 20; /* a mean far above the deviations */
    check_layer_norm(kernels, x, weight, bias, d, 1e-5f);
    for (int32_t i = 0; i < d; ++i) x[i] = 0x1p100f;
    check_layer_norm(kernels, x, weight, bias, d, 1e-5f);
  }
}

static void test_softcap(const sf_kernels *kernels) {
  static const float scales[] = {1e-3f, 1, 60, 1e6f, FLT_MAX};
  float x[MOST];
  for (int32_t n = 0; n <= MOST; n = next_length(n)) {
    for (int s = 0; s < 5; ++s) {
      fill(x, n, scales[s]);
      float *y = guarded(x, n), *reference = guarded(x, n);
      kernels->softcap(30, y, n);
      for (int32_t i = 0; i < n; ++i) {
        const double wanted = 30 * tanh((double)x[i] / 30);
        CHECK(fabs((double)y[i] - wanted) <= 1e-5, "softcap of %.9g: %.9g, not %.9g", (double)x[i], (double)y[i],
              wanted);
      }
      if (same_bits_as(kernels)) {
        same_bits_as(kernels)->softcap(30, reference, n);
        CHECK(same(y, reference, n), "softcap: not the scalar bits");
      }
      check_free(y, 4), check_free(reference, 4);
    }
  }
}

static void test_rope(const sf_kernels *kernels, int32_t halves) {
  float x[2 * 70], turn[2 * 70];
  for (int32_t pairs = 0; pairs <= 70; ++pairs) {
    const int32_t step = halves ? 1 : 2, apart = halves ? pairs : 1;
    fill(x, 2 * pairs, 2);
    for (int32_t i = 0; i < pairs; ++i) turn[2 * i] = (float)cos(i * 1.7), turn[2 * i + 1] = (float)sin(i * 1.7);
    float *y = guarded(x, 2 * pairs), *angles = guarded(turn, 2 * pairs), *reference = guarded(x, 2 * pairs);
    kernels->rope(y, angles, pairs, halves);
    for (int32_t i = 0; i < pairs; ++i) {
      const double a = (double)x[step * i], b = (double)x[step * i + apart], c = (double)turn[2 * i],
                   s = (double)turn[2 * i + 1];
      CHECK(fabs((double)y[step * i] - (a * c - b * s)) <= 1e-6, "rope, pair %d of %d", i, pairs);
      CHECK(fabs((double)y[step * i + apart] - (a * s + b * c)) <= 1e-6, "rope, pair %d of %d", i, pairs);
    }
    if (same_bits_as(kernels)) {
      same_bits_as(kernels)->rope(reference, angles, pairs, halves);
      CHECK(same(y, reference, 2 * pairs), "rope: not the scalar bits");
    }
    check_free(y, 4), check_free(angles, 4), check_free(reference, 4);
  }
}

static void test_elementwise(const sf_kernels *kernels) {
  float a[MOST], b[MOST], sum[MOST], product[MOST];
  for (int32_t n = 0; n <= MOST; n = next_length(n)) {
    fill(a, n, 3);
    fill(b, n, 5);
    for (int32_t i = 0; i < n; ++i) sum[i] = a[i] + b[i], product[i] = a[i] * b[i];
    float *x = guarded(a, n), *y = guarded(b, n), *z = guarded(a, n);
    kernels->add(x, y, n, z);
    CHECK(same(z, sum, n), "add of %d", n);
    kernels->multiply(x, y, n, z);
    CHECK(same(z, product, n), "multiply of %d", n);
    kernels->multiply(x, y, n, y);
    CHECK(same(y, product, n), "multiply of %d into its second", n);
    memcpy(y, b, (size_t)n * sizeof *y);
    kernels->add(x, y, n, x);
    CHECK(same(x, sum, n), "add of %d into its first", n);
    check_free(x, 4), check_free(y, 4), check_free(z, 4);
  }
}

static void test_all_finite(const sf_kernels *kernels) {
  static const float bad[] = {NAN, INFINITY, -INFINITY};
  float values[MOST];
  fill(values, MOST, 1);
  for (int32_t n = 0; n <= 191; n = next_length(n)) {
    for (int32_t i = 0; i < n; ++i) values[i] = i % 3 ? FLT_MAX : -FLT_MAX;
    float *x = guarded(values, n);
    CHECK(kernels->all_finite(x, n) == 1, "%d large values are finite", n);
    for (int32_t i = 0; i < n; ++i) {
      const float good = x[i];
      for (int k = 0; k < 3; ++k) {
        x[i] = bad[k];
        CHECK(kernels->all_finite(x, n) == 0, "place %d of %d holds %g", i, n, (double)bad[k]);
      }
      x[i] = good;
    }
    check_free(x, 4);
  }
}

/* ---- Quantisation of inputs ---- */

static void check_quantize_i16(const sf_kernels *kernels, const float *x, int32_t columns, int32_t shared) {
  const size_t n = (size_t)columns;
  float *input = guarded(x, columns), *scales = check_alloc(n / 32 * sizeof *scales, 4), scalar_scales[MOST / 32];
  float *sums = check_alloc(n / 32 * sizeof *sums, 4), scalar_sums[MOST / 32];
  int16_t *values = check_alloc(n * sizeof *values, 2), scalar_values[MOST];
  kernels->quantize_i16(input, columns, 32767, shared, values, scales, sums);
  float most = 0;
  int largest = 0;
  for (int32_t b = 0; b < columns / 32; ++b) {
    int sum = 0;
    if (32 * b % shared == 0) most = 0, largest = 0;
    for (int32_t c = 32 * b; c < 32 * b + 32; ++c) {
      most = fmaxf(most, fabsf(x[c]));
      sum += values[c];
      largest = abs(values[c]) > largest ? abs(values[c]) : largest;
      const double error = fabs((double)values[c] * (double)scales[b] - (double)x[c]);
      const double bound = 0.501 * (double)scales[b] + 3e-7 * fabs((double)x[c]) + 1e-30;
      CHECK(error <= bound, "quantize_i16: %.9g became %.9g", (double)x[c], values[c] * (double)scales[b]);
    }
    CHECK(largest <= 32767 && scales[b] == scales[32 * b / shared * shared / 32], "quantize_i16: scales");
    if ((32 * b + 32) % shared == 0 || 32 * b + 32 == columns) { /* the last of those with one scale */
      CHECK(most <= 1e-29f || largest == 32767, "quantize_i16: the largest became %d", largest);
      CHECK(most != 0 || scales[b] == 0, "a block of zeros has scale %g", (double)scales[b]);
    }
    CHECK(sums[b] == scales[b] * (float)sum, "quantize_i16: the sum %d became %g", sum, (double)sums[b]);
  }
  if (same_bits_as(kernels)) {
    same_bits_as(kernels)->quantize_i16(input, columns, 32767, shared, scalar_values, scalar_scales, scalar_sums);
    CHECK(memcmp(values, scalar_values, n * sizeof *values) == 0 && same(scales, scalar_scales, columns / 32) &&
              same(sums, scalar_sums, columns / 32),
          "quantize_i16: not the scalar bits");
  }
  check_free(input, 4), check_free(values, 2), check_free(scales, 4), check_free(sums, 4);
}

static void test_quantize_i16(const sf_kernels *kernels) {
  static const float scales[] = {0, 1e-45f, 1e-38f, 1e-31f, 1e-28f, 1e-3f, 1, 1e4f, 1e30f, FLT_MAX};
  float x[MOST];
  for (int32_t columns = 32; columns <= 1024; columns += 32) {
    for (int s = 0; s < 10; ++s) {
      fill(x, columns, scales[s]);
      if (columns % 64 == 0) fill(x, 32, 0);
      check_quantize_i16(kernels, x, columns, 32);
      if (columns % 256 == 0) check_quantize_i16(kernels, x, columns, 256);
    }
  }
  for (int32_t i = 0; i < 32; ++i) x[i] = i == 31 ? 32767.0f : (float)i - 15.5f; /* halves go to even */
  check_quantize_i16(kernels, x, 32, 32);
  int16_t values[32];
  float scale, sum;
  kernels->quantize_i16(x, 32, 32767, 32, values, &scale, &sum);
  for (int32_t i = 0; i < 31; ++i) CHECK(values[i] % 2 == 0, "quantize_i16: %g became %d", (double)x[i], values[i]);
  static const float odd[] = {NAN, INFINITY, -INFINITY};
  for (int k = 0; k < 3; ++k) { /* shows in every product with the block */
    for (int32_t i = 0; i < 32; ++i) {
      const float kept = x[i];
      x[i] = odd[k];
      kernels->quantize_i16(x, 32, 32767, 32, values, &scale, &sum);
      CHECK(isnan(scale) && isnan(sum), "quantize_i16: %g gave the scale %g", (double)odd[k], (double)scale);
      x[i] = kept;
    }
  }
}

/* Ties, infinities, zeros of both signs and NaN among the values, and as limits. */
static void test_count_above(const sf_kernels *kernels) {
  static const float limits[] = {-INFINITY, -1, -0.0f, 0.0f, 1, 2.5f, FLT_MAX, INFINITY};
  float x[MOST];
  for (int32_t n = 0; n <= MOST; n = next_length(n)) {
    for (int32_t i = 0; i < n; ++i) x[i] = i % 3 == 0 ? floorf(3 * random_unit()) : 3 * random_unit();
    for (int32_t i = 0; i < n; i += 7) x[i] = i % 2 ? NAN : i % 4 ? INFINITY : -INFINITY;
    float *values = guarded(x, n);
    for (size_t l = 0; l < sizeof limits / sizeof limits[0]; ++l) {
      int32_t found = kernels->count_above(values, n, limits[l]), wanted = 0;
      for (int32_t i = 0; i < n; ++i) wanted += x[i] > limits[l];
      CHECK(found == wanted, "%d of %d above %g, not %d", found, n, (double)limits[l], wanted);
    }
    check_free(values, 4);
  }
}

int main(void) {
  for (int32_t isa = 0; isa < sf_isa_count(); ++isa) {
    const sf_kernels *kernels = sf_isa_kernels(isa);
    if (sf_isa_tiles(isa)) continue; /* whose kernels are another's: see test_tiles.c */
    if (!check_isa(sf_isa_supported(isa))) continue;
    check_section(kernels->name);
    test_activations(kernels);
    test_softmax(kernels);
    test_rms_norm(kernels);
    test_layer_norm(kernels);
    test_softcap(kernels);
    test_rope(kernels, 0);
    test_rope(kernels, 1);
    test_elementwise(kernels);
    test_all_finite(kernels);
    test_count_above(kernels);
    test_quantize_i16(kernels);
  }
  return check_result();
}
