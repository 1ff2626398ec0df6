/* The options of the C interface, on the model "toy": y = 3 x + w, the first of its two steps being parallel. */
#define _POSIX_C_SOURCE 200809L /* opendir */
#include "toy.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition)                                     \
  do {                                                       \
    if (!(condition)) {                                      \
      fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
      return 1;                                              \
    }                                                        \
  } while (0)

enum { COUNT = 8 * 48 };
static float x[COUNT + 1], y[COUNT + 1];
static _Alignas(64) unsigned char arena[1 << 16];
static int calls;

static int correct(const float *input, const float *output) {
  for (int i = 0; i < COUNT; i++) {
    if (output[i] != input[i] * 2 + (float)i + input[i]) return 0;
  }
  return 1;
}

/* Backwards, one block at a time, and the first block last. */
static void own_parallel_for(void *context, toy_task task, void *task_context, int32_t blocks) {
  int *count = context;
  *count += 1;
  for (int32_t i = blocks; i > 0; i--) task(task_context, i - 1, i);
}

/* While the model runs, it is busy. */
static toy_instance *running;
static toy_status nested;
static void nesting_parallel_for(void *context, toy_task task, void *task_context, int32_t blocks) {
  toy_inputs inputs = {.images_0 = x};
  toy_outputs outputs = {0};
  (void)context;
  nested = toy_run(running, &inputs, &outputs);
  task(task_context, 0, blocks);
}

/* Threads of this process. */
static int thread_count(void) {
  DIR *folder = opendir("/proc/self/task");
  int count = 0;
  if (folder == NULL) return -1;
  for (const struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
    if (entry->d_name[0] != '.') count++;
  }
  (void)closedir(folder);
  return count;
}

int main(void) {
  for (int i = 0; i < COUNT + 1; i++) x[i] = (float)(i % 17);
  toy_instance *model = NULL;
  toy_inputs inputs = {.images_0 = x};
  toy_outputs outputs = {0};

  /* Lent memory, memory of the caller, and memory that is aligned to elements only. */
  CHECK(toy_create(NULL, &model) == TOY_OK);
  CHECK(toy_run(model, &inputs, &outputs) == TOY_OK);
  CHECK(outputs.class_ != NULL && correct(x, outputs.class_));
  outputs.class_ = y + 1;
  inputs.images_0 = x + 1;
  CHECK(toy_run(model, &inputs, &outputs) == TOY_OK);
  CHECK(outputs.class_ == y + 1 && correct(x + 1, y + 1) && y[0] == 0);

  /* Null pointers. */
  inputs.images_0 = NULL;
  CHECK(toy_run(model, &inputs, &outputs) == TOY_INVALID_ARGUMENT);
  CHECK(strcmp(toy_error(model), "input images_0 is a null pointer") == 0);
  CHECK(toy_run(model, NULL, &outputs) == TOY_INVALID_ARGUMENT);
  CHECK(toy_run(NULL, &inputs, &outputs) == TOY_INVALID_ARGUMENT);
  inputs.images_0 = x;
  toy_destroy(model);
  toy_destroy(NULL);

  /* The caller's parallel-for and arena. */
  toy_options options = {.parallel_for = own_parallel_for, .parallel_context = &calls};
  options.arena = arena;
  options.arena_bytes = toy_info()->arena_bytes;
  CHECK(toy_create(&options, &model) == TOY_OK);
  outputs.class_ = NULL;
  CHECK(toy_run(model, &inputs, &outputs) == TOY_OK);
  CHECK(calls == 1 && correct(x, outputs.class_));
  CHECK((unsigned char *)outputs.class_ >= arena && (unsigned char *)outputs.class_ < arena + sizeof arena);
  toy_destroy(model);

  /* One run at a time. */
  options.parallel_for = nesting_parallel_for;
  CHECK(toy_create(&options, &running) == TOY_OK);
  CHECK(toy_run(running, &inputs, &outputs) == TOY_OK);
  CHECK(nested == TOY_BUSY);
  toy_destroy(running);

  /* Options out of range. */
  options.arena_bytes -= 1;
  CHECK(toy_create(&options, &model) == TOY_INVALID_ARGUMENT && model == NULL);
  CHECK(strstr(toy_error(NULL), "bytes; ") != NULL);
  options.arena = arena + 32;
  options.arena_bytes += 1;
  CHECK(toy_create(&options, &model) == TOY_INVALID_ARGUMENT);
  CHECK(strstr(toy_error(NULL), "not aligned") != NULL);
  toy_options threads = {.threads = -1};
  CHECK(toy_create(&threads, &model) == TOY_INVALID_ARGUMENT);
  CHECK(strcmp(toy_error(NULL), "threads is -1; it must be at least 0") == 0);
  CHECK(toy_create(NULL, NULL) == TOY_INVALID_ARGUMENT);
  for (threads.threads = 1; threads.threads <= 4; threads.threads++) {
    CHECK(toy_create(&threads, &model) == TOY_OK);
    for (int run = 0; run < 1000; run++) {
      memset(y, 0, sizeof y);
      outputs.class_ = y;
      CHECK(toy_run(model, &inputs, &outputs) == TOY_OK && correct(x, y));
    }
    toy_destroy(model);
  }

  /* No more threads than processors. */
  threads.threads = INT32_MAX;
  CHECK(toy_create(&threads, &model) == TOY_OK);
  CHECK(thread_count() >= 1 && thread_count() <= sysconf(_SC_NPROCESSORS_ONLN));
  toy_destroy(model);
  threads.threads = 1;
  CHECK(toy_create(&threads, &model) == TOY_OK);
  CHECK(thread_count() == 1);
  toy_destroy(model);

  /* What the header states. */
  const toy_information *info = toy_info();
  CHECK(info->input_count == 1 && strcmp(info->inputs[0].name, "images:0") == 0 && info->inputs[0].bytes == COUNT * 4);
  CHECK(info->outputs[0].rank == 2 && info->outputs[0].shape[1] == 48);
  puts("ok");
  return 0;
}
