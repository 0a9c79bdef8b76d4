/* Products of matrices of floats (sf_products). The right one lies in strips of some vectors of columns, row after row;
 * a tile of the sums is in registers while a strip meets some rows of the left one, each number of which is multiplied
 * with whole vectors. So no lanes are summed, and an element's bits depend on its row and its column alone. */
#ifndef SF_KERNELS_MATRICES_H
#define SF_KERNELS_MATRICES_H

enum { RIGHT_COLUMNS = SF_MATRIX_VECTORS * SF_LANES }; /* of a strip */

static size_t left_floats(int32_t m, int32_t k) { return (size_t)m * (size_t)k; }

/* The columns of the strip at column c, up to a whole vector. */
SF_INLINE int32_t strip_width(int32_t n, int32_t c) {
  const int32_t rest = (n - c + SF_LANES - 1) / SF_LANES * SF_LANES;
  return rest < RIGHT_COLUMNS ? rest : RIGHT_COLUMNS;
}

static size_t right_floats(int32_t k, int32_t n) {
  return (size_t)k * (size_t)((n + SF_LANES - 1) / SF_LANES * SF_LANES);
}

static const float *lay_left(const float *a, int32_t m, int32_t k, float *room) {
  (void)m, (void)k, (void)room;
  return a;
}

static void lay_right(const float *x, size_t stride, int32_t k, int32_t n, int32_t across, float *right) {
  const size_t down = across ? 1 : stride, along = across ? stride : 1;
  for (int32_t c = 0; c < n; c += RIGHT_COLUMNS) {
    const int32_t width = strip_width(n, c), filled = n - c < width ? n - c : width;
    for (int32_t i = 0; i < k; ++i, right += width) {
      const float *from = x + (size_t)i * down + (size_t)c * along;
      if (across) {
        for (int32_t j = 0; j < filled; ++j) right[j] = from[(size_t)j * stride];
      } else {
        memcpy(right, from, (size_t)filled * sizeof(float));
      }
      for (int32_t j = filled; j < width; ++j) right[j] = 0;
    }
  }
}

/* `rows` rows at a with `vectors` vectors of a strip that is `width` wide; both counts are constants. */
SF_INLINE void matrix_tile(int rows, int vectors, const float *a, const float *b, int32_t width, int32_t k,
                           int32_t adds, float *c, size_t c_stride) {
  vf sums[SF_MATRIX_ROWS][SF_MATRIX_VECTORS];
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < vectors; ++v) {
      sums[r][v] = adds ? v_load(c + (size_t)r * c_stride + (size_t)(v * SF_LANES)) : v_set1(0);
    }
  }
  for (int32_t i = 0; i < k; ++i, b += width) {
    vf right[SF_MATRIX_VECTORS];
    for (int v = 0; v < vectors; ++v) right[v] = v_load(b + v * SF_LANES);
    for (int r = 0; r < rows; ++r) {
      const vf left = v_set1(a[(size_t)r * (size_t)k + (size_t)i]);
      for (int v = 0; v < vectors; ++v) sums[r][v] = v_fma(left, right[v], sums[r][v]);
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < vectors; ++v) v_store(c + (size_t)r * c_stride + (size_t)(v * SF_LANES), sums[r][v]);
  }
}

/* All rows with `vectors` vectors. */
SF_INLINE void matrix_rows(int vectors, const float *a, int32_t m, const float *b, int32_t width, int32_t k,
                           int32_t adds, float *c, size_t c_stride) {
  int32_t r = 0;
  for (; r + SF_MATRIX_ROWS <= m; r += SF_MATRIX_ROWS) {
    matrix_tile(SF_MATRIX_ROWS, vectors, a + (size_t)r * (size_t)k, b, width, k, adds, c + (size_t)r * c_stride,
                c_stride);
  }
  for (; r < m; ++r) {
    matrix_tile(1, vectors, a + (size_t)r * (size_t)k, b, width, k, adds, c + (size_t)r * c_stride, c_stride);
  }
}

static void multiply_matrices(const float *left, int32_t m, const float *right, int32_t k, int32_t n, int32_t adds,
                              float *c, size_t c_stride) {
  for (int32_t at = 0; at < n; at += RIGHT_COLUMNS) {
    const int32_t width = strip_width(n, at);
    if (width == RIGHT_COLUMNS) {
      matrix_rows(SF_MATRIX_VECTORS, left, m, right, width, k, adds, c + at, c_stride);
    } else {
      for (int32_t v = 0; v < width; v += SF_LANES) {
        matrix_rows(1, left, m, right + v, width, k, adds, c + at + v, c_stride);
      }
    }
    right += (size_t)width * (size_t)k;
  }
}

#endif
