/* Products of Q4_0 weights in column order with some of the inputs (see sf_dot_columns_fn). The lanes of a vector are
 * rows. The products of a block of columns are summed exactly in 16 bits: |value| ≤ 127 and |quant - 8| ≤ 8, so that 32
 * of them fit; sums begin at what the zero points make of all, and on their way are those modulo 2¹⁶. */
#ifndef SF_KERNELS_COLUMNS_H
#define SF_KERNELS_COLUMNS_H

#ifndef SF_COLUMN_BYTES
/* In plain C, which compilers make vectors of. */
enum { SF_COLUMN_BYTES = 16 };
typedef struct {
  uint16_t h[8];
} vh;

SF_INLINE vh vh_set1(int x) {
  vh r;
  for (int k = 0; k < 8; ++k) r.h[k] = (uint16_t)x;
  return r;
}

/* a's quants times the first of the values, and b's times the second, are added to the sums. Of every 16 bytes, sums 0
 * and 1 are for the lower halves of the first 8 and of the others, 2 and 3 for the upper ones. */
SF_INLINE void vh_add_columns(const uint8_t *a, const uint8_t *b, const int8_t *values, vh *sum) {
  const int first = values[0], second = values[1];
  for (int s = 0; s < 2; ++s, a += 8, b += 8) {
    for (int k = 0; k < 8; ++k) {
      sum[s].h[k] = (uint16_t)(sum[s].h[k] + (a[k] & 15) * first + (b[k] & 15) * second);
      sum[2 + s].h[k] = (uint16_t)(sum[2 + s].h[k] + (a[k] >> 4) * first + (b[k] >> 4) * second);
    }
  }
}

/* As floats, in two vectors. */
SF_INLINE void vh_floats(vh a, vf *r) {
  float f[8];
  for (int k = 0; k < 8; ++k) f[k] = (float)(int16_t)a.h[k];
  for (int v = 0; v < 2; ++v) r[v] = v_load(f + 4 * v);
}
#endif

/* y (SF_COLUMN_ROWS) += the products of a block, whose quants of the first column are at p. Those of the next block are
 * asked for. */
SF_INLINE void add_columns(const uint8_t *scales, const uint8_t *p, size_t column, const sf_chosen *chosen,
                           const uint8_t *next_p, const sf_chosen *next, float *y) {
  const vf x_scale = v_set1(chosen->scale);
  for (int32_t i = 0; i < next->count; ++i) v_prefetch(next_p + next->ids[i] * column);
  for (int at = 0; at < SF_COLUMN_ROWS / 2; at += SF_COLUMN_BYTES) {
    vh sum[4];
    for (int k = 0; k < 4; ++k) sum[k] = vh_set1(-8 * chosen->sum);
    for (int32_t i = 0; i < chosen->count; i += 2) {
      vh_add_columns(p + chosen->ids[i] * column + at, p + chosen->ids[i + 1] * column + at, chosen->values + i, sum);
    }
    for (int k = 0; k < 4; ++k) {
      vf sums[2];
      vh_floats(sum[k], sums);
      for (int v = 0; v < 2; ++v) {
        const int row = k * (SF_COLUMN_ROWS / 4) + at / 2 + v * SF_LANES;
        const vf factor = v_mul(v_load_f16(scales + 2 * row), x_scale);
        v_store(y + row, v_fma(sums[v], factor, v_load(y + row)));
      }
    }
  }
}

static void dot_columns(const uint8_t *data, int32_t rows, int32_t first, int32_t count, int32_t blocks,
                        const sf_chosen *chosen, float *out) {
  const size_t scale_bytes = 2 * (size_t)rows, column = (size_t)rows / 2, block = scale_bytes + SF_BLOCK * column;
  memset(out, 0, (size_t)count * sizeof(float));
  for (int32_t left = blocks; left > 0; --left, data += block, ++chosen) {
    const int more = left > 1;
    for (int32_t i = 0; i < count; i += SF_COLUMN_ROWS) {
      const size_t row = (size_t)first + (size_t)i;
      const uint8_t *p = data + scale_bytes + row / 2;
      add_columns(data + 2 * row, p, column, chosen, more ? p + block : p, chosen + more, out + i);
    }
  }
}

#endif
