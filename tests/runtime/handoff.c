/* Prints the nanoseconds that handing an empty job to 2 threads and getting it back takes, best of many. */
#define _GNU_SOURCE
#include "lepton_runtime.h"

static void nothing(void *context, int32_t begin, int32_t end) {
  (void)context;
  (void)begin;
  (void)end;
}

int main(void) {
  struct lepton_pool *pool = lepton_pool_create(2);
  if (pool == NULL) return 1;
  int64_t best = INT64_MAX;
  for (int i = 0; i < 200; i++) {
    const int64_t start = lepton_nanoseconds();
    for (int j = 0; j < 100; j++) lepton_pool_run(pool, nothing, NULL, 64);
    const int64_t taken = (lepton_nanoseconds() - start) / 100;
    if (taken < best) best = taken;
  }
  printf("%lld\n", (long long)best);
  lepton_pool_destroy(pool);
  return 0;
}
