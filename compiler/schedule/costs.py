"""A cost model for expressions, by which loops with too little work are not made parallel."""

from __future__ import annotations

from collections.abc import Iterable

from bessemer.compiler.ir import dims, walk_expr
from bessemer.compiler.ir.dims import Atom, Size, Symbol
from bessemer.compiler.ir.expr import Binary, Expression, Reduce, Unary
from bessemer.compiler.ir.types import f64
from bessemer.compiler.schedule.dependence import Dependence

_COSTS = {
    "exp_nonpositive": 8, "exp": 9, "log": 9, "sqrt": 10, "sigmoid": 11, "tanh": 11, "erf": 12,
    "sin": 12, "cosh": 12, "expm1": 12, "cos": 13, "log1p": 13, "asin": 15, "atan": 15, "rsqrt": 16,
    "acos": 18, "sinh": 18, "atanh": 32, "asinh": 34, "acosh": 35, "tan": 47, "pow": 60,
}  # fmt: skip
"""The cost of each float32 function in operations: its cycles per vector on Zen 4, where an
addition takes one."""
_COST_OF_OTHERS = 16
_DOUBLE = 3
"""Functions of float64 take this many times as long as those of float32."""
_CHEAP = frozenset({"neg", "abs", "not", "isnan", "isinf", "floor", "ceil", "round", "trunc"})


def is_function(node: Expression) -> bool:
    """Whether a node is a transcendental function or as costly as one."""
    match node:
        case Unary(_, name, _):
            return name not in _CHEAP
        case Binary(_, name, _, _):
            return name == "pow"
        case _:
            return False


def has_functions(value: Expression) -> bool:
    """Whether functions are computed for every element."""
    return any(is_function(node) for node in walk_expr.all_nodes(value))


def operations(value: Expression, along: Iterable[Symbol] = ()) -> Size:
    """Scalar operations to evaluate an expression for all indices `along` some axes.

    A part of it is counted once for each value of the indices that it depends on, including those
    of reductions: a row's total once for the row, and what does not change along a sum once for the
    sum.
    """
    dependence = Dependence()
    reductions = walk_expr.reductions_of(value)
    steps = {*along, *(symbol for node in reductions for symbol in node.over)}

    def times(symbols: frozenset[Atom]) -> Size:
        return dims.product(s.extent or 1 for s in steps if s in symbols)

    return dims.total(
        _own_operations(node) * times(dependence.of(node).union(_steps_of(node)))
        for node in walk_expr.all_nodes(value)
    )


def _own_operations(node: Expression) -> int:
    match node:
        case Unary(_, name, _) | Binary(_, name, _, _) if is_function(node):
            cost = _COSTS.get(name, _COST_OF_OTHERS)
            return cost * _DOUBLE if node.dtype is f64 else cost
        case _:
            return 1


def _steps_of(node: Expression) -> tuple[Symbol, ...]:
    """The indices over which an expression adds up something itself (those of a reduction)."""
    return node.over if isinstance(node, Reduce) else ()
