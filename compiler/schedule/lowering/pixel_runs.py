"""Loads of a packed panel by runs of pixels, where the panel's columns are the pixels of an image.

A convolution that writes planes multiplies by its windows: row k of the right operand has, for each
pixel, the number that tap k sees. Neighbouring pixels see neighbours until the image's row ends. An
offset with the number and the place of a pixel's row, column // width and column % width, would be
loaded by gathers. But a panel of 32 columns lies in few rows, so that a value is selected from one
contiguous load for each of these:

    x[column % 100 + 102 * (column // 100)]           for columns 96 to 127
becomes
    x[c + 96] if c < 4 else x[c + 98]                 for c in 0..32

(Windows of 3x3 of an image of 32x100 on Zen 5: 32 -> 3 us.)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Atom, FloorDiv, Mod, Size, Symbol
from bessemer.compiler.ir.expr import Expression, IndexValue, Load, index_value, less, load
from bessemer.compiler.ir.guard import guarded
from bessemer.compiler.ir.walk_expr import index_expressions, loads_of, transform

_MOST_RUNS = 3
"""Loads for a vector; gathers are faster than many that hold few lanes each."""


def by_pixel_runs(value: Expression, c: Symbol) -> Expression:
    """The value, whose loads must be flat, with such loads; `c` is the column within a panel. The
    same value where its loads are of neighbours already, or would not become so."""
    rows = {row for each in loads_of(value) for size in each.indices for row in _rows(size, c)}
    extent = c.extent
    if not rows or not isinstance(extent, int):
        return value
    column, width = min(rows, key=lambda row: row[1])
    runs = 1 + -(-(extent - 1) // width)
    if runs > _MOST_RUNS or any(
        dims.divide_exactly(other - column, width) is None or divisor % width
        for other, divisor in rows
    ):
        return value
    lane = dims.atom(c)
    begin = column - lane
    row, within = dims.floordiv(begin, width), dims.mod(begin, width)
    result: Expression | None = None
    for run in reversed(range(runs)):
        place = partial(_in_row, column, width, row + run, within + lane - run * width)
        part = transform(value, partial(_moved, place))
        if not all(is_run(each, c) for each in loads_of(part)):
            return value
        first, end = run * width - within, (run + 1) * width - within
        inside = less(lane, end) if run == 0 else less(first - 1, lane)
        if 0 < run < runs - 1:
            inside = inside & less(lane, end)
        result = guarded(inside, part, 0 if result is None else result)
    assert result is not None
    return result


def is_run(each: Load, c: Symbol) -> bool:
    """Whether a load along `c` is of neighbours or, for windows of stride 2, of every second one,
    or of one element."""
    (offset,) = each.indices
    return dims.coefficient_of(offset, c) in (0, 1, 2) and not index_expressions(offset)


def _rows(size: Size, c: Symbol) -> set[tuple[Size, int]]:
    """(column, width) of the divisions in an offset that give a column's row or its place there."""
    found: set[tuple[Size, int]] = set()

    def visit(factor: Atom) -> Size:
        match factor:
            case FloorDiv(inner, width) | Mod(inner, width):
                if dims.coefficient_of(inner, c) == 1 and isinstance(width, int):
                    found.add((inner, width))
                else:
                    dims.map_factors(inner, visit)
        return 0

    dims.map_factors(size, visit)
    return found


def _moved(place: Callable[[Size], Size], node: Expression) -> Expression | None:
    match node:
        case Load(_, buffer, indices, guard):
            return load(buffer, tuple(map(place, indices)), guard)
        case IndexValue(_, size):
            return index_value(place(size))
        case _:
            return None


def _in_row(column: Size, width: int, row: Size, at: Size, size: Size) -> Size:
    """Index arithmetic for a column that is known to be at this place of this row. Other columns
    may be meant, too, as many whole rows ahead."""

    def replaced(factor: Atom) -> Size:
        if not isinstance(factor, FloorDiv | Mod):
            return dims.atom(factor)
        inner, divisor = factor.numerator, factor.denominator
        is_row = isinstance(factor, FloorDiv)
        ahead = dims.divide_exactly(inner - column, width)
        if ahead is None:
            again = dims.map_factors(inner, replaced)
            return dims.floordiv(again, divisor) if is_row else dims.mod(again, divisor)
        ahead = dims.map_factors(ahead, replaced)
        if divisor % width:  # of the place in a row, which may be enlarged
            inner = (row + ahead) * width + at
            return dims.floordiv(inner, divisor) if is_row else dims.mod(inner, divisor)
        if is_row:
            return dims.floordiv(row + ahead, divisor // width)
        return dims.mod(row + ahead, divisor // width) * width + at

    return dims.map_factors(size, replaced)
