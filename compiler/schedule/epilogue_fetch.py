"""Asks for what the epilogue of a tile will read, before the tile's sums are added up.

An epilogue with functions in it (an activation's derivative) has so many instructions for every
vector that the processor sees only few loads ahead, and each may come from far away. The sums take
longer than that. What all rows read alike (a bias) is in the cache anyway.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir import dims, expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Load
from bessemer.compiler.ir.loops import Prefetch
from bessemer.compiler.schedule.contraction import Contraction
from bessemer.compiler.schedule.dependence import all_nodes

_LINE = 64  # bytes


def fetch_epilogue(
    builder: KernelBuilder,
    contraction: Contraction,
    rows: Sequence[tuple[Size, ...]],
    column: Size,
    width: int,
) -> None:
    """The lines of the tile's rows, given by their indices, and of `width` columns."""
    found: dict[tuple[Buffer, Size], int] = {}
    for row in rows:
        for load in _loads(contraction, row):
            place = (load.buffer, load.indices[0])
            found[place] = found.get(place, 0) + 1
    place = {dims.as_atom(dims.symbol(_COLUMN)): column}
    for (buffer, offset), count in found.items():
        if count == len(rows) and len(rows) > 1:
            continue
        first = dims.substitute(offset, place)
        for start in range(0, width, _LINE // buffer.dtype.bytes):
            builder.append(Prefetch(buffer, first + start))


_COLUMN = "epilogue_column"


def _loads(contraction: Contraction, row: tuple[Size, ...]) -> list[Load]:
    """What an element of a row reads along its columns, but the sums' own operands."""
    total = expr.fragment_element("sum", 0, contraction.dtype)
    column = dims.symbol(_COLUMN)
    atom = dims.as_atom(column)
    loads: dict[Load, None] = {}
    for store in contraction.epilogue(row, column, total):
        for node in all_nodes(store.value):
            if not isinstance(node, Load) or len(node.indices) != 1 or node.guard is not None:
                continue
            offset = node.indices[0]
            if not expr.index_expressions(offset) and dims.coefficient_of(offset, atom) == 1:
                loads[node] = None
    return list(loads)
