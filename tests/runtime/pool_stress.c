/* Every block is computed exactly once, whatever the threads, the blocks and the pauses between jobs. */
#define _GNU_SOURCE
#include "lepton_runtime.h"

#include <sys/wait.h>

enum { BLOCKS = 5000 };

struct job {
  atomic_int counts[BLOCKS];
  int32_t blocks;
};

static void count(void *context, int32_t begin, int32_t end) {
  struct job *job = context;
  for (int32_t i = begin; i < end; i++) (void)atomic_fetch_add_explicit(&job->counts[i], 1, memory_order_relaxed);
}

static int run(struct lepton_pool *pool, struct job *job, int32_t blocks) {
  for (int i = 0; i < BLOCKS; i++) atomic_store_explicit(&job->counts[i], 0, memory_order_relaxed);
  lepton_pool_run(pool, count, job, blocks);
  for (int i = 0; i < BLOCKS; i++) {
    if (atomic_load_explicit(&job->counts[i], memory_order_relaxed) != (i < blocks)) return 1;
  }
  return 0;
}

static struct job jobs[4];

static void *client(void *context) {
  struct job *job = context;
  struct lepton_pool *pool = lepton_pool_create(3);
  int wrong = pool == NULL;
  for (int32_t i = 0; i < 300 && !wrong; i++) wrong = run(pool, job, i * 7 % BLOCKS);
  lepton_pool_destroy(pool);
  job->blocks = wrong;
  return NULL;
}

int main(void) {
  for (int32_t threads = 1; threads <= 9; threads += 2) {
    struct lepton_pool *pool = lepton_pool_create(threads);
    if (pool == NULL) return 2;
    for (int32_t i = 0; i < 400; i++) {
      if (run(pool, &jobs[0], i < 40 ? i : (i * 131) % BLOCKS)) return 3;
      if (i % 50 == 0) (void)usleep(2000); /* long enough for the workers to sleep */
    }
    lepton_pool_destroy(pool);
  }
  /* A pool whose workers never had a job. */
  lepton_pool_destroy(lepton_pool_create(4));

  /* Several pools in several threads at once. */
  pthread_t clients[4];
  for (int i = 0; i < 4; i++) {
    if (pthread_create(&clients[i], NULL, client, &jobs[i]) != 0) return 4;
  }
  for (int i = 0; i < 4; i++) (void)pthread_join(clients[i], NULL);
  for (int i = 0; i < 4; i++) {
    if (jobs[i].blocks != 0) return 5;
  }

  /* A forked child has no workers, and gets its answers all the same; asleep or awake when the fork came. */
  struct lepton_pool *pool = lepton_pool_create(4);
  if (pool == NULL) return 6;
  for (int pause = 0; pause < 2; pause++) {
    if (run(pool, &jobs[0], 100)) return 7;
    if (pause) (void)usleep(5000);
    const pid_t child = fork();
    if (child == 0) {
      (void)alarm(20);
      const int wrong = run(pool, &jobs[1], 1000);
      lepton_pool_destroy(pool);
      _exit(wrong);
    }
    int status = -1;
    if (waitpid(child, &status, 0) != child || status != 0) return 8;
  }
  lepton_pool_destroy(pool);
  return 0;
}
