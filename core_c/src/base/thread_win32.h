/* Threads of Windows, from Vista on. */
#ifndef SF_THREAD_WIN32_H
#define SF_THREAD_WIN32_H

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

#endif
