"""Replaces transposed convolutions by ordinary convolutions, or by matrix products.

Output position s*j + p of a transposed convolution with stride s is reached only from the taps k =
p + s*t. So each phase p is a convolution of the input with every s-th tap (transposed_phases.py).
If a stride divides its kernel's size, and a phase has too few outputs to fill vectors, all phases
together are one convolution, which computes a few positions too many; or, if there are very few,
one matrix product in planes (transposed_products.py):

    conv_transpose(x, w, stride s)
becomes
    conv(pad(x), w'[u, c, (p, o)]) -> reshape, transpose: phases become neighbours -> crop

For an input of one pixel each tap gives one output pixel: that is a matrix product. An input
without pixels gives zeros. (Shi et al. 2016, "Is the deconvolution layer the same as a
convolutional layer?", arXiv 1609.07009.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.passes.convolution.transposed_phases import as_phases
from bessemer.compiler.passes.convolution.transposed_products import as_products, pays_as_products

_COLUMNS = 16
"""What a convolution's tiles compute at least at the price of one column: a vector or two."""

_RIGID = ("conv", "conv_transpose", "matmul")


def decompose_conv_transpose(graph: Graph) -> Graph:
    """The same network with convolutions or products in place of transposed ones, where that pays.

    What pays is estimated for a processor's vectors."""
    return rewrite_graph(graph, partial(_rule, graph.users()))


def decompose_to_convolutions(graph: Graph) -> Graph:
    """The same without products in planes: each of their many steps would be a launch on a GPU."""
    return rewrite_graph(graph, partial(_rule, None))


def _rule(
    users: Mapping[Value, Sequence[Node]] | None, rewriter: GraphRewriter, node: Node
) -> Sequence[Value] | None:
    """Without `users` there are no products in planes."""
    if node.operator.name != "conv_transpose":
        return None
    attributes = node.attributes
    w = node.inputs[1].type.shape
    kernel = [size for size in w[:-2] if isinstance(size, int)]
    if len(kernel) != len(w) - 2:
        return None
    strides: tuple[int, ...] = attributes["strides"]
    spatial = node.inputs[0].type.shape[1:-1]
    shape = node.output.type.shape
    if 0 in (*spatial, *shape):
        return (rewriter.emit("full", shape=shape, value=0, dtype=node.output.type.dtype),)
    can_be_phases = _has_numbers(node) or all(s == 1 for s in strides)
    if any(d != 1 for d in attributes["dilations"]):
        return (as_phases(rewriter, node),) if can_be_phases else None
    if attributes["groups"] == 1 and all(size == 1 for size in spatial):
        return (_as_product(rewriter, node, kernel),)
    is_even = all(k % s == 0 for k, s in zip(kernel, strides, strict=True))
    taps = [k // s for k, s in zip(kernel, strides, strict=True)]
    is_one = attributes["groups"] == 1 and is_even
    is_known = all(isinstance(size, int) for size in w)
    by_phases = _vectors_by_phases(node) if is_known else 0
    as_one = _vectors_as_one(node, taps) if is_known and is_one else math.inf
    if (
        users is not None
        and is_known
        and _has_numbers(node)
        and any(s > 1 for s in strides)
        and pays_as_products(node, min(by_phases, as_one), _ends_in_planes(users, node))
    ):
        return (as_products(rewriter, node),)
    if is_one and (not can_be_phases or as_one < by_phases):
        return (_as_convolution(rewriter, node, taps),)
    return (as_phases(rewriter, node),) if can_be_phases else None


def _ends_in_planes(users: Mapping[Value, Sequence[Node]], node: Node) -> bool:
    """Whether the result is an output of the network, channels first, after pointwise operators."""
    value, is_moved = node.output, False
    while readers := users.get(value, ()):
        reader, *others = readers
        if others or len(reader.outputs) != 1:
            return False
        rank = value.type.rank
        if reader.operator.name == "transpose":
            is_moved = reader.attributes["permutation"] == (0, rank - 1, *range(1, rank - 1))
        elif reader.operator.name in _RIGID or reader.output.type.shape != value.type.shape:
            return False
        value = reader.output
    return is_moved


def _vectors_by_phases(node: Node) -> int:
    """The vectors that one convolution for each phase multiplies, for an input position and
    channel. Columns that are computed but belong to no output are counted."""
    *kernel, outputs, _ = map(dims.number, node.inputs[1].type.shape)
    return math.prod(kernel) * -(-outputs // _COLUMNS)


def _vectors_as_one(node: Node, taps: Sequence[int]) -> float:
    """The same for one convolution for all phases."""
    phases = math.prod(node.attributes["strides"])
    outputs = dims.number(node.inputs[1].type.shape[-2])
    vectors: float = math.prod(taps) * -(-phases * outputs // _COLUMNS)
    for size, count in zip(node.inputs[0].type.shape[1:-1], taps, strict=True):
        if isinstance(size, int):
            vectors *= (size + count - 1) / size
    return vectors


def _has_numbers(node: Node) -> bool:
    """Whether the padding is known, which decides the taps of each phase."""
    return all(isinstance(size, int) for size in node.attributes["low"])


def _as_product(rewriter: GraphRewriter, node: Node, kernel: Sequence[int]) -> Value:
    """[n, c] x [c, (taps, o)]: each output position has one tap."""
    x, w = node.inputs
    batch, channels = x.type.shape[0], x.type.shape[-1]
    outputs = w.type.shape[-2]
    rows = rewriter.emit("reshape", x, shape=(batch, channels))
    columns = product(kernel) * outputs
    flat = rewriter.emit("reshape", w, shape=(columns, channels))
    matrix = rewriter.emit("transpose", flat, permutation=(1, 0))
    y = rewriter.emit("matmul", rows, matrix)
    y = rewriter.emit("reshape", y, shape=(batch, *kernel, outputs))
    return _cropped(rewriter, y, node)


def _as_convolution(rewriter: GraphRewriter, node: Node, taps: Sequence[int]) -> Value:
    x, w = node.inputs
    strides: tuple[int, ...] = node.attributes["strides"]
    around = (0, *(t - 1 for t in taps), 0)
    padded = rewriter.emit("pad", x, low=around, high=around, mode="constant", value=0)
    ones = tuple(1 for _ in taps)
    none = tuple(0 for _ in taps)
    y = rewriter.emit(
        "conv",
        padded,
        _phase_weights(rewriter, w, taps, strides),
        strides=ones,
        dilations=ones,
        low=none,
        high=none,
        groups=1,
    )
    return _cropped(rewriter, _interleaved(rewriter, y, w.type.shape[-2], strides), node)


def _phase_weights(
    rewriter: GraphRewriter,
    w: Value,
    taps: Sequence[int],
    strides: Sequence[int],
) -> Value:
    """[*kernel, o, c] as [*taps (last first), c, (*phases, o)]."""
    rank = len(taps)
    outputs, channels = w.type.shape[-2:]
    split: list[Size] = [n for pair in zip(taps, strides, strict=True) for n in pair]
    w = rewriter.emit("reshape", w, shape=(*split, outputs, channels))
    starts = [n for t in taps for n in (t - 1, 0)]
    steps = [n for _ in taps for n in (-1, 1)]
    w = rewriter.emit("slice", w, starts=(*starts, 0, 0), shape=w.type.shape, steps=(*steps, 1, 1))
    order = (*range(0, 2 * rank, 2), 2 * rank + 1, *range(1, 2 * rank, 2), 2 * rank)
    w = rewriter.emit("transpose", w, permutation=order)
    return rewriter.emit("reshape", w, shape=(*taps, channels, product(strides) * outputs))


def _interleaved(rewriter: GraphRewriter, y: Value, outputs: Size, strides: Sequence[int]) -> Value:
    """[n, *positions, (*phases, o)] as [n, *(positions, phases), o]."""
    rank = len(strides)
    batch, positions = y.type.shape[0], y.type.shape[1:-1]
    if all(s == 1 for s in strides):
        return y
    y = rewriter.emit("reshape", y, shape=(batch, *positions, *strides, outputs))
    pairs = [axis for i in range(rank) for axis in (1 + i, 1 + rank + i)]
    y = rewriter.emit("transpose", y, permutation=(0, *pairs, 2 * rank + 1))
    sizes = [p * s for p, s in zip(positions, strides, strict=True)]
    return rewriter.emit("reshape", y, shape=(batch, *sizes, outputs))


def _cropped(rewriter: GraphRewriter, y: Value, node: Node) -> Value:
    """The value cut to the output's size or, with output padding, extended by zeros."""
    low = tuple(-size for size in node.attributes["low"])
    wanted, there = node.output.type.shape[1:-1], y.type.shape[1:-1]
    high = tuple(w - h - a for w, h, a in zip(wanted, there, low, strict=True))
    if all(size == 0 for size in (*low, *high)):
        return y
    if all(isinstance(size, int) and size <= 0 for size in (*low, *high)):
        return rewriter.emit(
            "slice",
            y,
            starts=(0, *(-size for size in low), 0),
            shape=node.output.type.shape,
            steps=tuple(1 for _ in y.type.shape),
        )
    return rewriter.emit("pad", y, low=(0, *low, 0), high=(0, *high, 0), mode="constant", value=0)
