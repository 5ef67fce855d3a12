"""Computes sums over everything but the channels from sums of blocks of rows.

    channel_moments(x)           [n, h, w, c] -> [blocks, rows, c] -> parts of each block, together
    channel_products(dy, x, m)   the same with two sums
    depthwise_gradient(x, dy)    the same with a sum for each tap

A block stays in the first-level cache while its rows are read twice. Threads share the blocks,
which do not depend on the number of threads. All blocks of moments have equally many rows, so the
mean of their means is the mean of all rows. The sum of squared differences from it is the sum of
those from the blocks' means, plus the squared differences of these from the mean, counted once per
row.

Means and sums of products are added up over the blocks in float64: those of the blocks often differ
in sign and nearly cancel, as those of cotangents do, and float32 would lose more there than inside
of the blocks. Squares and the taps of depthwise weights are added up in their own type.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import DType, f64

BLOCK_BYTES = 32 << 10
"""The largest size of a block of x, roughly: a block of x and one of dy fit into the cache."""
FEWEST_ROWS = 8
"""If the batch size is a symbol, a block is a part of one image. Images of fewer pixels than this
are not divided: the sums of the blocks would take about as much memory as x."""
SMALLER = 8
"""A block of a depthwise gradient reads about this many times more than the sums that it writes."""
FEWEST_BLOCKS = 8
"""A depthwise gradient has at least this many blocks, if there are enough rows, so that the threads
get equal shares."""


def block_channel_sums(graph: Graph) -> Graph:
    """The same network with sums of blocks in place of these three operators."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    match node.operator.name:
        case "channel_moments":
            return _moments(rewriter, node)
        case "channel_products":
            return _products(rewriter, node)
        case "depthwise_gradient":
            return _depthwise(rewriter, node)
        case _:
            return None


def _rows(x: Value) -> int | None:
    """The rows of a block: the largest divisor of their number that fits. None if what is known of
    their number, such as the pixels of an image without the batch, gives no block."""
    leading, channels = x.type.shape[:-1], x.type.shape[-1]
    known = [size for size in leading if isinstance(size, int)]
    whole = prod(known)
    if not isinstance(channels, int) or not whole or not channels:
        return None
    if len(known) < len(leading) and whole < FEWEST_ROWS:
        return None
    most = max(8, BLOCK_BYTES // (channels * x.type.dtype.bytes))
    best = max(rows for rows in range(1, min(most, whole) + 1) if whole % rows == 0)
    # If the number of rows is prime, for example, one large block is better than a block per row.
    return best if best * 4 >= min(most, whole) else whole


def _blocks(rewriter: GraphRewriter, x: Value, rows: int) -> Value:
    leading, channels = x.type.shape[:-1], x.type.shape[-1]
    blocks: Size = product(leading) // rows
    return rewriter.emit("reshape", x, shape=(blocks, rows, channels))


def _part(rewriter: GraphRewriter, parts: Value, place: int) -> Value:
    """[blocks, channels]: the first or the second sums of all blocks."""
    blocks, _, channels = parts.type.shape
    part = rewriter.emit(
        "slice", parts, starts=(0, place, 0), shape=(blocks, 1, channels), steps=(1, 1, 1)
    )
    return rewriter.emit("reshape", part, shape=(blocks, channels))


def _number(rewriter: GraphRewriter, value: float, like: Value) -> Value:
    return rewriter.emit("full", shape=like.type.shape, value=value, dtype=like.type.dtype)


def _over(rewriter: GraphRewriter, total: Value, count: Size) -> Value:
    if isinstance(count, int):
        return rewriter.emit("mul", total, _number(rewriter, 1 / count, total))
    size = rewriter.emit("reshape", rewriter.emit("sizes", sizes=(count,)), shape=())
    size = rewriter.emit("cast", size, dtype=total.type.dtype)
    size = rewriter.emit("broadcast_to", size, shape=total.type.shape)
    return rewriter.emit("div", total, size)


def _as(rewriter: GraphRewriter, value: Value, dtype: DType) -> Value:
    return value if value.type.dtype == dtype else rewriter.emit("cast", value, dtype=dtype)


def _moments(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    (x,) = node.inputs
    rows = _rows(x)
    if rows is None:
        return None
    blocks = product(x.type.shape[:-1]) // rows
    parts = rewriter.emit("channel_moment_parts", _blocks(rewriter, x, rows))
    means, squares = (_part(rewriter, parts, place) for place in (0, 1))
    total = rewriter.emit("reduce_sum", _as(rewriter, means, f64), axes=(0,))
    mean = _as(rewriter, _over(rewriter, total, blocks), means.type.dtype)
    wide = rewriter.emit("broadcast_to", mean, shape=means.type.shape)
    distance = rewriter.emit("sub", means, wide)
    between = rewriter.emit("mul", distance, distance)
    between = rewriter.emit("mul", between, _number(rewriter, float(rows), between))
    total = rewriter.emit("reduce_sum", rewriter.emit("add", squares, between), axes=(0,))
    variance = _over(rewriter, total, blocks * rows)
    return [_as(rewriter, value, x.type.dtype) for value in (mean, variance)]


def _products(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    dy, x, mean = node.inputs
    rows = _rows(x)
    if rows is None:
        return None
    blocks = (_blocks(rewriter, value, rows) for value in (dy, x))
    parts = rewriter.emit("channel_product_parts", *blocks, mean)
    totals = rewriter.emit("reduce_sum", _as(rewriter, parts, f64), axes=(0,))
    found = []
    for place, output in enumerate(node.outputs):
        part = rewriter.emit(
            "slice", totals, starts=(place, 0), shape=(1, *output.type.shape), steps=(1, 1)
        )
        part = rewriter.emit("reshape", part, shape=output.type.shape)
        found.append(_as(rewriter, part, output.type.dtype))
    return found


def _depthwise(rewriter: GraphRewriter, node: Node) -> Sequence[Value]:
    """The last of the blocks may have fewer rows."""
    x, dy = node.inputs
    *leading, width, _ = dy.type.shape
    taps, count = prod(node.attributes["kernel"]), product(leading)
    rows = SMALLER * taps // max(1, width) if isinstance(width, int) else taps
    if isinstance(count, int):
        rows = min(rows, -(-count // FEWEST_BLOCKS))
    given = {**node.attributes, "rows": max(1, rows)}
    parts = rewriter.emit("depthwise_gradient_parts", x, dy, **given)
    total = rewriter.emit("reduce_sum", parts, axes=(0,))
    found = rewriter.emit("reshape", total, shape=node.output.type.shape)
    return [_as(rewriter, found, node.output.type.dtype)]
