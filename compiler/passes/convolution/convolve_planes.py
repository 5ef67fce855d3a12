"""Computes convolutions plane by plane (channels first), if their groups have one output channel
each, or there are few groups of one input channel.

    conv(x : [n,h,w,c], w : [kh,kw,c/g,g], groups=g)
becomes
    plane_conv(transpose(x) : [n,c,h,w], transpose(w) : [g,c/g,kh,kw]) -> transpose

The sums of such a group are a product with a single column, which register tiles cannot compute
well. Vectors of output channels do not work well either, because neighbouring output channels read
few neighbouring input channels, or none. Neighbouring pixels do read neighbours, and most such
networks keep their values in planes anyway, so that the transposes cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from bessemer.compiler.ir.dims import number
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, rewrite_graph
from bessemer.compiler.ir.types import f32, f64

LANES = 16
"""Groups fill vectors if their number is a multiple of this."""
FEWEST_COLUMNS, FEWEST_OF_SHORT_SUMS = 8, 12
"""Neighbouring pixels for which vectors of them pay: where neighbouring groups make poor vectors,
and where these waste less."""
SHORT_SUM = 4
"""Channels of a group that neighbouring groups add up without waste."""
COLUMNS_PER_PRODUCT = 8 / 9
"""If they fill vectors, too, longer rows pay only: so many pixels for each product of a sum."""
MOST_FILTERED, FEWEST_FILTERED = 3, 64
"""Channels that have a filter each, and the pixels of a row, for which the same holds."""
MOST_TAPS = 9
"""Of several filters a channel: with more taps, products of matrices are faster."""


def convolve_planes(graph: Graph) -> Graph:
    """The same network with such convolutions computed plane by plane."""
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if node.operator.name != "conv" or not _has_columns(rewriter, node):
        return None
    x, w = node.inputs
    last = x.type.rank - 1
    planes = rewriter.emit("transpose", x, permutation=(0, last, *range(1, last)))
    weight = rewriter.emit("transpose", w, permutation=(last, last - 1, *range(last - 1)))
    attributes = {name: e for name, e in node.attributes.items() if name != "dtype"}
    result = rewriter.emit("plane_conv", planes, weight, **attributes)
    return (rewriter.emit("transpose", result, permutation=(0, *range(2, last + 1), 1)),)


def _has_columns(rewriter: GraphRewriter, node: Node) -> bool:
    """Whether neighbouring pixels make better vectors than neighbouring channels."""
    *kernel, channels, outputs = node.inputs[1].type.shape
    groups, columns = node.attributes["groups"], node.output.type.shape[-2]
    types = {value.type.dtype for value in (*node.inputs, node.output)}
    if not kernel or types not in ({f32}, {f64}) or groups == 1:
        return False
    if not all(isinstance(size, int) for size in (*kernel, channels)):
        return False
    taps = prod(map(number, kernel))
    if channels == 1:
        is_planar = taps <= MOST_TAPS and reads_planes(rewriter, node)
        fewest, is_possible = float(FEWEST_FILTERED), groups <= MOST_FILTERED
        is_possible = is_possible and (groups == outputs or is_planar)
    else:
        fewest, is_possible = _fewest_columns(groups, number(channels), taps), groups == outputs
    return is_possible and (not isinstance(columns, int) or columns >= fewest)


def _fewest_columns(groups: int, channels: int, taps: int) -> float:
    """The least number of pixels in a row for which groups with one output channel and several
    input channels are computed plane by plane."""
    fills = groups % LANES == 0
    if channels > SHORT_SUM:
        return FEWEST_OF_SHORT_SUMS if fills else FEWEST_COLUMNS
    longer = COLUMNS_PER_PRODUCT * channels * taps if fills else 0
    return max(FEWEST_OF_SHORT_SUMS, longer)


def reads_planes(rewriter: GraphRewriter, node: Node) -> bool:
    """Whether the input surely lies in planes: it is a transposed input of the network."""
    moved = rewriter.producer(node.inputs[0], "transpose")
    return moved is not None and rewriter.producer(moved.inputs[0]) is None
