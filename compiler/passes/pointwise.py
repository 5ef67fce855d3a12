"""Says which operators are pointwise: each element depends only on the elements at the same
place."""

from __future__ import annotations

from bessemer.compiler.ir.functions import BINARY, UNARY
from bessemer.compiler.ir.op import Operator

_NAMES = frozenset({*UNARY, *BINARY, "relu", "clip", "leaky_relu", "cast", "select"})


def is_pointwise(operator: Operator) -> bool:
    """Whether all inputs have the output's shape and its elements depend on theirs one by one."""
    return operator.name in _NAMES
