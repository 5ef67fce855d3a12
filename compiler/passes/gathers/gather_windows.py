"""Turns gathers at evenly spaced places into views.

    %3 = add(iota, taps) : i64[9, n]            place i + j
    %4 = gather(%2 : f32[c, n + 8], %3)         becomes    windows(%2) : f32[c, 9, n]

Exporters write windows that slide over a sequence or an image in this form (torch's unfold). As a
view, the windows need no memory: the product that follows reads them from the original array.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bessemer.compiler.ir.dims import Size, is_nonnegative, total
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import Array
from bessemer.compiler.passes.known_values import uniform

_MOST = 1 << 20
"""Larger constants are not searched for even steps."""


@dataclass(frozen=True)
class _Places:
    """start + i0 * steps[0] + i1 * steps[1] ..., for one index an axis."""

    start: int
    steps: tuple[int, ...]


def gather_windows(graph: Graph) -> Graph:
    """The graph with such gathers as views."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name != "gather":
        return None
    x, indices = node.inputs
    if x in rewriter.constants or indices.type.rank == 0 or indices.type.numel == 0:
        return None
    axis: int = node.attributes["axis"]
    places, sizes = _places(rewriter, indices), indices.type.shape
    if places is None or places.start < 0 or min(places.steps) < 0:
        return None
    last: Size = total((size - 1) * step for size, step in zip(sizes, places.steps))
    if not is_nonnegative(x.type.shape[axis] - 1 - places.start - last):
        return None
    view = rewriter.emit(
        "windows", x, axis=axis, start=places.start, sizes=sizes, steps=places.steps
    )
    return (view,)


def _places(rewriter: GraphRewriter, value: Value) -> _Places | None:
    """The places that an integer value is, if it grows evenly along its axes; else None."""
    array = rewriter.constants.get(value)
    if array is not None:
        return _even(array)
    node = rewriter.producer(value)
    if node is None or not value.type.dtype.is_integer:
        return None
    match node.operator.name:
        case "iota":
            axis = node.attributes["axis"]
            return _Places(0, tuple(int(a == axis) for a in range(value.type.rank)))
        case "full":
            return _Places(int(node.attributes["value"]), (0,) * value.type.rank)
        case "cast" if node.inputs[0].type.dtype.is_integer:
            return _places(rewriter, node.inputs[0])
        case "broadcast_to" | "reshape":
            return _moved(rewriter, node)
        case "add" | "sub" | "mul":
            return _computed(rewriter, node)
        case _:
            return None


def _even(array: Array) -> _Places | None:
    if not 0 < array.size <= _MOST or array.dtype.kind not in "iu":
        return None
    start = int(array.reshape(-1)[0])
    steps = tuple(
        int(array[tuple(int(a == axis) for a in range(array.ndim))]) - start if size > 1 else 0
        for axis, size in enumerate(array.shape)
    )
    grown = np.full(array.shape, start)
    for axis, (size, step) in enumerate(zip(array.shape, steps)):
        grown += np.arange(size).reshape(-1, *(1 for _ in array.shape[axis + 1 :])) * step
    return _Places(start, steps) if np.array_equal(grown, array) else None


def _moved(rewriter: GraphRewriter, node: Node) -> _Places | None:
    """The places of a view that only adds axes, of size 1 or along which nothing changes."""
    (x,) = node.inputs
    inner = _places(rewriter, x)
    if inner is None:
        return None
    before, after = x.type.shape, node.output.type.shape
    if node.operator.name == "broadcast_to":
        more = len(after) - len(before)
        kept = [0 if size == 1 else step for size, step in zip(before, inner.steps)]
        return replace(inner, steps=(*(0 for _ in range(more)), *kept))
    steps = [step for size, step in zip(before, inner.steps) if size != 1]
    if [size for size in before if size != 1] != [size for size in after if size != 1]:
        return None
    left = iter(steps)
    return replace(inner, steps=tuple(0 if size == 1 else next(left) for size in after))


def _computed(rewriter: GraphRewriter, node: Node) -> _Places | None:
    left = _places(rewriter, node.inputs[0])
    if left is None:
        return None
    if node.operator.name == "mul":
        factor = uniform(rewriter, node.inputs[1])
        if factor is None:
            return None
        return _Places(left.start * int(factor), tuple(s * int(factor) for s in left.steps))
    right = _places(rewriter, node.inputs[1])
    if right is None:
        return None
    sign = 1 if node.operator.name == "add" else -1
    steps = tuple(a + sign * b for a, b in zip(left.steps, right.steps, strict=True))
    return _Places(left.start + sign * right.start, steps)
