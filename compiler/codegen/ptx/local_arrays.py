"""Decides which local arrays lie in registers: those of which every element belongs to one thread.

    local1 : f32[768]
    vector i in 0..768 by 4:  local1[i] = in0[768*i0 + i]
    vector i in 0..768 by 4:  acc += local1[i]

Vector loops of the same extent and number of lanes give the same iterations to the same threads. So
an array that is only accessed at the index of such loops needs no memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bessemer.compiler.ir import dims, loops, walk_loops
from bessemer.compiler.ir.device import ThreadMapping
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.loops import Block, For

MOST_KEPT = 64
"""The most elements of an array that one thread keeps."""
UNROLLED = 16
"""The most vectors of a thread for which a loop is unrolled, so that each has registers of its
own."""


@dataclass(frozen=True)
class KeptArray:
    """A local array in registers: every thread has `slots` vectors of `lanes` elements."""

    buffer: Buffer
    lanes: int
    slots: int


@dataclass
class _Uses:
    """The block that declares an array, and the loops that access it at their index; `lost` if
    there is any other access."""

    buffer: Buffer
    home: Block
    forms: set[tuple[Size, int]] = field(default_factory=set)
    lost: bool = False


def kept_arrays(block: Block, mapping: ThreadMapping) -> dict[str, KeptArray]:
    """The local arrays that need no memory in a group of threads, by name."""
    uses: dict[str, _Uses] = {}
    _visit(block, None, block, uses)
    found: dict[str, KeptArray] = {}
    for name, use in uses.items():
        if use.lost or len(use.forms) != 1:
            continue
        ((extent, lanes),) = use.forms
        if not isinstance(extent, int) or (extent,) != use.buffer.shape or extent % lanes:
            continue
        slots = -(-extent // (mapping.group * lanes))
        if slots <= UNROLLED and slots * lanes <= MOST_KEPT:
            found[name] = KeptArray(use.buffer, lanes, slots)
    return found


def _visit(block: Block, vector: For | None, home: Block, uses: dict[str, _Uses]) -> None:
    """Collects the uses of arrays in a block. `vector` is the vector loop around it, `home` the
    block that this loop stands in."""
    for statement in block:
        if isinstance(statement, loops.Allocate):
            uses[statement.buffer.name] = _Uses(statement.buffer, block)
        for name, offset in _accesses(statement):
            if name not in uses:
                continue
            use = uses[name]
            if vector is None or use.home is not home or offset != dims.atom(vector.index):
                use.lost = True
            else:
                use.forms.add((vector.extent, vector.lanes))
        for body in walk_loops.blocks(statement):
            if vector is None and isinstance(statement, For) and statement.kind == "vector":
                _visit(body, statement, block, uses)
            elif vector is None:
                _visit(body, None, body, uses)
            else:
                _visit(body, vector, body, uses)


def _accesses(statement: loops.Statement) -> list[tuple[str, Size | None]]:
    """The names of the buffers that a statement itself accesses, and the index; None for a guarded
    access."""
    found: list[tuple[str, Size | None]] = []
    if isinstance(statement, loops.Store):
        offset = statement.buffer.offset(statement.indices)
        found.append((statement.buffer.name, None if statement.guard is not None else offset))
    for load in walk_loops.loads_by(statement):
        offset = load.buffer.offset(load.indices)
        found.append((load.buffer.name, offset if load.guard is None else None))
    return found
