/* What every C test needs: checks that go on after a failure, and memory whose bounds the address sanitizer sees. */
#ifndef SF_CHECK_H
#define SF_CHECK_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { CHECK_SHOWN = 20 }; /* failures printed; more are only counted */

static int check_failures, check_count;
static const char *check_where = "";

/* Names what the following checks are about. */
static inline void check_section(const char *name) { check_where = name; }

#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
static inline void
check_fail(const char *file, int line, const char *format, ...) {
  if (++check_failures > CHECK_SHOWN) return;
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "%s:%d: %s: ", file, line, check_where);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
}

/* CHECK(condition, "printf format", …): what to say when the condition does not hold. The arguments are computed only
 * then, since kernels are checked millions of times. */
#define CHECK(condition, ...) (++check_count, (condition) ? (void)0 : check_fail(__FILE__, __LINE__, __VA_ARGS__))

/* How many instruction sets a test goes through: with the thread sanitizer, which slows it down tenfold, only one,
 * since threads are handed their work in the same way for each. */
#if defined(__SANITIZE_THREAD__)
enum { CHECK_ISAS = 1 };
#else
enum { CHECK_ISAS = 100 };
#endif

/* Whether a test goes through an instruction set, which the machine may have or not. */
static inline int check_isa(int supported) {
  static int checked;
  return supported && checked++ < CHECK_ISAS;
}

/* The exit status of the test program, with a line of summary. */
static inline int check_result(void) {
  printf("%d checks, %d failed\n", check_count, check_failures);
  return check_failures > 0;
}

/* `bytes` of memory, exactly, beginning `offset` bytes after an aligned address. Never NULL; freed by check_free with
 * the same offset. */
static inline void *check_alloc(size_t bytes, size_t offset) {
  char *memory = calloc(bytes + offset > 0 ? bytes + offset : 1, 1);
  if (!memory) {
    fputs("out of memory\n", stderr);
    exit(2);
  }
  return memory + offset;
}

static inline void check_free(void *memory, size_t offset) { free((char *)memory - offset); }

#endif
