/* The instruction sets compiled into this build. */
#ifndef SF_ISA_H
#define SF_ISA_H

#include "kernels/tiles.h"

/* Kernels of instruction set `isa` (see sf_isa_count), or NULL when there is no such one. Whether this machine can
 * run them is sf_isa_supported's to say. */
const sf_kernels *sf_isa_kernels(int32_t isa);
/* Its tiles, which multiply prompts in place of the kernels, or NULL. */
const sf_tiles *sf_isa_tiles(int32_t isa);
/* The best instruction set that this machine can run; -1 when there is none. */
int32_t sf_isa_best(void);

#endif
