/* Two models in one program. */
#include <stdio.h>

#include "first.h"
#include "second.h"

#define SHOW(model)                                                           \
  do {                                                                        \
    float x[4] = {1, 1, 1, 1}, y[4];                                          \
    const void *inputs[] = {x};                                               \
    void *outputs[] = {y};                                                    \
    int64_t dims[] = {1};                                                     \
    model##_context *context;                                                 \
    if (model##_create(&context, NULL)) return 1;                             \
    if (model##_run(context, inputs, outputs, dims, NULL, 0)) return 1;       \
    model##_destroy(context);                                                 \
    printf("%g %g %g %g\n", (double)y[0], (double)y[1], (double)y[2], (double)y[3]); \
  } while (0)

int main(void) {
  SHOW(first);
  SHOW(second);
  return 0;
}
