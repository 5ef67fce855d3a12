"""Computes sums over a batch as sums of parts: gradients of weights and of biases.

    matmul(transpose(x), dy)      x : [depth, m], dy : [depth, n]      becomes the sum of
    matmul(transpose(x'), dy')    for both halves of the depth

    reduce_sum(dy, axes=(0,))     the same

All other kernels divide the batch, here the depth, among the threads, so each of two threads has
half of the rows of x and dy in its own caches. A thread that computes one of the two sums above
reads just these rows. If instead the threads divided the columns of the result, each would read
rows that the other one has written. Where cores have no cache in common, such lines move at 2.3
GB/s, and move back before the other thread can write them again. The halves, and so the bits of the
result, do not depend on the number of threads.

    matmul(x, w)    few rows of x, and w updated by the step    becomes the sum of
    matmul(x', w')  for both halves of the depth

Here each thread reads the half of the weight's rows that it has updated in the step before.

    matmul(transpose(x), dy)      dy from a recurrence             becomes
    matmul(transpose(x'), dy') + matmul(transpose(x''), dy'') + ...

The threads of a recurrence share sequences and not steps, so that neither half of the depth is a
thread's own. A long depth is cut into depth blocks instead, one product after the other: a block of
x stays in the second-level cache while all columns of dy are multiplied with it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import TypeAlias

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import f32, f64

HALVES = 2
FEWEST_PRODUCTS, FEWEST_NUMBERS = 1 << 24, 1 << 16
"""With fewer products or numbers, there is little data that would move from one thread to
another."""
MOST_ROWS, FEWEST_WEIGHTS = 128, 1 << 17
LARGER = 4
"""The operands have at least this many times the elements of the sum, which is stored twice."""
LONGEST_AT_ONCE, DEPTH_BLOCK = 1024, 544
FEWEST_IN_BLOCK, MOST_IN_BLOCK = 3 << 15, 1 << 18
"""A depth of more steps than the first is cut into blocks of at most the second, if x has so many
numbers in a block: the second-level cache does not hold all of x, but a block of it.
(Zen 5, LSTM of 256, 16 sequences of 100 steps: 40.5 -> 39.7 ms a training step. 512 numbers a step:
16.2 -> 17.5 ms a product; 128: 8.1 -> 8.35 ms a step.)"""
_PACKED_STEPS = 16
"""Depth blocks are a multiple of this: so many steps are packed at once (blocked_packing.py)."""
_RECURRENCES = ("lstm_gradient", "gru_gradient", "rnn_gradient")


def split_sums(graph: Graph) -> Graph:
    """The same network with such sums in halves or depth blocks, also inside regions."""
    weights = {graph.inputs[given] for _, given in graph.updates}
    return rewrite_graph(graph, partial(_rule, {}, weights))


_Parts: TypeAlias = dict[tuple[GraphRewriter, Value, int | tuple[int, int]], Value]
"""Parts of values, by their graph and the number of axes that are the depth (the halves), or by the
first step and the number of steps (a depth block): what several products read is one value, so that
it is packed once."""


def _rule(
    parts: _Parts, weights: Collection[Value], rewriter: GraphRewriter, node: Node
) -> Sequence[Value] | None:
    if node.operator.name == "matmul" and node.inputs[1] in weights:
        return _of_few_rows(rewriter, node)
    rule = {"matmul": _product, "reduce_sum": _sum}.get(node.operator.name)
    if rule is None or node.output.type.dtype not in (f32, f64):
        return None
    return rule(parts, rewriter, node)


def _product(parts: _Parts, rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    transpose = rewriter.producer(node.inputs[0], "transpose")
    if transpose is None:
        return None
    left, right = transpose.inputs[0], node.inputs[1]
    if len(left.type.shape) != 2 or len(right.type.shape) != 2:
        return None
    (depth, rows), columns = map(_known, left.type.shape), _known(right.type.shape[1])
    product = rows * columns
    if depth * product < FEWEST_PRODUCTS or depth * (rows + columns) < LARGER * product:
        return None
    if _is_of_recurrence(rewriter, right):
        blocks = _in_depth_blocks(parts, rewriter, node, left, right)
        if blocks is not None:
            return blocks
    if depth % HALVES or _is_depth_block(rewriter, right):
        return None
    x, dy = (_halved(parts, rewriter, value, 1) for value in (left, right))
    transposed = rewriter.emit("transpose", x, permutation=(0, 2, 1))
    return _added(rewriter, rewriter.emit("matmul", transposed, dy, **node.attributes))


def _is_of_recurrence(rewriter: GraphRewriter, value: Value) -> bool:
    """Whether the gradient of a recurrence computes this value."""
    node = rewriter.producer(_unshaped(rewriter, value))
    if node is not None and node.operator.name == "reshape":
        node = rewriter.producer(node.inputs[0])
    return node is not None and node.operator.name in _RECURRENCES


def _is_depth_block(rewriter: GraphRewriter, value: Value) -> bool:
    """Whether this value is a depth block of what the gradient of a recurrence computes."""
    node = rewriter.producer(value, "slice")
    return node is not None and _is_of_recurrence(rewriter, node.inputs[0])


def _in_depth_blocks(
    parts: _Parts, rewriter: GraphRewriter, node: Node, left: Value, right: Value
) -> Sequence[Value] | None:
    """The sum of the products of blocks of the depth, of both operands [depth, ...]."""
    depth, rows = map(_known, left.type.shape)
    count = max(1, -(-depth // DEPTH_BLOCK))
    length = -(-depth // (count * _PACKED_STEPS)) * _PACKED_STEPS
    if depth <= LONGEST_AT_ONCE or not FEWEST_IN_BLOCK <= rows * length <= MOST_IN_BLOCK:
        return None
    total: Value | None = None
    for first in range(0, depth, length):
        steps = first, min(length, depth - first)
        x, dy = (_depth_block(parts, rewriter, value, steps) for value in (left, right))
        transposed = rewriter.emit("transpose", x, permutation=(1, 0))
        product = rewriter.emit("matmul", transposed, dy, **node.attributes)
        total = product if total is None else rewriter.emit("add", total, product)
    return None if total is None else (total,)


def _depth_block(
    parts: _Parts, rewriter: GraphRewriter, value: Value, steps: tuple[int, int]
) -> Value:
    """The rows of a value at these steps, (first, count)."""
    key = rewriter, value, steps
    if key not in parts:
        first, length = steps
        parts[key] = rewriter.emit(
            "slice", value, starts=(first, 0), shape=(length, value.type.shape[1]), steps=(1, 1)
        )
    return parts[key]


def _of_few_rows(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    """A product of a batch with a weight that has many more rows."""
    x, w = node.inputs
    if node.output.type.rank != 2 or node.output.type.dtype not in (f32, f64):
        return None
    (rows, depth), columns = map(_known, x.type.shape), _known(w.type.shape[1])
    if not 0 < rows <= MOST_ROWS or depth % HALVES or depth * columns < FEWEST_WEIGHTS:
        return None
    if depth < LARGER * rows:
        return None
    part = depth // HALVES
    parts = rewriter.emit("reshape", x, shape=(rows, HALVES, part))
    left = rewriter.emit("transpose", parts, permutation=(1, 0, 2))
    right = rewriter.emit("reshape", w, shape=(HALVES, part, columns))
    return _added(rewriter, rewriter.emit("matmul", left, right, **node.attributes))


def _sum(parts: _Parts, rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    (given,), axes = node.inputs, node.attributes["axes"]
    shape = given.type.shape
    if set(axes) != set(range(len(axes))) or len(axes) == len(shape):
        return None
    depth = _known(dims.product(shape[: len(axes)]))
    count = depth * _known(dims.product(shape[len(axes) :]))
    if depth % HALVES or depth < LARGER * HALVES or count < FEWEST_NUMBERS:
        return None
    halves = _halved(parts, rewriter, given, len(axes))
    return _added(rewriter, rewriter.emit("reduce_sum", halves, axes=(1,)))


def _halved(parts: _Parts, rewriter: GraphRewriter, value: Value, axes: int) -> Value:
    """[halves, steps, ...] of a value whose first axes are the depth."""
    key = rewriter, value, axes
    if key not in parts:
        shape = value.type.shape
        steps = _known(dims.product(shape[:axes])) // HALVES
        shape = (HALVES, steps, *shape[axes:])
        parts[key] = rewriter.emit("reshape", _unshaped(rewriter, value), shape=shape)
    return parts[key]


def _unshaped(rewriter: GraphRewriter, value: Value) -> Value:
    """The value before several reshapes in a row."""
    while (node := rewriter.producer(value, "reshape")) is not None:
        if rewriter.producer(node.inputs[0], "reshape") is None:
            break
        value = node.inputs[0]
    return value


def _added(rewriter: GraphRewriter, halves: Value) -> Sequence[Value]:
    return (rewriter.emit("reduce_sum", halves, axes=(0,)),)


def _known(size: dims.Size) -> int:
    return size if isinstance(size, int) else 0
