"""Computes sums over an image's pixels, channel by channel, in a form that all threads can share.

    reduce_sum(x : [n, h, w, c], axes=(1, 2))
    becomes   reduce_sum(reduce_sum(x, axes=(2)) : [n, h, c], axes=(1))

The items of such a kernel are pairs of an image and a part of its channels. For large images these
are only one or two. The sums of rows are as many items as there are rows.

    d = sub(x, mean);  variance = reduce_sum(mul(d, d));  normal = mul(d, ...)

The variance and every other reader of the differences get subtractions of their own, because
subtracting again costs less than storing all differences. x is stored in any case: the mean reads
it.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, map_regions
from bessemer.compiler.ir.types import f32, f64

FEWEST_ITEMS = 8
"""Items that are enough for the threads, of so many channels:"""
CHANNELS = 64
FEWEST_ELEMENTS = 1 << 17
"""The least elements of an image for which another launch pays."""
FEWEST_AGAIN = 1 << 10
"""The least elements of an image for which all that reads a difference subtracts for itself."""
FEWEST_ROWS, MOST_BLOCKS = 8, 64
"""Rows, and elements of a channel that are added up in one, at least; into how many blocks one
axis is cut at most."""


def sum_pixels(graph: Graph) -> Graph:
    """The same network with such sums, also inside regions."""
    nodes = tuple(map_regions(node, sum_pixels) for node in graph.nodes)
    if any(new is not old for new, old in zip(nodes, graph.nodes)):
        graph = replace(graph, nodes=nodes)
    apart = _subtracted_again(graph)
    rewriter = GraphRewriter(graph, _by_rows)
    for node in graph.nodes:
        for value in dict.fromkeys(node.inputs):
            if value in apart:
                rewriter.sources = apart[value].sources
                operands = map(rewriter.now, apart[value].inputs)
                rewriter.stand(value, rewriter.emit("sub", *operands))
        if not any(output in apart for output in node.outputs):
            rewriter.visit(node)
    return rewriter.finish()


def _subtracted_again(graph: Graph) -> dict[Value, Node]:
    """The differences whose squares are added up over pixels and that others read, too."""
    users, producers = graph.users(), graph.producers()
    found: dict[Value, Node] = {}
    for node in graph.nodes:
        difference = producers.get(node.inputs[0]) if _is_square(node) else None
        if difference is None or difference.operator.name != "sub":
            continue
        readers, sums = set(users[difference.output]), users.get(node.output, ())
        if difference.output in graph.outputs or len(readers) == 1 or not sums:
            continue
        if all(_sums_images(reader, FEWEST_AGAIN) for reader in sums):
            found[difference.output] = difference
    return found


def _is_square(node: Node) -> bool:
    return node.operator.name == "mul" and node.inputs[0] is node.inputs[1]


def _sums_images(node: Node, fewest: int) -> bool:
    """Whether a node adds up the pixels of images of so many elements, at least, and keeps the
    channels, which come last."""
    if node.operator.name != "reduce_sum" or node.inputs[0].type.dtype not in (f32, f64):
        return False
    shape, axes = node.inputs[0].type.shape, node.attributes["axes"]
    known = [shape[axis] for axis in (*axes, -1)]
    if 0 in axes or len(shape) - 1 in axes or not all(isinstance(size, int) for size in known):
        return False
    return prod(map(_known, known)) >= fewest


def _by_rows(rewriter: GraphRewriter, node: Node) -> list[Value] | None:
    """The sum of the rows' sums, if a sum has too few items; else None."""
    if not _sums_images(node, FEWEST_ELEMENTS):
        return None
    x, axes = node.inputs[0], tuple(sorted(node.attributes["axes"]))
    kept = [size for axis, size in enumerate(x.type.shape) if axis not in axes]
    items: Size = dims.product(kept[1:-1]) * dims.ceildiv(kept[-1], CHANNELS)
    if isinstance(kept[0], int):
        items = items * kept[0]
    if not isinstance(items, int) or items >= FEWEST_ITEMS:
        return None
    extents = {axis: _known(x.type.shape[axis]) for axis in axes}
    if len(axes) == 1:
        x, extents = _in_blocks(rewriter, x, axes[0])
    pixels = prod(extents.values())
    for axis, rows in extents.items():
        if rows >= FEWEST_ROWS and pixels >= rows * FEWEST_ROWS:
            others = tuple(other for other in extents if other != axis)
            sums = rewriter.emit("reduce_sum", x, axes=others)
            place = axis - sum(other < axis for other in others)
            return [rewriter.emit("reduce_sum", sums, axes=(place,))]
    return None


def _in_blocks(rewriter: GraphRewriter, x: Value, axis: int) -> tuple[Value, dict[int, int]]:
    """An axis as two, with the largest possible number of parts, and their extents; the axis itself
    if its extent is prime."""
    shape, extent = x.type.shape, _known(x.type.shape[axis])
    count = max(n for n in range(1, MOST_BLOCKS + 1) if extent % n == 0)
    if count < FEWEST_ROWS:
        return x, {axis: extent}
    cut = (*shape[:axis], count, extent // count, *shape[axis + 1 :])
    return rewriter.emit("reshape", x, shape=cut), {axis: count, axis + 1: extent // count}


def _known(size: Size) -> int:
    assert isinstance(size, int)
    return size
