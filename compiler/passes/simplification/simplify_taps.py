"""Simplification rules for convolutions with taps that see only padding.

    conv(x : [1,12,12,c], w : [3,3,c,o], dilations=(24, 24), low=(24, 24), high=(24, 24))
becomes
    conv(x, w[1:2, 1:2], dilations=(24, 24), low=(0, 0), high=(0, 0))

This happens if a network for large images, whose taps are far apart, is given small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from bessemer.compiler.ir.dims import Size, number
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter


def _conv(rewriter: GraphRewriter, node: Node) -> Value | None:
    x, w = node.inputs
    spatial = w.type.rank - 2
    kernel = w.type.shape[:spatial]
    low, high = list(node.attributes["low"]), list(node.attributes["high"])
    starts, ends = [0] * spatial, list(kernel)
    for axis in range(spatial):
        seen = _seen(node, axis)
        if seen is None:
            continue
        dilation = node.attributes["dilations"][axis]
        starts[axis], ends[axis] = seen
        low[axis] -= seen[0] * dilation
        high[axis] -= (kernel[axis] - seen[1]) * dilation
    if ends == list(kernel) and not any(starts):
        return None
    pads = {"low": tuple(low), "high": tuple(high)}
    return rewriter.emit("conv", x, _taps(rewriter, w, starts, ends), **{**node.attributes, **pads})


def _taps(rewriter: GraphRewriter, w: Value, starts: list[int], ends: list[Size]) -> Value:
    """Some taps of a weight. If the weight is known, so are they, for passes that look at
    weights."""
    weights = rewriter.constants.get(w)
    if weights is not None:
        part = weights[tuple(map(slice, starts, map(number, ends)))]
        return rewriter.constant(np.ascontiguousarray(part), w.name)
    taps = tuple(end - start for start, end in zip(starts, ends))
    none = (0,) * (w.type.rank - len(taps))
    shape, steps = (*taps, *w.type.shape[len(taps) :]), (1,) * w.type.rank
    return rewriter.emit("slice", w, starts=(*starts, *none), shape=shape, steps=steps)


def _seen(node: Node, axis: int) -> tuple[int, int] | None:
    """The taps along an axis, (first, end), without taps at its ends that only see padding. None if
    sizes are not known or no tap would be left. No pad becomes negative."""
    size, kernel = node.inputs[0].type.shape[axis + 1], node.inputs[1].type.shape[axis]
    places = node.output.type.shape[axis + 1]
    stride, dilation, low, high = (
        node.attributes[name][axis] for name in ("strides", "dilations", "low", "high")
    )
    if not all(isinstance(entry, int) for entry in (size, kernel, places, low, high)):
        return None
    assert isinstance(size, int) and isinstance(kernel, int) and isinstance(places, int)
    begin, end = 0, kernel

    def is_unseen(tap: int) -> bool:
        first = tap * dilation - low
        last = first + (places - 1) * stride
        return bool(first >= size or last < 0)

    while end - begin > 1 and low >= (begin + 1) * dilation and is_unseen(begin):
        begin += 1
    while end - begin > 1 and high >= (kernel - end + 1) * dilation and is_unseen(end - 1):
        end -= 1
    return begin, end


TAPS: Mapping[str, Callable[[GraphRewriter, Node], Value | None]] = {"conv": _conv}
"""The rules, by operator; each gives what a node is equal to, or None."""
