/* What the instruction set can do at most: operations in registers, as many at a time as hide how long each takes, and
 * reading. */
#ifndef SF_KERNELS_PEAKS_H
#define SF_KERNELS_PEAKS_H

#include "kernels/dot_tmpl.h"

enum { PEAK_CHAINS = 12, PEAK_BLOCKS = 4 };

/* Multiplications and additions, counted apart, of a repeat. */
static int32_t peak_operations(int32_t kind) {
  if (kind == SF_PEAK_FLOATS) return PEAK_CHAINS * SF_LANES * 2;
  return 2 * (SF_DOT_BYTES ? PEAK_CHAINS * 4 * SF_LANES : PEAK_BLOCKS * SF_BLOCK);
}

static float peak_floats(int32_t repeats) {
  const vf a = v_set1(0.5f), b = v_set1(1.0f);
  vf chain[PEAK_CHAINS];
  for (int k = 0; k < PEAK_CHAINS; ++k) chain[k] = v_set1((float)k);
  for (int32_t i = 0; i < repeats; ++i) {
    for (int k = 0; k < PEAK_CHAINS; ++k) chain[k] = v_fma(chain[k], a, b);
  }
  for (int k = 1; k < PEAK_CHAINS; ++k) chain[0] = v_add(chain[0], chain[k]);
  return v_sum(chain[0]);
}

/* Of integers: of bytes where the instruction set has such products, else of 16 bits. */
static float peak_integers(int32_t repeats) {
#if SF_DOT_BYTES
  const vq a = vq_set1(1), b = vq_set1(2);
  vi chain[PEAK_CHAINS];
  for (int k = 0; k < PEAK_CHAINS; ++k) chain[k] = v_set1_int(k);
  for (int32_t i = 0; i < repeats; ++i) {
    for (int k = 0; k < PEAK_CHAINS; ++k) chain[k] = v_dot_bytes4(a, b, chain[k]);
  }
  vf sum = v_float(chain[0]);
  for (int k = 1; k < PEAK_CHAINS; ++k) sum = v_add(sum, v_float(chain[k]));
  return v_sum(sum);
#else
  vb a[PEAK_BLOCKS];
  vf chain[PEAK_BLOCKS];
  for (int k = 0; k < PEAK_BLOCKS; ++k) {
    a[k] = vb_add(vb_high_bits(0), k + 1);
    chain[k] = v_set1(0);
  }
  for (int32_t i = 0; i < repeats; ++i) {
    const vb b = vb_add(a[0], i & 15); /* others in each repeat, so that all are computed */
    for (int k = 0; k < PEAK_BLOCKS; ++k) chain[k] = v_add(chain[k], vb_dot(a[k], b));
  }
  for (int k = 1; k < PEAK_BLOCKS; ++k) chain[0] = v_add(chain[0], chain[k]);
  return v_sum(chain[0]);
#endif
}

static float peak_of(int32_t kind, int32_t repeats) {
  return kind == SF_PEAK_FLOATS ? peak_floats(repeats) : peak_integers(repeats);
}

/* Reads count floats, and gives their sum, in several additions at a time. */
static float read_floats(const float *x, size_t count) {
  vf sum[8];
  size_t i = 0;
  for (int k = 0; k < 8; ++k) sum[k] = v_set1(0);
  for (; i + 8 * SF_LANES <= count; i += 8 * SF_LANES) {
    for (size_t k = 0; k < 8; ++k) sum[k] = v_add(sum[k], v_load(x + i + k * SF_LANES));
  }
  for (int k = 1; k < 8; ++k) sum[0] = v_add(sum[0], sum[k]);
  return v_sum(sum[0]);
}

#endif
