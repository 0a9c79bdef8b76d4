/* Vocabulary of tiles: AMX with bfloat16, and AVX-512 (F, BF16) around it. Meanings: tiles_c.h. */
#ifndef SF_SIMD_TILES_H
#define SF_SIMD_TILES_H

#include <immintrin.h>

#define SF_TILES_TABLE sf_tiles_amx

typedef union {
  __m512i bits;
  __m512 floats;
} t_line;
typedef int t_file; /* the registers are the processor's */

/* All eight tiles have 16 rows of 64 bytes. */
static const struct {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} tiles_shape = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

static inline void t_open(t_file *f) {
  *f = 0;
  _tile_loadconfig(&tiles_shape);
}

static inline void t_close(t_file *f) {
  (void)f;
  _tile_release();
}

/* Statements, since the numbers of registers are constants in the text. gcc does not know that the first reads memory.
 */
#define t_load_rows(f, i, p, stride)       \
  do {                                     \
    (void)(f);                             \
    __asm__ __volatile__("" ::: "memory"); \
    _tile_loadd(i, p, stride);             \
  } while (0)
#define t_load(f, i, p) t_load_rows(f, i, p, 64)
#define t_zero(f, i) _tile_zero(i)
#define t_store_rows(f, i, p, stride) _tile_stored(i, p, stride)
#define t_dot(f, sums, a, b) _tile_dpbf16ps(sums, a, b)

/* 32 floats, of which x holds the first half and y the second, rounded. */
static inline __m512i tiles_round(__m512 x, __m512 y) { return (__m512i)_mm512_cvtne2ps_pbh(y, x); }

/* What the rounding of these has left, rounded. */
static inline __m512i tiles_rest(__m512 x, __m512 y, __m512i rounded) {
  const __m256i first = _mm512_castsi512_si256(rounded), second = _mm512_extracti64x4_epi64(rounded, 1);
  x = _mm512_sub_ps(x, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(first), 16)));
  y = _mm512_sub_ps(y, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16)));
  return tiles_round(x, y);
}

static inline void t_split(const float *p, t_line *high, t_line *low) {
  const __m512 x = _mm512_loadu_ps(p), y = _mm512_loadu_ps(p + 16);
  high->bits = tiles_round(x, y);
  if (low) low->bits = tiles_rest(x, y, high->bits);
}

/* Numbers that are read from memory for every lane, which is not what compilers would do with what they have in a
 * register. */
#define t_keep(numbers) __asm__ __volatile__("" : "+m"(numbers))

static inline void t_round(const vf *x, t_line *to) { to->bits = tiles_round(x[0], x[1]); }

static inline void t_look_up(vb quants, const t_line *table, t_line *to) {
  to->bits = _mm512_permutexvar_epi16(quants, table->bits);
}

/* The terms of x and y, by turns. */
static inline void t_pair(const float *x, const float *y, t_line *high, t_line *low) {
  static const uint16_t turns[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                     8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i order = _mm512_loadu_si512(turns);
  const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(y);
  const __m512i first = tiles_round(a, b);
  high->bits = _mm512_permutexvar_epi16(order, first);
  low->bits = _mm512_permutexvar_epi16(order, tiles_rest(a, b, first));
}

/* Row i of 16 × 16 numbers of 32 bits becomes column i. */
static inline void tiles_transpose(__m512i *r) {
  __m512i a[16], b[16];
  for (int k = 0; k < 16; k += 2) {
    a[k] = _mm512_unpacklo_epi32(r[k], r[k + 1]);
    a[k + 1] = _mm512_unpackhi_epi32(r[k], r[k + 1]);
  }
  for (int k = 0; k < 16; k += 4) {
    b[k] = _mm512_unpacklo_epi64(a[k], a[k + 2]);
    b[k + 1] = _mm512_unpackhi_epi64(a[k], a[k + 2]);
    b[k + 2] = _mm512_unpacklo_epi64(a[k + 1], a[k + 3]);
    b[k + 3] = _mm512_unpackhi_epi64(a[k + 1], a[k + 3]);
  }
  for (int k = 0; k < 4; ++k) {
    a[k] = _mm512_shuffle_i32x4(b[k], b[k + 4], 0x88);
    a[k + 4] = _mm512_shuffle_i32x4(b[k], b[k + 4], 0xdd);
    a[k + 8] = _mm512_shuffle_i32x4(b[k + 8], b[k + 12], 0x88);
    a[k + 12] = _mm512_shuffle_i32x4(b[k + 8], b[k + 12], 0xdd);
  }
  for (int k = 0; k < 4; ++k) {
    r[k] = _mm512_shuffle_i32x4(a[k], a[k + 8], 0x88);
    r[k + 8] = _mm512_shuffle_i32x4(a[k], a[k + 8], 0xdd);
    r[k + 4] = _mm512_shuffle_i32x4(a[k + 4], a[k + 12], 0x88);
    r[k + 12] = _mm512_shuffle_i32x4(a[k + 4], a[k + 12], 0xdd);
  }
}

static inline void t_pack(const float *x, int n, size_t stride, int columns, uint16_t *high, uint16_t *low) {
  const __mmask32 some = columns < 32 ? (__mmask32)((1u << columns) - 1u) : 0xffffffffu;
  __m512i first[16], second[16];
  for (int j = 0; j < 16; ++j) {
    const float *p = x + (size_t)(j < n ? j : 0) * stride;
    const __mmask32 taken = j < n ? some : 0;
    const __m512 a = _mm512_maskz_loadu_ps((__mmask16)taken, p),
                 b = _mm512_maskz_loadu_ps((__mmask16)(taken >> 16), p + 16);
    first[j] = tiles_round(a, b);
    if (low) second[j] = tiles_rest(a, b, first[j]);
  }
  tiles_transpose(first);
  for (int k = 0; k < 16; ++k) _mm512_store_si512(high + 32 * k, first[k]);
  if (!low) return;
  tiles_transpose(second);
  for (int k = 0; k < 16; ++k) _mm512_store_si512(low + 32 * k, second[k]);
}

static inline void t_store_columns(const t_line *sums, int n_rows, int n_columns, float scale, float *out,
                                   size_t stride) {
  const __mmask16 some = (__mmask16)((1u << n_rows) - 1u);
  __m512i r[16];
  for (int k = 0; k < 16; ++k) r[k] = sums[k].bits;
  tiles_transpose(r);
  for (int j = 0; j < 16; ++j) {
    if (j == n_columns) break;
    _mm512_mask_storeu_ps(out + (size_t)j * stride, some,
                          _mm512_mul_ps(_mm512_castsi512_ps(r[j]), _mm512_set1_ps(scale)));
  }
}

#endif
