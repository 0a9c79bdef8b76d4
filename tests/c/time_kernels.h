/* Timing of the kernels: `test_kernels --time [NAME]` prints a line for each instruction set, kernel and format whose
 * label contains NAME. */
#ifndef SF_TIME_KERNELS_H
#define SF_TIME_KERNELS_H

void time_kernels(const char *name);

#endif
