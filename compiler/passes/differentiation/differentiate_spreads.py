"""Finds the squares of a variance: no gradient flows from them to the mean that is subtracted.

    %2 = sub(x, mean of x)      %3 = mul(%2, %2)      %4 = reduce_sum(%3)

The derivative with respect to the mean is -2 times the sum of %2, which is 0. Without it the
gradient of x is one sum over x shorter.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.passes.known_values import known_array, uniform_number

_NEARLY = 1e-6
"""A mean may be a product by the inverse of a count, which is rounded."""


def centered_squares(
    b: GraphBuilder, nodes: Sequence[Node], results: Container[Value]
) -> dict[Node, Value]:
    """The nodes that square differences from a mean, with what the mean is of, if all that reads
    the squares adds them up over the mean's axes, at least. `results` are read from outside."""
    readers: dict[Value, list[Node]] = {}
    makers = {output: node for node in nodes for output in node.outputs}
    for node in nodes:
        for value in node.inputs:
            readers.setdefault(value, []).append(node)
    found: dict[Node, Value] = {}
    for node in nodes:
        if node.operator.name != "mul" or node.inputs[0] is not node.inputs[1]:
            continue
        if node.output in results:
            continue
        difference = makers.get(node.inputs[0])
        if difference is None or difference.operator.name != "sub":
            continue
        x, center = difference.inputs
        axes = _axes_of_mean(b, makers, x, center)
        sums = readers.get(node.output, [])
        if axes and all(
            reader.operator.name == "reduce_sum" and axes <= set(reader.attributes["axes"])
            for reader in sums
        ):
            found[node] = x
    return found


def _axes_of_mean(
    b: GraphBuilder, makers: Mapping[Value, Node], x: Value, center: Value
) -> set[int]:
    """The axes of which `center`, broadcast to x, is the mean; none if it is not one."""
    node, scales = makers.get(center), 1.0
    shape = x.type.shape
    while node is not None and node.operator.name != "reduce_sum":
        value = node.inputs[0]
        match node.operator.name:
            case "broadcast_to" if value.type.rank == len(shape):
                pass
            case "reshape":
                pass
            case "div" | "mul":
                number = uniform_number(known_array(node.inputs[1], b.constants, makers.get))
                if not isinstance(number, (int, float)) or not number:
                    return set()
                scales = scales / number if node.operator.name == "div" else scales * number
            case _:
                return set()
        node = makers.get(value)
    if node is None or node.inputs[0] is not x:
        return set()
    axes = set(node.attributes["axes"])
    count = product(shape[axis] for axis in axes)
    if not isinstance(count, int) or abs(count * scales - 1) > _NEARLY:
        return set()
    return axes if _keeps_places(makers, node.output, center, _ones(shape, axes)) else set()


def _ones(shape: Sequence[Size], axes: set[int]) -> tuple[Size, ...]:
    return tuple(1 if axis in axes else size for axis, size in enumerate(shape))


def _keeps_places(
    makers: Mapping[Value, Node], total: Value, center: Value, ones: tuple[Size, ...]
) -> bool:
    """Whether the axes of sums are put back where they were. (What belongs to the rows of a square
    could otherwise be subtracted from its columns.)"""
    value = center
    while value is not total:
        node = makers[value]
        if node.operator.name == "reshape" and value.type.shape != ones:
            return False
        if node.operator.name == "broadcast_to" and node.inputs[0].type.shape != ones:
            return False
        value = node.inputs[0]
    return True
