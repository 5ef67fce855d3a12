"""Widens the windows of first layers, so that a row of taps fills whole rows of a matrix unit's
tiles.

    %2 = transpose(%1) : bf16[1,230,230,3]
    %3 = conv(%2, w : bf16[7,7,3,64], strides=(2, 2))
becomes
    %4 = pad(%2) : bf16[1,230,231,4]
    %3 = conv(%4, w' : bf16[7,8,4,64], strides=(2, 2))          w' is w with zeros appended

The row of a tile is 32 neighbouring numbers of the left operand. A window of seven pixels with
three channels has 21 in a row. A tile cannot load just these, since the numbers after them are
pixels outside of the window. With a fourth channel and an eighth pixel, whose weights are zeros,
the row has 32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import bf16

_ROW = 32
_CHANNELS, _FEWEST_CHANNELS = 4, 3
"""The channels of a pixel with the zeros, and the least without: fewer leave rows mostly empty."""
_FEWEST_TAPS = 5
_FEWEST_COLUMNS, _FEWEST_PIXELS = 32, 196
"""With fewer outputs, copying the image takes as long as the products."""


def fill_tile_rows(graph: Graph) -> Graph:
    """The same network with wider windows where that fills tiles."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if not _is_first_layer(node) or node.inputs[1] not in rewriter.constants:
        return None
    x, w = node.inputs
    array = rewriter.constants[w]
    *_, taps, channels, _ = array.shape
    step = _ROW // _CHANNELS
    more = (-taps % step, _CHANNELS - channels)
    if not any(more):
        return None
    none = [(0, 0)] * (array.ndim - 3)
    wide = np.pad(array, [*none, *((0, size) for size in more), (0, 0)])
    source, low, high = _unpadded(rewriter, x)
    high = (*high[:-2], high[-2] + more[0], high[-1] + more[1])
    padded = rewriter.emit("pad", source, low=low, high=high, mode="constant", value=0)
    weights = rewriter.constant(wide, w.name)
    return (rewriter.emit("conv", padded, weights, **node.attributes),)


def _is_first_layer(node: Node) -> bool:
    """Whether a convolution with wide windows turns few channels of many pixels into many
    channels."""
    if node.operator.name != "conv" or node.attributes["groups"] != 1:
        return False
    x, w = node.inputs
    *_, taps, channels, columns = w.type.shape
    attributes = node.attributes
    if x.type.dtype is not bf16 or any((*attributes["low"], *attributes["high"])):
        return False
    pixels = dims.product(node.output.type.shape[1:-1])
    if not all(isinstance(size, int) for size in (taps, channels, columns, pixels)):
        return False
    return (
        attributes["dilations"][-1] == 1
        and dims.number(taps) >= _FEWEST_TAPS
        and _FEWEST_CHANNELS <= dims.number(channels) <= _CHANNELS
        and dims.number(columns) >= _FEWEST_COLUMNS
        and dims.number(pixels) >= _FEWEST_PIXELS
    )


def _unpadded(
    rewriter: GraphRewriter, x: Value
) -> tuple[Value, tuple[dims.Size, ...], tuple[dims.Size, ...]]:
    """x without the zeros around it, and these zeros' widths (low, high). For an image that was
    padded plane by plane, the image before that."""
    none: tuple[dims.Size, ...] = (0,) * x.type.rank
    transpose = rewriter.producer(x, "transpose")
    pad = rewriter.producer(transpose.inputs[0], "pad") if transpose else None
    if transpose is None or pad is None or pad.attributes["mode"] != "constant":
        return x, none, none
    if pad.attributes["value"] != 0:
        return x, none, none
    permutation = transpose.attributes["permutation"]
    source = rewriter.emit("transpose", pad.inputs[0], permutation=permutation)
    low, high = (tuple(pad.attributes[end][i] for i in permutation) for end in ("low", "high"))
    return source, low, high
