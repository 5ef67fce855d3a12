"""Loop nests that lay a few elements from different rows of memory side by side.

    out[c, j] = in[j, c]        j in 0..2 or 0..4

The rows are read along c, as vectors; what is stored are whole vectors, too (see
codegen/kernels/interleaved_stores.py). Right operands are packed so for instructions that multiply
groups.
"""

from __future__ import annotations

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Atom, Size, Symbol
from bessemer.compiler.ir.expr import Load
from bessemer.compiler.ir.walk_expr import substitute
from bessemer.compiler.schedule.costs import operations
from bessemer.compiler.schedule.dependence import all_nodes
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of
from bessemer.compiler.schedule.nests.nests import Lanes, Nest

GROUPS = (2, 4)


def lower_interleaved(piece: Piece, lanes: Lanes) -> Nest | None:
    """The loops, or None where the piece is not of this kind. Its loads must be flat; its last two
    symbols are c and j."""
    *outer, c, j = piece.symbols
    if not outer or not _interleaves(piece, c, j):
        return None
    group, width = extent_of(j), extent_of(c)
    assert isinstance(group, int) and isinstance(width, int)
    first, *rest = outer
    builder = KernelBuilder()
    values: dict[Atom, Size] = {}
    shared = dims.product(map(extent_of, (first, *rest[:1])))
    with builder.loop(shared, "parallel") as item:
        values[first] = item
        if rest:
            values[first] = dims.floordiv(item, extent_of(rest[0]))
            values[rest[0]] = dims.mod(item, extent_of(rest[0]))
        _serial(builder, piece, rest[1:], values, min(lanes(piece.target.dtype), width))
    inner = dims.product(map(extent_of, rest[1:]))
    return Nest(builder.block(), operations(piece.value) * inner * width * group)


def _interleaves(piece: Piece, c: Symbol, j: Symbol) -> bool:
    group, width = extent_of(j), extent_of(c)
    if group not in GROUPS or not isinstance(width, int) or width & (width - 1):
        return False
    if dims.coefficient_of(piece.offset, c) != group or dims.coefficient_of(piece.offset, j) != 1:
        return False
    loads = [node for node in all_nodes(piece.value) if isinstance(node, Load)]
    steps = [dims.coefficient_of(load.indices[0], c) for load in loads]
    return bool(loads) and all(step in (0, 1) for step in steps)


def _serial(
    builder: KernelBuilder, piece: Piece, outer: list[Symbol], values: dict[Atom, Size], lanes: int
) -> None:
    """Loops over the symbols that are left, and the vectors in them."""
    if outer:
        with builder.loop(extent_of(outer[0])) as step:
            _serial(builder, piece, outer[1:], {**values, outer[0]: step}, lanes)
        return
    c, j = piece.symbols[-2:]
    with builder.loop(extent_of(c), "vector", lanes) as column:
        for k in range(int(str(extent_of(j)))):
            here = {**values, c: column, j: k}
            builder.store(
                piece.target,
                (dims.substitute(piece.offset, here),),
                substitute(piece.value, here),
            )
