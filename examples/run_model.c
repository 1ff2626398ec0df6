/* Runs a compiled model once on inputs of small numbers, and prints the beginning of each output.
 *
 *     lepton compile MODEL.onnx --target host -o model.lepton
 *     cc -DMODEL=NAME -DMODEL_HEADER='"NAME.h"' -Imodel.lepton run_model.c -Lmodel.lepton -lNAME -o run_model
 *     LD_LIBRARY_PATH=model.lepton ./run_model [RUNS]
 *
 * A program for one model would name its fields (inputs.images = ...). This one takes any model: the input and output
 * structs hold one pointer per tensor, in the order of NAME_info().
 */
#define _POSIX_C_SOURCE 199309L /* clock_gettime */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include MODEL_HEADER

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(suffix) JOIN(MODEL, suffix)

static double milliseconds(void) {
  struct timespec now;
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

/* Floats count 0, 0.01, 0.02, ... 0.99 over and over; anything else is zero. */
static void *make_input(const NAME(_tensor) *tensor) {
  void *data = calloc(1, tensor->bytes > 0 ? (size_t)tensor->bytes : 1);
  if (data != NULL && strcmp(tensor->dtype, "float32") == 0) {
    float *values = data;
    for (size_t i = 0; i < (size_t)tensor->bytes / sizeof(float); i++) values[i] = (float)(i % 100) / 100;
  }
  return data;
}

static void print_output(const NAME(_tensor) *tensor, const void *data) {
  printf("%s", tensor->name);
  for (int i = 0; i < 8; i++) {
    if (strcmp(tensor->dtype, "float32") == 0 && (size_t)i < (size_t)tensor->bytes / sizeof(float)) {
      printf(" %.6g", (double)((const float *)data)[i]);
    } else if (strcmp(tensor->dtype, "int64") == 0 && (size_t)i < (size_t)tensor->bytes / sizeof(int64_t)) {
      printf(" %lld", (long long)((const int64_t *)data)[i]);
    }
  }
  printf("\n");
}

int main(int count, char **words) {
  const int runs = count > 1 ? atoi(words[1]) : 1;
  const NAME(_information) *info = NAME(_info)();
  printf("%s for %s: %llu bytes of weights, %llu of working memory\n", info->name, info->target,
         (unsigned long long)info->weights_bytes, (unsigned long long)info->arena_bytes);

  NAME(_instance) *model = NULL;
  if (NAME(_create)(NULL, &model) != 0) {
    fprintf(stderr, "%s\n", NAME(_error)(NULL));
    return 1;
  }
  NAME(_inputs) inputs;
  NAME(_outputs) outputs;
  memset(&inputs, 0, sizeof inputs);
  memset(&outputs, 0, sizeof outputs); /* null pointers: the model lends its own memory */
  for (int i = 0; i < info->input_count; i++) {
    void *data = make_input(&info->inputs[i]);
    memcpy((char *)&inputs + (size_t)i * sizeof(void *), &data, sizeof data);
  }

  const double start = milliseconds();
  for (int i = 0; i < runs; i++) {
    if (NAME(_run)(model, &inputs, &outputs) != 0) {
      fprintf(stderr, "%s\n", NAME(_error)(model));
      return 1;
    }
  }
  fprintf(stderr, "%.3f ms a run\n", (milliseconds() - start) / runs);

  for (int i = 0; i < info->output_count; i++) {
    const void *data;
    memcpy(&data, (const char *)&outputs + (size_t)i * sizeof(void *), sizeof data);
    print_output(&info->outputs[i], data);
  }
  for (int i = 0; i < info->input_count; i++) {
    void *data;
    memcpy(&data, (char *)&inputs + (size_t)i * sizeof(void *), sizeof data);
    free(data);
  }
  NAME(_destroy)(model);
  return 0;
}
