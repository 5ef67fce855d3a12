/* Uses every part of the C API of the model y[batch, 4] = max(x, 0) * [1, 2, 3, 4]. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "relu.h"

#define BATCH 37
#define SIZE (BATCH * 4)

static int failures = 0;

#define CHECK(condition)                                     \
  do {                                                       \
    if (!(condition)) {                                      \
      printf("line %d: %s\n", __LINE__, #condition);         \
      failures++;                                            \
    }                                                        \
  } while (0)

static float x[SIZE], expected[SIZE];

static void fill(void) {
  int i;
  for (i = 0; i < SIZE; i++) {
    x[i] = (float)((i * 7919) % 101 - 50) / 3;
    expected[i] = (x[i] > 0 ? x[i] : 0) * (float)(i % 4 + 1);
  }
}

static int runs_well(relu_context *context, void *workspace, size_t bytes) {
  float y[SIZE];
  const void *inputs[relu_INPUT_COUNT];
  void *outputs[relu_OUTPUT_COUNT];
  int64_t dims[relu_DIM_COUNT];
  int32_t status;
  memset(y, 255, sizeof y);
  inputs[relu_INPUT_x] = x;
  outputs[relu_OUTPUT_y] = y;
  dims[relu_DIM_batch] = BATCH;
  status = relu_run(context, inputs, outputs, dims, workspace, bytes);
  if (status != relu_OK) printf("%d: %s\n", status, relu_message(context));
  return status == relu_OK && memcmp(y, expected, sizeof y) == 0;
}

typedef struct {
  int calls, tasks, allocations, releases, logs;
  int64_t bytes;
  char text[200];
} counts;

static void backwards(void *user, int64_t count, void (*task)(void *, int64_t), void *argument) {
  counts *seen = user;
  seen->calls++;
  while (count-- > 0) {
    seen->tasks++;
    task(argument, count);
  }
}

static void *allocate(void *user, size_t bytes, size_t alignment) {
  counts *seen = user;
  void *memory = NULL;
  seen->allocations++;
  seen->bytes += (int64_t)bytes;
  return posix_memalign(&memory, alignment, bytes) ? NULL : memory;
}

static void release(void *user, void *memory, size_t bytes) {
  counts *seen = user;
  seen->releases++;
  seen->bytes -= (int64_t)bytes;
  free(memory);
}

static void log_text(void *user, int32_t status, const char *text) {
  counts *seen = user;
  seen->logs += status != relu_OK;
  snprintf(seen->text, sizeof seen->text, "%s", text);
}

static void *work(void *context) {
  long wrong = 0;
  int i;
  for (i = 0; i < 300; i++) wrong += !runs_well(context, NULL, 0);
  return (void *)wrong;
}

static void check_threads(relu_options options) {
  static const int32_t counts_of_threads[] = {0, 1, 2, 3, 8, 100};
  static const int32_t spins[] = {0, -1, 200};
  relu_context *contexts[4];
  pthread_t threads[4];
  size_t i, j;
  for (i = 0; i < sizeof counts_of_threads / sizeof *counts_of_threads; i++) {
    for (j = 0; j < 3; j++) {
      relu_context *context;
      options.threads = counts_of_threads[i];
      options.spin_microseconds = spins[j];
      CHECK(relu_create(&context, &options) == relu_OK);
      CHECK(options.threads ? relu_threads(context) == options.threads
                            : relu_threads(context) >= 1);
      CHECK(runs_well(context, NULL, 0));
      CHECK(runs_well(context, NULL, 0));
      relu_destroy(context);
    }
  }
  /* Contexts side by side. */
  options.threads = 2;
  for (i = 0; i < 4; i++) {
    CHECK(relu_create(&contexts[i], &options) == relu_OK);
    CHECK(pthread_create(&threads[i], NULL, work, contexts[i]) == 0);
  }
  for (i = 0; i < 4; i++) {
    void *wrong;
    CHECK(pthread_join(threads[i], &wrong) == 0 && !wrong);
    relu_destroy(contexts[i]);
  }
}

static void check_callbacks(relu_options options) {
  relu_context *context;
  counts seen;
  memset(&seen, 0, sizeof seen);
  options.threads = 5;
  options.parallel_for = backwards;
  options.allocate = allocate;
  options.release = release;
  options.parallel_user = options.memory_user = options.log_user = &seen;
  options.log = log_text;
  CHECK(relu_create(&context, &options) == relu_OK);
  CHECK(runs_well(context, NULL, 0));
  CHECK(seen.calls == 1 && seen.tasks == 5);
  CHECK(seen.allocations == 2);
  CHECK(runs_well(context, NULL, 0));
  CHECK(seen.allocations == 2); /* the second run allocates nothing */
  CHECK(relu_arena_bytes(context) > 0);
  relu_trim(context);
  CHECK(relu_arena_bytes(context) == 0 && seen.releases == 1);
  CHECK(runs_well(context, NULL, 0));
  CHECK(seen.allocations == 3);
  relu_destroy(context);
  CHECK(seen.allocations == seen.releases && seen.bytes == 0 && seen.logs == 0);

  /* The pool's memory comes from the callbacks too. */
  options.parallel_for = NULL;
  CHECK(relu_create(&context, &options) == relu_OK);
  CHECK(runs_well(context, NULL, 0));
  relu_destroy(context);
  CHECK(seen.allocations == seen.releases && seen.bytes == 0 && seen.logs == 0);

  options.release = NULL;
  CHECK(relu_create(&context, &options) == relu_INVALID_ARGUMENT);
  CHECK(context == NULL && seen.logs == 1 && strstr(seen.text, "together"));
  options.allocate = NULL;
  options.weights = x;
  options.weights = (const char *)options.weights + 1;
  CHECK(relu_create(&context, &options) == relu_WEIGHTS);
  CHECK(seen.logs == 2 && strstr(seen.text, "aligned"));
  options.weights = (const void *)(((uintptr_t)x / 64 + 1) * 64 + 32);
  CHECK(relu_create(&context, &options) == relu_WEIGHTS);
  CHECK(seen.logs == 3 && strstr(seen.text, "aligned"));
}

static void check_workspace(relu_options options) {
  relu_context *context;
  int64_t dims[relu_DIM_COUNT];
  int64_t bytes;
  char *memory = NULL;
  dims[relu_DIM_batch] = BATCH;
  bytes = relu_workspace_bytes(dims);
  CHECK(bytes >= SIZE * 4 && bytes % 64 == 0);
  CHECK(posix_memalign((void **)&memory, 64, (size_t)bytes + 64) == 0);
  CHECK(relu_create(&context, &options) == relu_OK);
  CHECK(runs_well(context, memory, (size_t)bytes));
  CHECK(relu_arena_bytes(context) == 0);
  {
    float y[4];
    const void *inputs[1];
    void *outputs[1];
    inputs[0] = x;
    outputs[0] = y;
#define RUN(i, o, d, w, b) relu_run(context, i, o, d, w, b)
    CHECK(RUN(inputs, outputs, dims, memory, (size_t)bytes - 1) == relu_WORKSPACE_TOO_SMALL);
    CHECK(strstr(relu_message(context), "are needed"));
    CHECK(relu_needed_bytes(context) == bytes);
    CHECK(RUN(inputs, outputs, dims, memory + 8, (size_t)bytes) == relu_INVALID_ARGUMENT);
    CHECK(RUN(inputs, outputs, dims, memory + 32, (size_t)bytes) == relu_INVALID_ARGUMENT);
    CHECK(RUN(NULL, outputs, dims, NULL, 0) == relu_INVALID_ARGUMENT);
    CHECK(RUN(inputs, NULL, dims, NULL, 0) == relu_INVALID_ARGUMENT);
    CHECK(RUN(inputs, outputs, NULL, NULL, 0) == relu_INVALID_ARGUMENT);
    inputs[0] = NULL;
    CHECK(RUN(inputs, outputs, dims, NULL, 0) == relu_INVALID_ARGUMENT);
    CHECK(!strcmp(relu_message(context), "input 0 is null"));
    inputs[0] = x;
    outputs[0] = NULL;
    CHECK(RUN(inputs, outputs, dims, NULL, 0) == relu_INVALID_ARGUMENT);
    CHECK(!strcmp(relu_message(context), "output 0 is null"));
    outputs[0] = y;
    dims[0] = -1;
    CHECK(RUN(inputs, outputs, dims, NULL, 0) == relu_INVALID_ARGUMENT);
    CHECK(!strcmp(relu_message(context), "dim 0 is negative"));
    dims[0] = (int64_t)1 << 59; /* 2^63 bytes of workspace */
    CHECK(RUN(inputs, outputs, dims, NULL, 0) == relu_OUT_OF_MEMORY);
    dims[0] = (int64_t)1 << 52; /* 2^56 bytes */
    CHECK(RUN(inputs, outputs, dims, NULL, 0) == relu_OUT_OF_MEMORY);
    CHECK(strstr(relu_message(context), "could not be allocated"));
    CHECK(relu_run(NULL, inputs, outputs, dims, NULL, 0) == relu_INVALID_ARGUMENT);
  }
  CHECK(runs_well(context, NULL, 0));
  CHECK(!strcmp(relu_message(context), ""));
  relu_destroy(context);
  relu_destroy(NULL);
  free(memory);
}

static void check_description(void) {
  const relu_value *input = relu_input_info(0), *result = relu_output_info(0);
  CHECK(relu_abi() == relu_ABI);
  CHECK(relu_input_count() == relu_INPUT_COUNT && relu_INPUT_COUNT == 1);
  CHECK(relu_output_count() == relu_OUTPUT_COUNT && relu_OUTPUT_COUNT == 1);
  CHECK(relu_dim_count() == relu_DIM_COUNT && relu_DIM_COUNT == 1);
  CHECK(!strcmp(relu_dim_name(0), "batch") && !relu_dim_name(1) && !relu_dim_name(-1));
  CHECK(!strcmp(input->name, "x") && input->dtype == relu_FLOAT32 && input->rank == 2);
  CHECK(input->shape[0] == -1 && input->shape[1] == 4 && !input->data_dependent);
  CHECK(!strcmp(input->dims[0], "batch") && !strcmp(input->dims[1], "4"));
  CHECK(!strcmp(result->name, "y"));
  CHECK(!relu_input_info(1) && !relu_input_info(-1) && !relu_output_info(1));
  CHECK(!strcmp(relu_status_text(relu_OK), "no error"));
  CHECK(!relu_status_text(1000) && !relu_status_text(-1));
  CHECK(strstr(relu_metadata(), "\"prefix\":\"relu\"") && *relu_version());
  CHECK(!strcmp(relu_required_cpu(), ""));
  CHECK(relu_WEIGHTS_BYTES == 16);
}

int main(int count, char **arguments) {
  relu_options options;
  relu_context *context;
  memset(&options, 0, sizeof options);
  options.weights_path = count > 1 ? arguments[1] : NULL;
  fill();
  if (count == 1) {
    CHECK(relu_create(&context, NULL) == relu_OK);
    CHECK(runs_well(context, NULL, 0));
    relu_destroy(context);
  } else {
    CHECK(relu_create(&context, NULL) == relu_WEIGHTS && context == NULL);
  }
  CHECK(relu_create(NULL, NULL) == relu_INVALID_ARGUMENT);
  check_description();
  check_threads(options);
  check_callbacks(options);
  check_workspace(options);
  if (!failures) printf("relu: all good\n");
  return failures != 0;
}
