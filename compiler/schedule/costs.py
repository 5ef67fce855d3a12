"""How much work an expression is: what decides between serial and parallel loops."""

from __future__ import annotations

from bessemer.compiler.ir import dims, expr
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Binary, Expression, Load, Reduce, Unary

FUNCTION_COST = 16
"""Operations that a transcendental function counts for."""
_CHEAP = frozenset({"neg", "abs", "not", "isnan", "isinf", "floor", "ceil", "round", "trunc"})


def operations(value: Expression) -> Size:
    """Scalar operations to evaluate an expression once; shared parts count once."""
    known: dict[Expression, Size] = {}

    def cost(node: Expression) -> Size:
        if node in known:
            return 0
        below = dims.total(cost(child) for child in expr.children(node))
        match node:
            case Load():
                own = 1
            case Unary(_, name, _) if name not in _CHEAP:
                own = FUNCTION_COST
            case Binary(_, "pow", _, _):
                own = 2 * FUNCTION_COST
            case Reduce(_, _, over, _):
                below = (below + 1) * dims.product(symbol.extent or 1 for symbol in over)
                own = 0
            case _:
                own = 1
        known[node] = below + own
        return known[node]

    return cost(value)
