"""Decides which rows are prefetched, and which are written by streaming stores.

The processor prefetches by itself, but not across the end of a page, and less if the stores are
streaming ones. Rows with such stores are read into the second-level cache some rows ahead, by the
pass that takes longest: the one with functions, or the last one. Pipelined rows are read into the
first-level cache, if it holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from bessemer.compiler.ir import dims, walk_expr
from bessemer.compiler.ir.dims import Atom, Size, Symbol
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of
from bessemer.compiler.targets.machine import CACHE_LINE

SHORTEST_FETCHED, LONGEST_FETCHED = 512, 64 << 10
"""Bytes of a row that is fetched ahead: long enough to matter, short enough for the cache."""
ROWS_AHEAD, ELEMENTS_AHEAD = 16 << 10, 8 << 10
"""How many bytes ahead rows are prefetched into the second-level cache, and elements that are read
once into the first."""
PIPELINED_ROWS = 7
"""Pipelined rows that are in the first-level cache at once: three that are read, two that are kept,
and two that are written. (Zen 5, 16 MiB by two threads, GB/s in a slow and in a fast phase of the
machine: softmax 91 -> 98 and 143 -> 149, layer norm 102 -> 114 and 167 -> 172.)"""

Places = tuple[tuple[Buffer, Size, int], ...]
"""Where an iteration's part of the prefetched elements begins, less its index, and the level of the
cache that they are fetched into."""


def streams(piece: Piece, last_cache: int) -> bool:
    """Whether a piece is written by streaming stores: what it reads and writes does not fit into
    the caches."""
    extents = [extent_of(symbol) for symbol in piece.symbols]
    written = dims.product(extents) * piece.target.dtype.bytes
    loads = {n.buffer.name: n.buffer for n in walk_expr.loads_of(piece.value)}
    read = dims.total(b.dtype.bytes * dims.product(b.shape) for b in loads.values())
    if not isinstance(written, int) or not isinstance(read, int) or piece.target.name in loads:
        return False
    if not last_cache or written + read < last_cache or written < last_cache // 4:
        return False
    # It takes rows that begin at cache lines, and whose elements are neighbours.
    steps = [dims.coefficient_of(piece.offset, symbol) for symbol in piece.symbols]
    along = CACHE_LINE // piece.target.dtype.bytes
    last = extents[-1]
    if not isinstance(last, int) or last % along or steps[-1] != 1:
        return False
    return all(isinstance(step, int) and step % along == 0 for step in steps[:-1])


def prefetched_rows(
    piece: Piece, inner: Symbol, values: Mapping[Atom, Size], l1_bytes: int = 0
) -> Places:
    """Where rows begin that are read soon, if it pays to prefetch them. `values` are the indices of
    the current row. `l1_bytes`: of the first-level cache, if the rows are pipelined."""
    if not walk_expr.reductions_of(piece.value):
        return _prefetched_elements(piece, inner, values)
    extent, outer = extent_of(inner), [s for s in piece.symbols if s is not inner]
    if len(outer) != 1 or not isinstance(extent, int):
        return ()
    row_bytes = extent * piece.target.dtype.bytes
    if not SHORTEST_FETCHED <= row_bytes <= LONGEST_FETCHED:
        return ()
    ahead, level = ceil(ROWS_AHEAD / row_bytes), 2
    rows = ceil(ELEMENTS_AHEAD / row_bytes)
    if (PIPELINED_ROWS + rows) * row_bytes <= l1_bytes:
        ahead, level = 1 + rows, 1  # the row after the current one is being read, too
    found: dict[Buffer, Size] = {}
    for node in walk_expr.loads_of(piece.value):
        offset = node.indices[0]
        step = dims.coefficient_of(offset, outer[0])
        along = [s for s in dims.atoms(offset) if isinstance(s, Symbol) and s is not outer[0]]
        if step is None or step == 0 or walk_expr.index_expressions(offset):
            continue
        start = dims.substitute(offset, {s: 0 for s in along if s.extent is not None})
        found[node.buffer] = dims.substitute(start + ahead * step, values)
    return tuple((buffer, start, level) for buffer, start in found.items())


def _prefetched_elements(piece: Piece, inner: Symbol, values: Mapping[Atom, Size]) -> Places:
    """The same for what is read only once, element by element."""
    found: dict[Buffer, Size] = {}
    for node in walk_expr.loads_of(piece.value):
        if dims.coefficient_of(node.indices[0], inner) != 1:
            continue
        start = dims.substitute(node.indices[0], {inner: 0})
        if walk_expr.index_expressions(start):
            continue
        if node.guard is None and inner not in dims.atoms(start):
            ahead = ELEMENTS_AHEAD // node.buffer.dtype.bytes
            found.setdefault(node.buffer, dims.substitute(start, values) + ahead)
    return tuple((buffer, start, 1) for buffer, start in found.items())
