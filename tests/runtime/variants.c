/* Which variant is chosen, what a control group leaves free, and that places change hands without being lost. */
#define _GNU_SOURCE
#include "lepton_variants.h"

#define CHECK(condition)                                      \
  do {                                                        \
    if (!(condition)) {                                       \
      fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
      exit(1);                                                \
    }                                                         \
  } while (0)

enum { MB = 1 << 20, MS = 1000000 };

static int32_t choose(const struct lepton_variant *variants, uint64_t nanoseconds, uint64_t memory, int32_t threads,
                      size_t room, int32_t held, size_t arena_bytes, int wanted_within) {
  static uint8_t arena;
  struct lepton_seat seat = {.arena = arena_bytes > 0 ? &arena : NULL, .arena_bytes = arena_bytes};
  const struct lepton_limits limits = {nanoseconds, memory};
  int within = -1;
  const int32_t chosen = lepton_choose(&seat, variants, 3, limits, threads, room, held, &within);
  CHECK(within == wanted_within);
  return chosen;
}

static void choices(void) {
  struct lepton_variant all[] = {
      {NULL, 0, NULL, 40 * MS, 60 * MB, 100 * MB},
      {NULL, 0, NULL, 20 * MS, 30 * MB, 80 * MB},
      {NULL, 0, NULL, 10 * MS, 50 * MB, 60 * MB},
  };
  CHECK(choose(all, 0, 0, 1, SIZE_MAX, -1, 0, 1) == 0);
  CHECK(choose(all, 40 * MS, 100 * MB, 1, SIZE_MAX, -1, 0, 1) == 0);
  CHECK(choose(all, 40 * MS - 1, 0, 1, SIZE_MAX, -1, 0, 1) == 1);
  CHECK(choose(all, 20 * MS, 0, 2, SIZE_MAX, -1, 0, 1) == 0); /* two threads */
  CHECK(choose(all, 0, 99 * MB, 1, SIZE_MAX, -1, 0, 1) == 1);
  CHECK(choose(all, 20 * MS, 70 * MB, 1, SIZE_MAX, -1, 0, 1) == 2);
  /* Beyond the limits of all: the nearest. */
  CHECK(choose(all, 5 * MS, 0, 1, SIZE_MAX, -1, 0, 0) == 2);
  CHECK(choose(all, 0, 50 * MB, 1, SIZE_MAX, -1, 0, 0) == 2);
  struct lepton_variant crossed[] = {all[0], {NULL, 0, NULL, 20 * MS, 30 * MB, 40 * MB}, all[2]};
  CHECK(choose(crossed, 10 * MS, 40 * MB, 1, SIZE_MAX, -1, 0, 0) == 2); /* 1.5 times the memory, not twice the time */
  /* Memory that is free comes before limits; what the instance has already needs none; if there is none, the least. */
  CHECK(choose(all, 0, 0, 1, 99 * MB, -1, 0, 1) == 1);
  CHECK(choose(all, 0, 0, 1, 99 * MB, 0, 0, 1) == 0);
  CHECK(choose(crossed, 10 * MS, 0, 1, 59 * MB, -1, 0, 0) == 1);
  CHECK(choose(all, 0, 0, 1, MB, -1, 0, 0) == 2);
  /* An arena of the caller's takes none of it, and has room for some of them only. */
  CHECK(choose(all, 0, 0, 1, 40 * MB, -1, 60 * MB, 1) == 0);
  CHECK(choose(all, 0, 0, 1, SIZE_MAX, -1, 59 * MB, 1) == 2 - 1);
  CHECK(choose(all, 0, 0, 1, SIZE_MAX, -1, 29 * MB, 0) == -1);
  /* A processor that lacks something. */
  all[0].lacks = "telepathy";
  CHECK(choose(all, 0, 0, 1, SIZE_MAX, -1, 0, 1) == 1);
  all[1].lacks = all[2].lacks = "telepathy";
  CHECK(choose(all, 0, 0, 1, SIZE_MAX, -1, 0, 0) == -1);
  struct lepton_seat seat = {.arena = NULL};
  char error[LEPTON_ERROR_BYTES];
  CHECK(lepton_refuse(&seat, all, 3, error) == LEPTON_UNSUPPORTED_CPU && strstr(error, "lacks telepathy") != NULL);
}

static void write_file(const char *path, const char *text) {
  FILE *file = fopen(path, "w");
  CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

static void groups(void) {
  write_file("limit", "1000\n");
  write_file("usage", "700\n");
  write_file("stat", "anon 300\nfile 400\nkernel 1\ninactive_file 150\nactive_file 50\nactive_filed 7\n");
  CHECK(lepton_group_free("limit", "usage", "stat", "inactive_file ", "active_file ") == 500);
  CHECK(lepton_group_free("limit", "usage", "none", "inactive_file ", "active_file ") == 300);
  write_file("usage", "1300\n");
  CHECK(lepton_group_free("limit", "usage", "stat", "inactive_file ", "active_file ") == 0);
  write_file("limit", "max\n");
  CHECK(lepton_group_free("limit", "usage", "stat", "inactive_file ", "active_file ") == SIZE_MAX);
  CHECK(lepton_group_free("none", "usage", "stat", "inactive_file ", "active_file ") == SIZE_MAX);
  CHECK(lepton_free_memory() > MB);
}

/* One thread runs, another adapts: each run finds the arena of its variant, and no wish gets lost. */
enum { WISHES = 20000 };
static const struct lepton_variant sizes[] = {{NULL, 0, NULL, 2, 64, 200}, {NULL, 0, NULL, 1, 4096, 100}};
static struct lepton_seat shared = {.threads = 1};
static atomic_int done;

static void *run(void *met) {
  while (!atomic_load(&done)) {
    struct lepton_place *place = lepton_seat_enter(&shared);
    CHECK(place != NULL); /* nobody else runs */
    ((long *)met)[place->variant]++;
    memset(place->arena, place->variant, sizes[place->variant].arena_bytes);
    for (size_t i = 0; i < sizes[place->variant].arena_bytes; i++) CHECK(place->arena[i] == place->variant);
    lepton_seat_leave(&shared, place);
  }
  return NULL;
}

static void handing_over(void) {
  static const struct lepton_limits limits[] = {{0, 0}, {1, 0}};
  char error[LEPTON_ERROR_BYTES];
  long met[2] = {0, 0};
  pthread_t runner;
  atomic_init(&shared.taken, -1);
  CHECK(lepton_adapt(&shared, sizes, 2, limits[0], error) == LEPTON_OK);
  CHECK(pthread_create(&runner, NULL, run, met) == 0);
  for (int i = 0; i < WISHES; i++) {
    CHECK(lepton_adapt(&shared, sizes, 2, limits[i % 2], error) == LEPTON_OK);
    CHECK(atomic_load(&shared.taken) == 2 * (i % 2) + 1);
  }
  atomic_store(&done, 1);
  CHECK(pthread_join(runner, NULL) == 0);
  CHECK(met[0] > 0 && met[1] > 0);
  struct lepton_place *last = lepton_seat_enter(&shared);
  CHECK(last != NULL && last->variant == (WISHES - 1) % 2);
  CHECK(lepton_seat_enter(&shared) == NULL);
  /* A wish that comes while a run puts its place back, and is met by none before the next wish. */
  CHECK(lepton_adapt(&shared, sizes, 2, limits[0], error) == LEPTON_OK);
  atomic_store(&shared.place, last);
  CHECK(lepton_adapt(&shared, sizes, 2, limits[1], error) == LEPTON_OK);
  last = lepton_seat_enter(&shared);
  CHECK(last->variant == 1);
  lepton_seat_leave(&shared, last);
  lepton_seat_destroy(&shared);
}

int main(void) {
  choices();
  groups();
  handing_over();
  return 0;
}
