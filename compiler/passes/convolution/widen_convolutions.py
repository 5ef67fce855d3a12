"""Gives convolutions with few output channels more of them: neighbouring pixels are computed as
channels.

A vector of sums holds the output channels of one pixel, so with three channels most of it is empty.
`p` neighbours along the last spatial axis are therefore computed as the channels of one pixel:

    conv(x, w[.., k, c, o], stride s)
becomes
    conv(x, w'[.., k + (p - 1) * s, c, (p, o)], stride p * s) -> reshape: the same memory

where w' contains w once for each neighbour, s taps further on each time. The other taps are zeros.
For long kernels they cost little, and even for short ones less than empty lanes. Weights that are
known only when the model runs are spread then, if there are many more pixels than weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import numpy as np

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import f32

LANES = 16
"""The vector that is to be filled."""
WORTH = 64
"""Vector products a pixel that must be saved: the wide result is not given a bias in registers."""

SPREAD_WORTH = 16
"""Pixels for each tap and channel, with which spreading weights costs next to nothing."""


def widen_convolutions(graph: Graph) -> Graph:
    """The same network with wide convolutions in place of narrow ones, where that pays."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name != "conv" or node.attributes["groups"] != 1:
        return None
    x, w = node.inputs
    shape = w.type.shape
    if len(shape) == 2:
        return None  # no windows: a matrix product
    if not all(isinstance(size, int) for size in shape) or w.type.dtype is not f32:
        return None
    if node.attributes["dilations"][-1] != 1 or not (w in rewriter.constants or _are_few(node)):
        return None
    stride: int = node.attributes["strides"][-1]
    *others, taps, channels, outputs = w.type.static_shape
    if outputs == 1 and channels >= LANES:
        return None  # one output channel of many input channels is a dot product
    pixels = pixels_as_channels(node)
    saved = taps - _taps_a_pixel(taps, stride, pixels)
    if saved * prod(others) * channels < WORTH:
        return None
    strides = (*node.attributes["strides"][:-1], stride * pixels)
    spread = _spread(rewriter, w, pixels, stride)
    result = rewriter.emit("conv", x, spread, **{**node.attributes, "strides": strides})
    return (rewriter.emit("reshape", result, shape=node.output.type.shape),)


def pixels_as_channels(node: Node) -> int:
    """How many neighbouring pixels have the fewest taps each if they are computed together. The
    sizes of the weights must be known."""
    wide, stride = node.output.type.shape[-2], node.attributes["strides"][-1]
    *_, taps, _, outputs = node.inputs[1].type.static_shape
    if not isinstance(wide, int) or outputs == 0:
        return 1
    choices = [n for n in range(1, LANES // outputs + 1) if wide % n == 0]
    return min(choices, key=partial(_taps_a_pixel, taps, stride), default=1)


def _taps_a_pixel(taps: int, stride: int, pixels: int) -> float:
    return (taps + (pixels - 1) * stride) / pixels


def _are_few(node: Node) -> bool:
    """Whether there are many more pixels than weights, as far as sizes are known."""
    pixels = prod(size for size in node.output.type.shape[:-1] if isinstance(size, int))
    return pixels >= SPREAD_WORTH * prod(node.inputs[1].type.static_shape[:-1])


def _spread(rewriter: GraphRewriter, w: Value, pixels: int, stride: int) -> Value:
    """[.., taps, c, o] as [.., taps + (pixels - 1) * stride, c, (pixels, o)]."""
    weights = rewriter.constants.get(w)
    more = (pixels - 1) * stride
    *others, taps, channels, outputs = w.type.static_shape
    if weights is not None:
        spread = np.zeros((*others, taps + more, channels, pixels, outputs), np.float32)
        for first in range(0, more + 1, stride):
            spread[..., first : first + taps, :, first // stride, :] = weights
        shape = (*others, taps + more, channels, pixels * outputs)
        return rewriter.constant(spread.reshape(shape), w.name)
    none = tuple(0 for _ in others)
    parts = []
    for first in range(0, more + 1, stride):
        low, high = (*none, first, 0, 0), (*none, more - first, 0, 0)
        parts.append(rewriter.emit("pad", w, low=low, high=high, mode="constant", value=0))
    return rewriter.emit("concat", *parts, axis=w.type.rank - 1)
