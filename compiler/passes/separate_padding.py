"""Puts padding where the kernels of convolutions want it.

    conv(x, w, low, high)             becomes      conv(pad(x), w)
    depthwise(pad(x), w)              becomes      depthwise(x, w, low, high)
    pad(transpose(x)), few channels   becomes      transpose(pad(x))

A tiled convolution reads its input without asking where the border is; the padded copy is made by
whatever kernel produced the input, or by one of its own. Depthwise convolutions leave the border
out by themselves. An image whose few channels lie in planes is padded plane by plane, which copies
rows: the first convolution of a network reads it through the transpose.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph

FEW_CHANNELS = 8
"""A transpose of pixels with fewer channels than this has too short rows to copy."""


def separate_padding(graph: Graph) -> Graph:
    """The same network with explicit padding, where it is needed."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name == "pad":
        return _padded_planes(rewriter, node)
    if node.operator.name != "conv":
        return None
    low, high = node.attributes["low"], node.attributes["high"]
    x, w = node.inputs
    if w.type.shape[-2] == 1 and node.attributes["groups"] > 1:
        return _with_pad_inside(rewriter, node)
    if not any(size != 0 for size in (*low, *high)):
        return None
    padded = rewriter.emit("pad", x, low=(0, *low, 0), high=(0, *high, 0), mode="constant", value=0)
    none = tuple(0 for _ in low)
    return (rewriter.emit("conv", padded, w, **{**node.attributes, "low": none, "high": none}),)


def _with_pad_inside(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    """A depthwise convolution that pads what it reads itself."""
    x, w = node.inputs
    pad = rewriter.producer(x, "pad")
    if pad is None or pad.attributes["mode"] != "constant" or pad.attributes["value"] != 0:
        return None
    low, high = pad.attributes["low"], pad.attributes["high"]
    if any(size != 0 for size in (low[0], low[-1], high[0], high[-1])):
        return None
    if not all(isinstance(size, int) and size >= 0 for size in (*low, *high)):
        return None
    attributes = {
        **node.attributes,
        "low": tuple(a + b for a, b in zip(node.attributes["low"], low[1:-1], strict=True)),
        "high": tuple(a + b for a, b in zip(node.attributes["high"], high[1:-1], strict=True)),
    }
    return (rewriter.emit("conv", pad.inputs[0], w, merged=(pad,), **attributes),)


def _padded_planes(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    """The pad of an image whose channels were moved behind its pixels, done before the move."""
    transpose = rewriter.producer(node.inputs[0], "transpose")
    if transpose is None:
        return None
    permutation = transpose.attributes["permutation"]
    rank = len(permutation)
    channels = node.inputs[0].type.shape[-1]
    if permutation != (0, *range(2, rank), 1) or rank < 3:
        return None
    if not isinstance(channels, int) or channels >= FEW_CHANNELS:
        return None
    ends = {
        end: tuple(node.attributes[end][permutation.index(axis)] for axis in range(rank))
        for end in ("low", "high")
    }
    padded = rewriter.emit("pad", transpose.inputs[0], **{**node.attributes, **ends})
    return (rewriter.emit("transpose", padded, permutation=permutation),)
