"""Finds values that are not negative from the operators that compute them: squares, sums of
squares, exp."""

from __future__ import annotations

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.rewrite import GraphRewriter
from bessemer.compiler.passes.known_values import known

_DEPTH = 12
"""Nodes that are looked through: enough for a variance plus epsilon, and AlexNet's norm."""

_ALWAYS = frozenset({"abs", "exp", "relu", "sigmoid", "sqrt"})
_WHERE_ALL_ARE = frozenset(
    {"add", "mul", "div", "min", "reduce_sum", "reduce_min", "average_pool", "cast"}
    | {"reshape", "broadcast_to", "transpose", "slice", "pad"}
)


def is_nonnegative(rewriter: GraphRewriter, value: Value, depth: int = _DEPTH) -> bool:
    """Whether no element can be negative; elements may be NaN. False if it is not obvious."""
    array = known(rewriter, value)
    if array is not None:
        return bool((array >= 0).all())
    node = rewriter.producer(value)
    if node is None or depth == 0:
        return False
    name, inputs = node.operator.name, node.inputs
    if name in _ALWAYS or (name == "mul" and inputs[0] is inputs[1]):
        return True
    if name == "clip":
        return bool(node.attributes["minimum"] >= 0)
    if name == "pad" and node.attributes["mode"] == "constant" and node.attributes["value"] < 0:
        return False
    return name in _WHERE_ALL_ARE and all(is_nonnegative(rewriter, x, depth - 1) for x in inputs)
