"""Finds the contents of a value at compile time, as the smallest array that broadcasts to it.

constant c : f32[64]                     c
full(shape=(batch, 64), value=0.5)       0.5, without axes
broadcast_to(c, shape=(batch, 64))       c
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter
from bessemer.compiler.ir.types import Array, TensorType

UNIFORM_LIMIT = 4096
"""Larger arrays are not tested for equal elements."""


def known_array(
    value: Value, constants: Mapping[Value, Array], producer: Callable[[Value], Node | None]
) -> Array | None:
    """An array that, broadcast to the value's shape, is the value; None if it is not known."""
    while (node := producer(value)) is not None:
        match node.operator.name:
            case "broadcast_to":
                value = node.inputs[0]
            case "full":
                (array,) = node.operator.compute((), {**node.attributes, "shape": ()})
                return array
            case _:
                return None
    return constants.get(value)


def known(rewriter: GraphRewriter, value: Value) -> Array | None:
    """`known_array` in the graph being rebuilt."""
    return known_array(value, rewriter.constants, rewriter.producer)


def uniform(rewriter: GraphRewriter, value: Value) -> float | int | bool | None:
    """The number that all elements of a value equal; None if they differ or are not known."""
    return uniform_number(known(rewriter, value))


def uniform_number(array: Array | None) -> float | int | bool | None:
    """The number that all elements equal; None if they differ, are NaN, or there are none."""
    if array is None or not 0 < array.size <= UNIFORM_LIMIT:
        return None
    first = array.reshape(-1)[0]
    if array.size > 1 and not bool((array == first).all()):
        return None
    number = first.item()
    if isinstance(number, (bool, int)):
        return number
    return float(number) if number == number else None


def spread(rewriter: GraphRewriter, array: Array, type: TensorType) -> Value:
    """A value of the given type from a known array that broadcasts to it, in the cheapest way."""
    number = uniform_number(array) if array.size == 1 else None
    if number is not None and type.rank > 0:
        return rewriter.emit("full", shape=type.shape, value=number, dtype=type.dtype)
    if array.shape == type.shape:
        return rewriter.constant(array)
    return rewriter.emit("broadcast_to", rewriter.constant(array), shape=type.shape)
