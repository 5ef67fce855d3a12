"""How much work an expression is: what decides between serial and parallel loops."""

from __future__ import annotations

from bessemer.compiler.ir import dims, walk_expr
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Binary, Expression, Load, Reduce, Unary

FUNCTION_COST = 16
"""Operations that a transcendental function counts for."""
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


def operations(value: Expression) -> Size:
    """Scalar operations to evaluate an expression once; shared parts count once."""
    known: dict[Expression, Size] = {}

    def cost(node: Expression) -> Size:
        if node in known:
            return 0
        below = dims.total(cost(child) for child in walk_expr.children(node))
        match node:
            case Load():
                own = 1
            case Unary() | Binary() if is_function(node):
                own = FUNCTION_COST if isinstance(node, Unary) else 2 * FUNCTION_COST
            case Reduce(_, _, over, _):
                below = (below + 1) * dims.product(symbol.extent or 1 for symbol in over)
                own = 0
            case _:
                own = 1
        known[node] = below + own
        return known[node]

    return cost(value)
