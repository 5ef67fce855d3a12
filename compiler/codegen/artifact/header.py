"""The C header of a model: its API, with the model's own inputs, outputs and dims written into it.

Names come from the user's file and may contain any character. In C they appear only as identifiers
made by `c_identifier`, and in comments and strings in which unsafe characters are replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum
from math import prod
from string import Template

from bessemer.compiler.codegen.artifact.header_texts import LIFE, MODEL_COMMENT, REST, RUN, TYPES
from bessemer.compiler.codegen.support.string_table import HEADER as STRINGS
from bessemer.compiler.codegen.support.string_table import step_texts
from bessemer.runtime.artifact import (
    DTYPE_CODES,
    SMALL_DTYPES,
    STATUS_TEXTS,
    ArrayInfo,
    Room,
    Signature,
    Strings,
)

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
    "string": "int32_t, see string_id below",
    **{name: f"uint8_t holding {name}" for name in SMALL_DTYPES},
}


def c_identifier(name: str) -> str:
    """A C identifier for this name: letters, digits and underscores, starting with a letter."""
    plain = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")
    if not plain or not plain[0].isalpha():
        plain = f"model_{plain}".rstrip("_")
    return plain


def c_prefix(name: str) -> str:
    """The prefix of a model's C symbols, changed where its functions would have names of the C
    library."""
    prefix = c_identifier(name)[:_LONGEST_PREFIX].rstrip("_")
    return f"{prefix}_model" if prefix in _TAKEN_PREFIXES else prefix


def header_text(signature: Signature, weights_file: str = "") -> str:
    """The header; `weights_file` is the name of the file that holds the weights, or empty."""
    strings = signature.strings
    if strings is None:
        return filled_header(MODEL_COMMENT + TYPES + LIFE + RUN + REST, signature, weights_file)
    text = MODEL_COMMENT + TYPES + LIFE + STRINGS + RUN + REST
    macros = [f"#define {signature.prefix}_STRING_COUNT {len(strings.table)}"]
    return _with_steps(filled_header(text, signature, weights_file, macros), strings)


def _with_steps(text: str, strings: Strings) -> str:
    """The header, with what to do before a run in its first comment."""
    if not strings.steps:
        return text
    lines = ["What the caller does with strings before a run (Python's runtime does it itself):"]
    for made, attributes, source in step_texts(strings):
        lines += [f"  {_comment(made)}, from {_comment(source)}:", f"    {attributes}"]
    listed = "".join(f" * {line}\n" for line in lines)
    first, end, rest = text.partition(" */\n")
    return f"{first} *\n{listed}{end}{rest}"


def filled_header(
    text: str,
    signature: Signature,
    weights_file: str,
    macros: Iterable[str] = (),
    statuses: Iterable[tuple[IntEnum, str]] = STATUS_TEXTS.items(),
    **more: str,
) -> str:
    """A header's text with the contents of the signature, and `macros` and `statuses`, filled
    in."""
    prefix = signature.prefix
    return Template(text).substitute(
        prefix=prefix,
        guard=f"{prefix.upper()}_BESSEMER_H",
        title=_comment(signature.name),
        target=_comment(signature.triple),
        features=_comment(", ".join(signature.cpu_features))
        or "none beyond the architecture's own",
        inputs=_lines(_described_inputs(signature)),
        outputs=_lines(_described_outputs(signature)),
        dims=_lines(_described_dims(signature)),
        macros="\n".join([*_macros(signature, weights_file), *macros]),
        statuses=_enumerators(
            (f"{prefix}_{status.name}", int(status), text) for status, text in statuses
        ),
        dtypes=_enumerators(
            (f"{prefix}_{name.upper()}", code, "") for name, code in DTYPE_CODES.items()
        ),
        weights_note=_weights_note(signature, weights_file),
        **more,
    )


def _comment(text: str) -> str:
    """Text that cannot end a comment, continue a line, or be a trigraph."""
    return re.sub(r"[^A-Za-z0-9 _.,:;()\[\]+=<>-]", "_", text)


def _expression(size: int | str) -> str:
    """A shape's entry in a comment; `*` and `/` are kept apart, so that they never end it."""
    return re.sub(r"[^A-Za-z0-9 _.,()+\-*/%]", "_", str(size)).replace("*", " * ")


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(f" *   {line}" for line in lines) or " *   none"


def described_arrays(arrays: Iterable[ArrayInfo]) -> str:
    """The lines of a comment about arrays."""
    return _lines(_described(array, index) for index, array in enumerate(arrays))


def _described_inputs(signature: Signature) -> Iterable[str]:
    rooms = {room.given: room for room in signature.rooms}
    for index, array in enumerate(signature.inputs):
        yield _described(array, index, rooms.get(index))


def _described_outputs(signature: Signature) -> Iterable[str]:
    rooms = {room.output: room for room in signature.rooms}
    places = dict(signature.updates)
    for index, array in enumerate(signature.outputs):
        note = "; size known after the run, pass NULL" if array.data_dependent else ""
        if index in places:
            is_alike = index in rooms or signature.inputs[places[index]].shape == array.shape
            when = "" if is_alike else " where the shapes are equal"
            note += f"; may be in the place of input [{places[index]}]{when}"
        yield _described(array, index, rooms.get(index), note)


def _described(array: ArrayInfo, index: int, room: Room | None = None, note: str = "") -> str:
    sizes = [_expression(size) for size in array.shape]
    if room is not None:
        sizes[room.axis] += f" of {_expression(room.symbol)}"
    held = _C_TYPES.get(array.dtype, f"{array.dtype}_t")
    return f"[{index}] {_comment(array.name)}: {array.dtype} [{', '.join(sizes)}] ({held}{note})"


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
        yield f"#define {_unique(f'{prefix}_DIM_{macro_name(symbol)}', used)} {index}"
    for kind, arrays in (("INPUT", signature.inputs), ("OUTPUT", signature.outputs)):
        for index, array in enumerate(arrays):
            name = macro_name(array.name)
            yield f"#define {_unique(f'{prefix}_{kind}_{name}', used)} {index}"
            if all(isinstance(size, int) for size in array.shape):
                count = prod(int(size) for size in array.shape)
                yield f"#define {_unique(f'{prefix}_{kind}_ELEMENTS_{name}', used)} {count}"
    if weights_file:
        yield f"#define {prefix}_WEIGHTS_FILE {_literal(weights_file)}"
    yield f"#define {prefix}_WEIGHTS_BYTES {signature.weights_bytes}LL"


def macro_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_") or "unnamed"


def _literal(text: str) -> str:
    """A C string; every byte that is not plain as three octal digits."""
    return (
        '"'
        + re.sub(rb"[^A-Za-z0-9_. -]", lambda m: b"\\%03o" % m[0][0], text.encode()).decode()
        + '"'
    )


def _unique(name: str, used: set[str]) -> str:
    """This macro name, with _2, _3 ... appended if another of the user's names gave the same
    one."""
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
