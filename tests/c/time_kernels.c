#define _POSIX_C_SOURCE 200112L
#include "time_kernels.h"

#include <stdio.h>
#include <time.h>

#include "rows.h"

/* Of this thread's own time, so that other work on the machine disturbs less. */
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct {
  const sf_kernels *kernels;
  const test_rows *w;
  const test_inputs *x;
  const int32_t *ids;
  int32_t n_rows, n_inputs;
  float *alpha, *out;
  int32_t shift, shifts; /* the run's rows begin at row `shift`, which goes round 0 … shifts-1: see time_kernels */
} job;

static sf_rows next_rows(job *j) {
  sf_rows rows = rows_view(j->w, j->ids);
  rows.data += (size_t)j->shift * rows.stride;
  j->shift = (j->shift + 1) % j->shifts;
  return rows;
}

static void run_dot(job *j) {
  const sf_rows rows = next_rows(j);
  const sf_inputs inputs = inputs_view(j->x, 0);
  j->kernels->dot_rows[sf_format_find(j->w->format)->index](&rows, j->n_rows, &inputs, j->n_inputs, j->out,
                                                            (size_t)j->n_rows);
}

static void run_axpy(job *j) {
  const sf_rows rows = next_rows(j);
  j->kernels->axpy_rows[sf_format_find(j->w->format)->index](&rows, j->n_rows, j->alpha, 0, j->w->columns, j->out);
}

/* Seconds of one run: the best of many batches, each long enough for the clock. What else the machine does only ever
 * adds time. */
static double time_job(void (*run)(job *), job *j) {
  enum { BATCHES = 40 };
  int repeats = 1;
  double best = 0;
  run(j);
  for (;; repeats *= 2) {
    const double start = now();
    for (int i = 0; i < repeats; ++i) run(j);
    best = (now() - start) / repeats;
    if (best * repeats > 1e-3) break;
  }
  for (int b = 0; b < BATCHES; ++b) {
    const double start = now();
    for (int i = 0; i < repeats; ++i) run(j);
    const double seconds = (now() - start) / repeats;
    if (seconds < best) best = seconds;
  }
  return best;
}

/* One line. GB/s counts the bytes of weights read; Gmac/s multiply-adds. */
static void report(const char *what, const char *name, void (*run)(job *), job *j) {
  char label[200];
  snprintf(label, sizeof label, "%s %s %s, %d rows%s of %d, %d inputs", j->kernels->name, what,
           format_name(j->w->format), j->n_rows, j->ids ? " scattered" : "", j->w->columns, j->n_inputs);
  if (!strstr(label, name)) return;
  const double t = time_job(run, j),
               bytes = (double)j->n_rows * (double)sf_format_row_bytes(j->w->format, j->w->columns);
  const double macs = (double)j->n_rows * j->w->columns * j->n_inputs;
  printf("%-62s %9.2f us %8.1f GB/s %8.1f Gmac/s\n", label, t * 1e6, bytes / t * 1e-9, macs / t * 1e-9);
  fflush(stdout);
}

/* In cache: 64 rows, with one input and several. From memory: every row, with one input and eight, and one in ten, of a
 * matrix larger than the caches; the scattered rows are others in each of ten runs, so that none is in cache. */
void time_kernels(const char *name) {
  enum { SMALL_ROWS = 64, INPUTS = 32, COLUMNS = 2048, SHARE = 10 };
  static const int32_t counts[] = {1, 2, 4, 8, INPUTS};
  for (int f = 0; f < ALL_FORMATS; ++f) {
    const int32_t rows = (int32_t)(192000000 / sf_format_row_bytes(format_rows[f].format, COLUMNS)),
                  active = rows / SHARE - 1;
    test_rows w = rows_make(format_rows[f].format, rows, COLUMNS, 0, 0);
    test_inputs x = inputs_make(INPUTS, COLUMNS, 0);
    int32_t *ids = check_alloc((size_t)active * sizeof *ids, 0);
    for (int32_t i = 0; i < active; ++i) ids[i] = SHARE * i + (int32_t)(random_bits() % SHARE);
    float *alpha = check_alloc((size_t)rows * sizeof *alpha, 0);
    float *out = check_alloc((size_t)rows * INPUTS * sizeof *out, 0);
    for (int32_t i = 0; i < rows; ++i) alpha[i] = 1e-3f * random_unit();
    memset(out, 0, (size_t)rows * INPUTS * sizeof *out);
    for (int32_t isa = 0; isa < sf_isa_count(); ++isa) {
      if (sf_isa_tiles(isa) || !sf_isa_supported(isa)) continue;
      inputs_fit(&x, sf_isa_kernels(isa), format_rows[f].format);
      job j = {sf_isa_kernels(isa), &w, &x, NULL, SMALL_ROWS, 1, alpha, out, 0, 1};
      for (size_t k = 0; k < sizeof counts / sizeof counts[0]; ++k) {
        j.n_inputs = counts[k];
        report("dot", name, run_dot, &j);
      }
      j.n_inputs = 1;
      report("axpy", name, run_axpy, &j);
      j.n_rows = rows;
      report("dot", name, run_dot, &j);
      j.n_inputs = 8;
      report("dot", name, run_dot, &j);
      j.n_inputs = 1;
      report("axpy", name, run_axpy, &j);
      j.n_rows = active, j.ids = ids, j.shifts = SHARE;
      report("dot", name, run_dot, &j);
      report("axpy", name, run_axpy, &j);
    }
    check_free(out, 0);
    check_free(alpha, 0);
    check_free(ids, 0);
    inputs_free(&x);
    rows_free(&w);
  }
}
