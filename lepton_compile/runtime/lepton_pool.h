/* A thread pool that belongs to one instance of a model.
 *
 * One job at a time: a task over the blocks [0, blocks) that may be split anywhere. The range is cut into one share per
 * thread, so that a thread meets the same part of the data from step to step; who is done early takes from the others.
 *
 * The thread that calls takes part, and never waits for one that has not begun: a worker joins a job only while it is open,
 * and the caller closes it when no block is left. A worker that wakes late finds the door shut. So a job costs little more
 * than one thread's work when the machine is busy, and a forked child, which has no workers, still gets its answers.
 *
 * Workers wait for the next job spinning, since steps follow each other within microseconds, then sleep.
 */
#ifndef LEPTON_POOL_H
#define LEPTON_POOL_H

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define LEPTON_MAX_THREADS 256

typedef void (*lepton_task)(void *context, int32_t begin, int32_t end);

enum {
  LEPTON_SPIN_NANOSECONDS = 100000, /* about what one step of a small model takes */
  LEPTON_SPINS_PER_LOOK = 64,       /* pauses between two looks at the clock */
  LEPTON_PIECES = 4,                /* a share is taken in this many pieces, so that something is left to take over */
  LEPTON_STACK_BYTES = 2 << 20      /* kernels keep tiles on the stack, and musl gives threads 128 KiB */
};

/* One thread's part of the range, alone on its cache lines. */
struct lepton_share {
  _Alignas(128) atomic_int_fast64_t next; /* 64 bits: it is raised past `end` */
  int32_t end;
  int32_t piece;
};

struct lepton_pool {
  /* Number of the job (high half), whether it can be joined, and how many workers are in it (low bits). */
  _Alignas(128) atomic_uint_fast64_t state;
  atomic_int sleepers;
  atomic_int stopping;
  lepton_task task;
  void *context;
  int32_t threads; /* the calling one included */
  int32_t workers; /* how many were started */
  pid_t owner;
  pthread_mutex_t mutex;
  pthread_cond_t wake;
  pthread_t handles[LEPTON_MAX_THREADS];
  atomic_int numbered;
  struct lepton_share shares[LEPTON_MAX_THREADS];
};

#define LEPTON_OPEN ((uint_fast64_t)1 << 31)
#define LEPTON_JOINED (LEPTON_OPEN - 1)

static inline void lepton_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
  __asm__ volatile("yield");
#endif
}

static inline int64_t lepton_nanoseconds(void) {
  struct timespec now;
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + (int64_t)now.tv_nsec;
}

/* Works on the thread's own share, then on the others'. */
static inline void lepton_pool_work(struct lepton_pool *pool, int32_t thread) {
  for (int32_t i = 0; i < pool->threads; i++) {
    struct lepton_share *share = &pool->shares[(thread + i) % pool->threads];
    while (atomic_load_explicit(&share->next, memory_order_relaxed) < share->end) {
      const int64_t taken = atomic_fetch_add_explicit(&share->next, share->piece, memory_order_relaxed);
      if (taken >= share->end) break;
      const int32_t begin = (int32_t)taken;
      const int32_t left = share->end - begin;
      pool->task(pool->context, begin, begin + (left < share->piece ? left : share->piece));
    }
  }
}

/* Waits until another job than `seen` can be joined; false when the pool ends. */
static inline int lepton_pool_await(struct lepton_pool *pool, uint_fast64_t seen) {
  const int64_t until = lepton_nanoseconds() + LEPTON_SPIN_NANOSECONDS;
  do {
    for (int i = 0; i < LEPTON_SPINS_PER_LOOK; i++) {
      const uint_fast64_t state = atomic_load_explicit(&pool->state, memory_order_acquire);
      if (((state & LEPTON_OPEN) && (state >> 32) != seen) || atomic_load(&pool->stopping)) return !pool->stopping;
      lepton_pause();
    }
  } while (lepton_nanoseconds() < until);
  (void)pthread_mutex_lock(&pool->mutex);
  (void)atomic_fetch_add(&pool->sleepers, 1);
  for (;;) {
    const uint_fast64_t state = atomic_load(&pool->state);
    if (((state & LEPTON_OPEN) && (state >> 32) != seen) || atomic_load(&pool->stopping)) break;
    (void)pthread_cond_wait(&pool->wake, &pool->mutex);
  }
  (void)atomic_fetch_sub(&pool->sleepers, 1);
  (void)pthread_mutex_unlock(&pool->mutex);
  return !atomic_load(&pool->stopping);
}

static inline void *lepton_pool_worker(void *context) {
  struct lepton_pool *pool = context;
  const int32_t thread = atomic_fetch_add(&pool->numbered, 1);
  uint_fast64_t seen = 0;
  while (lepton_pool_await(pool, seen)) {
    uint_fast64_t state = atomic_load(&pool->state);
    while (state & LEPTON_OPEN) {
      if (!atomic_compare_exchange_weak(&pool->state, &state, state + 1)) continue;
      seen = state >> 32;
      lepton_pool_work(pool, thread);
      (void)atomic_fetch_sub_explicit(&pool->state, 1, memory_order_release);
      break;
    }
  }
  return NULL;
}

/* Runs the task over [0, blocks) and returns when all of it is done. */
static inline void lepton_pool_run(struct lepton_pool *pool, lepton_task task, void *context, int32_t blocks) {
  pool->task = task;
  pool->context = context;
  for (int32_t i = 0; i < pool->threads; i++) {
    struct lepton_share *share = &pool->shares[i];
    const int32_t begin = (int32_t)((int64_t)blocks * i / pool->threads);
    share->end = (int32_t)((int64_t)blocks * (i + 1) / pool->threads);
    share->piece = (share->end - begin + LEPTON_PIECES - 1) / LEPTON_PIECES;
    atomic_store_explicit(&share->next, begin, memory_order_relaxed);
  }
  const uint_fast64_t job = ((atomic_load_explicit(&pool->state, memory_order_relaxed) >> 32) + 1) & 0xffffffff;
  atomic_store(&pool->state, (job << 32) | LEPTON_OPEN);
  /* A forked child has nobody to wake, and its copy of the mutex may be locked for ever. */
  if (atomic_load(&pool->sleepers) > 0 && getpid() == pool->owner) {
    (void)pthread_mutex_lock(&pool->mutex);
    (void)pthread_cond_broadcast(&pool->wake);
    (void)pthread_mutex_unlock(&pool->mutex);
  }
  lepton_pool_work(pool, 0);
  uint_fast64_t state = atomic_fetch_and(&pool->state, ~LEPTON_OPEN);
  for (int spins = 0; state & LEPTON_JOINED; spins++) {
    if (spins < 2000) {
      lepton_pause();
    } else {
      (void)sched_yield(); /* more threads than processors: let the one that holds a piece run */
    }
    state = atomic_load_explicit(&pool->state, memory_order_acquire);
    state &= ~LEPTON_OPEN;
  }
}

static inline void lepton_pool_destroy(struct lepton_pool *pool) {
  if (pool == NULL) return;
  if (getpid() == pool->owner) {
    (void)pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->stopping, 1);
    (void)pthread_cond_broadcast(&pool->wake);
    (void)pthread_mutex_unlock(&pool->mutex);
    for (int32_t i = 0; i < pool->workers; i++) (void)pthread_join(pool->handles[i], NULL);
    (void)pthread_cond_destroy(&pool->wake);
    (void)pthread_mutex_destroy(&pool->mutex);
  }
  free(pool);
}

/* A pool of `threads` threads, the caller's being one of them; NULL when memory or threads run out. */
static inline struct lepton_pool *lepton_pool_create(int32_t threads) {
  struct lepton_pool *pool = aligned_alloc(_Alignof(struct lepton_pool), sizeof(struct lepton_pool));
  if (pool == NULL) return NULL;
  atomic_init(&pool->state, 0);
  atomic_init(&pool->sleepers, 0);
  atomic_init(&pool->stopping, 0);
  atomic_init(&pool->numbered, 1);
  pool->threads = threads;
  pool->workers = 0;
  pool->owner = getpid();
  (void)pthread_mutex_init(&pool->mutex, NULL);
  (void)pthread_cond_init(&pool->wake, NULL);
  for (int32_t i = 0; i < LEPTON_MAX_THREADS; i++) atomic_init(&pool->shares[i].next, 0);
  pthread_attr_t attributes;
  (void)pthread_attr_init(&attributes);
  (void)pthread_attr_setstacksize(&attributes, LEPTON_STACK_BYTES);
  sigset_t all, before;
  (void)sigfillset(&all);
  (void)pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the program's own threads */
  while (pool->workers < threads - 1 &&
         pthread_create(&pool->handles[pool->workers], &attributes, lepton_pool_worker, pool) == 0) {
    pool->workers++;
  }
  (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
  (void)pthread_attr_destroy(&attributes);
  if (pool->workers == threads - 1) return pool;
  lepton_pool_destroy(pool);
  return NULL;
}

#endif
