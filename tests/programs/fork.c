/* A context whose threads run goes on working in the parent and in children of fork, which have
   threads of their own. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "relu.h"

static int runs(relu_context *context) {
  float x[400], y[400];
  const void *inputs[] = {x};
  void *outputs[] = {y};
  int64_t dims[] = {100};
  int i;
  for (i = 0; i < 400; i++) x[i] = 1;
  if (relu_run(context, inputs, outputs, dims, NULL, 0)) return 0;
  for (i = 0; i < 400; i++)
    if (y[i] != (float)(i % 4 + 1)) return 0;
  return 1;
}

static int threads_here(void) {
  DIR *tasks = opendir("/proc/self/task");
  struct dirent *one;
  int count = 0;
  while (tasks && (one = readdir(tasks)) != NULL) count += one->d_name[0] != '.';
  if (tasks) closedir(tasks);
  return count;
}

int main(void) {
  relu_options options;
  relu_context *context;
  int turn;
  memset(&options, 0, sizeof options);
  options.threads = 3;
  if (relu_create(&context, &options) || !runs(context) || threads_here() != 3) return 1;
  for (turn = 0; turn < 20; turn++) {
    pid_t child = fork();
    int status = -1;
    if (child == 0) {
      int good = runs(context) && runs(context);
      good = good && relu_threads(context) == 3 && threads_here() == 3;
      relu_destroy(context);
      _exit(good ? 0 : 1);
    }
    if (!runs(context)) return 2;
    if (waitpid(child, &status, 0) != child || status != 0) return 3;
  }
  relu_destroy(context);
  printf("fork: all good\n");
  return 0;
}
