"""The text of the C headers: what a model and a training library have in common, and their own."""

from __future__ import annotations

MODEL_COMMENT = """\
/* The model "$title", compiled by Bessemer.
 *
 * Target: $target
 * Processor features it needs: $features
 *
 * Inputs:
$inputs
 * Outputs:
$outputs
 * Dims:
$dims
 *
 * Arrays are dense and row-major. Inputs and outputs need their elements' alignment, no more; they
 * must not overlap, but where an output may be in the place of an input. No pointer may be NULL,
 * also where the array is empty.
 *
 * A context belongs to one thread at a time; any number of contexts run side by side. There is no
 * other state. After fork, a context goes on working in the child.
 */
"""

OPENING = """\
#ifndef $guard
#define $guard

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

$macros

typedef enum {
$statuses
} ${prefix}_status;

typedef enum {
$dtypes
} ${prefix}_dtype;

typedef struct ${prefix}_context ${prefix}_context;

"""
"""The guard, the enumerations, the context."""

LOG_AND_VALUE = """\
  /* Gets the text of every error. */
  void (*log)(void *user, int32_t status, const char *text);
  void *log_user;
} ${prefix}_options;

/* An input or output; rank entries in shape (-1 where symbolic) and in dims (as text). */
typedef struct {
  const char *name;
  int32_t dtype; /* a ${prefix}_dtype */
  int32_t rank;
  const int64_t *shape;
  const char *const *dims;
"""
"""The end of the options, and the beginning of what an input or output is described by."""

VALUE_END = """\
} ${prefix}_value;

/* All functions that return int32_t give a ${prefix}_status. */

"""

TYPES = (
    OPENING
    + """\
/* All zero means the defaults. */
typedef struct {
  int32_t threads;           /* 0: as many as the processors that this process may use; negative
                                numbers are refused */
  int32_t spin_microseconds; /* how long an idle thread looks for work before it sleeps;
                                0: the default, below 0: not at all */
  const void *weights;       /* in memory, aligned to 64 bytes; NULL: those of the model */
  const char *weights_path;  /* $weights_note */
  /* Calls task(argument, i) for every i in 0 .. count - 1, on any threads, and returns when all
     have returned. NULL: the context's own pool, whose threads start at the first need. */
  void (*parallel_for)(void *user, int64_t count, void (*task)(void *argument, int64_t i),
                       void *argument);
  void *parallel_user;
  /* Both or neither. NULL: malloc and free. */
  void *(*allocate)(void *user, size_t bytes, size_t alignment);
  void (*release)(void *user, void *memory, size_t bytes);
  void *memory_user;
"""
    + LOG_AND_VALUE
    + """\
  int32_t data_dependent; /* its size is known only after the run */
"""
    + VALUE_END
)

LIFE = """\
/* options may be NULL. Where it fails, *out is NULL and the log has the details. All functions take
 * a context that is NULL: those that return a status refuse it, to others it has nothing. */
int32_t ${prefix}_create(${prefix}_context **out, const ${prefix}_options *options);
void ${prefix}_destroy(${prefix}_context *context);

"""

RUN = """\
/* dims has ${prefix}_DIM_COUNT entries: the first ${prefix}_INPUT_DIM_COUNT are read, the others
 * written. Pass NULL for an output whose size the data decides: the run stores where it is, valid
 * until the next run. workspace: ${prefix}_workspace_bytes bytes aligned to 64, or NULL: the
 * context's own, allocated at the first run and when dims grow. With a workspace given, or large
 * enough from an earlier run, nothing is allocated but, once, the pool of threads. */
int32_t ${prefix}_run(${prefix}_context *context, const void *const *inputs, void **outputs,
                      int64_t *dims, void *workspace, size_t bytes);

/* For these dims; more may turn out to be needed where sizes depend on the data: the run then
 * returns ${prefix}_WORKSPACE_TOO_SMALL, and ${prefix}_needed_bytes says how much. Negative: absurd
 * dims. */
int64_t ${prefix}_workspace_bytes(const int64_t *dims);
int64_t ${prefix}_needed_bytes(const ${prefix}_context *context);

"""

MESSAGES = """\
/* The text of the last run's error, "" when there was none. */
const char *${prefix}_message(const ${prefix}_context *context);
/* NULL for a number that is no status. */
const char *${prefix}_status_text(int32_t status);
"""

COUNTS = """\
int32_t ${prefix}_abi(void);
int32_t ${prefix}_input_count(void);
int32_t ${prefix}_output_count(void);
int32_t ${prefix}_dim_count(void);
/* NULL where there is no such index. */
const ${prefix}_value *${prefix}_input_info(int32_t index);
const ${prefix}_value *${prefix}_output_info(int32_t index);
const char *${prefix}_dim_name(int32_t index);
"""

CLOSING = """\

#ifdef __cplusplus
}
#endif

#endif
"""

REST = (
    """\
/* The context's own workspace: how large it is, and giving it back until the next run. */
int64_t ${prefix}_arena_bytes(const ${prefix}_context *context);
void ${prefix}_trim(${prefix}_context *context);

"""
    + MESSAGES
    + """\
int32_t ${prefix}_threads(const ${prefix}_context *context);

"""
    + COUNTS
    + """\

const char *${prefix}_version(void);      /* the compiler's */
const char *${prefix}_required_cpu(void); /* features, comma-separated; create checks them */
const char *${prefix}_metadata(void);     /* all of this as JSON */
"""
    + CLOSING
)

LIBRARY_COMMENT = """\
/* Training of "$title", compiled by Bessemer: a step, evaluation and prediction over one state.
 *
 * Target: $target
 * Processor features it needs: $features
 *
 * A batch, in this order:
$inputs
 * Outputs of a prediction, which wants the first $given of these arrays:
$outputs
 * Dims:
$dims
 * Results of a step or an evaluation:
$results
 * State, which ${prefix}_parameter finds by name:
$state
 *
 * Arrays are dense and row-major. Those of the caller need their elements' alignment, no more; they
 * must not overlap. No pointer may be NULL, also where the array is empty.
 *
 * The state belongs to the context, and so does all else: any number of contexts run side by side,
 * each on one thread at a time. After fork, a context goes on working in the child.
 */
"""

TRAINING = """\
/* Sets the state to the library's initial weights, the number of steps to that of the library, and
 * reserves memory and threads for these dims and smaller ones, as ${prefix}_reserve does. Must come
 * before everything else. With dims NULL, memory is allocated at the first call that needs it. */
int32_t ${prefix}_init(${prefix}_context *context, const int64_t *dims);

/* Reserves memory and threads for all three below, with these dims. They allocate nothing then;
 * with dims that need more they return ${prefix}_WORKSPACE_TOO_SMALL. The state stays. */
int32_t ${prefix}_reserve(${prefix}_context *context, const int64_t *dims);

/* Learns from a batch at this learning rate. dims has ${prefix}_DIM_COUNT entries. results, if not
 * NULL, gets ${prefix}_RESULT_COUNT numbers: the loss and the metrics before the step. Where it
 * fails the state is as before: ${prefix}_NOT_FINITE is a loss that is infinite or NaN, as that of
 * a label that is no class, or of no rows. A rate must be finite and not negative. */
int32_t ${prefix}_train_step(${prefix}_context *context, const void *const *batch,
                             const int64_t *dims, double rate, double *results);

/* The same numbers for a batch, nothing learned. Both are means over the batch. Here a loss that is
 * not finite is a result, not an error. */
int32_t ${prefix}_evaluate(${prefix}_context *context, const void *const *batch,
                           const int64_t *dims, double *results);

/* The network's outputs, for the first ${prefix}_PREDICTION_INPUT_COUNT arrays of a batch. */
int32_t ${prefix}_predict(${prefix}_context *context, const void *const *inputs, void **outputs,
                          const int64_t *dims);

/* A checkpoint, a safetensors file, as bessemer's Trainer has them: either reads the other's. The
 * file is replaced whole or not at all; a state that is not loaded whole stays as it was. */
int32_t ${prefix}_save(${prefix}_context *context, const char *path);
int32_t ${prefix}_load(${prefix}_context *context, const char *path);

/* An array of the state, to be read and written between calls; NULL where there is none of this
 * name. It stays where it is as long as the context lives. */
void *${prefix}_parameter(${prefix}_context *context, const char *name);
/* How many steps have been made. */
int64_t ${prefix}_steps(const ${prefix}_context *context);

int32_t ${prefix}_state_count(void);
const ${prefix}_value *${prefix}_state_info(int32_t index);
int32_t ${prefix}_result_count(void);
const char *${prefix}_result_name(int32_t index);

/* What the last call would have needed. */
int64_t ${prefix}_needed_bytes(const ${prefix}_context *context);

"""
