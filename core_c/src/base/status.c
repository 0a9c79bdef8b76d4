/* Status codes in words, and the version. */
#include "sparsefire.h"

const char *sf_status_text(int32_t status) {
  switch (status) {
    case SF_WAITING:
      return "neurons have to be read";
    case SF_OK:
      return "ok";
    case SF_ERROR_ARGUMENT:
      return "invalid argument";
    case SF_ERROR_SHAPE:
      return "shapes do not fit each other";
    case SF_ERROR_FORMAT:
      return "unknown weight format, or columns not a multiple of the format's block";
    case SF_ERROR_MEMORY:
      return "out of memory";
    case SF_ERROR_UNSUPPORTED:
      return "not supported by this machine or this layout";
    case SF_ERROR_NOT_FINITE:
      return "NaN or infinity in an input or a result";
    case SF_ERROR_INCOMPLETE:
      return "the model lacks a tensor";
    case SF_ERROR_CONTEXT_FULL:
      return "more tokens than the context holds";
    case SF_ERROR_NOT_RESIDENT:
      return "a neuron is not in the cache";
    default:
      return "unknown status";
  }
}

const char *sf_version(void) { return SF_VERSION; }
