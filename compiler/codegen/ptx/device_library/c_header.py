"""The C header of a device library; its style is that of header_texts.py."""

from __future__ import annotations

from enum import IntEnum

from bessemer.compiler.codegen.artifact.header import filled_header
from bessemer.runtime.artifact import Signature


class DeviceStatus(IntEnum):
    """What the functions return; the numbers that processors have too are theirs."""

    OK = 0
    INVALID_ARGUMENT = 1
    OUT_OF_MEMORY = 2
    INDEX_OUT_OF_RANGE = 6
    SHAPE_MISMATCH = 7
    NOT_FINITE = 9
    NO_DEVICE = 11
    DRIVER_TOO_OLD = 12
    DEVICE = 13


STATUS_TEXTS: dict[DeviceStatus, str] = {
    DeviceStatus.OK: "no error",
    DeviceStatus.INVALID_ARGUMENT: "an argument is null, negative or too large",
    DeviceStatus.OUT_OF_MEMORY: "the device, or the process, has too little memory",
    DeviceStatus.INDEX_OUT_OF_RANGE: "an index in the data is out of range",
    DeviceStatus.SHAPE_MISMATCH: "an input is too small for what is done with it",
    DeviceStatus.NOT_FINITE: "a result that must be finite is not; nothing was updated",
    DeviceStatus.NO_DEVICE: "there is no driver, or no device that runs the code",
    DeviceStatus.DRIVER_TOO_OLD: "the driver is older than the code",
    DeviceStatus.DEVICE: "the device or its driver failed",
}

_TEXT = """\
/* The model "$title" for GPUs, compiled by Bessemer.
 *
 * Code for: $levels
 *
 * Inputs:
$inputs
 * Outputs:
$outputs
 * Dims:
$dims
 *
 * Arrays are dense and row-major, in the host's memory or in the device's: the driver sees which.
 * No pointer may be NULL. The driver is opened by name (libcuda.so.1) when a context is created;
 * nothing of the CUDA toolkit is needed.
 *
 * A context belongs to one thread at a time; any number of contexts run side by side. Its weights
 * and its working memory stay on the device until it is destroyed.
 */
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

/* All zero means the defaults. */
typedef struct {
  int32_t device; /* the driver's number */
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
} ${prefix}_value;

/* All functions that return int32_t give a ${prefix}_status. */

/* options may be NULL. Where it fails, *out is NULL and the log has the details. */
int32_t ${prefix}_create(${prefix}_context **out, const ${prefix}_options *options);
void ${prefix}_destroy(${prefix}_context *context);

/* dims has ${prefix}_DIM_COUNT entries. Returns when the outputs are there. */
int32_t ${prefix}_run(${prefix}_context *context, const void *const *inputs, void *const *outputs,
                      const int64_t *dims);

/* The device memory that a run with these dims takes besides the weights; it is allocated at the
 * first run and when dims grow. Negative: absurd dims. */
int64_t ${prefix}_workspace_bytes(const int64_t *dims);

/* The text of the last run's error, "" when there was none. */
const char *${prefix}_message(const ${prefix}_context *context);
const char *${prefix}_status_text(int32_t status);

int32_t ${prefix}_abi(void);
int32_t ${prefix}_input_count(void);
int32_t ${prefix}_output_count(void);
int32_t ${prefix}_dim_count(void);
/* NULL where there is no such index. */
const ${prefix}_value *${prefix}_input_info(int32_t index);
const ${prefix}_value *${prefix}_output_info(int32_t index);
const char *${prefix}_dim_name(int32_t index);
const char *${prefix}_metadata(void); /* all of this as JSON */

#ifdef __cplusplus
}
#endif

#endif
"""


def device_header(signature: Signature, levels: str) -> str:
    """The header; `levels` names what the library has code for."""
    return filled_header(_TEXT, signature, "", statuses=STATUS_TEXTS.items(), levels=levels)
