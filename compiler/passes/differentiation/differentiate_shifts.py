"""Finds the maxima that softmax and its logarithm subtract: no gradient flows through them.

    %2 = sub(x, max of x)      %3 = exp(%2)      %4 = reduce_sum(%3)
    softmax: div(%3, %4)       its logarithm: sub(%2, log(%4))

Both results stay the same, whatever number is subtracted from all elements of a sum, so the
derivative with respect to that number is 0. The maximum only improves the rounding. Its own
gradient rule would compute that 0 by searching for all elements that equal the maximum.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Node, Value

_Readers = dict[Value, list[Node]]


def idle_maxima(nodes: Sequence[Node], results: Container[Value]) -> set[Value]:
    """The maxima that only influence rounding. `results` are values that are also read outside of
    these nodes."""
    readers: _Readers = {}
    for node in nodes:
        for value in node.inputs:
            readers.setdefault(value, []).append(node)
    maxima = (node for node in nodes if node.operator.name == "reduce_max")
    return {node.output for node in maxima if _is_shift(node, readers, results)}


def _is_shift(maximum: Node, readers: _Readers, results: Container[Value]) -> bool:
    """Whether a maximum is only subtracted from its own operand, in one of the forms above."""
    views = _views(maximum.output, maximum, readers)
    differences = _uses(views, readers)
    if [node.operator.name for node in differences] != ["sub"]:
        return False
    (difference,) = differences
    power = _only("exp", difference.output, readers)
    total = power and _only("reduce_sum", power.output, readers)
    if difference.inputs[0] is not maximum.inputs[0] or power is None or total is None:
        return False
    if not set(total.attributes["axes"]) <= set(maximum.attributes["axes"]):
        return False
    totals = _views(total.output, total, readers)
    logs = [node for node in _uses(totals, readers) if node.operator.name == "log"]
    logarithms = [value for node in logs for value in _views(node.output, total, readers)]
    quotients = {("div", power.output, value) for value in totals}
    quotients |= {("sub", difference.output, value) for value in logarithms}
    inside = [*views, difference.output, power.output, *totals, *logarithms]
    return not any(value in results for value in inside) and all(
        (node.operator.name, *node.inputs) in quotients for node in _uses(inside, readers)
    )


def _only(operator: str, value: Value, readers: _Readers) -> Node | None:
    """The one reader of a value with this operator."""
    found = [node for node in readers.get(value, []) if node.operator.name == operator]
    return found[0] if len(found) == 1 else None


def _views(value: Value, reduction: Node, readers: _Readers) -> list[Value]:
    """A value of a reduction's shape, and the value with the reduced axes put back in their
    places. (A value that belongs to the rows of a square could otherwise be broadcast along its
    columns.)"""
    shape = reduction.inputs[0].type.shape
    axes: tuple[int, ...] = reduction.attributes["axes"]
    ones = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    found = [value]
    for each in found:
        found += [n.output for n in readers.get(each, []) if _keeps_places(n, ones)]
    return found


def _keeps_places(node: Node, ones: tuple[Size, ...]) -> bool:
    if node.operator.name == "reshape":
        return node.output.type.shape == ones
    return node.operator.name == "broadcast_to" and node.inputs[0].type.shape == ones


def _uses(values: Sequence[Value], readers: _Readers) -> list[Node]:
    """The readers of these values, except those that only compute another one of them."""
    found = [node for value in values for node in readers.get(value, [])]
    return [node for node in found if not any(output in values for output in node.outputs)]
