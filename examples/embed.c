/* A compiled model inside a C program: embed [THREADS]

   bessemer compile lenet.onnx -o lenet.o
   cc -std=c99 -Wall -Wextra -Werror embed.c lenet.o -lm -lpthread -o embed

   The input is made by a formula, as this program reads no files: what counts is the calls. */
#include <stdio.h>
#include <stdlib.h>

#include "lenet.h"

enum { BATCH = 2, PIXELS = 28 * 28, CLASSES = 10 };

static float images[BATCH * PIXELS];
static float logits[BATCH * CLASSES];

static void on_error(void *user, int32_t status, const char *text) {
  fprintf(user, "lenet: %s: %s\n", lenet_status_text(status), text);
}

int main(int count, char **arguments) {
  const void *inputs[lenet_INPUT_COUNT];
  void *outputs[lenet_OUTPUT_COUNT];
  int64_t dims[lenet_DIM_COUNT];
  lenet_options options = {0};
  lenet_context *context;
  int32_t status;

  for (int i = 0; i < BATCH * PIXELS; i++) images[i] = (float)(i * 37 % 256) / 256.0f;

  options.threads = count > 1 ? atoi(arguments[1]) : 1;
  options.log = on_error;
  options.log_user = stderr;
  if (lenet_create(&context, &options)) return 1;

  inputs[lenet_INPUT_image] = images;
  outputs[lenet_OUTPUT_logits] = logits;
  dims[lenet_DIM_batch] = BATCH;
  /* NULL: the context allocates its workspace at the first run and keeps it. */
  status = lenet_run(context, inputs, outputs, dims, NULL, 0);
  lenet_destroy(context);
  if (status) return 1;

  for (int image = 0; image < BATCH; image++) {
    for (int k = 0; k < CLASSES; k++) printf("%.9g ", (double)logits[image * CLASSES + k]);
    printf("\n");
  }
  return 0;
}
