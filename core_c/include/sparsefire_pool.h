/* What a WebAssembly host calls to give the core threads, besides sparsefire.h. Only the modules whose memory is shared
 * (sparsefire_core_threads.wasm, sparsefire_core_relaxed_threads.wasm) export these functions.
 *
 * A module cannot start a thread: its host starts helpers, workers that instantiate the module over the same memory
 * with a stack of their own (the global __stack_pointer), and has each call sf_pool_help. A context that is opened
 * afterwards with n threads takes up to n - 1 of the helpers that wait. */
#ifndef SPARSEFIRE_POOL_H
#define SPARSEFIRE_POOL_H

#include "sparsefire.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Worker loop of helper `index`, 0 … SF_MAX_THREADS - 1, one helper for each. Returns only when the index is out of
 * range. */
SF_API void sf_pool_help(int32_t index);
/* How many helpers have entered sf_pool_help, working or not. */
SF_API int32_t sf_pool_helpers(void);
/* `may` 1: the thread that calls the core may sleep while it waits for helpers. At first it may not, since a browser's
 * main thread must not. */
SF_API void sf_pool_may_sleep(int32_t may);

#ifdef __cplusplus
}
#endif

#endif /* SPARSEFIRE_POOL_H */
