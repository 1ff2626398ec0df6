/* A model made by hand: output[r][n] = input[r][n] * factor, n being symbolic; it fails when the factor is negative. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

struct instance {
  int32_t threads;
};
struct inputs {
  const float *x;
  const int64_t *factor;
  int32_t n;
};
struct outputs {
  float *y;
  int32_t *threads;
};
struct options {
  int32_t threads;
};

int scale_create(const struct options *options, struct instance **instance) {
  *instance = malloc(sizeof **instance);
  if (*instance == NULL) return 2;
  (*instance)->threads = options->threads;
  return options->threads == 99;
}
int scale_run(struct instance *self, const struct inputs *inputs, struct outputs *outputs) {
  if (*inputs->factor < 0) return 1;
  for (int32_t i = 0; i < 3 * inputs->n; i++) outputs->y[i] = inputs->x[i] * (float)*inputs->factor;
  *outputs->threads = self->threads;
  return 0;
}
void scale_destroy(struct instance *self) { free(self); }
const char *scale_error(const struct instance *self) { return self == NULL ? "ninety-nine" : "the factor is negative"; }
