"""The order in which kernels pack a right operand when the model runs: a few steps of the depth at
a time ("turn"), for all panels.

    for turn in depth / 16
      for panel in panels
        for k in 16:   packed[panel, 16 * turn + k, :] = b[16 * turn + k, panel's columns]

Reading one row of memory after the other would read memory in order, but consecutive stores would
be a panel apart. Such addresses share few sets of the caches, and every line would be fetched again
before it is complete. (1024 x 1024 f32 by a C loop on Zen 5: 260 us row by row, 100 in this order.)
Threads share the depth, as they do in the kernel that computes the rows.
"""

from __future__ import annotations

from dataclasses import replace

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Atom, Size, Symbol, atom
from bessemer.compiler.ir.walk_expr import loads_of, substitute
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of

_STEPS = range(16, 3, -1)
"""The number of steps in a turn is the first of these that divides the depth."""


def packed_in_turns(piece: Piece) -> Piece:
    """The piece with its loops in that order. Its symbols are matrix, panel, k, c, and further
    ones.

    If `b` does not run along the columns in memory, the steps are not cut into turns.
    """
    matrix, panel, step, *rest = piece.symbols
    length = _length(piece)
    if length is None:
        return replace(piece, symbols=(matrix, step, panel, *rest))
    turn, within = Symbol("turn", extent_of(step) // length), Symbol(step.name, length)
    values: dict[Atom, Size] = {step: atom(turn) * length + atom(within)}
    return Piece(
        piece.target,
        dims.substitute(piece.offset, values),
        substitute(piece.value, values),
        (matrix, turn, panel, within, *rest),
    )


def _length(piece: Piece) -> int | None:
    """The number of steps in a turn; None where rows of memory do not run along the columns."""
    _, _, step, column, *_ = piece.symbols
    extent = extent_of(step)
    if not isinstance(extent, int):
        return None
    for load in loads_of(piece.value):
        offset = load.indices[0]
        if dims.coefficient_of(offset, column) not in (0, 1):
            return None
        if not isinstance(dims.coefficient_of(offset, step), int):
            return None
    return next((steps for steps in _STEPS if extent % steps == 0), None)
