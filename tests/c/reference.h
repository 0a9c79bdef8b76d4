/* What the C tests share: random numbers, and the activation functions by their definitions. */
#ifndef SF_REFERENCE_H
#define SF_REFERENCE_H

#include <math.h>
#include <stdint.h>

#include "sparsefire.h"

static uint32_t random_state = 12345; /* set it to repeat a sequence; never 0 */

static inline uint32_t random_bits(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 17;
  random_state ^= random_state << 5;
  return random_state;
}

/* Uniform in -1 … 1. */
static inline float random_unit(void) { return (float)(random_bits() >> 8) / 8388608.0f - 1.0f; }

/* An activation function (SF_RELU …) of v, in double precision. */
static inline double reference_activation(int32_t activation, double parameter, double v) {
  switch (activation) {
    case SF_RELU:
      return v > 0 ? v : 0;
    case SF_RELU2:
      return v > 0 ? v * v : 0;
    case SF_SILU:
      return v / (1 + exp(-v));
    case SF_GELU_TANH: /* 1 + tanh u = 2 / (1 + e^(-2u)), which keeps its digits where tanh is near -1 */
      return v / (1 + exp(-2 * sqrt(2 / acos(-1.0)) * (v + 0.044715 * v * v * v)));
    case SF_GELU_ERF:
      return v / 2 * erfc(-v / sqrt(2.0));
    case SF_FATRELU:
      return v > parameter ? v : 0;
    case SF_SILU_CLAMPED:
      return fmin(v, 7) / (1 + exp(-1.702 * fmin(v, 7)));
    case SF_CLAMPED:
      return fmin(fmax(v, -7), 7) + 1;
    case SF_SILU_LIMITED:
      return fmin(v, parameter) / (1 + exp(-fmin(v, parameter)));
    case SF_SILU_CAPPED:
      return fmin(v / (1 + exp(-v)), parameter);
    case SF_SITU:
      return parameter * tanh(v / parameter) / (1 + exp(-v));
    case SF_CAPPED:
      return parameter * tanh(v / parameter);
    case SF_LIMITED:
      return fmin(fmax(v, -parameter), parameter);
    default:
      return v;
  }
}

#endif
