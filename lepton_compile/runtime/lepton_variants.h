/* How a library of several variants of a model picks one, and goes over to another while runs follow each other.
 *
 * A place is a variant with an arena to work in. One place at a time is the instance's: a run takes it, and puts it back;
 * who finds none there knows that another run has it. To adapt is to make a new place, in the thread that asks for it, and
 * to leave it where the instance's is, or, during a run, beside it for that run's end or the next one's begin. So a run
 * never waits, and works with one variant from begin to end. */
#ifndef LEPTON_VARIANTS_H
#define LEPTON_VARIANTS_H

#include "lepton_runtime.h"

/* The first numbers of NAME_status. */
enum { LEPTON_OK, LEPTON_INVALID_ARGUMENT, LEPTON_OUT_OF_RESOURCES, LEPTON_BUSY, LEPTON_UNSUPPORTED_CPU };

/* What there is to choose from, the best first. */
struct lepton_variant {
  const struct lepton_cpu_feature *features; /* that its code needs */
  size_t feature_count;
  const char *lacks;    /* the first of them that this processor lacks; NULL when it has all */
  int64_t nanoseconds;  /* of a run on one thread */
  size_t arena_bytes;
  size_t memory_bytes;  /* arena, weights, and the instance itself */
};

/* What is asked for; 0 where there is no limit. */
struct lepton_limits {
  uint64_t nanoseconds, memory_bytes;
};

struct lepton_place {
  int32_t variant;
  uint8_t *arena;
  size_t owned; /* bytes of the arena to give back; 0 where it is the caller's */
};

/* An instance's part in it. */
struct lepton_seat {
  _Atomic(struct lepton_place *) place; /* what the next run works in; NULL while a run has it */
  _Atomic(struct lepton_place *) next;  /* what is to take its place */
  atomic_flag adapting;
  atomic_int taken; /* twice the number of the variant in the newest place, and 1 when it keeps the limits; -1: none yet */
  uint8_t *arena;   /* the caller's; may be NULL */
  size_t arena_bytes;
  int32_t threads;
};

/* The number after a name at the beginning of a line of a file: "MemAvailable:   123 kB"; 0 where there is none. */
static inline unsigned long long lepton_read_field(const char *path, const char *name) {
  char line[128];
  unsigned long long value = 0;
  FILE *file = fopen(path, "r");
  if (file == NULL) return 0;
  while (fgets(line, sizeof line, file) != NULL) {
    if (strncmp(line, name, strlen(name)) == 0 && sscanf(line + strlen(name), " %llu", &value) == 1) break;
  }
  (void)fclose(file);
  return value;
}

/* What a control group leaves to its processes: its limit, without what they use; files in the cache do not count, as they
 * make room. SIZE_MAX where there is no limit. Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst. */
static inline size_t lepton_group_free(const char *limit_path, const char *usage_path, const char *statistics_path,
                                       const char *inactive_files, const char *active_files) {
  long long limit = 0, usage = 0, unused = 0;
  if (lepton_read_numbers(limit_path, &limit, &unused) < 1 || lepton_read_numbers(usage_path, &usage, &unused) < 1) {
    return SIZE_MAX;
  }
  const unsigned long long cached =
      lepton_read_field(statistics_path, inactive_files) + lepton_read_field(statistics_path, active_files);
  const unsigned long long room = (unsigned long long)limit + cached;
  return room < (unsigned long long)usage ? 0 : (size_t)(room - (unsigned long long)usage);
}

/* Bytes of memory that this process can still get without driving others out; SIZE_MAX where it is not known. */
static inline size_t lepton_free_memory(void) {
#define LEPTON_GROUP "/sys/fs/cgroup/memory"
  const size_t groups[] = {
      lepton_group_free(LEPTON_GROUP ".max", LEPTON_GROUP ".current", LEPTON_GROUP ".stat", "inactive_file ",
                        "active_file "),
      lepton_group_free(LEPTON_GROUP "/memory.limit_in_bytes", LEPTON_GROUP "/memory.usage_in_bytes",
                        LEPTON_GROUP "/memory.stat", "total_inactive_file ", "total_active_file ")};
#undef LEPTON_GROUP
  const size_t kibibytes = (size_t)lepton_read_field("/proc/meminfo", "MemAvailable:");
  size_t least = kibibytes > 0 ? kibibytes * 1024 : SIZE_MAX;
  for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++) {
    if (groups[i] < least) least = groups[i];
  }
  return least;
}

/* By how much a variant exceeds the limits: within them up to 1. The time on several threads is that on one, divided by
 * their number, which is the best that could be. */
static inline double lepton_excess(const struct lepton_variant *variant, struct lepton_limits limits, int32_t threads) {
  double excess = 0;
  if (limits.nanoseconds > 0) {
    excess = (double)variant->nanoseconds / (double)threads / (double)limits.nanoseconds;
  }
  if (limits.memory_bytes > 0) {
    const double memory = (double)variant->memory_bytes / (double)limits.memory_bytes;
    if (memory > excess) excess = memory;
  }
  return excess;
}

/* What a place for a variant would still take of the memory that is free. */
static inline size_t lepton_demand(const struct lepton_seat *seat, const struct lepton_variant *variant) {
  return seat->arena == NULL ? variant->memory_bytes : variant->memory_bytes - variant->arena_bytes;
}

/* The number of the first variant that this processor can run, for which there is room, and which keeps the limits.
 * Where none does, the one that comes nearest to the limits of those for which there is room; else the one that takes
 * least. -1: the processor, or the caller's arena, is enough for none. `held` has room already. */
static inline int32_t lepton_choose(const struct lepton_seat *seat, const struct lepton_variant *variants,
                                    int32_t count, struct lepton_limits limits, int32_t threads, size_t room,
                                    int32_t held, int *within) {
  int32_t nearest = -1, smallest = -1;
  double least = 0;
  *within = 0;
  for (int32_t i = 0; i < count; i++) {
    const struct lepton_variant *variant = &variants[i];
    if (variant->lacks != NULL || (seat->arena != NULL && seat->arena_bytes < variant->arena_bytes)) continue;
    if (smallest < 0 || lepton_demand(seat, variant) < lepton_demand(seat, &variants[smallest])) smallest = i;
    if (i != held && lepton_demand(seat, variant) > room) continue;
    const double excess = lepton_excess(variant, limits, threads);
    if (excess <= 1) {
      *within = 1;
      return i;
    }
    if (nearest < 0 || excess < least) {
      nearest = i;
      least = excess;
    }
  }
  return nearest >= 0 ? nearest : smallest;
}

static inline void lepton_place_destroy(struct lepton_place *place) {
  if (place == NULL) return;
#ifdef MADV_DONTNEED
  /* free() may keep the memory for itself, when blocks of this size come and go. */
  const size_t page = (size_t)sysconf(_SC_PAGESIZE), margin = -(uintptr_t)place->arena & (page - 1);
  const size_t whole = place->owned < margin ? 0 : (place->owned - margin) & ~(page - 1);
  if (whole > 0) (void)madvise(place->arena + margin, whole, MADV_DONTNEED);
#endif
  if (place->owned > 0) free(place->arena);
  free(place);
}

/* NULL when there is no memory for it. */
static inline struct lepton_place *lepton_place_create(const struct lepton_seat *seat, int32_t number, size_t bytes) {
  struct lepton_place *place = malloc(sizeof *place);
  if (place == NULL) return NULL;
  place->variant = number;
  place->arena = seat->arena != NULL ? seat->arena : lepton_arena_create(bytes);
  place->owned = seat->arena != NULL ? 0 : bytes > 0 ? bytes : 1;
  if (place->arena != NULL) return place;
  free(place);
  return NULL;
}

/* The newest place, for a run that has this one. */
static inline struct lepton_place *lepton_seat_renewed(struct lepton_seat *seat, struct lepton_place *place) {
  if (atomic_load_explicit(&seat->next, memory_order_relaxed) == NULL) return place;
  struct lepton_place *next = atomic_exchange(&seat->next, NULL);
  if (next == NULL) return place;
  lepton_place_destroy(place);
  return next;
}

/* What a run works in, for it alone until it leaves; NULL while another run has it. */
static inline struct lepton_place *lepton_seat_enter(struct lepton_seat *seat) {
  struct lepton_place *place = atomic_exchange(&seat->place, NULL);
  return place == NULL ? NULL : lepton_seat_renewed(seat, place);
}

static inline void lepton_seat_leave(struct lepton_seat *seat, struct lepton_place *place) {
  atomic_store(&seat->place, lepton_seat_renewed(seat, place));
}

/* Has the next run work in `place`. One thread at a time does this, so the newest wish is the one that lasts. */
static inline void lepton_seat_give(struct lepton_seat *seat, struct lepton_place *place) {
  lepton_place_destroy(atomic_exchange(&seat->next, NULL)); /* an older wish that no run has met */
  struct lepton_place *idle = atomic_load(&seat->place);
  while (idle != NULL) {
    if (atomic_compare_exchange_weak(&seat->place, &idle, place)) {
      lepton_place_destroy(idle);
      return;
    }
  }
  atomic_store(&seat->next, place);
}

static inline void lepton_seat_destroy(struct lepton_seat *seat) {
  lepton_place_destroy(atomic_load(&seat->place));
  lepton_place_destroy(atomic_load(&seat->next));
}

/* Words for why none of the variants can be had. */
static inline int lepton_refuse(const struct lepton_seat *seat, const struct lepton_variant *variants, int32_t count,
                                char *error) {
  const struct lepton_variant *smallest = NULL;
  for (int32_t i = 0; i < count; i++) {
    if (variants[i].lacks == NULL && (smallest == NULL || variants[i].arena_bytes < smallest->arena_bytes)) {
      smallest = &variants[i];
    }
  }
  if (smallest == NULL) {
    lepton_error_set(error, "this processor lacks %s, which the library was compiled for", variants[count - 1].lacks);
    return LEPTON_UNSUPPORTED_CPU;
  }
  if (seat->arena != NULL && seat->arena_bytes < smallest->arena_bytes) {
    lepton_error_set(error, "the arena has %zu bytes; %zu are needed", seat->arena_bytes, smallest->arena_bytes);
    return LEPTON_INVALID_ARGUMENT;
  }
  lepton_error_set(error, "no memory for an arena of %zu bytes; beside it, an instance and its weights take %zu bytes",
                   smallest->arena_bytes, smallest->memory_bytes - smallest->arena_bytes);
  return LEPTON_OUT_OF_RESOURCES;
}

/* Senses the processors and the memory that are free now, and has the instance's next run take what suits them and the
 * limits. When it fails, the instance keeps what it has. */
static inline int lepton_adapt(struct lepton_seat *seat, const struct lepton_variant *variants, int32_t count,
                               struct lepton_limits limits, char *error) {
  const int taken = atomic_load(&seat->taken);
  const int32_t held = taken < 0 ? -1 : taken / 2;
  const int32_t processors = seat->threads == 1 ? 1 : lepton_processors();
  const int32_t threads = seat->threads < processors ? seat->threads : processors;
  for (size_t room = lepton_free_memory();;) {
    int within = 0;
    const int32_t chosen = lepton_choose(seat, variants, count, limits, threads, room, held, &within);
    if (chosen < 0) return lepton_refuse(seat, variants, count, error);
    if (chosen != held) {
      struct lepton_place *place = lepton_place_create(seat, chosen, variants[chosen].arena_bytes);
      if (place == NULL) {
        const size_t demand = lepton_demand(seat, &variants[chosen]);
        if (demand > room) return lepton_refuse(seat, variants, count, error); /* it was the last resort */
        room = demand - 1; /* there was less than it seemed */
        continue;
      }
      if (held < 0) {
        atomic_store(&seat->place, place);
      } else {
        lepton_seat_give(seat, place);
      }
    }
    atomic_store(&seat->taken, 2 * chosen + within);
    return LEPTON_OK;
  }
}

#endif
