/* Two compiled models in one program, each run by a thread of its own. Nothing is shared between them, since every
 * symbol carries its model's name.
 *
 *     cc -DFIRST=A -DFIRST_HEADER='"A.h"' -DSECOND=B -DSECOND_HEADER='"B.h"' -Ia.lepton -Ib.lepton two_models.c \
 *        -La.lepton -lA -Lb.lepton -lB -lpthread -o two_models
 *     LD_LIBRARY_PATH=a.lepton:b.lepton ./two_models
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include FIRST_HEADER
#include SECOND_HEADER

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

enum { RUNS = 200 };

/* A function that runs one model RUNS times on zeros and returns null when each run gives the same bytes. */
#define DEFINE_RUNNER(function, MODEL)                                                                   \
  static void *function(void *unused) {                                                                  \
    const JOIN(MODEL, _information) *info = JOIN(MODEL, _info)();                                        \
    static char failed[] = #MODEL;                                                                       \
    char *wrong = NULL;                                                                                  \
    JOIN(MODEL, _instance) *model = NULL;                                                                \
    JOIN(MODEL, _inputs) inputs;                                                                         \
    JOIN(MODEL, _outputs) outputs;                                                                       \
    (void)unused;                                                                                        \
    memset(&inputs, 0, sizeof inputs);                                                                   \
    memset(&outputs, 0, sizeof outputs);                                                                 \
    if (JOIN(MODEL, _create)(NULL, &model) != 0) return failed;                                          \
    for (int i = 0; i < info->input_count; i++) {                                                        \
      void *data = calloc(1, (size_t)info->inputs[i].bytes + 1);                                         \
      memcpy((char *)&inputs + (size_t)i * sizeof(void *), &data, sizeof data);                          \
    }                                                                                                    \
    void *first = NULL;                                                                                  \
    const size_t bytes = (size_t)info->outputs[0].bytes;                                                 \
    for (int run = 0; run < RUNS && wrong == NULL; run++) {                                              \
      if (JOIN(MODEL, _run)(model, &inputs, &outputs) != 0) wrong = failed;                              \
      const void *output;                                                                                \
      memcpy(&output, &outputs, sizeof output);                                                          \
      if (first == NULL) {                                                                               \
        first = malloc(bytes + 1);                                                                       \
        if (first != NULL) memcpy(first, output, bytes);                                                 \
      }                                                                                                  \
      if (first == NULL || memcmp(first, output, bytes) != 0) wrong = failed;                            \
    }                                                                                                    \
    for (int i = 0; i < info->input_count; i++) {                                                        \
      void *data;                                                                                        \
      memcpy(&data, (char *)&inputs + (size_t)i * sizeof(void *), sizeof data);                          \
      free(data);                                                                                        \
    }                                                                                                    \
    free(first);                                                                                         \
    JOIN(MODEL, _destroy)(model);                                                                        \
    return wrong;                                                                                        \
  }

DEFINE_RUNNER(run_first, FIRST)
DEFINE_RUNNER(run_second, SECOND)

int main(void) {
  pthread_t threads[2];
  void *wrong[2];
  if (pthread_create(&threads[0], NULL, run_first, NULL) != 0) return 1;
  if (pthread_create(&threads[1], NULL, run_second, NULL) != 0) return 1;
  (void)pthread_join(threads[0], &wrong[0]);
  (void)pthread_join(threads[1], &wrong[1]);
  for (int i = 0; i < 2; i++) {
    if (wrong[i] != NULL) fprintf(stderr, "%s failed\n", (const char *)wrong[i]);
  }
  printf("%d runs of each model\n", (int)RUNS);
  return wrong[0] != NULL || wrong[1] != NULL;
}
