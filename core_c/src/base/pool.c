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

/* ---- What differs between WebAssembly, POSIX and Win32 ---- */

#if defined(SF_WASM_THREADS)
/* A module cannot start a thread: the host starts helpers, workers that have instantiated the module over the same
 * memory with a stack of their own, and has each call sf_pool_help. There a helper takes a seat and waits for what
 * thread_start gives it. The caller sleeps only when the host has said that it may: a browser's main thread must not.
 */
typedef int32_t thread_handle;
typedef volatile uint32_t mutex;     /* 1: held */
typedef volatile uint32_t condition; /* counts the broadcasts */
#define THREAD_FUNCTION(name, argument) static void *name(void *argument)
#define THREAD_RETURN return NULL

enum { SEAT_EMPTY, SEAT_WAITING, SEAT_RUNNING };
static struct {
  volatile uint32_t state;
  void *(*function)(void *);
  void *argument;
} seats[SF_MAX_THREADS];

static uint32_t atomic_load32(volatile uint32_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
static void atomic_store32(volatile uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
/* A function of its own: in V8 11 (node 20) an indirect call in the function that has waited fails. */
static __attribute__((noinline)) void sleep_while(volatile uint32_t *p, uint32_t v) {
  __builtin_wasm_memory_atomic_wait32((int *)p, (int)v, -1);
}
static void wake_all(volatile uint32_t *p) { __builtin_wasm_memory_atomic_notify((int *)p, UINT32_MAX); }

static void mutex_open(mutex *m) { *m = 0; }
static void mutex_close(mutex *m) { (void)m; }
static void mutex_lock(mutex *m) {
  while (__atomic_exchange_n(m, 1, __ATOMIC_SEQ_CST)) {
  }
}
static void mutex_unlock(mutex *m) { atomic_store32(m, 0); }
static void condition_open(condition *c) { *c = 0; }
static void condition_close(condition *c) { (void)c; }
static void condition_wait(condition *c, mutex *m) {
  const uint32_t broadcasts = atomic_load32(c);
  mutex_unlock(m);
  sleep_while(c, broadcasts);
  mutex_lock(m);
}
static void condition_broadcast(condition *c) {
  __atomic_add_fetch(c, 1, __ATOMIC_SEQ_CST);
  wake_all(c);
}
static int thread_start(thread_handle *t, void *(*function)(void *), void *argument) {
  for (int32_t i = 0; i < SF_MAX_THREADS; i++) {
    if (atomic_load32(&seats[i].state) != SEAT_WAITING) continue;
    seats[i].function = function;
    seats[i].argument = argument;
    atomic_store32(&seats[i].state, SEAT_RUNNING);
    wake_all(&seats[i].state);
    *t = i;
    return 1;
  }
  return 0;
}
static void thread_join(thread_handle t) {
  while (atomic_load32(&seats[t].state) == SEAT_RUNNING) {
  }
}

static int32_t caller_may_sleep;

/* Nothing yields a processor but sleep, here for 50 microseconds. */
static __attribute__((noinline)) void thread_yield(void) {
  int never = 0;
  if (caller_may_sleep) __builtin_wasm_memory_atomic_wait32(&never, 0, 50000);
}

/* Whether the thread that calls the core may sleep; at first it may not. */
__attribute__((export_name("sf_pool_may_sleep"))) void sf_pool_may_sleep(int32_t may);
void sf_pool_may_sleep(int32_t may) { caller_may_sleep = may; }

/* The life of helper `seat`, each seat for one: never returns, but for a seat that there is not. */
__attribute__((export_name("sf_pool_help"))) void sf_pool_help(int32_t seat);
void sf_pool_help(int32_t seat) {
  while (seat >= 0 && seat < SF_MAX_THREADS) {
    atomic_store32(&seats[seat].state, SEAT_WAITING);
    while (atomic_load32(&seats[seat].state) == SEAT_WAITING) sleep_while(&seats[seat].state, SEAT_WAITING);
    seats[seat].function(seats[seat].argument);
  }
}

/* How many helpers have taken their seats, working or not. */
__attribute__((export_name("sf_pool_helpers"))) int32_t sf_pool_helpers(void);
int32_t sf_pool_helpers(void) {
  int32_t count = 0;
  for (int32_t i = 0; i < SF_MAX_THREADS; i++) count += atomic_load32(&seats[i].state) != SEAT_EMPTY;
  return count;
}
#elif defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <process.h>
#include <windows.h>
typedef HANDLE thread_handle;
typedef SRWLOCK mutex;
typedef CONDITION_VARIABLE condition;
#define THREAD_FUNCTION(name, argument) static unsigned __stdcall name(void *argument)
#define THREAD_RETURN return 0
static void mutex_open(mutex *m) { InitializeSRWLock(m); }
static void mutex_close(mutex *m) { (void)m; }
static void mutex_lock(mutex *m) { AcquireSRWLockExclusive(m); }
static void mutex_unlock(mutex *m) { ReleaseSRWLockExclusive(m); }
static void condition_open(condition *c) { InitializeConditionVariable(c); }
static void condition_close(condition *c) { (void)c; }
static void condition_wait(condition *c, mutex *m) { SleepConditionVariableSRW(c, m, INFINITE, 0); }
static void condition_broadcast(condition *c) { WakeAllConditionVariable(c); }
static int thread_start(thread_handle *t, unsigned(__stdcall *function)(void *), void *argument) {
  *t = (HANDLE)_beginthreadex(NULL, 0, function, argument, 0, NULL);
  return *t != NULL;
}
static void thread_join(thread_handle t) {
  WaitForSingleObject(t, INFINITE);
  CloseHandle(t);
}
static void thread_yield(void) { SwitchToThread(); }
#else
#include <pthread.h>
#include <sched.h>
#include <signal.h>
typedef pthread_t thread_handle;
typedef pthread_mutex_t mutex;
typedef pthread_cond_t condition;
#define THREAD_FUNCTION(name, argument) static void *name(void *argument)
#define THREAD_RETURN return NULL
static void mutex_open(mutex *m) { pthread_mutex_init(m, NULL); }
static void mutex_close(mutex *m) { pthread_mutex_destroy(m); }
static void mutex_lock(mutex *m) { pthread_mutex_lock(m); }
static void mutex_unlock(mutex *m) { pthread_mutex_unlock(m); }
static void condition_open(condition *c) { pthread_cond_init(c, NULL); }
static void condition_close(condition *c) { pthread_cond_destroy(c); }
static void condition_wait(condition *c, mutex *m) { pthread_cond_wait(c, m); }
static void condition_broadcast(condition *c) { pthread_cond_broadcast(c); }
/* Signals belong to the caller's own threads: a worker blocks them all. */
static int thread_start(thread_handle *t, void *(*function)(void *), void *argument) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int started = pthread_create(t, NULL, function, argument) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return started;
}
static void thread_join(thread_handle t) { pthread_join(t, NULL); }
static void thread_yield(void) { sched_yield(); }
#endif

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
