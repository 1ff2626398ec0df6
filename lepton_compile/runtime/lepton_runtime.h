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

#include "lepton_cpu.h"
#include "lepton_pool.h"

#define LEPTON_ALIGNMENT ((size_t)64)
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
  return processors;
}

static inline int lepton_is_aligned(const void *pointer) { return (uintptr_t)pointer % LEPTON_ALIGNMENT == 0; }

/* Memory for an arena of `bytes` bytes; to be freed with free(). */
static inline void *lepton_arena_create(size_t bytes) {
  const size_t rounded = (bytes + LEPTON_ALIGNMENT) / LEPTON_ALIGNMENT * LEPTON_ALIGNMENT;
  return rounded < bytes ? NULL : aligned_alloc(LEPTON_ALIGNMENT, rounded);
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
