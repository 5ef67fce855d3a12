"""Rounds the operands of matrix products and convolutions to bfloat16. Their sums stay float32.

    %2 = relu(%1) : f32                      %2 = relu(%1) : f32
    %3 = conv(%2, w) : f32                   %3 = cast(%2) : bf16
    %4 = add(%2, %9) : f32                   %4 = conv(%3, w as bf16, dtype=f32) : f32
                                             %5 = cast(%3) : f32
                              becomes        %6 = add(%5, %9) : f32

An operand of a convolution is stored once, as bfloat16, and all its readers read that, so half as
many bytes move. An operand of matrix products only is small compared to their weights, so other
readers get it unrounded; where norms follow residuals, as in BERT, that reduces the error to a
quarter. Inputs and outputs of the network keep their types. Softmax, norms, losses and all other
arithmetic are in float32.

Products of two computed tensors (the scores and the result of an attention) get rounded operands if
the machine multiplies these faster, except if they have few rows: their time is that of reading the
right operand, and a decoder's step reads keys and values where they have been joined. The constant
weights of a recurrence are rounded, because its steps wait for them to come from memory. Its state
stays float32, and is rounded where an instruction multiplies it with the weights
(recurrence_pairs.py). In a training step, the gradients of convolutions' weights are computed from
float32 numbers, because Winograd's method is faster there.

GPUs, whose fast products are of 16-bit numbers only, also round what sums over single pixels read,
store every value once, and leave recurrences as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from enum import IntEnum

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, map_regions
from bessemer.compiler.ir.types import bf16, f32
from bessemer.compiler.ops.contractions.conv import is_depthwise

_VIEWS = ("transpose", "reshape", "slice", "broadcast_to")
# Rounding before them is rounding after them.
_PASSING = (*_VIEWS, "pad", "concat", "max_pool")
# To round an image takes as long as to multiply a pixel or two of it.
_FEW_CHANNELS, _FEW_TAPS = 4, 3
# Of a matrix that so few rows are multiplied with, rounding would be most of the work.
_FEW_ROWS = 16
_RECURRENT = ("lstm", "gru", "rnn")


class _Extent(IntEnum):
    """Which products get rounded operands: those with constants or one computed matrix; also those
    of many rows with many computed matrices; or all."""

    ONE_MATRIX = 0
    MANY_ROWS = 1
    EVERYTHING = 2


def store_bfloat16_weights(graph: Graph) -> Graph:
    """The same network with weights of bfloat16 numbers, and with the operands that they are
    multiplied with rounded, too."""
    return _stored(graph, _Extent.ONE_MATRIX)


def store_bfloat16(graph: Graph) -> Graph:
    """The same network with rounded operands of products."""
    return _stored(graph, _Extent.MANY_ROWS)


def store_bfloat16_everywhere(graph: Graph) -> Graph:
    """The same for all products and convolutions except depthwise ones."""
    return _stored(graph, _Extent.EVERYTHING)


def _stored(graph: Graph, extent: _Extent) -> Graph:
    producers = graph.producers()
    wanted: set[Value] = set()
    rounded: set[Value] = set()
    for node in graph.nodes:
        for value in _multiplied(node, graph, producers, extent):
            everything = extent is _Extent.EVERYTHING
            passing = _PASSING if everything or not _multiplies_matrices(node) else _VIEWS
            _want(value, producers, wanted, passing)
            if everything or node.operator.name == "conv":
                _want(value, producers, rounded, passing)
    rewriter = GraphRewriter(graph)
    narrow: dict[Value, Value] = {}
    for value in graph.inputs:
        if value in wanted:
            narrow[value] = rewriter.emit("cast", value, dtype=bf16)
    for node in graph.nodes:
        node = map_regions(node, lambda region: _stored(region, extent))
        if extent is not _Extent.EVERYTHING and node.operator.name in _RECURRENT:
            node = _with_narrow_weights(rewriter, node)
        multiplied = _multiplied(node, graph, producers, extent)
        _rewrite(rewriter, node, graph, (wanted, rounded), narrow, multiplied)
    return rewriter.finish()


def _multiplied(
    node: Node, graph: Graph, producers: Mapping[Value, Node], extent: _Extent
) -> tuple[Value, ...]:
    """The operands of a product that are stored as bfloat16; none if it stays as it is."""
    if node.operator.name not in ("matmul", "conv") or node.inputs[0].type.dtype is not f32:
        return ()
    x, w = node.inputs
    if is_depthwise(node):
        return (x,)
    if not _is_worth_rounding(node, extent):
        return ()
    if w in graph.constants:
        return (x,)
    if extent is _Extent.EVERYTHING:
        return (x, w)
    if node.operator.name == "conv":
        return (x, w) if extent is _Extent.MANY_ROWS and _is_given(w, graph, producers) else ()
    if not _multiplies_matrices(node):
        return (x, w)
    rows = x.type.shape[-2] if x.type.rank > 1 else 1
    few = isinstance(rows, int) and rows <= _FEW_ROWS
    return (x, w) if extent is _Extent.MANY_ROWS and not few else ()


def _is_given(value: Value, graph: Graph, producers: Mapping[Value, Node]) -> bool:
    """Whether a value is an input of the network, possibly transposed. In a training step such a
    value is a weight, and not what the gradient of a weight is computed from."""
    while (node := producers.get(value)) is not None and node.operator.name in _VIEWS:
        value = node.inputs[0]
    return value in graph.inputs


def _is_worth_rounding(node: Node, extent: _Extent) -> bool:
    """Whether rounding pays: it does not if the operand is an image of which only a pixel or two
    per row are read."""
    if node.operator.name != "conv" or extent is _Extent.EVERYTHING:
        return True
    *_, taps, channels, _ = node.inputs[1].type.shape
    if channels not in range(_FEW_CHANNELS + 1):
        return True
    return extent is _Extent.MANY_ROWS and taps not in range(_FEW_TAPS)


def _multiplies_matrices(node: Node) -> bool:
    """Whether the right operand of a product is more than one matrix, as in an attention."""
    return node.operator.name == "matmul" and node.inputs[1].type.rank != 2


def _want(
    value: Value,
    producers: Mapping[Value, Node],
    wanted: set[Value],
    passing: Collection[str],
) -> None:
    """Adds the values on the way from memory to an operand, through these operators."""
    if value in wanted:
        return
    wanted.add(value)
    node = producers.get(value)
    if node is not None and node.operator.name in passing and not _is_used_part(node, producers):
        for source in node.inputs:
            _want(source, producers, wanted, passing)


def _is_used_part(node: Node, producers: Mapping[Value, Node]) -> bool:
    """Whether a node takes the used part of a cache that may have many more places."""
    if node.operator.name != "slice":
        return False
    value = node.inputs[0]
    while (source := producers.get(value)) is not None and source.operator.name in _VIEWS:
        value = source.inputs[0]
    return source is not None and source.operator.name == "tensor_scatter"


def _rewrite(
    rewriter: GraphRewriter,
    node: Node,
    graph: Graph,
    sets: tuple[set[Value], set[Value]],
    narrow: dict[Value, Value],
    multiplied: tuple[Value, ...],
) -> None:
    """Rewrites a node. `sets` are the values that are stored rounded, and among these the ones that
    all readers read so."""
    wanted, rounded = sets
    rewriter.sources = node.sources
    passes_on = node.operator.name in _PASSING and wanted.issuperset((node.output, *node.inputs))
    if passes_on:
        operands = [_narrowed(rewriter, value, narrow) for value in node.inputs]
        narrow[node.output] = rewriter.emit(node.operator.name, *operands, **node.attributes)
    if multiplied and not is_depthwise(node):
        operands = [_narrowed(rewriter, value, narrow) for value in node.inputs]
        product = rewriter.emit(node.operator.name, *operands, **node.attributes, dtype=f32)
        rewriter.stand(node.output, product)
    elif not passes_on or node.output in graph.outputs or node.output not in rounded:
        rewriter.visit(node)
    for value in node.outputs:
        if value not in wanted:
            continue
        if value not in narrow:
            narrow[value] = rewriter.emit("cast", rewriter.now(value), dtype=bf16)
        if value not in graph.outputs and value in rounded:
            wide = rewriter.emit("cast", narrow[value], dtype=f32)
            rewriter.stand(rewriter.now(value), wide)


def _with_narrow_weights(rewriter: GraphRewriter, node: Node) -> Node:
    """A recurrence that reads constant weights as bfloat16. Its sums and gates are in float32."""
    gates, weights, *others = node.inputs
    if gates.type.dtype is not f32 or weights not in rewriter.graph.constants:
        return node
    narrow = _narrowed(rewriter, weights, {})
    return replace(node, inputs=(gates, narrow, *others))


def _narrowed(rewriter: GraphRewriter, value: Value, narrow: dict[Value, Value]) -> Value:
    """An operand as bfloat16."""
    if value not in narrow:
        array = rewriter.constants.get(value)
        if array is not None:
            return rewriter.constant(array.astype(bf16.numpy), value.name)
        narrow[value] = rewriter.emit("cast", rewriter.now(value), dtype=bf16)
    return narrow[value]
