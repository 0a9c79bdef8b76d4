/* The thread pool: workers spin for a short while between jobs, then sleep. Threads, mutexes and condition variables
 * are those of the platform: thread_posix.h, thread_win32.h, thread_wasm.h. */
#include "base/pool.h"

#include <stdlib.h>

#if defined(__wasm__) && !defined(__EMSCRIPTEN_PTHREADS__)
#ifdef __wasm_atomics__
#define SF_WASM_THREADS 1
#else
#define SF_NO_THREADS 1
#endif
#endif

#ifdef SF_NO_THREADS

struct sf_pool {
  char unused;
};

sf_pool *sf_pool_open(int32_t threads) {
  (void)threads;
  return calloc(1, sizeof(sf_pool));
}

void sf_pool_close(sf_pool *pool) { free(pool); }

int32_t sf_pool_threads(const sf_pool *pool) {
  (void)pool;
  return 1;
}

void sf_pool_run(sf_pool *pool, sf_task_fn *task, void *job, int32_t parts) {
  (void)pool;
  for (int32_t part = 0; part < parts; part++) task(job, part, parts);
}

void sf_pool_lock(sf_pool *pool) { (void)pool; }
void sf_pool_unlock(sf_pool *pool) { (void)pool; }

#else

#if defined(SF_WASM_THREADS)
#include "base/thread_wasm.h"
#elif defined(_WIN32)
#include "base/thread_win32.h"
#else
#include "base/thread_posix.h"
#endif

/* ---- Atomic integers ---- */

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
static uint64_t atomic_load64(volatile uint64_t *p) {
  return (uint64_t)InterlockedCompareExchange64((volatile LONG64 *)p, 0, 0);
}
static void atomic_store64(volatile uint64_t *p, uint64_t v) { InterlockedExchange64((volatile LONG64 *)p, (LONG64)v); }
static int atomic_swap64(volatile uint64_t *p, uint64_t from, uint64_t to) {
  return (uint64_t)InterlockedCompareExchange64((volatile LONG64 *)p, (LONG64)to, (LONG64)from) == from;
}
static uint64_t atomic_add64(volatile uint64_t *p, uint64_t v) {
  return (uint64_t)InterlockedExchangeAdd64((volatile LONG64 *)p, (LONG64)v) + v;
}
#else
static uint64_t atomic_load64(volatile uint64_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
static void atomic_store64(volatile uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
static int atomic_swap64(volatile uint64_t *p, uint64_t from, uint64_t to) {
  return __atomic_compare_exchange_n(p, &from, to, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
static uint64_t atomic_add64(volatile uint64_t *p, uint64_t v) { return __atomic_add_fetch(p, v, __ATOMIC_SEQ_CST); }
#endif

static void cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* ---- The pool ---- */

/* A worker looks for work this often before it sleeps: some tens of microseconds, the time between two layers or
 * two tokens, in which waking a sleeping thread would cost more than the work it does. WebAssembly has no instruction
 * to pause with, so there a look takes a fifth of the time. */
#ifdef SF_WASM_THREADS
enum { SPINS_BEFORE_SLEEP = 10000, SPINS_BEFORE_YIELD = 10000 };
#else
enum { SPINS_BEFORE_SLEEP = 2000, SPINS_BEFORE_YIELD = 10000 };
#endif

struct sf_pool {
  /* generation << 32 | parts << 16 | parts claimed. A part is claimed by one compare-and-swap of the whole word. As
   * long as a part is unclaimed, the job cannot end, so a successful swap also proves that `task` and `job`, read
   * before it, belong to this generation. */
  volatile uint64_t ticket;
  volatile uint64_t done;     /* parts of this generation that are finished */
  volatile uint64_t sleepers; /* workers inside condition_wait, or about to be */
  volatile uint64_t stop;
  volatile uint64_t task; /* an sf_task_fn *, and its argument: integers, so that they too are read atomically */
  volatile uint64_t job;
  mutex sleep_mutex;
  condition wake;
  mutex call_mutex;
  int32_t workers; /* threads started, the calling one not counted */
  thread_handle handles[];
};

static int has_part(uint64_t ticket) { return (ticket & 0xFFFF) < ((ticket >> 16) & 0xFFFF); }

/* Claims parts and does them until none is left. */
static void work(sf_pool *pool) {
  for (;;) {
    uint64_t ticket = atomic_load64(&pool->ticket);
    if (!has_part(ticket)) return;
    sf_task_fn *task = (sf_task_fn *)(uintptr_t)atomic_load64(&pool->task);
    void *job = (void *)(uintptr_t)atomic_load64(&pool->job);
    if (!atomic_swap64(&pool->ticket, ticket, ticket + 1)) continue;
    task(job, (int32_t)(ticket & 0xFFFF), (int32_t)((ticket >> 16) & 0xFFFF));
    atomic_add64(&pool->done, 1);
  }
}

static void wait_for_work(sf_pool *pool) {
  for (int spin = 0; spin < SPINS_BEFORE_SLEEP; spin++) {
    if (has_part(atomic_load64(&pool->ticket)) || atomic_load64(&pool->stop)) return;
    cpu_relax();
  }
  mutex_lock(&pool->sleep_mutex);
  atomic_add64(&pool->sleepers, 1);
  while (!has_part(atomic_load64(&pool->ticket)) && !atomic_load64(&pool->stop)) {
    condition_wait(&pool->wake, &pool->sleep_mutex);
  }
  atomic_add64(&pool->sleepers, (uint64_t)-1);
  mutex_unlock(&pool->sleep_mutex);
}

THREAD_FUNCTION(worker_main, argument) {
  sf_pool *pool = argument;
  while (!atomic_load64(&pool->stop)) {
    work(pool);
    wait_for_work(pool);
  }
  THREAD_RETURN;
}

sf_pool *sf_pool_open(int32_t threads) {
  if (threads < 1) threads = 1;
  if (threads > SF_MAX_THREADS) threads = SF_MAX_THREADS;
  sf_pool *pool = calloc(1, sizeof(sf_pool) + (size_t)(threads - 1) * sizeof(thread_handle));
  if (!pool) return NULL;
  mutex_open(&pool->sleep_mutex);
  mutex_open(&pool->call_mutex);
  condition_open(&pool->wake);
  while (pool->workers < threads - 1 && thread_start(&pool->handles[pool->workers], worker_main, pool)) {
    pool->workers++;
  }
  return pool;
}

void sf_pool_close(sf_pool *pool) {
  if (!pool) return;
  mutex_lock(&pool->sleep_mutex);
  atomic_store64(&pool->stop, 1);
  condition_broadcast(&pool->wake);
  mutex_unlock(&pool->sleep_mutex);
  for (int32_t i = 0; i < pool->workers; i++) thread_join(pool->handles[i]);
  condition_close(&pool->wake);
  mutex_close(&pool->call_mutex);
  mutex_close(&pool->sleep_mutex);
  free(pool);
}

int32_t sf_pool_threads(const sf_pool *pool) { return pool->workers + 1; }

void sf_pool_run(sf_pool *pool, sf_task_fn *task, void *job, int32_t parts) {
  if (pool->workers == 0 || parts == 1) {
    for (int32_t part = 0; part < parts; part++) task(job, part, parts);
    return;
  }
  atomic_store64(&pool->task, (uint64_t)(uintptr_t)task);
  atomic_store64(&pool->job, (uint64_t)(uintptr_t)job);
  atomic_store64(&pool->done, 0);
  uint64_t generation = (atomic_load64(&pool->ticket) >> 32) + 1;
  atomic_store64(&pool->ticket, generation << 32 | (uint64_t)parts << 16);
  if (atomic_load64(&pool->sleepers)) {
    mutex_lock(&pool->sleep_mutex);
    condition_broadcast(&pool->wake);
    mutex_unlock(&pool->sleep_mutex);
  }
  work(pool);
  for (int spin = 0; atomic_load64(&pool->done) < (uint64_t)parts; spin++) {
    if (spin < SPINS_BEFORE_YIELD) {
      cpu_relax();
    } else {
      thread_yield();
    }
  }
}

void sf_pool_lock(sf_pool *pool) { mutex_lock(&pool->call_mutex); }
void sf_pool_unlock(sf_pool *pool) { mutex_unlock(&pool->call_mutex); }

#endif
