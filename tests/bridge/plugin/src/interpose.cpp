// Counts calls that an audio thread must not make. For LD_PRELOAD; `host` marks the callbacks.
//
// Between stemwire_watch(1) and stemwire_watch(0) it counts the calling thread's allocations,
// frees, locks and waits.
#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/select.h>
#include <time.h>

#include <cstddef>
#include <cstdlib>

extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* memory, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);
void __libc_free(void* memory);
}

namespace {

enum Kind { kAllocations, kFrees, kLocks, kWaits, kKinds };

__attribute__((tls_model("initial-exec"))) thread_local bool watching = false;
__attribute__((tls_model("initial-exec"))) thread_local long counts[kKinds] = {};

void count(Kind kind) {
  if (watching) ++counts[kind];
}

// The function that is interposed.
template <typename Function>
Function next(Function, const char* name) {
  static Function original = reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
  return original;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

void stemwire_watch(int on) { watching = on != 0; }

// This thread's counts since the last call: allocations, frees, locks, waits.
void stemwire_counts(long* to) {
  for (int kind = 0; kind < kKinds; ++kind) {
    to[kind] = counts[kind];
    counts[kind] = 0;
  }
}

void* malloc(std::size_t size) {
  count(kAllocations);
  return __libc_malloc(size);
}

void* calloc(std::size_t number, std::size_t size) {
  count(kAllocations);
  return __libc_calloc(number, size);
}

void* realloc(void* memory, std::size_t size) {
  count(kAllocations);
  return __libc_realloc(memory, size);
}

void* memalign(std::size_t alignment, std::size_t size) {
  count(kAllocations);
  return __libc_memalign(alignment, size);
}

void* aligned_alloc(std::size_t alignment, std::size_t size) {
  count(kAllocations);
  return __libc_memalign(alignment, size);
}

int posix_memalign(void** memory, std::size_t alignment, std::size_t size) {
  count(kAllocations);
  *memory = __libc_memalign(alignment, size);
  return *memory == nullptr ? 12 : 0;
}

void free(void* memory) {
  if (memory != nullptr) count(kFrees);
  __libc_free(memory);
}

#define INTERPOSE(kind, name, parameters, arguments) \
  int name parameters {                                  \
    count(kind);                                         \
    return next(&name, #name) arguments;                 \
  }

INTERPOSE(kLocks, pthread_mutex_lock, (pthread_mutex_t * mutex), (mutex))
INTERPOSE(kLocks, pthread_rwlock_rdlock, (pthread_rwlock_t * lock), (lock))
INTERPOSE(kLocks, pthread_rwlock_wrlock, (pthread_rwlock_t * lock), (lock))
INTERPOSE(kLocks, pthread_spin_lock, (pthread_spinlock_t * lock), (lock))
INTERPOSE(kWaits, pthread_cond_wait, (pthread_cond_t * condition, pthread_mutex_t* mutex),
          (condition, mutex))
INTERPOSE(kWaits, pthread_cond_timedwait,
          (pthread_cond_t * condition, pthread_mutex_t* mutex, const timespec* until),
          (condition, mutex, until))
INTERPOSE(kWaits, pthread_join, (pthread_t thread, void** result), (thread, result))
INTERPOSE(kWaits, sem_wait, (sem_t * semaphore), (semaphore))
INTERPOSE(kWaits, nanosleep, (const timespec* time, timespec* left), (time, left))
INTERPOSE(kWaits, clock_nanosleep,
          (clockid_t clock, int flags, const timespec* time, timespec* left),
          (clock, flags, time, left))
INTERPOSE(kWaits, poll, (pollfd * descriptors, nfds_t count_, int timeout),
          (descriptors, count_, timeout))
INTERPOSE(kWaits, select,
          (int most, fd_set* to_read, fd_set* to_write, fd_set* broken, timeval* timeout),
          (most, to_read, to_write, broken, timeout))
}
#pragma GCC visibility pop
