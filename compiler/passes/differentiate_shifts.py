"""Maxima that softmax and its logarithm subtract: no gradient flows through them.

    %2 = sub(x, max of x)      %3 = exp(%2)      %4 = reduce_sum(%3)
    softmax: div(%3, %4)       its logarithm: sub(%2, log(%4))

Whatever is subtracted from all elements of a sum, both are what they are, so its derivative is 0;
the maximum is there for rounding alone. Its rule would find that 0 by looking for every element
that is the largest.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from bessemer.compiler.ir.graph import Node, Value

_VIEWS = ("reshape", "broadcast_to")
_Readers = dict[Value, list[Node]]


def idle_maxima(nodes: Sequence[Node], results: Container[Value]) -> set[Value]:
    """The maxima that only rounding sees. `results` are read outside of these nodes, too."""
    readers: _Readers = {}
    for node in nodes:
        for value in node.inputs:
            readers.setdefault(value, []).append(node)
    maxima = (node for node in nodes if node.operator.name == "reduce_max")
    return {node.output for node in maxima if _is_shift(node, readers, results)}


def _is_shift(maximum: Node, readers: _Readers, results: Container[Value]) -> bool:
    """Whether it is only subtracted from its own operand, for what the module names."""
    views = _views(maximum.output, readers)
    differences = [node for value in views for node in _uses(value, readers)]
    if [node.operator.name for node in differences] != ["sub"]:
        return False
    (difference,) = differences
    power = _only("exp", difference.output, readers)
    total = power and _only("reduce_sum", power.output, readers)
    if difference.inputs[0] is not maximum.inputs[0] or power is None or total is None:
        return False
    if not set(total.attributes["axes"]) <= set(maximum.attributes["axes"]):
        return False
    totals = _views(total.output, readers)
    logs = [n for value in totals for n in _uses(value, readers) if n.operator.name == "log"]
    logarithms = [value for node in logs for value in _views(node.output, readers)]
    quotients = {("div", power.output, value) for value in totals}
    quotients |= {("sub", difference.output, value) for value in logarithms}
    inside = [*views, difference.output, power.output, *totals, *logarithms]
    known = {difference, power, total, *logs}
    return not any(value in results for value in inside) and all(
        node in known or (node.operator.name, *node.inputs) in quotients
        for value in inside
        for node in _uses(value, readers)
    )


def _only(operator: str, value: Value, readers: _Readers) -> Node | None:
    """The one reader of a value with this operator."""
    found = [node for node in readers.get(value, []) if node.operator.name == operator]
    return found[0] if len(found) == 1 else None


def _views(value: Value, readers: _Readers) -> list[Value]:
    """A value, and it in other shapes."""
    found = [value]
    for each in found:
        found += [n.output for n in readers.get(each, []) if n.operator.name in _VIEWS]
    return found


def _uses(value: Value, readers: _Readers) -> Iterator[Node]:
    """The readers of a value that do not merely give it another shape."""
    return (n for n in readers.get(value, []) if n.operator.name not in _VIEWS)
