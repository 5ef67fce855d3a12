/* Trains LeNet on handwritten digits: train_lenet DATA CHECKPOINT [EPOCHS [THREADS]]

   python3 examples/write_digits.py digits.bin
   bessemer train examples/train_lenet.toml --library lenet_training.o
   cc -std=c99 -Wall -Wextra -Werror train_lenet.c lenet_training.o -lm -lpthread -o train_lenet

   The checkpoint is written after every epoch; where it is there, training goes on from it. Losses
   go to standard output, everything else to standard error. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lenet_training.h"

enum { BATCH = 64, EPOCHS = 30 };

typedef struct {
  int32_t count;
  float *images;
  int64_t *labels;
} samples;

static int32_t pixels; /* of a picture */

static void on_error(void *user, int32_t status, const char *text) {
  fprintf(user, "lenet_training: %s: %s\n", lenet_training_status_text(status), text);
}

static int read_samples(FILE *file, int32_t count, samples *found) {
  size_t rows = (size_t)count;
  found->count = count;
  found->images = malloc(rows * (size_t)pixels * sizeof *found->images);
  found->labels = malloc(rows * sizeof *found->labels);
  return found->images && found->labels &&
         fread(found->images, (size_t)pixels * sizeof *found->images, rows, file) == rows &&
         fread(found->labels, sizeof *found->labels, rows, file) == rows;
}

static int read_data(const char *path, samples *train, samples *test) {
  int32_t counts[4];
  FILE *file = fopen(path, "rb");
  int good = file && fread(counts, sizeof counts, 1, file) == 1;
  if (good) {
    pixels = counts[2] * counts[3];
    good = read_samples(file, counts[0], train) && read_samples(file, counts[1], test);
  }
  if (file) fclose(file);
  if (!good) fprintf(stderr, "%s cannot be read\n", path);
  return good;
}

/* The order of an epoch depends on nothing but its number: it is the same after a restart. */
static void shuffle(int32_t *order, int32_t count, uint64_t epoch) {
  uint64_t state = epoch * 2 + 1;
  for (int32_t i = 0; i < count; i++) order[i] = i;
  for (int32_t i = count - 1; i > 0; i--) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    int32_t other = (int32_t)((state >> 33) % (uint64_t)(i + 1));
    int32_t kept = order[i];
    order[i] = order[other];
    order[other] = kept;
  }
}

/* One epoch. The last batch is smaller where the pictures do not come out even. */
static int learn(lenet_training_context *context, const samples *train, const int32_t *order,
                 float *images, double rate) {
  static int64_t labels[BATCH];
  const void *batch[lenet_training_INPUT_COUNT];
  double results[lenet_training_RESULT_COUNT];
  batch[lenet_training_INPUT_image] = images;
  batch[lenet_training_INPUT_label] = labels;
  for (int32_t start = 0; start < train->count; start += BATCH) {
    int64_t dims[lenet_training_DIM_COUNT];
    int32_t rows = train->count - start < BATCH ? train->count - start : BATCH;
    for (int32_t k = 0; k < rows; k++) {
      size_t from = (size_t)order[start + k] * (size_t)pixels;
      memcpy(images + (size_t)k * (size_t)pixels, train->images + from,
             (size_t)pixels * sizeof *images);
      labels[k] = train->labels[order[start + k]];
    }
    dims[lenet_training_DIM_batch] = rows;
    if (lenet_training_train_step(context, batch, dims, rate, results)) return 0;
    printf("%.17g\n", results[lenet_training_RESULT_loss]);
  }
  return 1;
}

/* The accuracy over all samples, or less than 0. */
static double measure(lenet_training_context *context, const samples *test) {
  double sum = 0;
  for (int32_t start = 0; start < test->count; start += BATCH) {
    int64_t dims[lenet_training_DIM_COUNT];
    const void *batch[lenet_training_INPUT_COUNT];
    double results[lenet_training_RESULT_COUNT];
    int32_t rows = test->count - start < BATCH ? test->count - start : BATCH;
    batch[lenet_training_INPUT_image] = test->images + (size_t)start * (size_t)pixels;
    batch[lenet_training_INPUT_label] = test->labels + start;
    dims[lenet_training_DIM_batch] = rows;
    if (lenet_training_evaluate(context, batch, dims, results)) return -1;
    sum += rows * results[lenet_training_RESULT_accuracy];
  }
  return sum / test->count;
}

static int exists(const char *path) {
  FILE *file = fopen(path, "rb");
  if (file) fclose(file);
  return file != NULL;
}

static int train(lenet_training_context *context, const samples *train, const samples *test,
                 const char *checkpoint, int epochs) {
  int64_t each = (train->count + BATCH - 1) / BATCH;
  int32_t *order = malloc((size_t)train->count * sizeof *order);
  float *images = malloc(BATCH * (size_t)pixels * sizeof *images);
  int good = order && images;
  int64_t epoch = lenet_training_steps(context) / each;
  for (; good && epoch < epochs; epoch++) {
    /* The schedule is the caller's: half the rate every ten epochs. */
    double rate = 0.002;
    for (int64_t k = 10; k <= epoch; k += 10) rate /= 2;
    shuffle(order, train->count, (uint64_t)epoch);
    good = learn(context, train, order, images, rate) &&
           !lenet_training_save(context, checkpoint);
    if (good) fprintf(stderr, "epoch %" PRId64 ": %.4f\n", epoch + 1, measure(context, test));
  }
  free(order);
  free(images);
  return good;
}

int main(int count, char **arguments) {
  samples learned, tested;
  lenet_training_options options = {0};
  lenet_training_context *context;
  int64_t dims[lenet_training_DIM_COUNT];
  int good;

  if (count < 3) {
    fprintf(stderr, "train_lenet DATA CHECKPOINT [EPOCHS [THREADS]]\n");
    return 2;
  }
  if (!read_data(arguments[1], &learned, &tested)) return 1;
  options.threads = count > 4 ? atoi(arguments[4]) : 0;
  options.log = on_error;
  options.log_user = stderr;
  if (lenet_training_create(&context, &options)) return 1;

  dims[lenet_training_DIM_batch] = BATCH; /* the largest: from now on nothing is allocated */
  good = !lenet_training_init(context, dims) &&
         (!exists(arguments[2]) || !lenet_training_load(context, arguments[2])) &&
         train(context, &learned, &tested, arguments[2], count > 3 ? atoi(arguments[3]) : EPOCHS);
  if (good) {
    double accuracy = measure(context, &tested);
    fprintf(stderr, "test accuracy %.4f\n", accuracy);
    good = accuracy >= 0;
  }
  lenet_training_destroy(context);
  free(learned.images);
  free(learned.labels);
  free(tested.images);
  free(tested.labels);
  return !good;
}
