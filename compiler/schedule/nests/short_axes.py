"""Joins a short innermost axis with the axis before it, even where operands are repeated.

    out[4*i + j] = x[4*i + j] - m[j]     over i < n, j < 4     becomes
    out[k] = x[k] - m[k % 4]             over k < 4*n

and m[i] would become m[k // 4]. Four elements do not fill a vector. An operand that is repeated
within a vector takes one load and one shuffle.
"""

from __future__ import annotations

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Atom, Size, Symbol, atom
from bessemer.compiler.ir.expr import Checked, Expression, IndexValue, Load, Reduce
from bessemer.compiler.ir.walk_expr import all_nodes, index_expressions, substitute
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of
from bessemer.compiler.schedule.nests.row_periods import FEWEST_MASKED

LONGEST_PART = 4096
"""The most elements that one thread takes at a time, if there is no other axis."""


def join_short_axis(piece: Piece, width: int) -> Piece:
    """The piece with its innermost axis joined with the one before, if it is shorter than `width`
    lanes and all operands allow it."""
    if len(piece.symbols) < 2:
        return piece
    *outer, before, inner = piece.symbols
    short, rows = extent_of(inner), extent_of(before)
    if not isinstance(short, int) or not 0 < short < width:
        return piece
    if _steps(piece.offset, before, inner) != (short, 1):
        return piece
    if not all(_may_join(node, before, inner, short) for node in all_nodes(piece.value)):
        return piece
    first: Size = 0
    if short & (short - 1):
        # A pattern then repeats only after several vectors, whose places must be known.
        if width < FEWEST_MASKED or 2 * short > width or not isinstance(rows, int):
            return piece
        if not outer:
            part = _even_part(rows, short, width)
            outer = [Symbol(f"{before.name}_part", rows // part)]
            first, rows = atom(outer[0]) * part, part
    joined = Symbol(before.name, rows * short)
    places: dict[Atom, Size] = {before: first + atom(joined) // short, inner: atom(joined) % short}
    return Piece(
        piece.target,
        dims.substitute(piece.offset, places),
        substitute(piece.value, places),
        (*outer, joined),
    )


def _even_part(rows: int, short: int, width: int) -> int:
    """The number of rows in a part: rows are cut into equal parts, as large as allowed, and if
    possible of whole vectors."""
    parts = [n for n in range(1, LONGEST_PART // short + 1) if rows % n == 0]
    return max(parts, key=lambda n: (n * short % width == 0, n))


def _steps(offset: Size, before: Symbol, inner: Symbol) -> tuple[Size | None, Size | None]:
    return dims.coefficient_of(offset, before), dims.coefficient_of(offset, inner)


def _may_join(node: Expression, before: Symbol, inner: Symbol, short: int) -> bool:
    match node:
        case Reduce() | Checked():
            return False
        case IndexValue(_, size):
            return not {before, inner} & dims.atoms(size)
        case Load(_, _, (offset,), None):
            steps = _steps(offset, before, inner)
            return steps in ((short, 1), (0, 1), (1, 0), (0, 0)) and not index_expressions(offset)
        case Load():
            return False
        case _:
            return True
