/* Rows of block formats as floats, a sub-block of 32 columns at a time. */
#ifndef SF_KERNELS_UNPACK_H
#define SF_KERNELS_UNPACK_H

#include "kernels/rows_tmpl.h"

enum { SUB_BLOCK_VECTORS = SF_BLOCK / SF_LANES };

/* Sub-block s of the group at p: scale · quant - min, with the scale and min that group_scales gives. */
SF_INLINE void unpack_sub_block(sf_format_index format, const uint8_t *p, int s, float scale, float min, vf *floats) {
  const vf a = v_set1(scale), m = v_set1(min);
  const vf b = has_float_runs(format) ? v_set1(-min) : a; /* of the second run */
  load_quant_floats(format, p, s, floats);
  for (int k = 0; k < SUB_BLOCK_VECTORS; ++k) {
    floats[k] = v_mul(k < SUB_BLOCK_VECTORS / 2 ? a : b, floats[k]);
    if (has_min(format)) floats[k] = v_sub(floats[k], m);
  }
  if (has_run_mins(format)) {
    vf mins[SUB_BLOCK_VECTORS];
    vb_floats(load_run_mins(format, p, s), mins);
    for (int k = 0; k < SUB_BLOCK_VECTORS; ++k) floats[k] = v_sub(floats[k], v_mul(m, mins[k]));
  }
}

#endif
