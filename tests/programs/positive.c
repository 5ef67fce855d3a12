/* An output whose size the data decides: y[found] = the positive ones of x[length]. */
#include <stdio.h>

#include "positive.h"

#define EXPECT(condition) \
  if (!(condition)) return printf("line %d\n", __LINE__), 1

int main(void) {
  float x[] = {1, -2, 3, -4, 5}, workspace[32];
  const void *inputs[] = {x};
  void *outputs[] = {NULL};
  int64_t dims[positive_DIM_COUNT] = {5, -7}; /* what the run finds is not read before */
  char *aligned = (char *)workspace + (64 - (size_t)workspace % 64) % 64;
  positive_context *context;
  const float *y;
  EXPECT(positive_INPUT_DIM_COUNT == 1 && positive_output_info(0)->data_dependent);
  EXPECT(positive_create(&context, NULL) == positive_OK);

  /* The context's own workspace grows by itself. */
  EXPECT(positive_workspace_bytes(dims) == 0);
  EXPECT(positive_run(context, inputs, outputs, dims, NULL, 0) == positive_OK);
  y = outputs[0];
  EXPECT(dims[positive_DIM_found] == 3 && y[0] == 1 && y[1] == 3 && y[2] == 5);

  /* The caller's is too small once the data is known. */
  outputs[0] = NULL;
  EXPECT(positive_run(context, inputs, outputs, dims, aligned, 8) == positive_WORKSPACE_TOO_SMALL);
  EXPECT(positive_needed_bytes(context) == 12);
  EXPECT(positive_run(context, inputs, outputs, dims, aligned, 12) == positive_OK);
  EXPECT(outputs[0] == aligned && ((float *)outputs[0])[2] == 5);

  x[1] = 1e10f;
  EXPECT(positive_run(context, inputs, outputs, dims, NULL, 0) == positive_INDEX_OUT_OF_RANGE);
  positive_destroy(context);
  printf("positive: all good\n");
  return 0;
}
