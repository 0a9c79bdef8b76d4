/* Allocation: aligned, in huge pages where that pays, with overflow checks. */
#ifdef __linux__
#define _DEFAULT_SOURCE /* for madvise */
#include <sys/mman.h>
#endif

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "sparsefire.h"

enum { ALIGNMENT = 64 }; /* a cache line, and the widest vector */

/* aligned_alloc is not in C99, so the first aligned address of a block is used, and the block's own address is kept
 * just before it. */
static void *align(uint8_t *block, size_t alignment) {
  if (!block) return NULL;
  uintptr_t aligned = ((uintptr_t)block + sizeof(void *) + alignment - 1) & ~(uintptr_t)(alignment - 1);
  memcpy((uint8_t *)aligned - sizeof(void *), &block, sizeof(void *));
  return (void *)aligned;
}

enum { EXTRA = ALIGNMENT + sizeof(void *) };

/* Large blocks are for weights. In huge pages these are read faster, scattered rows above all; where the system has
 * none to give, nothing is lost but the room for aligning. */
static void *alloc_huge(size_t bytes) {
#ifdef MADV_HUGEPAGE
  enum { HUGE_PAGE = 2 << 20 };
  if (bytes >= 2 * HUGE_PAGE && bytes <= SIZE_MAX - HUGE_PAGE - sizeof(void *)) {
    void *memory = align(malloc(bytes + HUGE_PAGE + sizeof(void *)), HUGE_PAGE);
    if (memory) (void)madvise(memory, bytes & ~(size_t)(HUGE_PAGE - 1), MADV_HUGEPAGE);
    return memory;
  }
#else
  (void)bytes;
#endif
  return NULL;
}

void *sf_alloc(size_t bytes) {
  void *huge = alloc_huge(bytes);
  if (huge) return huge;
  return bytes > SIZE_MAX - EXTRA ? NULL : align(malloc(bytes + EXTRA), ALIGNMENT);
}

void sf_free(void *memory) {
  if (!memory) return;
  void *block;
  memcpy(&block, (uint8_t *)memory - sizeof(void *), sizeof(void *));
  free(block);
}

size_t sf_size_product(size_t a, size_t b) { return b != 0 && a > SIZE_MAX / b ? SIZE_MAX : a * b; }

/* calloc, so that pages which nobody has touched, such as those of a long key/value cache, cost nothing. */
void *sf_array(size_t count, size_t size) {
  size_t bytes = sf_size_product(count, size);
  return bytes > SIZE_MAX - EXTRA ? NULL : align(calloc(1, bytes + EXTRA), ALIGNMENT);
}

#ifndef sf_weight_array
void *sf_weight_array(size_t count, size_t size) {
  size_t bytes = sf_size_product(count, size);
  void *memory = sf_alloc(bytes);
  if (memory) memset(memory, 0, bytes);
  return memory;
}
#endif

int32_t sf_grow(void **array, size_t *capacity, size_t count, size_t size) {
  if (count <= *capacity) return SF_OK;
  void *grown = sf_array(count, size);
  if (!grown) return SF_ERROR_MEMORY;
  sf_free(*array);
  *array = grown;
  *capacity = count;
  return SF_OK;
}

void sf_add_count(int32_t *count, int32_t more) { *count = more > INT32_MAX - *count ? INT32_MAX : *count + more; }

int32_t sf_copy_floats(float **copy, const float *values, int32_t count) {
  float *made = NULL;
  if (values) {
    for (int32_t i = 0; i < count; i++) {
      if (!isfinite(values[i])) return SF_ERROR_NOT_FINITE;
    }
    made = sf_array((size_t)count, sizeof(float));
    if (!made) return SF_ERROR_MEMORY;
    memcpy(made, values, (size_t)count * sizeof(float));
  }
  sf_free(*copy);
  *copy = made;
  return SF_OK;
}
