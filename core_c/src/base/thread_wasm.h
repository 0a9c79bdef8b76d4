/* Threads of a WebAssembly module over shared memory, see sparsefire_pool.h: the host starts helpers, and thread_start
 * gives one of those that wait a function to run. The caller sleeps only when the host has said that it may. */
#ifndef SF_THREAD_WASM_H
#define SF_THREAD_WASM_H

#include <stdint.h>

#include "sparsefire_pool.h"

typedef int32_t thread_handle;       /* index of a helper */
typedef volatile uint32_t mutex;     /* 1: held */
typedef volatile uint32_t condition; /* counts the broadcasts */
#define THREAD_FUNCTION(name, argument) static void *name(void *argument)
#define THREAD_RETURN return NULL

enum { HELPER_ABSENT, HELPER_WAITING, HELPER_RUNNING };
static struct {
  volatile uint32_t state;
  void *(*function)(void *);
  void *argument;
} helpers[SF_MAX_THREADS];

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
    if (atomic_load32(&helpers[i].state) != HELPER_WAITING) continue;
    helpers[i].function = function;
    helpers[i].argument = argument;
    atomic_store32(&helpers[i].state, HELPER_RUNNING);
    wake_all(&helpers[i].state);
    *t = i;
    return 1;
  }
  return 0;
}
static void thread_join(thread_handle t) {
  while (atomic_load32(&helpers[t].state) == HELPER_RUNNING) {
  }
}

static int32_t caller_may_sleep;

/* Nothing yields a processor but sleep, here for 50 microseconds. */
static __attribute__((noinline)) void thread_yield(void) {
  int never = 0;
  if (caller_may_sleep) __builtin_wasm_memory_atomic_wait32(&never, 0, 50000);
}

void sf_pool_may_sleep(int32_t may) { caller_may_sleep = may; }

void sf_pool_help(int32_t index) {
  while (index >= 0 && index < SF_MAX_THREADS) {
    atomic_store32(&helpers[index].state, HELPER_WAITING);
    while (atomic_load32(&helpers[index].state) == HELPER_WAITING) sleep_while(&helpers[index].state, HELPER_WAITING);
    helpers[index].function(helpers[index].argument);
  }
}

int32_t sf_pool_helpers(void) {
  int32_t count = 0;
  for (int32_t i = 0; i < SF_MAX_THREADS; i++) count += atomic_load32(&helpers[i].state) != HELPER_ABSENT;
  return count;
}

#endif
