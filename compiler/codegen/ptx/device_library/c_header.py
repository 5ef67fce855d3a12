"""The C header of a device library. It shares parts with the header of a model for processors."""

from __future__ import annotations

from enum import IntEnum

from bessemer.compiler.codegen.artifact.header import filled_header
from bessemer.compiler.codegen.artifact.header_texts import (
    CLOSING,
    COUNTS,
    LIFE,
    LOG_AND_VALUE,
    MESSAGES,
    OPENING,
    VALUE_END,
)
from bessemer.runtime.artifact import Signature


class DeviceStatus(IntEnum):
    """Status codes of the functions; codes that exist for processors have the same numbers."""

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

_COMMENT = """\
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
"""

_TYPES = (
    """\
/* All zero means the defaults. */
typedef struct {
  int32_t device; /* the driver's number */
"""
    + LOG_AND_VALUE
    + VALUE_END
)

_RUN = """\
/* dims has ${prefix}_DIM_COUNT entries. Returns when the outputs are there. */
int32_t ${prefix}_run(${prefix}_context *context, const void *const *inputs, void *const *outputs,
                      const int64_t *dims);

/* The device memory that a run with these dims takes besides the weights; it is allocated at the
 * first run and when dims grow. Negative: absurd dims. */
int64_t ${prefix}_workspace_bytes(const int64_t *dims);

"""

_METADATA = """\
const char *${prefix}_metadata(void); /* all of this as JSON */
"""


def device_header(signature: Signature, levels: str) -> str:
    """The header's text; `levels` names what the library has code for."""
    text = "".join(
        (_COMMENT, OPENING, _TYPES, LIFE, _RUN, MESSAGES, "\n", COUNTS, _METADATA, CLOSING)
    )
    return filled_header(text, signature, "", statuses=STATUS_TEXTS.items(), levels=levels)
