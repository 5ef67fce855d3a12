/* Two compiled models in one program: one cleans images, the other says what is on them.

   Every name of a model begins with its own prefix, so any number of them get along; each context
   has its own threads and memory. examples/Makefile builds this. */
#include <stdio.h>

#include "cleaner.h"
#include "lenet.h"

enum { BATCH = 3, PIXELS = 28 * 28, CLASSES = 10 };

static float noisy[BATCH * PIXELS], clean[BATCH * PIXELS], logits[BATCH * CLASSES];
static float code[BATCH * 16];

int main(void) {
  const void *noisy_image[] = {noisy}, *clean_image[] = {clean};
  void *cleaned[cleaner_OUTPUT_COUNT], *read[] = {logits};
  int64_t dims[] = {BATCH};
  cleaner_context *cleaner;
  lenet_context *lenet;
  int failed = 0;

  for (int i = 0; i < BATCH * PIXELS; i++) noisy[i] = (float)(i * 37 % 256) / 256.0f;
  cleaned[cleaner_OUTPUT_rebuilt] = clean;
  cleaned[cleaner_OUTPUT_code] = code;

  /* Without options: as many threads as this process may use. */
  if (cleaner_create(&cleaner, NULL)) return 1;
  if (lenet_create(&lenet, NULL)) return 1;
  if (cleaner_run(cleaner, noisy_image, cleaned, dims, NULL, 0)) {
    fprintf(stderr, "cleaner: %s\n", cleaner_message(cleaner));
    failed = 1;
  } else if (lenet_run(lenet, clean_image, read, dims, NULL, 0)) {
    fprintf(stderr, "lenet: %s\n", lenet_message(lenet));
    failed = 1;
  }
  lenet_destroy(lenet);
  cleaner_destroy(cleaner);
  if (failed) return 1;

  for (int image = 0; image < BATCH; image++) {
    for (int k = 0; k < CLASSES; k++) printf("%.9g ", (double)logits[image * CLASSES + k]);
    printf("\n");
  }
  return 0;
}
