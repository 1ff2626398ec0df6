/* Arenas of all sizes are aligned, writable to the last byte, and refused where the machine has not that much memory. */
#define _GNU_SOURCE
#include "lepton_runtime.h"

int main(void) {
  const size_t sizes[] = {0, 1, 64, 4096, LEPTON_HUGE_PAGE - 64, LEPTON_HUGE_PAGE, 3 * LEPTON_HUGE_PAGE + 64};
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    unsigned char *arena = lepton_arena_create(sizes[i]);
    if (arena == NULL || !lepton_is_aligned(arena)) return 1;
    if (sizes[i] >= LEPTON_HUGE_PAGE && (uintptr_t)arena % LEPTON_HUGE_PAGE != 0) return 2;
    memset(arena, 1, sizes[i]);
    free(arena);
  }
  if (lepton_memory() == SIZE_MAX || lepton_memory() < LEPTON_HUGE_PAGE) return 3;
  if (lepton_arena_create(lepton_memory() + 1) != NULL || lepton_arena_create(SIZE_MAX) != NULL) return 4;
  return lepton_processors() < 1 || lepton_processors() > LEPTON_MAX_THREADS || lepton_quota() < 1 ? 5 : 0;
}
