"""Gives convolutions with few output channels more of them: neighbouring pixels become channels.

A vector of sums holds the output channels of one pixel: with three channels most of it is empty. So
`p` neighbours along the last spatial axis are computed as the channels of one pixel:

    conv(x, w[.., k, c, o], stride s)
becomes
    conv(x, w'[.., k + (p - 1) * s, c, (p, o)], stride p * s) -> reshape: the same memory

where w' holds w once for each neighbour, s taps further on. The taps in between are zeros, which
long kernels hardly notice and short ones still pay for less than for empty lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import f32

LANES = 16
"""The vector that is to be filled."""
WORTH = 64
"""Vector products a pixel that must be saved: the wide result is not given a bias in registers."""


def widen_convolutions(graph: Graph) -> Graph:
    """The same network with wide convolutions in place of narrow ones, where that pays."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name != "conv" or node.attributes["groups"] != 1:
        return None
    x, w = node.inputs
    weights = rewriter.constants.get(w)
    if weights is None or w.type.dtype is not f32 or node.attributes["dilations"][-1] != 1:
        return None
    wide = node.output.type.shape[-2]
    stride: int = node.attributes["strides"][-1]
    others, (taps, channels, outputs) = weights.shape[:-3], weights.shape[-3:]
    if not isinstance(wide, int) or (outputs == 1 and channels >= LANES):
        return None  # one output channel of many input channels is a dot product

    def cost(pixels: int) -> float:
        return float(taps + (pixels - 1) * stride) / pixels

    choices = [n for n in range(1, LANES // outputs + 1) if wide % n == 0]
    pixels = min(choices, key=cost, default=1)
    if (cost(1) - cost(pixels)) * prod(others) * channels < WORTH:
        return None
    spread = np.zeros(
        (*others, taps + (pixels - 1) * stride, channels, pixels, outputs), np.float32
    )
    for number in range(pixels):
        first = number * stride
        spread[..., first : first + taps, :, number, :] = weights
    shape = (*spread.shape[:-2], pixels * outputs)
    strides = (*node.attributes["strides"][:-1], stride * pixels)
    result = rewriter.emit(
        "conv",
        x,
        rewriter.constant(spread.reshape(shape), w.name),
        **{**node.attributes, "strides": strides},
    )
    return (rewriter.emit("reshape", result, shape=node.output.type.shape),)
