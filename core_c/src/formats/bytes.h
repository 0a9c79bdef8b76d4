/* Small integers, several of which share a byte in memory, as bytes of a number of 64 bits. */
#ifndef SF_BYTES_H
#define SF_BYTES_H

#include <stdint.h>

#define SF_EACH_BYTE(byte) (UINT64_C(0x0101010101010101) * (byte))

/* A byte for each two bits. */
static inline uint64_t bytes_of_pairs(uint16_t pairs) {
  uint64_t x = pairs;
  x = (x | x << 24) & UINT64_C(0x000000ff000000ff);
  x = (x | x << 12) & UINT64_C(0x000f000f000f000f);
  return (x | x << 6) & UINT64_C(0x0303030303030303);
}

/* A byte for each four bits of two words. */
static inline uint64_t bytes_of_nibbles(uint16_t first, uint16_t second) {
  uint64_t x = first | (uint64_t)second << 32;
  x = (x | x << 8) & UINT64_C(0x00ff00ff00ff00ff);
  return (x | x << 4) & UINT64_C(0x0f0f0f0f0f0f0f0f);
}

#endif
