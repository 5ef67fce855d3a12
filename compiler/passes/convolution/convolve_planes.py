"""Convolves planes where the groups of a convolution have one output channel each, or there are few
groups of one input channel.

    conv(x : [n,h,w,c], w : [kh,kw,c/g,g], groups=g)
becomes
    plane_conv(transpose(x) : [n,c,h,w], transpose(w) : [g,c/g,kh,kw]) -> transpose

A group's sums are no product of matrices: one column. Nor do neighbouring channels of the output
read neighbouring ones of the input, or few of them do. Neighbouring pixels do, and most such
networks keep planes anyway: the transposes cancel.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import f32, f64

FEWEST_COLUMNS = 8
"""Neighbouring pixels for which vectors of them pay."""
MOST_FILTERED, FEWEST_FILTERED = 4, 64
"""Channels that have a filter each, and the pixels of a row, for which the same holds."""


def convolve_planes(graph: Graph) -> Graph:
    """The same network with such convolutions plane by plane."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name != "conv" or not _has_columns(node):
        return None
    x, w = node.inputs
    last = x.type.rank - 1
    planes = rewriter.emit("transpose", x, permutation=(0, last, *range(1, last)))
    weight = rewriter.emit("transpose", w, permutation=(last, last - 1, *range(last - 1)))
    attributes = {name: e for name, e in node.attributes.items() if name != "dtype"}
    result = rewriter.emit("plane_conv", planes, weight, **attributes)
    return (rewriter.emit("transpose", result, permutation=(0, *range(2, last + 1), 1)),)


def _has_columns(node: Node) -> bool:
    """Whether neighbouring pixels make better vectors than neighbouring channels."""
    *kernel, channels, outputs = node.inputs[1].type.shape
    groups, columns = node.attributes["groups"], node.output.type.shape[-2]
    types = {value.type.dtype for value in (*node.inputs, node.output)}
    if not kernel or types not in ({f32}, {f64}) or groups == 1:
        return False
    if not all(isinstance(size, int) for size in (*kernel, channels)):
        return False
    fewest, is_possible = FEWEST_COLUMNS, groups == outputs
    if channels == 1:
        fewest, is_possible = FEWEST_FILTERED, groups <= MOST_FILTERED
    return is_possible and (not isinstance(columns, int) or columns >= fewest)
