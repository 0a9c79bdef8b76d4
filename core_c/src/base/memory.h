/* Memory that the core allocates, and counts that do not overflow. */
#ifndef SF_MEMORY_H
#define SF_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* count elements of `size` bytes, 64-byte aligned, zeroed; NULL when that overflows or memory is out. */
void *sf_array(size_t count, size_t size);
/* The same for weights: in huge pages, as sf_alloc has them; WebAssembly has none. */
#if defined(__wasm__)
#define sf_weight_array sf_array
#else
void *sf_weight_array(size_t count, size_t size);
#endif
/* The product of two sizes, SIZE_MAX when it overflows (no allocation of that size succeeds). */
size_t sf_size_product(size_t a, size_t b);
/* Makes *array hold at least `count` elements of `size` bytes; contents are lost when it grows. */
int32_t sf_grow(void **array, size_t *capacity, size_t count, size_t size);
/* A count that would overflow stays at the largest number. */
void sf_add_count(int32_t *count, int32_t more);
/* A copy of `count` floats (NULL for NULL), or an error: MEMORY, NOT_FINITE. Replaces and frees *copy. */
int32_t sf_copy_floats(float **copy, const float *values, int32_t count);

#endif
