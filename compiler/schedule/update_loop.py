"""Writes the loop of an optimizer: it does all work on one vector of elements, then continues with
the next.

A later statement takes what an earlier one has stored from a register. Arrays are prefetched one
page ahead; the processor prefetches by itself, but not across the end of a page.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir import expr, walk_expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size, Symbol, atom
from bessemer.compiler.ir.expr import Buffer, Expression, Load
from bessemer.compiler.ir.loops import Prefetch
from bessemer.compiler.schedule.lowering.lowering import Lowering
from bessemer.compiler.schedule.nests.merge_axes import Piece
from bessemer.compiler.schedule.nests.rows import RowWriter

PAGE = 4096
"""How far ahead of the loop memory is prefetched, in bytes."""


def write_elements(
    builder: KernelBuilder,
    pieces: Sequence[Piece],
    start: Size,
    length: Size,
    lowering: Lowering,
    ahead: Size | None = None,
) -> None:
    """Writes the stores of the pieces for `length` elements from `start` on. What is `ahead`
    elements further is prefetched; None stands for a page."""
    elements = [
        RowWriter(builder, piece, lowering.target.lanes).prepared(piece.symbols[0])
        for piece in pieces
    ]
    targets = [piece.target for piece in pieces]
    loads = [_even_loads(x, p.symbols[0]) for x, p in zip(elements, pieces, strict=True)]
    read = dict.fromkeys(load.buffer for found in loads for load in found)
    lanes = min(lowering.target.lanes(buffer.dtype) for buffer in (*read, *targets))
    with builder.loop(length, "vector" if lanes > 1 else "serial", lanes) as index:
        at = start + index
        for buffer in read:
            if buffer not in targets:
                distance = PAGE // buffer.dtype.bytes if ahead is None else ahead
                builder.append(Prefetch(buffer, at + distance))
        stored: dict[Buffer, Expression] = {}
        for piece, element, found in zip(pieces, elements, loads, strict=True):
            known: dict[Expression, Expression] = {
                load: stored[load.buffer] for load in found if load.buffer in stored
            }
            element = walk_expr.replace_outermost(element, known.get)
            element = walk_expr.substitute(element, {piece.symbols[0]: at})
            local = builder.define(expr.convert(element, piece.target.dtype))
            builder.store(piece.target, (at,), local.value)
            stored[piece.target] = local.value


def _even_loads(value: Expression, symbol: Symbol) -> list[Load]:
    """The loads at the index at which the element is stored."""
    return [n for n in walk_expr.loads_of(value) if n.indices == (atom(symbol),)]
