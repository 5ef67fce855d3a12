"""The laws of col2im: blocks side by side are moved, blocks that overlap are first added up.

    col2im(x : [n, blocks, kernel, c], stride s)     where kernel = m * s
becomes
    y[b, :] = x[b, :s] + x[b - 1, s:2s] + ... + x[b - m + 1, (m-1)*s:]        [n, blocks+m-1, s, c]
    col2im(y, stride s)                                                blocks side by side

As the windows of an inverse short-time Fourier transform: whole pieces of a block are added, where
an image's element for itself would look for the blocks that reach it among all taps. A kernel that
is not a multiple of the stride is padded to one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from bessemer.compiler.ir.dims import is_nonnegative
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter
from bessemer.compiler.ops.reductions.reduce import accumulator
from bessemer.compiler.passes.simplification.simplify_arithmetic import Rule

_MOST_PIECES = 16
"""More of them take longer to read one by one than a loop over the taps takes."""


def _col2im(rewriter: GraphRewriter, node: Node) -> Value | None:
    rank = len(node.attributes["image"])
    kernel, strides = node.inputs[0].type.shape[1 + rank : -1], node.attributes["strides"]
    if any(step != 1 for step in node.attributes["dilations"]):
        return None
    if kernel == strides:
        return _side_by_side(rewriter, node)
    taps = [size for size in kernel if isinstance(size, int)]
    return _added(rewriter, node, taps) if len(taps) == rank else None


def _side_by_side(rewriter: GraphRewriter, node: Node) -> Value | None:
    """Puts blocks that do not overlap beside each other, and cuts off what is outside of the
    image."""
    (x,) = node.inputs
    image, low = node.attributes["image"], node.attributes["low"]
    rank = len(image)
    blocks, kernel = x.type.shape[1 : 1 + rank], x.type.shape[1 + rank : 1 + 2 * rank]
    whole = [count * size for count, size in zip(blocks, kernel)]
    ends = [size - begin - end for size, begin, end in zip(whole, low, image)]
    if not all(map(is_nonnegative, (*low, *ends))):
        return None
    pairs = [
        axis for pair in zip(range(1, 1 + rank), range(1 + rank, 1 + 2 * rank)) for axis in pair
    ]
    ordered = rewriter.emit("transpose", x, permutation=(0, *pairs, 1 + 2 * rank))
    samples, channels = x.type.shape[0], x.type.shape[-1]
    joined = rewriter.emit("reshape", ordered, shape=(samples, *whole, channels))
    return rewriter.emit(
        "slice", joined, starts=(0, *low, 0), shape=node.output.type.shape, steps=(1,) * (rank + 2)
    )


def _added(rewriter: GraphRewriter, node: Node, kernel: list[int]) -> Value | None:
    """Adds up the pieces of overlapping blocks. None where a stride of 1 makes every tap a piece of
    its own, or where sums of pieces would be rounded more often."""
    (x,) = node.inputs
    strides: tuple[int, ...] = node.attributes["strides"]
    counts = [math.ceil(size / step) for size, step in zip(kernel, strides)]
    apart = all(step > 1 or size == 1 for size, step in zip(kernel, strides))
    if (
        not apart
        or not 1 < math.prod(counts) <= _MOST_PIECES
        or accumulator(x.type.dtype) != x.type.dtype
    ):
        return None
    rank = len(strides)
    none = (0,) * (1 + rank)
    missing = tuple(count * step - size for count, step, size in zip(counts, strides, kernel))
    x = _padded(rewriter, x, (0,) * (2 * rank + 2), (*none, *missing, 0))
    samples, *blocks = x.type.shape[: 1 + rank]
    shape = (samples, *blocks, *strides, x.type.shape[-1])
    total: Value | None = None
    for piece in itertools.product(*map(range, counts)):
        starts = (*none, *(index * step for index, step in zip(piece, strides)), 0)
        part = rewriter.emit("slice", x, starts=starts, shape=shape, steps=(1,) * len(shape))
        after = tuple(count - 1 - index for count, index in zip(counts, piece))
        part = _padded(rewriter, part, (0, *piece, *none), (0, *after, *none))
        total = part if total is None else rewriter.emit("add", total, part)
    assert total is not None
    return rewriter.emit("col2im", total, **node.attributes)


def _padded(
    rewriter: GraphRewriter, x: Value, low: tuple[int, ...], high: tuple[int, ...]
) -> Value:
    return rewriter.emit("pad", x, low=low, high=high, mode="constant", value=0)


BLOCKS: Mapping[str, Rule] = {"col2im": _col2im}
"""The rules, by operator; each gives what a node is equal to, or None."""
