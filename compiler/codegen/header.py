"""The C header of a model: its API, with the model's own inputs, outputs and dims written into it.

Names come from the user's file and may hold anything. In C they appear only as identifiers made by
`c_identifier`, and in comments and strings with every doubtful character replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import prod
from string import Template

from bessemer.runtime.artifact import DTYPE_CODES, STATUS_TEXTS, ArrayInfo, Signature, Status

# With these before _create, _destroy or _run, the API would be libc's own.
_TAKEN_PREFIXES = {"cnd", "key", "mq", "mtx", "pthread", "sem", "thrd", "timer", "tss"}
_LONGEST_PREFIX = 48

# The C types that hold the elements; float16 and bfloat16 have none in C99.
_C_TYPES = {
    "float32": "float",
    "float64": "double",
    "float16": "uint16_t holding IEEE binary16",
    "bfloat16": "uint16_t holding bfloat16",
    "bool": "uint8_t, 0 or 1",
}


def c_identifier(name: str) -> str:
    """A C identifier for this name: letters, digits and underscores, starting with a letter."""
    plain = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")
    if not plain or not plain[0].isalpha():
        plain = f"model_{plain}".rstrip("_")
    return plain


def c_prefix(name: str) -> str:
    """The prefix of a model's C symbols; never one that meets a function of the C library."""
    prefix = c_identifier(name)[:_LONGEST_PREFIX].rstrip("_")
    return f"{prefix}_model" if prefix in _TAKEN_PREFIXES else prefix


def header_text(signature: Signature, weights_file: str = "") -> str:
    """The header; `weights_file` is the name of the file that holds the weights, or empty."""
    prefix = signature.prefix
    return Template(_HEADER).substitute(
        prefix=prefix,
        guard=f"{prefix.upper()}_BESSEMER_H",
        title=_comment(signature.name),
        target=_comment(signature.triple),
        features=_comment(", ".join(signature.cpu_features))
        or "none beyond the architecture's own",
        inputs=_lines(_described(signature.inputs)),
        outputs=_lines(_described(signature.outputs)),
        dims=_lines(_described_dims(signature)),
        macros="\n".join(_macros(signature, weights_file)),
        statuses=_enumerators(
            (f"{prefix}_{status.name}", int(status), STATUS_TEXTS[status]) for status in Status
        ),
        dtypes=_enumerators(
            (f"{prefix}_{name.upper()}", code, "") for name, code in DTYPE_CODES.items()
        ),
        weights_note=_weights_note(signature, weights_file),
    )


def _comment(text: str) -> str:
    """Text that cannot end a comment, continue a line, or be a trigraph."""
    return re.sub(r"[^A-Za-z0-9 _.,:;()\[\]+=<>-]", "_", text)


def _expression(size: int | str) -> str:
    """A shape's entry in a comment; `*` and `/` are kept apart, so that they never end it."""
    return re.sub(r"[^A-Za-z0-9 _.,()+\-*/%]", "_", str(size)).replace("*", " * ")


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(f" *   {line}" for line in lines) or " *   none"


def _described(arrays: Sequence[ArrayInfo]) -> Iterable[str]:
    for index, array in enumerate(arrays):
        shape = f"[{', '.join(_expression(size) for size in array.shape)}]"
        held = _C_TYPES.get(array.dtype, f"{array.dtype}_t")
        late = "; size known after the run, pass NULL" if array.data_dependent else ""
        yield f"[{index}] {_comment(array.name)}: {array.dtype} {shape} ({held}{late})"


def _described_dims(signature: Signature) -> Iterable[str]:
    for index, symbol in enumerate(signature.symbols):
        who = "set by the caller" if index < signature.input_symbols else "set by the run"
        yield f"[{index}] {_comment(symbol)}: {who}"


def _macros(signature: Signature, weights_file: str) -> Iterable[str]:
    prefix = signature.prefix
    used: set[str] = set()
    yield f"#define {prefix}_ABI {signature.format}"
    yield f"#define {prefix}_INPUT_COUNT {len(signature.inputs)}"
    yield f"#define {prefix}_OUTPUT_COUNT {len(signature.outputs)}"
    yield f"#define {prefix}_DIM_COUNT {len(signature.symbols)}"
    yield f"#define {prefix}_INPUT_DIM_COUNT {signature.input_symbols}"
    used |= {f"{prefix}_{kind}_COUNT" for kind in ("INPUT", "OUTPUT", "DIM", "INPUT_DIM")}
    for index, symbol in enumerate(signature.symbols):
        yield f"#define {_unique(f'{prefix}_DIM_{_name(symbol)}', used)} {index}"
    for kind, arrays in (("INPUT", signature.inputs), ("OUTPUT", signature.outputs)):
        for index, array in enumerate(arrays):
            name = _name(array.name)
            yield f"#define {_unique(f'{prefix}_{kind}_{name}', used)} {index}"
            if all(isinstance(size, int) for size in array.shape):
                count = prod(int(size) for size in array.shape)
                yield f"#define {_unique(f'{prefix}_{kind}_ELEMENTS_{name}', used)} {count}"
    if weights_file:
        yield f"#define {prefix}_WEIGHTS_FILE {_literal(weights_file)}"
    yield f"#define {prefix}_WEIGHTS_BYTES {signature.weights_bytes}LL"


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_") or "unnamed"


def _literal(text: str) -> str:
    """A C string; every byte that is not plain as three octal digits."""
    return (
        '"'
        + re.sub(rb"[^A-Za-z0-9_. -]", lambda m: b"\\%03o" % m[0][0], text.encode()).decode()
        + '"'
    )


def _unique(name: str, used: set[str]) -> str:
    """This macro name, or with _2, _3 ... where two of the user's names became the same."""
    found, number = name, 1
    while found in used:
        number += 1
        found = f"{name}_{number}"
    used.add(found)
    return found


def _enumerators(rows: Iterable[tuple[str, int, str]]) -> str:
    lines = [(f"  {name} = {value}", text) for name, value, text in rows]
    last = len(lines) - 1
    return "\n".join(
        line + ("," if index < last else "") + (f" /* {text} */" if text else "")
        for index, (line, text) in enumerate(lines)
    )


def _weights_note(signature: Signature, weights_file: str) -> str:
    if weights_file:
        return f"needed: the weights are in {_comment(weights_file)}, mapped read-only"
    return "not needed: the weights are inside" if signature.weights_bytes else "not needed"


_HEADER = """\
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
 * must not overlap. No pointer may be NULL, also where the array is empty.
 *
 * A context belongs to one thread at a time; any number of contexts run side by side. There is no
 * other state. After fork, a context goes on working in the child.
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
  int32_t threads;           /* 0: as many as the processors that this process may use */
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
  int32_t data_dependent; /* its size is known only after the run */
} ${prefix}_value;

/* All functions that return int32_t give a ${prefix}_status. */

/* options may be NULL. Where it fails, *out is NULL and the log has the details. */
int32_t ${prefix}_create(${prefix}_context **out, const ${prefix}_options *options);
void ${prefix}_destroy(${prefix}_context *context);

/* dims has ${prefix}_DIM_COUNT entries: the first ${prefix}_INPUT_DIM_COUNT are read, the others
 * written. Pass NULL for an output whose size the data decides: the run stores where it is, valid
 * until the next run. workspace: ${prefix}_workspace_bytes bytes aligned to 64, or NULL: the
 * context's own, allocated at the first run and when dims grow. With a workspace given, or large
 * enough from an earlier run, nothing is allocated. */
int32_t ${prefix}_run(${prefix}_context *context, const void *const *inputs, void **outputs,
                      int64_t *dims, void *workspace, size_t bytes);

/* For these dims; more may turn out to be needed where sizes depend on the data: the run then
 * returns ${prefix}_WORKSPACE_TOO_SMALL, and ${prefix}_needed_bytes says how much. Negative: absurd
 * dims. */
int64_t ${prefix}_workspace_bytes(const int64_t *dims);
int64_t ${prefix}_needed_bytes(const ${prefix}_context *context);

/* The context's own workspace: how large it is, and giving it back until the next run. */
int64_t ${prefix}_arena_bytes(const ${prefix}_context *context);
void ${prefix}_trim(${prefix}_context *context);

/* The text of the last run's error, "" when there was none. */
const char *${prefix}_message(const ${prefix}_context *context);
const char *${prefix}_status_text(int32_t status);
int32_t ${prefix}_threads(const ${prefix}_context *context);

int32_t ${prefix}_abi(void);
int32_t ${prefix}_input_count(void);
int32_t ${prefix}_output_count(void);
int32_t ${prefix}_dim_count(void);
/* NULL where there is no such index. */
const ${prefix}_value *${prefix}_input_info(int32_t index);
const ${prefix}_value *${prefix}_output_info(int32_t index);
const char *${prefix}_dim_name(int32_t index);

const char *${prefix}_version(void);      /* the compiler's */
const char *${prefix}_required_cpu(void); /* features, comma-separated; create checks them */
const char *${prefix}_metadata(void);     /* all of this as JSON */

#ifdef __cplusplus
}
#endif

#endif
"""
