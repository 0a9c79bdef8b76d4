/* Fork-join thread pool, and the lock that serialises calls on one context. */
#ifndef SF_POOL_H
#define SF_POOL_H

#include <stdint.h>

#include "sparsefire.h"

typedef struct sf_pool sf_pool;

/* Does part `part` of `parts` of a job. Must give the same results however the parts are spread over threads. */
typedef void sf_task_fn(void *job, int32_t part, int32_t parts);

/* A pool of `threads` threads, the calling one included; NULL when out of memory. If a thread cannot be
 * created, the pool runs with fewer. */
sf_pool *sf_pool_open(int32_t threads);
void sf_pool_close(sf_pool *pool);
int32_t sf_pool_threads(const sf_pool *pool);
/* Runs task(job, 0 … parts-1, parts) and returns when all are done. The calling thread takes parts too, so the job
 * ends even if no other thread ever wakes (as in the child of a fork). 1 ≤ parts ≤ UINT16_MAX. */
void sf_pool_run(sf_pool *pool, sf_task_fn *task, void *job, int32_t parts);
void sf_pool_lock(sf_pool *pool);
void sf_pool_unlock(sf_pool *pool);

#endif
