/* The interface of a library with variants, on the model "toy": y = 3 x + w ("full", 2 ms), then y = 3 x ("less", 1 ms). */
#include "toy.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define CHECK(condition)                                      \
  do {                                                        \
    if (!(condition)) {                                       \
      fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
      return 1;                                               \
    }                                                         \
  } while (0)

enum { COUNT = 8 * 48, FULL = 0, LESS = 1, WISHES = 2000 };
static float x[COUNT];
static _Alignas(64) unsigned char arena[1 << 16];

static int is_of(int variant, const float *output) {
  for (int i = 0; i < COUNT; i++) {
    if (output[i] != x[i] * 2 + (variant == FULL ? (float)i : 0) + x[i]) return 0;
  }
  return 1;
}

/* Adapts the instance in the middle of a run. */
static toy_instance *running;
static toy_status nested;
static void adapting_parallel_for(void *context, toy_task task, void *task_context, int32_t blocks) {
  nested = toy_adapt(running, context);
  task(task_context, 0, blocks);
}

static int stop; /* guarded by what joins the thread */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *keep_adapting(void *model) {
  static const toy_limits limits[] = {{0, 0}, {.latency_ns = 1}}; /* the second is nearest to the other variant */
  for (int i = 0; i < WISHES; i++) {
    if (toy_adapt(model, &limits[i % 2]) != TOY_OK) return "adapt";
  }
  (void)pthread_mutex_lock(&lock);
  stop = 1;
  (void)pthread_mutex_unlock(&lock);
  return NULL;
}
static int stopped(void) {
  (void)pthread_mutex_lock(&lock);
  const int now = stop;
  (void)pthread_mutex_unlock(&lock);
  return now;
}

int main(void) {
  for (int i = 0; i < COUNT; i++) x[i] = (float)(i % 17);
  const toy_information *info = toy_info();
  CHECK(TOY_VARIANTS == 2 && info->variant_count == 2);
  CHECK(strcmp(info->variants[FULL].name, "full") == 0 && strcmp(info->variants[LESS].name, "less") == 0);
  CHECK(info->variants[FULL].lacks == NULL && info->variants[LESS].nanoseconds == 1000000);
  CHECK(info->arena_bytes == info->variants[FULL].arena_bytes && info->variants[LESS].arena_bytes == 1536);
  CHECK(info->variants[LESS].weights_bytes == 0 && info->variants[LESS].memory_bytes == 1536 + (64 << 10));

  /* Limits at the beginning, and later. */
  toy_instance *model = NULL;
  toy_inputs inputs = {.images_0 = x};
  toy_outputs outputs = {0};
  int32_t within = -1;
  toy_options options = {.threads = 1, .limits = {.latency_ns = 1500000}};
  CHECK(toy_create(&options, &model) == TOY_OK);
  CHECK(toy_taken(model, &within) == LESS && within == 1);
  CHECK(toy_run(model, &inputs, &outputs) == TOY_OK && is_of(LESS, outputs.class_));
  const float *lent = outputs.class_;
  CHECK(toy_adapt(model, NULL) == TOY_OK && toy_taken(model, NULL) == FULL);
  CHECK(is_of(LESS, lent)); /* what is lent stays until the next run */
  CHECK(toy_run(model, &inputs, &outputs) == TOY_OK && is_of(FULL, outputs.class_) && outputs.class_ == lent);
  const toy_limits little = {.memory_bytes = info->variants[LESS].memory_bytes};
  CHECK(toy_adapt(model, &little) == TOY_OK && toy_taken(model, &within) == LESS && within == 1);
  const toy_limits nothing = {.memory_bytes = 1};
  CHECK(toy_adapt(model, &nothing) == TOY_OK && toy_taken(model, &within) == LESS && within == 0);
  CHECK(toy_run(model, &inputs, &outputs) == TOY_OK && is_of(LESS, outputs.class_));
  CHECK(toy_adapt(NULL, NULL) == TOY_INVALID_ARGUMENT && toy_taken(NULL, &within) == -1 && within == 0);
  CHECK(strcmp(toy_error(NULL), "the instance is a null pointer") == 0);
  toy_destroy(model);

  /* In the middle of a run: it ends as it began. */
  toy_limits fast = {.latency_ns = 1000000};
  options = (toy_options){.threads = 1, .parallel_for = adapting_parallel_for, .parallel_context = &fast};
  CHECK(toy_create(&options, &running) == TOY_OK);
  outputs.class_ = NULL;
  CHECK(toy_run(running, &inputs, &outputs) == TOY_OK && nested == TOY_OK && is_of(FULL, outputs.class_));
  CHECK(toy_taken(running, NULL) == LESS);
  CHECK(toy_run(running, &inputs, &outputs) == TOY_OK && is_of(LESS, outputs.class_));
  toy_destroy(running);

  /* An arena of the caller's. */
  options = (toy_options){.threads = 1, .arena = arena, .arena_bytes = info->arena_bytes};
  CHECK(toy_create(&options, &model) == TOY_OK && toy_taken(model, NULL) == FULL);
  outputs.class_ = NULL;
  CHECK(toy_run(model, &inputs, &outputs) == TOY_OK && is_of(FULL, outputs.class_));
  CHECK(toy_adapt(model, &fast) == TOY_OK);
  outputs.class_ = NULL;
  CHECK(toy_run(model, &inputs, &outputs) == TOY_OK && is_of(LESS, outputs.class_));
  toy_destroy(model);
  options.arena_bytes = info->variants[LESS].arena_bytes;
  CHECK(toy_create(&options, &model) == TOY_OK && toy_taken(model, &within) == LESS && within == 1);
  toy_destroy(model);
  options.arena_bytes -= 1;
  CHECK(toy_create(&options, &model) == TOY_INVALID_ARGUMENT && model == NULL);
  CHECK(strcmp(toy_error(NULL), "the arena has 1535 bytes; 1536 are needed") == 0);

  /* Runs without a break, while another thread adapts: each is of one variant, and none is refused. */
  pthread_t other;
  options = (toy_options){.threads = 2};
  CHECK(toy_create(&options, &model) == TOY_OK);
  CHECK(pthread_create(&other, NULL, keep_adapting, model) == 0);
  outputs.class_ = NULL;
  long met[2] = {0, 0};
  while (!stopped()) {
    CHECK(toy_run(model, &inputs, &outputs) == TOY_OK);
    const int full = is_of(FULL, outputs.class_);
    CHECK(full || is_of(LESS, outputs.class_));
    met[full ? FULL : LESS]++;
  }
  void *failed = NULL;
  CHECK(pthread_join(other, &failed) == 0 && failed == NULL);
  CHECK(met[FULL] > 0 && met[LESS] > 0);
  toy_destroy(model);
  puts("ok");
  return 0;
}
