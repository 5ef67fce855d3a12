"""Makes the arithmetic of rows cheaper, using bounds of its values.

    exp(x[i] - max r: x[r]) / sum r: exp(x[r] - max)

Here no exponential is above 1, and no sum of them is above their number. A division by something
that is the same for the whole row becomes a multiplication by its reciprocal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from bessemer.compiler.ir import expr, walk_expr
from bessemer.compiler.ir.dims import Symbol
from bessemer.compiler.ir.expr import Binary, Cast, Constant, Expression, Reduce, Unary
from bessemer.compiler.ir.types import f32
from bessemer.compiler.schedule.dependence import Dependence
from bessemer.compiler.schedule.nests.row_passes import along_row

_FALLING = "exp_nonpositive"


def with_falling_exponentials(value: Expression, rows: Iterable[Symbol]) -> Expression:
    """The value with cheaper functions for exponentials of numbers that cannot be above 0, because
    the row's maximum has been subtracted. `rows` are the indices of rows."""
    symbols = tuple(rows)

    def rule(node: Expression) -> Expression | None:
        match node:
            case Unary(_, "exp", Binary(_, "sub", left, Reduce(_, "max", _, _) as most) as below):
                if node.dtype is f32 and _is_element(left, most, symbols):
                    return expr.unary(_FALLING, below)
        return None

    return walk_expr.transform(value, rule)


def _is_element(value: Expression, most: Reduce, rows: tuple[Symbol, ...]) -> bool:
    """Whether `most` is the maximum over a row that `value` is an element of."""
    if len(most.over) != 1:
        return False
    (over,) = most.over
    return any(row.extent == over.extent and along_row(most, row) is value for row in rows)


def is_moderate(node: Reduce) -> bool:
    """Whether a sum is far below the largest numbers: its terms, fewer than 2^64, are exponentials
    of at most 1."""
    match node:
        case Reduce(_, "add", _, Unary(_, name, _)):
            return name == _FALLING
        case _:
            return False


def with_reciprocals(
    element: Expression, inner: Symbol, dependence: Dependence, moderate: Collection[Expression]
) -> Expression:
    """The element with multiplications in place of divisions by what is the same for the row.

    The reciprocal of a number beyond 2^126 would be flushed to zero: the factor 1/4 keeps
    it a number, and loses nothing but quotients that are flushed themselves; `moderate` numbers
    want none. What is rounded to a whole number or compared with another is divided: one unit in
    the last place would make it another number, and a row's maximum divided by itself less than 1.
    """
    steps = [node for node in walk_expr.all_nodes(element) if _is_step(node)]
    rounded = {below for node in steps for below in walk_expr.all_nodes(node)}

    def rule(node: Expression) -> Expression | None:
        if not isinstance(node, Binary) or node.name != "div" or node.dtype is not f32:
            return None
        if node in rounded:
            return None
        divisor = node.right
        if isinstance(divisor, Constant) or inner in dependence.of(divisor):
            return None
        if inner not in dependence.of(node.left):
            return None
        if divisor in moderate:
            return node.left * (expr.constant(1, f32) / divisor)
        large = expr.binary("gt", expr.unary("abs", divisor), 2.0**64)
        quarter = expr.select(large, expr.constant(0.25, f32), 1.0)
        return (node.left * quarter) * (expr.constant(1, f32) / (divisor * quarter))

    return walk_expr.transform(element, rule)


def _is_step(node: Expression) -> bool:
    """Whether a value is discontinuous in its operands at some number other than 0."""
    match node:
        case Unary(_, "round" | "floor" | "ceil" | "trunc"):
            return True
        case Cast(dtype, operand):
            return operand.dtype.is_float and not dtype.is_float
        case Binary(_, "mod" | "fmod" | "trunc_div", _, _):
            return True
        case Binary(_, "eq" | "ne" | "lt" | "le" | "gt" | "ge", left, right):
            is_with_zero = any(isinstance(x, Constant) and x.value == 0 for x in (left, right))
            return not is_with_zero or _is_moved(left) or _is_moved(right)
        case _:
            return False


def _is_moved(value: Expression) -> bool:
    """Whether a number is added to a value or subtracted: x - 1 < 0 is x < 1."""
    match value:
        case Binary(_, "add" | "sub", left, right):
            return isinstance(left, Constant) or isinstance(right, Constant)
        case _:
            return False
