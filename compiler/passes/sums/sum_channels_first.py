"""Computes sums over pixels and the channels of a group from the sums of each channel.

    reduce_sum(x : [n, h, w, g, k], axes=(1, 2, 4))
    becomes   reduce_sum(reduce_sum(x, axes=(1, 2)) : [n, g, k], axes=(2))

The channels of all groups lie side by side: a vector of them is added up whole, and several sums
are under way at once. A group by itself has few channels, one partly filled vector a pixel, and
every addition waits for the one before. Group norms of images are such sums, and so are their
gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import f32, f64

FEWEST_PIXELS, MOST_CHANNELS = 64, 64
"""With fewer pixels, another launch does not pay; a group of more channels has vectors enough."""


def sum_channels_first(graph: Graph) -> Graph:
    """The same network with such sums, also inside regions."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name != "reduce_sum" or node.output.type.dtype not in (f32, f64):
        return None
    shape, axes = node.inputs[0].type.shape, sorted(node.attributes["axes"])
    *pixels, last = axes or [0]
    channels = shape[last]
    if last != len(shape) - 1 or last - 1 in axes or shape[last - 1] == 1:
        return None
    known = [size for size in (shape[axis] for axis in pixels) if isinstance(size, int)]
    if not isinstance(channels, int) or len(known) < len(pixels):
        return None
    if prod(known) < FEWEST_PIXELS or not 1 < channels <= MOST_CHANNELS:
        return None
    each = rewriter.emit("reduce_sum", node.inputs[0], axes=tuple(pixels))
    return [rewriter.emit("reduce_sum", each, axes=(len(each.type.shape) - 1,))]
