"""How rows get from and to memory: which are fetched ahead, and which go past the caches.

The processor fetches ahead by itself, but not from page to page, and not while it waits for the end
of a row's sum. What is read is asked for while a row goes by the second time: the first pass waits
for memory anyway, and the last one stores. A row of outputs is asked for in the last pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from bessemer.compiler.ir import dims, walk_expr
from bessemer.compiler.ir.dims import Atom, Size, Symbol
from bessemer.compiler.ir.expr import Buffer, Load, Reduce
from bessemer.compiler.schedule.dependence import all_nodes
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of

FROM_MEMORY = 1 << 20
"""Bytes of rows from which on they are not expected to lie in the second-level cache."""
SHORTEST_FETCHED, LONGEST_FETCHED = 512, 16 << 10
"""Bytes of a row that is fetched ahead: long enough to matter, short enough for the cache."""
BYTES_AHEAD = 8 << 10
"""How far ahead rows are fetched: what arrives while a row is computed, twice."""
LINE = 64

Places = tuple[tuple[Buffer, Size], ...]
"""Where an iteration's part of the coming elements begins, less its index."""


@dataclass(frozen=True)
class Coming:
    """What is fetched ahead while a row is computed."""

    reads: Places = ()
    writes: Places = ()


def streams(piece: Piece, last_cache: int) -> bool:
    """Whether a piece is stored past the caches: what it reads and writes does not fit there."""
    extents = [extent_of(symbol) for symbol in piece.symbols]
    written = dims.product(extents) * piece.target.dtype.bytes
    loads = {n.buffer.name: n.buffer for n in all_nodes(piece.value) if isinstance(n, Load)}
    read = dims.total(b.dtype.bytes * dims.product(b.shape) for b in loads.values())
    if not isinstance(written, int) or not isinstance(read, int) or piece.target.name in loads:
        return False
    if not last_cache or written + read < last_cache or written < last_cache // 4:
        return False
    # Rows begin at lines, and their elements are neighbours.
    steps = [dims.coefficient_of(piece.offset, symbol) for symbol in piece.symbols]
    along = LINE // piece.target.dtype.bytes
    last = extents[-1]
    if not isinstance(last, int) or last % along or steps[-1] != 1:
        return False
    return all(isinstance(step, int) and step % along == 0 for step in steps[:-1])


def coming_rows(piece: Piece, inner: Symbol, values: Mapping[Atom, Size], streamed: bool) -> Coming:
    """Where rows begin that are soon read or written, if fetching them ahead pays. `values` are the
    indices of the row at work."""
    if not any(isinstance(node, Reduce) for node in all_nodes(piece.value)):
        return _coming_elements(piece, inner, values) if streamed else Coming()
    extent, outer = extent_of(inner), [s for s in piece.symbols if s is not inner]
    if len(outer) != 1 or not isinstance(extent, int):
        return Coming()
    row_bytes = extent * piece.target.dtype.bytes
    rows = extent_of(outer[0])
    is_small = isinstance(rows, int) and rows * row_bytes < FROM_MEMORY
    if is_small or not SHORTEST_FETCHED <= row_bytes <= LONGEST_FETCHED:
        return Coming()
    ahead = ceil(BYTES_AHEAD / row_bytes)

    def places(offsets: Mapping[Buffer, Size]) -> Places:
        found: list[tuple[Buffer, Size]] = []
        for buffer, offset in offsets.items():
            step = dims.coefficient_of(offset, outer[0])
            along = [s for s in dims.atoms(offset) if isinstance(s, Symbol) and s is not outer[0]]
            if step is None or step == 0 or walk_expr.index_expressions(offset):
                continue
            start = dims.substitute(offset, {s: 0 for s in along if s.extent is not None})
            found.append((buffer, dims.substitute(start + ahead * step, values)))
        return tuple(found)

    loads = [node for node in all_nodes(piece.value) if isinstance(node, Load)]
    reads = places({node.buffer: node.indices[0] for node in loads})
    return Coming(reads, places({piece.target: piece.offset}))


def _coming_elements(piece: Piece, inner: Symbol, values: Mapping[Atom, Size]) -> Coming:
    """The same for what is read once, element by element."""
    found: dict[Buffer, Size] = {}
    for node in all_nodes(piece.value):
        if not isinstance(node, Load) or dims.coefficient_of(node.indices[0], inner) != 1:
            continue
        start = dims.substitute(node.indices[0], {inner: 0})
        if node.guard is None and inner not in dims.atoms(start):
            ahead = BYTES_AHEAD // node.buffer.dtype.bytes
            found.setdefault(node.buffer, dims.substitute(start, values) + ahead)
    return Coming(tuple(found.items()))
