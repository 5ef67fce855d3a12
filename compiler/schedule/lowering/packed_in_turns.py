"""The order in which the run packs right operands: by turns of some steps of the depth.

    for turn in depth / 16
      for panel in panels
        for k in 16:   packed[panel, 16 * turn + k, :] = b[16 * turn + k, panel's columns]

A row of memory after the other would be read whole, but panels lie as far apart as meets in few
sets of the caches: every line is fetched anew before it is written. (1024 x 1024 f32 by a C loop on
Zen 5: 260 us, so 100.) Threads share the depth, as they share the rows where they are computed.
"""

from __future__ import annotations

from dataclasses import replace

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Atom, Size, Symbol, atom
from bessemer.compiler.ir.walk_expr import loads_of, substitute
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of

_STEPS = range(16, 3, -1)
"""How many steps a turn has: the first of these that divides the depth."""


def packed_in_turns(piece: Piece) -> Piece:
    """The piece with its loops in that order; it has the symbols matrix, panel, k, c and so on.

    Where rows of memory do not run along the columns, they stay whole.
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
    """Of a turn; None where rows of memory do not run along the columns."""
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
