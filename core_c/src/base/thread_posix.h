/* Threads of POSIX systems. */
#ifndef SF_THREAD_POSIX_H
#define SF_THREAD_POSIX_H

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
enum { STACK = 1 << 20 }; /* bytes that kernels may want (see kernels/tiles_tmpl.c): some systems have less as a rule */
/* Signals belong to the caller's own threads: a worker blocks them all. */
static int thread_start(thread_handle *t, void *(*function)(void *), void *argument) {
  sigset_t all, before;
  pthread_attr_t attributes;
  size_t stack = 0;
  if (pthread_attr_init(&attributes) != 0) return 0;
  if (pthread_attr_getstacksize(&attributes, &stack) == 0 && stack < STACK) {
    pthread_attr_setstacksize(&attributes, STACK);
  }
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int started = pthread_create(t, &attributes, function, argument) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  return started;
}
static void thread_join(thread_handle t) { pthread_join(t, NULL); }
static void thread_yield(void) { sched_yield(); }

#endif
