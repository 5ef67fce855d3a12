/* Runs a model of one input and one output, named by -DMODEL=lenet '-DHEADER="lenet.h"':

       any THREADS WEIGHTS_PATH OUTPUT_BYTES DIM... < input > output

   An empty WEIGHTS_PATH is none. Runs twice, and fails where the runs differ. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include HEADER

#define JOINED(model, name) model##_##name
#define NAMED(model, name) JOINED(model, name)
#define THE(name) NAMED(MODEL, name)

enum { MOST = 1 << 20 };

static float input[MOST], first[MOST], second[MOST];

static void print(void *user, int32_t status, const char *text) {
  fprintf(stderr, "%s%d: %s\n", (char *)user, status, text);
}

int main(int count, char **arguments) {
  const void *inputs[] = {input};
  void *outputs[] = {first};
  int64_t dims[THE(DIM_COUNT) + 1];
  THE(options) options = {0};
  THE(context) * context;
  size_t bytes, read = fread(input, 1, sizeof input, stdin);

  if (count != 4 + THE(DIM_COUNT) || !read) return 2;
  for (int k = 0; k < THE(DIM_COUNT); k++) dims[k] = atoll(arguments[4 + k]);
  bytes = strtoul(arguments[3], NULL, 10);
  options.threads = atoi(arguments[1]);
  options.weights_path = *arguments[2] ? arguments[2] : NULL;
  options.log = print;
  options.log_user = "status ";

  if (THE(create)(&context, &options)) return 3;
  if (THE(threads)(context) != options.threads) return 4;
  if (THE(run)(context, inputs, outputs, dims, NULL, 0)) return 5;
  outputs[0] = second;
  if (THE(run)(context, inputs, outputs, dims, NULL, 0)) return 6;
  THE(destroy)(context);
  if (memcmp(first, second, bytes)) return 7;
  return fwrite(first, 1, bytes, stdout) != bytes;
}
