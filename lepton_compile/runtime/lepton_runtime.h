/* What every generated driver stands on: threads, the arena and error text. All of it is static, so that several models
 * in one program share nothing but code of the system. POSIX threads and C11. */
#ifndef LEPTON_RUNTIME_H
#define LEPTON_RUNTIME_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "lepton_cpu.h"
#include "lepton_pool.h"

#define LEPTON_ALIGNMENT ((size_t)64)
#define LEPTON_HUGE_PAGE ((size_t)2 << 20) /* of x86-64, and of aarch64 and riscv64 with pages of 4 KiB */
#define LEPTON_ERROR_BYTES 256

typedef void (*lepton_parallel_for)(void *context, lepton_task task, void *task_context, int32_t blocks);

/* Who runs the parts of a step: the caller's own function, the instance's pool, or the calling thread alone. */
struct lepton_executor {
  lepton_parallel_for parallel_for;
  void *parallel_context;
  struct lepton_pool *pool;
};

static inline void lepton_parallel(const struct lepton_executor *executor, lepton_task task, void *context,
                                   int32_t blocks) {
  if (executor->parallel_for != NULL) {
    executor->parallel_for(executor->parallel_context, task, context, blocks);
  } else if (executor->pool != NULL) {
    lepton_pool_run(executor->pool, task, context, blocks);
  } else {
    task(context, 0, blocks);
  }
}

/* Who is told how long each step took; nobody while the callback is null. */
struct lepton_profile {
  void (*callback)(void *context, int32_t step, int64_t nanoseconds);
  void *context;
};

/* Runs all of a step: on the executor's threads, or on this one alone where `executor` is null. */
static inline void lepton_run_step(const struct lepton_executor *executor, lepton_task task, void *context,
                                   int32_t blocks) {
  if (executor != NULL) {
    lepton_parallel(executor, task, context, blocks);
  } else {
    task(context, 0, blocks);
  }
}

/* The same, timed where somebody wants to know: otherwise it costs one branch that is always predicted. */
static inline void lepton_step(const struct lepton_profile *profile, int32_t number,
                               const struct lepton_executor *executor, lepton_task task, void *context,
                               int32_t blocks) {
  if (profile->callback == NULL) {
    lepton_run_step(executor, task, context, blocks);
    return;
  }
  const int64_t begin = lepton_nanoseconds();
  lepton_run_step(executor, task, context, blocks);
  profile->callback(profile->context, number, lepton_nanoseconds() - begin);
}

/* The whole numbers at the beginning of a file, at most two; how many there are. */
static inline int lepton_read_numbers(const char *path, long long *first, long long *second) {
  FILE *file = fopen(path, "r");
  if (file == NULL) return 0;
  const int found = fscanf(file, "%lld %lld", first, second);
  (void)fclose(file);
  return found < 0 ? 0 : found;
}

/* How many processors' time the control group at the top grants, which in a container is its own: Linux,
 * Documentation/admin-guide/cgroup-v2.rst and cgroup-v1. More threads than that would stand still in turns. */
static inline int32_t lepton_quota(void) {
  long long quota = 0, period = 0, unused = 0;
  if (lepton_read_numbers("/sys/fs/cgroup/cpu.max", &quota, &period) < 2 &&
      (lepton_read_numbers("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", &quota, &unused) < 1 ||
       lepton_read_numbers("/sys/fs/cgroup/cpu/cpu.cfs_period_us", &period, &unused) < 1)) {
    return LEPTON_MAX_THREADS;
  }
  if (quota <= 0 || period <= 0 || quota / period >= LEPTON_MAX_THREADS) return LEPTON_MAX_THREADS;
  return quota < period ? 1 : (int32_t)(quota / period);
}

/* How many processors this process may use. */
static inline int32_t lepton_processors(void) {
  const long count = sysconf(_SC_NPROCESSORS_ONLN);
  int32_t processors = count < 1 ? 1 : count > LEPTON_MAX_THREADS ? LEPTON_MAX_THREADS : (int32_t)count;
#ifdef CPU_COUNT
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0 && CPU_COUNT(&set) < processors) {
    processors = CPU_COUNT(&set);
  }
#endif
  const int32_t quota = lepton_quota();
  return quota < processors ? quota : processors;
}

static inline int lepton_is_aligned(const void *pointer) { return (uintptr_t)pointer % LEPTON_ALIGNMENT == 0; }

/* The machine's memory in bytes, or what the control group at the top grants of it; SIZE_MAX where it is not known. */
static inline size_t lepton_memory(void) {
  const long pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGESIZE);
  size_t memory = SIZE_MAX;
  if (pages > 0 && bytes > 0 && (size_t)pages <= SIZE_MAX / (size_t)bytes) memory = (size_t)pages * (size_t)bytes;
  long long limit = 0, unused = 0;
  if ((lepton_read_numbers("/sys/fs/cgroup/memory.max", &limit, &unused) > 0 ||
       lepton_read_numbers("/sys/fs/cgroup/memory/memory.limit_in_bytes", &limit, &unused) > 0) &&
      limit > 0 && (unsigned long long)limit < memory) {
    memory = (size_t)limit;
  }
  return memory;
}

/* Memory for an arena of `bytes` bytes, to be freed with free(); NULL when there is not that much.
 *
 * A large one lies on huge pages where the system has them: a run walks through all of it, and with pages of 4 KiB the
 * processor spends its time looking them up. More than the machine has is refused here, since a system that promises
 * memory freely would end the program later on. */
static inline void *lepton_arena_create(size_t bytes) {
  void *arena = NULL;
  const size_t alignment = bytes < LEPTON_HUGE_PAGE ? LEPTON_ALIGNMENT : LEPTON_HUGE_PAGE;
  if ((alignment == LEPTON_HUGE_PAGE && bytes > lepton_memory()) || posix_memalign(&arena, alignment, bytes > 0 ? bytes : 1) != 0) return NULL;
#ifdef MADV_HUGEPAGE
  if (alignment == LEPTON_HUGE_PAGE) (void)madvise(arena, bytes, MADV_HUGEPAGE); /* advice: it may be refused */
#endif
#ifdef MADV_POPULATE_WRITE
  /* All at once, as the first run would ask for all of it in small pieces. */
  if (alignment == LEPTON_HUGE_PAGE) (void)madvise(arena, bytes, MADV_POPULATE_WRITE);
#endif
  return arena;
}

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static inline void lepton_error_set(char *text, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  (void)vsnprintf(text, LEPTON_ERROR_BYTES, format, arguments);
  va_end(arguments);
}

#endif
