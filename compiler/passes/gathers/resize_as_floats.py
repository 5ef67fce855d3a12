"""Turns a resize that interpolates integers into a resize of floats between two casts.

    %1 = resize(%0 : u8[h,w], mode="linear") : u8[H,W]      becomes
    %1 = cast(resize(cast(%0) : f32) : f32), rounded : u8[H,W]

The interpolation is computed in floats anyway. Written like this, the resize can be taken apart
into its axes by later passes, because nothing is rounded between the axes. (A resize that cuts out
a region does not round what lies outside of it; such a resize is not taken apart.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, map_regions, rewrite_graph
from bessemer.compiler.ir.types import f32


def resize_as_floats(graph: Graph) -> Graph:
    """The same network without resizes that mix integers, also inside regions."""
    nodes = tuple(map_regions(node, resize_as_floats) for node in graph.nodes)
    if any(new is not old for new, old in zip(nodes, graph.nodes)):
        graph = replace(graph, nodes=nodes)
    if not any(map(_mixes_integers, graph.nodes)):
        return graph
    return rewrite_graph(graph, _rule)


def _rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
    if not _mixes_integers(node):
        return None
    wide = rewriter.emit("cast", rewriter.now(node.inputs[0]), dtype=f32)
    mixed = rewriter.emit("round", rewriter.emit("resize", wide, **node.attributes))
    return [rewriter.emit("cast", mixed, dtype=node.output.type.dtype)]


def _mixes_integers(node: Node) -> bool:
    if node.operator.name != "resize" or not node.output.type.dtype.is_integer:
        return False
    mode, coordinate = (node.attributes.get(name) for name in ("mode", "coordinate"))
    return mode not in (None, "nearest") and coordinate != "tf_crop_and_resize"
