/* The golden vectors (tests/golden/README.md), on every instruction set of this machine. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "sparsefire.h"

enum { LAYER = 1, LOW_RANK = 2, SIGN = 3, SELECTION = 4 };

/* The file, read from the front; what is read lies in the file's own memory, unaligned, or is copied to `blocks`. */
typedef struct {
  uint8_t *data;
  size_t bytes, at;
  void *blocks[16];
  int32_t block_count;
} reader;

static const uint8_t *take(reader *r, size_t bytes) {
  if (bytes > r->bytes - r->at) {
    fprintf(stderr, "the golden vectors end too early\n");
    exit(2);
  }
  r->at += bytes;
  return r->data + r->at - bytes;
}

/* An aligned copy of `count` elements, freed by next_record. */
static void *copy(reader *r, int32_t count, size_t size) {
  size_t bytes = (size_t)count * size;
  void *block = check_alloc(bytes, 0);
  memcpy(block, take(r, bytes), bytes);
  if (r->block_count == 16) exit(2);
  return r->blocks[r->block_count++] = block;
}

static void end_record(reader *r) {
  while (r->block_count > 0) check_free(r->blocks[--r->block_count], 0);
}

static int32_t read_int(reader *r) {
  int32_t value;
  memcpy(&value, take(r, sizeof value), sizeof value);
  return value;
}

static float read_float(reader *r) {
  float value;
  memcpy(&value, take(r, sizeof value), sizeof value);
  return value;
}

static const float *floats(reader *r, int32_t count) { return copy(r, count, sizeof(float)); }
static const double *doubles(reader *r, int32_t count) { return copy(r, count, sizeof(double)); }

static const int32_t *ids(reader *r, int32_t *count) {
  *count = read_int(r);
  return copy(r, *count, sizeof(int32_t));
}

static sf_matrix *matrix(reader *r, int32_t format, int32_t rows, int32_t columns) {
  size_t bytes = sf_format_row_bytes(format, columns) * (size_t)rows;
  sf_matrix *opened;
  CHECK(sf_matrix_open(&opened, take(r, bytes), bytes, format, rows, columns, 0) == SF_OK, "matrix");
  return opened;
}

static void check_near(const float *found, const double *wanted, int32_t n, int32_t count, float tolerance,
                       const char *what) {
  for (int32_t j = 0; j < n; j++, found += count, wanted += count) {
    double largest = 1, error = 0;
    for (int32_t i = 0; i < count; i++) {
      largest = fmax(largest, fabs(wanted[i]));
      error = fmax(error, fabs((double)found[i] - wanted[i]));
    }
    CHECK(error <= (double)tolerance * largest, "%s: %g off, the largest is %g", what, error, largest);
  }
}

static void check_ids(const int32_t *found, int32_t count, const int32_t *wanted, int32_t wanted_count,
                      const char *what) {
  CHECK(count == wanted_count, "%s: %d neurons instead of %d", what, count, wanted_count);
  if (count == wanted_count) CHECK(memcmp(found, wanted, (size_t)count * sizeof *found) == 0, "%s: others", what);
}

static void check_layer(reader *r, sf_context *context) {
  int32_t v[8], count;
  for (int32_t i = 0; i < 8; i++) v[i] = read_int(r);
  const int32_t format = v[0], activation = v[1], gated = v[2], biased = v[3], hidden = v[4], d = v[5], out = v[6],
                n = v[7];
  const float parameter = read_float(r), tolerance = read_float(r);
  sf_matrix *gate = gated ? matrix(r, format, hidden, d) : NULL, *up = matrix(r, format, hidden, d);
  sf_matrix *down = matrix(r, format, hidden, out);
  sf_ffn *ffn;
  CHECK(sf_ffn_open(&ffn, context, gate, up, down, SF_DOWN_BY_NEURON, activation, parameter) == SF_OK, "layer");
  if (biased) {
    const float *gate_bias = gated ? floats(r, hidden) : NULL, *up_bias = floats(r, hidden);
    CHECK(sf_ffn_set_bias(ffn, gate_bias, up_bias, floats(r, out)) == SF_OK, "biases");
  }
  const float *x = floats(r, n * d);
  const int32_t *some = ids(r, &count);
  const double *wanted = doubles(r, n * out), *wanted_of_some = doubles(r, n * out);
  float *y = check_alloc((size_t)(n * out) * sizeof *y, 0);
  CHECK(sf_ffn_forward(ffn, SF_DENSE, x, n, y, NULL, NULL) == SF_OK, "dense");
  check_near(y, wanted, n, out, tolerance, "dense");
  CHECK(sf_ffn_forward(ffn, SF_EXACT, x, n, y, NULL, NULL) == SF_OK, "exact");
  check_near(y, wanted, n, out, tolerance, "exact");
  for (int32_t j = 0; j < n; j++) {
    CHECK(sf_ffn_forward_active(ffn, some, count, x + j * d, y + j * out) >= SF_OK, "some neurons");
  }
  check_near(y, wanted_of_some, n, out, tolerance, "some neurons");
  check_free(y, 0);
  sf_ffn_close(ffn);
  sf_matrix_close(gate), sf_matrix_close(up), sf_matrix_close(down);
}

static void check_predictor(sf_predictor *predictor, const float *x, int32_t n, int32_t hidden, const double *wanted,
                            float tolerance) {
  float *scores = check_alloc((size_t)(n * hidden) * sizeof *scores, 0);
  CHECK(sf_predictor_scores(predictor, x, n, scores) == SF_OK, "scores");
  check_near(scores, wanted, n, hidden, tolerance, "scores");
  check_free(scores, 0);
}

static void check_low_rank(reader *r, sf_context *context) {
  int32_t v[10], count;
  for (int32_t i = 0; i < 10; i++) v[i] = read_int(r);
  const int32_t format = v[0], relu = v[1], rank = v[2], hidden = v[3], d = v[4], n = v[5];
  const float threshold = read_float(r), tolerance = read_float(r);
  sf_matrix *p = matrix(r, format, rank, d), *q = matrix(r, format, hidden, rank);
  sf_predictor *predictor;
  CHECK(sf_predictor_open(&predictor, context, p, q, floats(r, hidden), relu) == SF_OK, "predictor");
  CHECK(sf_predictor_set_rule(predictor, v[6], threshold, v[7], v[8], v[9]) == SF_OK, "rule");
  const float *x = floats(r, n * d);
  check_predictor(predictor, x, n, hidden, doubles(r, n * hidden), tolerance);
  int32_t *found = check_alloc((size_t)hidden * sizeof *found, 0);
  for (int32_t j = 0; j < n; j++) {
    const int32_t *wanted = ids(r, &count);
    check_ids(found, sf_predictor_predict(predictor, x + j * d, found), wanted, count, "prediction");
  }
  check_free(found, 0);
  sf_predictor_close(predictor);
  sf_matrix_close(p), sf_matrix_close(q);
}

static void check_sign(reader *r, sf_context *context) {
  const int32_t hidden = read_int(r), d = read_int(r), n = read_int(r);
  const float alpha = read_float(r);
  const size_t bytes = (size_t)hidden * (size_t)d * sizeof(float);
  sf_matrix *gate;
  sf_predictor *predictor;
  CHECK(sf_matrix_open(&gate, floats(r, hidden * d), bytes, SF_F32, hidden, d, 0) == SF_OK, "gate");
  CHECK(sf_predictor_open_sign(&predictor, context, gate, alpha) == SF_OK, "sign predictor");
  const float *x = floats(r, n * d);
  check_predictor(predictor, x, n, hidden, doubles(r, n * hidden), 1e-6f);
  sf_predictor_close(predictor);
  sf_matrix_close(gate);
}

static void check_selection(reader *r, sf_context *context) {
  const int32_t rule = read_int(r), least = read_int(r), most = read_int(r), hidden = read_int(r);
  const float threshold = read_float(r), *scores = floats(r, hidden);
  int32_t count, *found = check_alloc((size_t)hidden * sizeof *found, 0);
  const int32_t *wanted = ids(r, &count);
  int32_t chosen = rule == SF_RULE_TOP_K ? sf_select_top_k(context, scores, hidden, most, found)
                                         : sf_select_threshold(context, scores, hidden, threshold, least, most, found);
  check_ids(found, chosen, wanted, count, "selection");
  check_free(found, 0);
}

static reader open_file(const char *path) {
  reader r = {NULL, 0, 8, {NULL}, 0};
  FILE *file = fopen(path, "rb");
  if (!file || fseek(file, 0, SEEK_END) != 0) {
    fprintf(stderr, "%s cannot be read\n", path);
    exit(2);
  }
  r.bytes = (size_t)ftell(file);
  r.data = check_alloc(r.bytes, 0);
  rewind(file);
  CHECK(fread(r.data, 1, r.bytes, file) == r.bytes, "%s cannot be read", path);
  CHECK(r.bytes >= 8 && memcmp(r.data, "SFGOLD01", 8) == 0, "%s holds no golden vectors", path);
  fclose(file);
  return r;
}

int main(int argc, char **argv) {
  reader r = open_file(argc > 1 ? argv[1] : SF_GOLDEN_VECTORS);
  for (int32_t isa = 0; isa < sf_isa_count(); isa++) {
    if (!sf_isa_supported(isa)) continue;
    sf_context *context;
    int32_t records = 0;
    CHECK(sf_context_open(&context, isa, 2) == SF_OK, "context");
    for (r.at = 8; r.at < r.bytes; records++) {
      char where[64];
      int32_t kind = read_int(&r);
      snprintf(where, sizeof where, "%s, record %d", sf_isa_name(isa), records);
      check_section(where);
      if (kind == LAYER) check_layer(&r, context);
      if (kind == LOW_RANK) check_low_rank(&r, context);
      if (kind == SIGN) check_sign(&r, context);
      if (kind == SELECTION) check_selection(&r, context);
      CHECK(kind >= LAYER && kind <= SELECTION, "kind %d", kind);
      end_record(&r);
    }
    CHECK(records > 100, "%d records", records);
    sf_context_close(context);
  }
  check_free(r.data, 0);
  return check_result();
}
