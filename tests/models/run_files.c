/* Runs a compiled model once: input0.bin, input1.bin... in; output0.bin, output1.bin... out. Raw row-major values. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include MODEL_HEADER

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(suffix) JOIN(MODEL, suffix)

static FILE *open_file(const char *kind, int number, const char *mode) {
  char name[32];
  (void)snprintf(name, sizeof name, "%s%d.bin", kind, number);
  FILE *file = fopen(name, mode);
  if (file == NULL) {
    perror(name);
    exit(1);
  }
  return file;
}

static void require(int good, const char *what) {
  if (!good) {
    fprintf(stderr, "%s\n", what);
    exit(1);
  }
}

/* The input and output structs hold one pointer per tensor, in the order of NAME_info(). */
static void set_pointer(void *pointers, int number, void *data) {
  memcpy((char *)pointers + (size_t)number * sizeof data, &data, sizeof data);
}

int main(void) {
  const NAME(_information) *info = NAME(_info)();
  NAME(_instance) *model = NULL;
  require(NAME(_create)(NULL, &model) == 0, "the model cannot be created");
  NAME(_inputs) inputs;
  NAME(_outputs) outputs;
  void *results[16];
  require(info->output_count <= 16, "more than 16 outputs");
  for (int i = 0; i < info->input_count; i++) {
    const size_t bytes = (size_t)info->inputs[i].bytes;
    void *data = malloc(bytes + 1);
    FILE *file = open_file("input", i, "rb");
    require(data != NULL && fread(data, 1, bytes + 1, file) == bytes, "an input has another size");
    (void)fclose(file);
    set_pointer(&inputs, i, data);
  }
  for (int i = 0; i < info->output_count; i++) {
    results[i] = malloc((size_t)info->outputs[i].bytes);
    require(results[i] != NULL, "out of memory");
    set_pointer(&outputs, i, results[i]);
  }
  require(NAME(_run)(model, &inputs, &outputs) == 0, NAME(_error)(model));
  for (int i = 0; i < info->output_count; i++) {
    const size_t bytes = (size_t)info->outputs[i].bytes;
    FILE *file = open_file("output", i, "wb");
    require(fwrite(results[i], 1, bytes, file) == bytes && fclose(file) == 0, "an output cannot be written");
  }
  NAME(_destroy)(model);
  /* The largest resident set, in KiB. Not getrusage: the peak that it tells may be of the process that started this. */
  FILE *status = fopen("/proc/self/status", "r");
  char line[256];
  long peak = 0;
  while (status != NULL && fgets(line, sizeof line, status) != NULL) (void)sscanf(line, "VmHWM: %ld", &peak);
  if (status != NULL) (void)fclose(status);
  printf("%ld\n", peak);
  return 0;
}
