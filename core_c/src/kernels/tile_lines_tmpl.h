/* Rows of weights as lines of tiles: 32 columns rounded to bfloat16 each. */
#ifndef SF_KERNELS_TILE_LINES_H
#define SF_KERNELS_TILE_LINES_H

#include "kernels/tiles.h"
#include "kernels/unpack_tmpl.h"

enum { COLUMNS = 2 * SF_TILE_PAIRS }; /* of a tile: those of a sub-block of weights */

/* How many numbers a sub-block may hold, one for each quant, if these are few enough for a table of them, or 0. */
SF_INLINE int table_of(sf_format_index format) {
  const sf_traits *traits = traits_of(format);
  if (traits->storage != SF_QUANTS_HALVES && traits->storage != SF_QUANTS_PLANES) return 0;
  if (traits->scales == SF_SCALES_RUNS || traits->scales == SF_SCALES_FLOAT_RUNS || traits->levels) return 0;
  return traits->low.bits + traits->high.bits > 5   ? 0
         : traits->low.bits + traits->high.bits > 4 ? COLUMNS
                                                    : COLUMNS / 2;
}

/* Half a table: what unpack_sub_block makes of the quants from `first` on. */
SF_INLINE void half_table(sf_format_index format, float first, float scale, float min, vf *floats) {
  static const float quants[COLUMNS / 2] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const vf zero_point = v_set1((float)zero_point_of(format) - first);
  for (int k = 0; k < SUB_BLOCK_VECTORS / 2; ++k) {
    floats[k] = v_mul(v_set1(scale), v_sub(v_load(quants + k * SF_LANES), zero_point));
    if (has_min(format)) floats[k] = v_sub(floats[k], v_set1(min));
  }
}

/* A sub-block as a line. */
SF_INLINE void sub_block_line(sf_format_index format, const uint8_t *p, int s, float scale, float min, t_line *line) {
  vf floats[SUB_BLOCK_VECTORS];
  if (table_of(format) == COLUMNS) {
    t_line table;
    half_table(format, 0, scale, min, floats);
    half_table(format, COLUMNS / 2, scale, min, floats + SUB_BLOCK_VECTORS / 2);
    t_round(floats, &table);
    t_look_up(load_quants(format, p, s), &table, line);
  } else {
    unpack_sub_block(format, p, s, scale, min, floats);
    t_round(floats, line);
  }
}

/* Sub-blocks s and s + 1. Tile after tile of a strip (tiles_tmpl.c) holds a line of each row. */
SF_INLINE void both_lines(sf_format_index format, const uint8_t *p, int s, const float *scales, const float *mins,
                          t_line *lines) {
  t_line *first = lines + s * SF_TILE_BAND, *second = first + SF_TILE_BAND;
  if (table_of(format) == COLUMNS / 2) {
    t_line table;
    vf floats[SUB_BLOCK_VECTORS];
    half_table(format, 0, scales[s], mins[s], floats);
    half_table(format, 0, scales[s + 1], mins[s + 1], floats + SUB_BLOCK_VECTORS / 2);
    t_round(floats, &table);
    t_look_up(load_quants(format, p, s & ~1), &table, first);
    t_look_up(vb_add(load_quants(format, p, s | 1), COLUMNS / 2), &table, second);
  } else {
    sub_block_line(format, p, s & ~1, scales[s], mins[s], first);
    sub_block_line(format, p, s | 1, scales[s + 1], mins[s + 1], second);
  }
}

/* A group of n sub-blocks at p. */
SF_INLINE void block_lines(sf_format_index format, const uint8_t *p, int32_t n, t_line *lines) {
  vf scale[GROUP_VECTORS], min[GROUP_VECTORS]; /* in memory, in whole cache lines */
  const float *scales = (const float *)(const void *)scale, *mins = (const float *)(const void *)min;
  group_scales(format, p, n, scale, min);
  t_keep(scale);
  if (has_min(format) || has_run_mins(format) || has_float_runs(format)) t_keep(min);
  int32_t s = 0;
  for (; s + 2 <= n; s += 2) both_lines(format, p, s, scales, mins, lines);
  if (s < n) sub_block_line(format, p, s, scales[s], mins[s], lines + s * SF_TILE_BAND);
}

/* n plain numbers at p, zeros up to a whole line. */
SF_INLINE void plain_lines(sf_format_index format, const uint8_t *p, int32_t n, t_line *lines) {
  for (; n > 0; n -= COLUMNS, lines += SF_TILE_BAND) {
    vf floats[SUB_BLOCK_VECTORS];
    for (int k = 0; k < SUB_BLOCK_VECTORS; ++k, p += SF_LANES * weight_bytes(format)) {
      const int32_t rest = n - k * SF_LANES;
      floats[k] = rest > 0 ? load_some_weights(format, p, rest) : v_set1(0);
    }
    t_round(floats, lines);
  }
}

/* n ≤ 256 columns from c on, a multiple of 256, of a row. */
SF_INLINE void group_lines(sf_format_index format, const uint8_t *row, int32_t c, int32_t n, t_line *lines) {
  if (is_plain(format)) {
    plain_lines(format, row + (size_t)c * weight_bytes(format), n, lines);
    return;
  }
  row += (size_t)(c / GROUP_COLUMNS) * group_bytes(format);
  if (n == GROUP_COLUMNS) { /* most often: without a test for each sub-block */
    block_lines(format, row, GROUP, lines);
  } else {
    block_lines(format, row, n / SF_BLOCK, lines);
  }
}

/* Groups of 256 columns of some rows, row after row. */
typedef struct {
  const sf_rows *rows;
  int32_t first, n_rows; /* the rows; after the last one it comes again */
  int32_t c, n;          /* the columns */
  int32_t row, group;    /* where it is */
} line_source;

SF_INLINE void next_group(line_source *at) {
  const int32_t filled = (at->n_rows + SF_TILE_SIDE - 1) / SF_TILE_SIDE * SF_TILE_SIDE;
  if (++at->row < filled) return;
  at->row = 0;
  ++at->group;
}

SF_INLINE const uint8_t *row_of(const line_source *at) {
  return sf_row_at(at->rows, at->first + (at->row < at->n_rows ? at->row : at->n_rows - 1));
}

/* Asks for what lies there, which takes `bytes`. */
SF_INLINE void ask_for_group(const line_source *at, size_t bytes) {
  if (at->row >= at->n_rows || at->group * GROUP_COLUMNS >= at->n) return;
  const uint8_t *p = row_of(at) + (size_t)(at->c / GROUP_COLUMNS + at->group) * bytes;
  for (size_t b = 0; b < bytes; b += LINE) v_prefetch(p + b);
}

/* Brings `count` groups from where `at` is into lines, and asks for as many from where `ahead` is. */
SF_INLINE void take_groups(sf_format_index format, line_source *at, line_source *ahead, int32_t count, t_line *lines) {
  const size_t bytes = is_plain(format) ? GROUP_COLUMNS * weight_bytes(format) : group_bytes(format);
  for (; count > 0; --count) {
    const int32_t c = at->group * GROUP_COLUMNS, rest = at->n - c;
    ask_for_group(ahead, bytes);
    group_lines(format, row_of(at), at->c + c, rest < GROUP_COLUMNS ? rest : GROUP_COLUMNS,
                lines + at->group * GROUP * SF_TILE_BAND + at->row);
    next_group(at);
    next_group(ahead);
  }
}

#define SF_FORMAT(NAME, name)                                                                         \
  static void take_groups_##name(line_source *at, line_source *ahead, int32_t count, t_line *lines) { \
    take_groups(SF_FORMAT_##NAME, at, ahead, count, lines);                                           \
  }
#include "formats/lists.h"
#undef SF_FORMAT

typedef void take_groups_fn(line_source *at, line_source *ahead, int32_t count, t_line *lines);

static take_groups_fn *const take_groups_of[SF_FORMATS] = {
#define SF_FORMAT(NAME, name) [SF_FORMAT_##NAME] = take_groups_##name,
#include "formats/lists.h"
#undef SF_FORMAT
};

#endif
