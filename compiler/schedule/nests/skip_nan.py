"""Decides whether a row's maximum may ignore NaNs, because a NaN in the row shows in the results
anyway.

    exp(x[i] - max r: x[r]) / sum r: exp(x[r] - max)

A maximum that ignores NaNs takes one instruction per vector instead of three. Here it may: one NaN
makes the sum NaN, and the sum makes the whole row NaN.
"""

from __future__ import annotations

from bessemer.compiler.ir import functions
from bessemer.compiler.ir.dims import Symbol
from bessemer.compiler.ir.expr import Binary, Cast, Expression, Reduce, Unary
from bessemer.compiler.ir.walk_expr import reductions_of
from bessemer.compiler.schedule.nests.row_passes import along_row

_ARITHMETIC = ("add", "sub", "mul", "div")
_FUNCTIONS = (*functions.FLOAT_UNARY, "neg", "abs")


def may_skip_nan(value: Expression, extreme: Reduce, row: Symbol) -> bool:
    """Whether a maximum or minimum over the row, on which `value` depends, may ignore NaNs."""
    if extreme.name not in ("max", "min") or not extreme.dtype.is_float:
        return False
    if len(extreme.over) != 1 or extreme.over[0].extent != row.extent:
        return False
    element = along_row(extreme, row)
    sums = (n for n in reductions_of(value) if n.name == "add")
    return any(
        _shows(along_row(total, row), element) and _shows(value, total)
        for total in sums
        if len(total.over) == 1 and total.over[0].extent == row.extent
    )


def _shows(value: Expression, part: Expression) -> bool:
    """Whether the value is NaN whenever this part of it is."""
    if value is part:
        return True
    match value:
        case Unary(_, name, operand):
            return name in _FUNCTIONS and _shows(operand, part)
        case Binary(_, name, left, right):
            return name in _ARITHMETIC and (_shows(left, part) or _shows(right, part))
        case Cast(dtype, operand):
            return dtype.is_float and operand.dtype.is_float and _shows(operand, part)
        case _:
            return False
