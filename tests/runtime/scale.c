/* A model made by hand: output[r][n] = input[r][n] * factor, n being symbolic; it fails when the factor is negative. Its
 * profile tells of step 0, and of step 2 when the factor is 2. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

struct instance {
  int32_t threads;
  void (*profile)(void *context, int32_t step, int64_t nanoseconds);
  void *context;
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
  *instance = calloc(1, sizeof **instance);
  if (*instance == NULL) return 2;
  (*instance)->threads = options->threads;
  return options->threads == 99;
}
int scale_run(struct instance *self, const struct inputs *inputs, struct outputs *outputs) {
  if (*inputs->factor < 0) return 1;
  for (int32_t i = 0; i < 3 * inputs->n; i++) outputs->y[i] = inputs->x[i] * (float)*inputs->factor;
  *outputs->threads = self->threads;
  if (self->profile != NULL) self->profile(self->context, 0, 1500);
  if (self->profile != NULL && *inputs->factor == 2) self->profile(self->context, 2, 2500);
  return 0;
}
void scale_set_profile(struct instance *self, void (*profile)(void *, int32_t, int64_t), void *context) {
  self->profile = profile;
  self->context = context;
}
void scale_destroy(struct instance *self) { free(self); }
const char *const *scale_info(void) {
  static const char *const information[] = {"scale", "1", "here", "ab12", "cd34"};
  return information;
}
const char *scale_error(const struct instance *self) { return self == NULL ? "ninety-nine" : "the factor is negative"; }
