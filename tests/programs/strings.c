/* Tells the label of each word that is given: words are numbers to the model, and labels come out
   as numbers. */
#include <stdio.h>

#include "labels.h"

enum { MOST = 16 };

int main(int count, char **words) {
  int32_t places[MOST], labels[MOST];
  const void *inputs[] = {places};
  void *outputs[] = {labels};
  int64_t dims[labels_DIM_COUNT] = {count - 1};
  labels_context *context;

  for (int k = 1; k < count; k++) places[k - 1] = labels_string_id(words[k]);
  if (labels_create(&context, NULL)) return 3;
  if (labels_run(context, inputs, outputs, dims, NULL, 0)) return 4;
  labels_destroy(context);
  for (int k = 1; k < count; k++) printf("%s\n", labels_string(labels[k - 1]));
  return labels_string(-1) || labels_string(labels_STRING_COUNT) ||
         labels_string_id("none of these") != labels_STRING_COUNT;
}
