"""Computes several outputs of one shape in one kernel, such as those of an optimizer's step:

    m' = f(m, g);   v' = h(v, g);   p' = p - q(m', v')

A thread computes a few neighbours of every output. A later output reads an earlier one from a
register.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir import dims, expr, walk_expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.device import ThreadMapping
from bessemer.compiler.ir.dims import Atom, Size
from bessemer.compiler.ir.expr import Expression
from bessemer.compiler.schedule.costs import operations
from bessemer.compiler.schedule.device.mapping import THREADS
from bessemer.compiler.schedule.device.nests import DeviceNest
from bessemer.compiler.schedule.device.widths import dividing, width_along
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of


def lower_together(pieces: Sequence[Piece]) -> DeviceNest:
    """The loops for pieces that have one axis of the same extent. They may load scalars, and
    elements at the index at which they store."""
    builder = KernelBuilder()
    extent = extent_of(pieces[0].symbols[0])
    width = min(width_along(piece, piece.symbols[0]) for piece in pieces)
    with builder.loop(dims.ceildiv(extent, width), "parallel") as index:
        start = index * width
        length: Size = dims.minimum(extent - start, width)
        if dividing(extent, width) == width:
            length = width
        scalars = _scalars(builder, pieces)
        with builder.loop(length, "vector", width) as lane:
            known: dict[tuple[str, Size], Expression] = {}
            for piece in pieces:
                here: dict[Atom, Size] = {piece.symbols[0]: start + lane}
                value = walk_expr.transform(piece.value, scalars.get)
                element = _with_known(walk_expr.substitute(value, here), known)
                place = dims.substitute(piece.offset, here)
                local = builder.define(expr.convert(element, piece.target.dtype), "new")
                builder.store(piece.target, (place,), local.value)
                known[piece.target.name, place] = local.value
    work = dims.total(operations(piece.value) for piece in pieces) * width
    return DeviceNest(builder.block(), work, ThreadMapping(THREADS, 1))


def _scalars(builder: KernelBuilder, pieces: Sequence[Piece]) -> dict[Expression, Expression]:
    """Local variables for loads that are the same for all elements."""
    loads = walk_expr.loads_of(*(piece.value for piece in pieces))
    same = dict.fromkeys(load for load in loads if load.indices == (0,))
    written = {piece.target.name for piece in pieces}
    return {
        load: builder.define(load, "scalar").value
        for load in same
        if load.buffer.name not in written
    }


def _with_known(value: Expression, known: dict[tuple[str, Size], Expression]) -> Expression:
    """The value with the loads in `known`, by buffer and offset, replaced."""

    def rule(node: Expression) -> Expression | None:
        if isinstance(node, expr.Load):
            return known.get((node.buffer.name, node.indices[0]))
        return None

    return walk_expr.transform(value, rule)
