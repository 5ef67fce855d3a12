"""Lets a run that finds as many images and channels as before resize only the pixels.

    %1 = resize(%0 : [n,c,h,w], shape=(N, C, H, W))
becomes
    %1 = if n == N and c == C
           slice(%0) : [N,C,h,w]; resize : [N,C,H,W]
         else
           resize(%0) : [N,C,h,w]; resize : [N,C,H,W]

If all sizes come from one input, nothing says that only the last two change, although that is
nearly always so. Code that interpolates between images and channels, too, takes longer, even if it
interpolates each image with itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, map_regions, rewrite_graph
from bessemer.compiler.passes.gathers.resize_by_axes import MIXED
from bessemer.compiler.passes.gathers.tabulate_resizes import changed_axes, is_looked_up

_LEADING = 2
"""Axes in front of those of pixels: images, and their channels."""


def resize_pixels_alone(graph: Graph) -> Graph:
    """The same network with such resizes as an `if`, also inside of regions."""
    nodes = tuple(map_regions(node, resize_pixels_alone) for node in graph.nodes)
    if any(new is not old for new, old in zip(nodes, graph.nodes)):
        graph = replace(graph, nodes=nodes)

    def rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
        return [_chosen(rewriter, node)] if _may_be_of_pixels_alone(node) else None

    return rewrite_graph(graph, rule)


def _may_be_of_pixels_alone(node: Node) -> bool:
    """Whether a resize interpolates between images, too, although no scale says that their number
    changes, and the numbers of images and channels may be those of the input."""
    if not is_looked_up(node) or node.attributes.get("mode") not in MIXED:
        return False
    changed = changed_axes(node)
    if node.attributes.get("scales") or changed[0] > 0 or changed[-1] < _LEADING:
        return False
    pairs = zip(node.inputs[0].type.shape[:_LEADING], node.output.type.shape)
    return not any(_differ(old, new) for old, new in pairs)


def _differ(old: Size, new: Size) -> bool:
    """Whether one of two sizes is known to be larger."""
    return dims.is_nonnegative(old - new - 1) or dims.is_nonnegative(new - old - 1)


def _chosen(rewriter: GraphRewriter, resize: Node) -> Value:
    x = rewriter.now(resize.inputs[0])
    old, new = (value.type.shape[:_LEADING] for value in (x, resize.output))
    there, wanted = (rewriter.emit("sizes", sizes=tuple(sizes)) for sizes in (old, new))
    condition = rewriter.emit("reduce_all", rewriter.emit("eq", there, wanted), axes=(0,))
    regions = _region(resize, "pixels", "slice"), _region(resize, "all", "resize")
    return rewriter.emit("if", condition, x, regions=regions)


def _region(resize: Node, name: str, operator: str) -> Graph:
    """A graph whose first node, of this operator, gives the leading axes their new sizes."""
    b = GraphBuilder(name)
    x = b.input("x", resize.inputs[0].type)
    shape = (*resize.output.type.shape[:_LEADING], *x.type.shape[_LEADING:])
    with b.source(*resize.sources):
        if operator == "slice":
            ones = (1,) * x.type.rank
            x = b.apply("slice", x, starts=(0,) * x.type.rank, shape=shape, steps=ones)
        else:
            x = b.apply("resize", x, **{**resize.attributes, "shape": shape})
        y = b.apply("resize", x, **{**resize.attributes, "shape": resize.output.type.shape})
    return replace(b.finish([y]), symbols=())
