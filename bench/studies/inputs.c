/* Products of Q4_0 weights in column order with some of the inputs: the kernel that bench/studies/inputs.py times. For
 * x86 with AVX2 or AVX-512BW, whichever the compiler is told to use.
 *
 * Of each 32 columns, a block, come the scales of all rows and then, column by column, the quants of all rows. The
 * products of a block are summed exactly in 16 bits: |value| ≤ 127 and |quant - 8| ≤ 8, so that 32 of them fit; until
 * the zero point is subtracted, sums are those modulo 2¹⁶. */
#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512BW__)
#define OP(name) _mm512_##name
#define AND _mm512_and_si512
#define LOAD(p) _mm512_loadu_si512(p)
#define STORE(p, a) _mm512_storeu_si512(p, a)
typedef __m512i vector;
#else
#define OP(name) _mm256_##name
#define AND _mm256_and_si256
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define STORE(p, a) _mm256_storeu_si256((__m256i *)(void *)(p), a)
typedef __m256i vector;
#endif

enum {
  BLOCK = 32,
  BLOCK_BYTES = 18,
  BYTES = sizeof(vector), /* of quants that are multiplied at a time */
  ROWS = 2 * BYTES,       /* those of as many rows are in the lower halves, of as many others in the upper ones */
  LANE = 16               /* bytes within which instructions interleave */
};

/* The inputs of a block that are multiplied, with a scale of their own; an odd number of them is made even by one that
 * is 0. */
typedef struct {
  int32_t count, sum;
  float scale;
  uint8_t ids[BLOCK];
  int8_t values[BLOCK];
} chosen_block;

size_t inputs_block_bytes(void) { return sizeof(chosen_block); }

/* Rows of a product are a multiple of this. */
int32_t inputs_rows(void) { return ROWS; }

/* Where the sum of row `row` of ROWS stands after interleaving: that of byte b of a lane is in the first vector for b <
 * 8, else in the second. */
static int32_t place(int32_t row) {
  int32_t upper = row / BYTES, byte = row % BYTES, lane = byte / LANE, b = byte % LANE;
  return upper * BYTES + b / 8 * (BYTES / 2) + lane * 8 + b % 8;
}

/* rows a multiple of ROWS, columns of 32; out is as large as the weights. */
void inputs_pack(const uint8_t *weights, int32_t rows, int32_t columns, uint8_t *out) {
  size_t blocks = (size_t)columns / BLOCK, n = (size_t)rows;
  for (size_t b = 0; b < blocks; b++, out += n * BLOCK_BYTES) {
    for (size_t i = 0; i < n; i++) {
      const uint8_t *from = weights + (i * blocks + b) * BLOCK_BYTES;
      size_t first = i / ROWS * ROWS, upper = i % ROWS / BYTES;
      uint8_t *to = out + 2 * n + first / 2 + i % BYTES;
      memcpy(out + 2 * (first + (size_t)place((int32_t)(i % ROWS))), from, 2);
      for (size_t c = 0; c < BLOCK; c++, to += n / 2) {
        uint8_t quant = c < BLOCK / 2 ? from[2 + c] & 15 : from[2 + c - BLOCK / 2] >> 4;
        *to = upper ? (uint8_t)(*to | quant << 4) : quant;
      }
    }
  }
}

/* Chooses the inputs whose magnitude is not below the limit. */
static void choose(const float *x, float limit, int32_t columns, chosen_block *chosen) {
  for (; columns > 0; columns -= BLOCK, x += BLOCK, chosen++) {
    float most = 0;
    memset(chosen, 0, sizeof *chosen);
    for (int32_t i = 0, count = 0; i < BLOCK; i++) {
      float size = fabsf(x[i]);
      chosen->ids[count] = (uint8_t)i;
      count += size >= limit;
      most = size >= limit && size > most ? size : most;
      chosen->count = count;
    }
    float inverse = most > 0 ? 127 / most : 0;
    chosen->scale = most / 127;
    for (int32_t i = 0; i < chosen->count; i++) {
      float value = x[chosen->ids[i]] * inverse;
      chosen->values[i] = (int8_t)(value + (value < 0 ? -0.5f : 0.5f));
      chosen->sum += chosen->values[i];
    }
    if (chosen->count % 2) chosen->ids[chosen->count] = chosen->ids[chosen->count - 1];
  }
}

/* y (ROWS), in the order of `place`, += a block's products, whose quants in the first column are at p. Those of the
 * next block are asked for. */
static void multiply_block(const uint8_t *scales, const uint8_t *p, size_t column_bytes, const chosen_block *chosen,
                           const uint8_t *next_p, const chosen_block *next, float *y) {
  const vector nibble = OP(set1_epi8)(15), zero = OP(set1_epi16)((int16_t)(8 * chosen->sum));
  vector sum[4] = {OP(set1_epi16)(0), OP(set1_epi16)(0), OP(set1_epi16)(0), OP(set1_epi16)(0)};
  for (int32_t i = 0; i < next->count; i++) __builtin_prefetch(next_p + next->ids[i] * column_bytes, 0, 2);
  for (int32_t i = 0; i < chosen->count; i += 2) {
    const vector a = LOAD(p + chosen->ids[i] * column_bytes), b = LOAD(p + chosen->ids[i + 1] * column_bytes);
    const vector first = OP(unpacklo_epi8)(a, b), second = OP(unpackhi_epi8)(a, b);
    int16_t pair;
    memcpy(&pair, chosen->values + i, sizeof pair);
    const vector x = OP(set1_epi16)(pair);
    sum[0] = OP(add_epi16)(sum[0], OP(maddubs_epi16)(AND(first, nibble), x));
    sum[1] = OP(add_epi16)(sum[1], OP(maddubs_epi16)(AND(second, nibble), x));
    sum[2] = OP(add_epi16)(sum[2], OP(maddubs_epi16)(AND(OP(srli_epi16)(first, 4), nibble), x));
    sum[3] = OP(add_epi16)(sum[3], OP(maddubs_epi16)(AND(OP(srli_epi16)(second, 4), nibble), x));
  }
  int16_t sums[ROWS];
  for (int k = 0; k < 4; k++) STORE(sums + k * (BYTES / 2), OP(sub_epi16)(sum[k], zero));
  const __m256 x_scale = _mm256_set1_ps(chosen->scale);
  for (int k = 0; k < ROWS; k += 8) {
    const __m256i eight = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(sums + k)));
    const __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(scales + 2 * k)));
    const __m256 factor = _mm256_mul_ps(scale, x_scale);
    _mm256_storeu_ps(y + k, _mm256_fmadd_ps(_mm256_cvtepi32_ps(eight), factor, _mm256_loadu_ps(y + k)));
  }
}

/* out[i] = row i · the inputs x (columns) whose magnitude is not below the limit, i < rows. `work` has room for `rows`
 * floats, `chosen` for a block of each 32 inputs. */
void inputs_multiply(const uint8_t *packed, int32_t rows, int32_t columns, const float *x, float limit,
                     chosen_block *chosen, float *work, float *out) {
  size_t n = (size_t)rows, block_bytes = n * BLOCK_BYTES;
  choose(x, limit, columns, chosen);
  memset(work, 0, n * sizeof(float));
  for (int32_t left = columns / BLOCK; left > 0; left--, packed += block_bytes, chosen++) {
    const uint8_t *quants = packed + 2 * n;
    const int32_t on = left > 1; /* there is a next block */
    for (size_t i = 0; i < n; i += ROWS) {
      const uint8_t *p = quants + i / 2;
      multiply_block(packed + 2 * i, p, n / 2, chosen, on ? p + block_bytes : p, chosen + on, work + i);
    }
  }
  for (int32_t i = 0; i < rows; i++) out[i] = work[i / ROWS * ROWS + place(i % ROWS)];
}
