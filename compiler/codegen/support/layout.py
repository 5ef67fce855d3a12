"""The structs of the support code, with names for the fields, which LLVM IR only numbers.

Texts of the support code have one instruction more than LLVM IR, the load of a field:

    %own = field words.Py_IncRef, %words    the field Py_IncRef of the %bessemer.words at %words

To store a field or access it atomically, a getelementptr with $STRUCT_FIELD gives its address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_FIELD = re.compile(r"^  (%[\w.]+) = field (\w+\.\w+), (%[\w.]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Layout:
    """A struct type of the generated code: fields are (name, LLVM type), in memory order."""

    name: str
    fields: tuple[tuple[str, str], ...]

    def definition(self) -> str:
        """The type as LLVM IR; it is called %bessemer.NAME."""
        return f"%bessemer.{self.name} = type {{ {', '.join(kind for _, kind in self.fields)} }}"

    def bytes(self) -> int:
        """The struct's size, all fields in their natural alignment and 8 bytes for the whole."""
        end = 0
        for _, kind in self.fields:
            size, alignment = _sizes(kind)
            end = -(-end // alignment) * alignment + size
        return -(-end // 8) * 8

    def places(self) -> dict[str, str]:
        """By NAME_FIELD, the getelementptr indices of that field, for text templates."""
        return {
            f"{self.name}_{field}": f"i32 0, i32 {index}"
            for index, (field, _) in enumerate(self.fields)
        }


def expand_fields(text: str, layouts: Iterable[Layout]) -> str:
    """The text with its `field` instructions as LLVM IR. The address of the field that is loaded
    into `%own` is then in `%own.field`.

    Raises KeyError for a field that no layout has.
    """
    fields = {
        f"{layout.name}.{field}": (layout.name, index, kind)
        for layout in layouts
        for index, (field, kind) in enumerate(layout.fields)
    }

    def expanded(match: re.Match[str]) -> str:
        value, field, pointer = match.groups()
        struct, index, kind = fields[field]
        place = f"%bessemer.{struct}, ptr {pointer}, i32 0, i32 {index}"
        return (
            f"  {value}.field = getelementptr {place}\n  {value} = load {kind}, ptr {value}.field"
        )

    return _FIELD.sub(expanded, text)


def _sizes(kind: str) -> tuple[int, int]:
    """(size, alignment) of a field's type, in bytes."""
    if kind.startswith("["):
        count, element = kind.strip("[]").split(" x ")
        size, alignment = _sizes(element)
        return int(count) * size, alignment
    if kind == "%bessemer.options":
        return OPTIONS.bytes(), 8
    size = {"i8": 1, "i32": 4, "i64": 8, "ptr": 8}[kind]
    return size, size


# The C header declares the same struct (header.py); a null pointer or 0 means the default.
OPTIONS = Layout(
    "options",
    (
        ("threads", "i32"),
        ("spin", "i32"),
        ("weights", "ptr"),
        ("weights_path", "ptr"),
        ("parallel_for", "ptr"),
        ("parallel_user", "ptr"),
        ("allocate", "ptr"),
        ("release", "ptr"),
        ("memory_user", "ptr"),
        ("log", "ptr"),
        ("log_user", "ptr"),
    ),
)

MESSAGE_BYTES = 512

# `options` are the caller's, copied. `mapping` is the mapped weights file or null. `state` is what
# the graphs of a training library share, null in a model; `steps` counts those of training. `rooms`
# are, for each output whose size the data decides, the bytes that the caller has for it where its
# pointer is; null where nobody has any.
CONTEXT = Layout(
    "context",
    (
        ("options", "%bessemer.options"),
        ("weights", "ptr"),
        ("mapping", "ptr"),
        ("mapping_bytes", "i64"),
        ("pool", "ptr"),
        ("arena", "ptr"),
        ("arena_bytes", "i64"),
        ("needed", "i64"),
        ("rooms", "ptr"),
        ("state", "ptr"),
        ("state_bytes", "i64"),
        ("steps", "i64"),
        ("message", f"[{MESSAGE_BYTES} x i8]"),
    ),
)

# One parallel call, on the caller's stack.
JOB = Layout(
    "job",
    (
        ("kernel", "ptr"),
        ("buffers", "ptr"),
        ("dims", "ptr"),
        ("extent", "i64"),
        ("chunks", "i64"),
    ),
)

# pthread_mutex_t and pthread_cond_t take at most 48 bytes on glibc and musl, x86-64 and AArch64.
_PTHREAD = "[8 x i64]"

# `missed` counts the smallest shares of small jobs that nobody was awake for, `missed_at` is when,
# in microseconds, the last of them was.
# `teamless` is how many kernels with teams still run alone, `caution` how many did after the last
# disturbance, halved with each team since (see team.py).
# `fewest` are the smallest shares of the smallest job that is shared (see trials.py).
# `waiting` has its own cache line, which all workers read.
POOL = Layout(
    "pool",
    (
        ("owner", "i32"),
        ("workers", "i32"),
        ("spin", "i32"),
        ("bytes_given", "i64"),
        ("missed", "i64"),
        ("missed_at", "i64"),
        ("teamless", "i64"),
        ("caution", "i64"),
        ("fewest", "i64"),
        ("tried", "i64"),
        ("counter", "i64"),
        ("period", "i64"),
        ("best", "[3 x i64]"),
        ("padding", "[80 x i8]"),
        ("waiting", "i32"),
        ("tail", "[60 x i8]"),
        ("mutex", _PTHREAD),
        ("wake", _PTHREAD),
    ),
)

# What one worker waits on, in cache lines by who writes them. The caller writes the first: a chunk
# of a job, and then its ticket; the worker writes the second, which is how far it has come. Both
# write `claimed`, but the caller only where it takes back a chunk that the worker has not begun.
SLOT = Layout(
    "slot",
    (
        ("ticket", "i32"),
        ("kernel", "ptr"),
        ("buffers", "ptr"),
        ("dims", "ptr"),
        ("begin", "i64"),
        ("end", "i64"),
        ("pool", "ptr"),
        ("thread", "i64"),
        ("begun", "i32"),
        ("finished", "i32"),
        ("sleeping", "i32"),
        ("own_tail", "[52 x i8]"),
        ("claimed", "i32"),
        ("tail", "[60 x i8]"),
        ("mutex", _PTHREAD),
        ("wake", _PTHREAD),
    ),
)

LAYOUTS = (OPTIONS, CONTEXT, JOB, POOL, SLOT)
