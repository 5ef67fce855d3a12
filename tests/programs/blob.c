/* Writes the output of a model without inputs, its weights, to a file. */
#include <stdio.h>

#include "blob.h"

static unsigned char y[blob_OUTPUT_ELEMENTS_y];

int main(int count, char **arguments) {
  void *outputs[] = {y};
  blob_context *context;
  FILE *file = count == 2 ? fopen(arguments[1], "wb") : NULL;
  if (!file || blob_create(&context, NULL)) return 1;
  if (blob_run(context, NULL, outputs, NULL, NULL, 0)) return 2;
  blob_destroy(context);
  return fwrite(y, 1, sizeof y, file) != sizeof y || fclose(file);
}
