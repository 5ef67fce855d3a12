"""Resizes images along one axis after the other, if that takes fewer gathers or taps.

    %2 = resize(%1 : [n,h,w,c], shape=(n, H, W, c))
    %3 = transpose(%2) : [n,c,H,W]
becomes
    %2 = transpose(%1) : [n,c,h,w]
    %3 = resize(%2) : [n,c,h,W]
    %4 = resize(%3) : [n,c,H,W]

Along the axis of its vectors, a resize reads pixels from anywhere, which takes a load for each. If
this axis comes first, that is done for the few rows of the original image only; along the other
axes, whole rows are mixed. If channels are the vectors, nothing is gathered, and a single pass is
better.

A filter against aliasing reads everything that becomes one pixel, and is a product of one filter
per axis: ten rows of twelve pixels are 120 taps at once, or 22 by axes. In that case the first axes
are resized first. So they are if an image shrinks whose pixels are the vectors, because then pixels
are gathered in fewer rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, map_regions, rewrite_graph
from bessemer.compiler.ir.types import f32, f64

MIXED = ("linear", "cubic")
"""The modes that read more than one pixel."""
MOST_SHRUNK = 8
"""The greatest ratio of the pixels that are mixed by rows to those that are gathered afterwards."""


def resize_by_axes(graph: Graph) -> Graph:
    """The same network with such resizes done axis by axis, also inside of regions."""
    nodes = tuple(map_regions(node, resize_by_axes) for node in graph.nodes)
    if any(new is not old for new, old in zip(nodes, graph.nodes)):
        graph = replace(graph, nodes=nodes)
    resizes = [node for node in graph.nodes if node.operator.name == "resize"]
    if not any(_enlarged(node) or _filtered(node) or _shrunk(node) for node in resizes):
        return graph
    users = graph.users()
    outputs = set(graph.outputs)
    producers = graph.producers()

    def rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
        if node.operator.name == "resize":
            readers = users.get(node.output, [])
            if len(readers) == 1 and turned(readers[0]) is node:
                return None
            straight = range(node.output.type.rank)
            if len(_filtered(node)) < 2:
                axes = _enlarged(node) or _shrunk(node)
                behind = node.output.type.shape[axes[-1] + 1 :] if len(axes) > 1 else (0,)
                if any(size != 1 for size in behind):
                    return None
            return [_separated(rewriter, node, rewriter.now(node.inputs[0]), straight)]
        made = turned(node)
        if made is None:
            return None
        order = node.attributes["permutation"]
        transposed = rewriter.emit("transpose", rewriter.now(made.inputs[0]), permutation=order)
        return [_separated(rewriter, made, transposed, order)]

    def turned(node: Node) -> Node | None:
        """The resize that only a transpose reads, which puts pixels side by side."""
        made = producers.get(node.inputs[0]) if node.operator.name == "transpose" else None
        if made is None or made.operator.name != "resize" or made.output in outputs:
            return None
        axes = _enlarged(made) or _shrunk(made) or _filtered(made)
        is_turned = len(axes) > 1 and node.attributes["permutation"][-1] in axes
        return made if is_turned and users[made.output] == [node] else None

    return rewrite_graph(graph, rule)


def _filtered(resize: Node) -> list[int]:
    """The axes along which an image is resized with a filter; none if results would be rounded
    between them."""
    if not _is_plain(resize, antialias=True) or resize.output.type.dtype not in (f32, f64):
        return []
    pairs = zip(resize.inputs[0].type.shape, resize.output.type.shape)
    return [axis for axis, (size, resized) in enumerate(pairs) if size != resized]


def _shrunk(resize: Node) -> list[int]:
    """The axes along which an image shrinks. None if it shrinks so much that mixing all its rows
    does not pay, or to every second or third pixel, which takes no gathers."""
    if not _is_plain(resize, antialias=False) or resize.output.type.dtype not in (f32, f64):
        return []
    axes: list[int] = []
    pairs = list(zip(resize.inputs[0].type.shape, resize.output.type.shape))
    for axis, (size, resized) in enumerate(pairs):
        if size == resized:
            continue
        if not (isinstance(size, int) and isinstance(resized, int)):
            return []
        if not resized < size <= MOST_SHRUNK * resized or size % resized == 0:
            return []
        axes.append(axis)
    return axes


def _is_plain(resize: Node, antialias: bool) -> bool:
    """Whether pixels are mixed along the axes whose size changes, and nothing else happens."""
    attributes = resize.attributes
    if attributes.get("mode") not in MIXED or attributes.get("antialias", False) != antialias:
        return False
    if attributes.get("coordinate") == "tf_crop_and_resize" or attributes.get("roi"):
        return False
    scales = attributes.get("scales") or (1.0,) * resize.output.type.rank
    sizes = zip(resize.inputs[0].type.shape, resize.output.type.shape, scales)
    # At a scale of 1.3, two pixels become two again, but with other values.
    return not any(old == new and scale not in (0.0, 1.0) for old, new, scale in sizes)


def _enlarged(resize: Node) -> list[int]:
    """The axes along which an image grows; none if anything else happens to it, or if results would
    be rounded between axes."""
    if not _is_plain(resize, antialias=False) or resize.output.type.dtype not in (f32, f64):
        return []
    axes: list[int] = []
    pairs = zip(resize.inputs[0].type.shape, resize.output.type.shape)
    for axis, (size, resized) in enumerate(pairs):
        if size == resized:
            continue
        if not dims.is_nonnegative(resized - size):
            return []
        axes.append(axis)
    return axes


def _separated(rewriter: GraphRewriter, resize: Node, x: Value, order: Sequence[int]) -> Value:
    """`x`, whose axes are those of the resize's input in this order, resized in steps. If it grows,
    the last axis comes first and then all others at once; else one axis comes after the other."""
    whole = [resize.output.type.shape[axis] for axis in order]
    changed = [place for place, (a, b) in enumerate(zip(x.type.shape, whole)) if a != b]
    steps = [changed[-1:], changed[:-1]] if _enlarged(resize) else [[place] for place in changed]
    for places in steps:
        shape = list(x.type.shape)
        for place in places:
            shape[place] = whole[place]
        x = rewriter.emit("resize", x, **_along(resize, order, shape, x.type.shape))
    return x


def _along(
    resize: Node, order: Sequence[int], shape: Sequence[dims.Size], before: Sequence[dims.Size]
) -> Mapping[str, Any]:
    """The attributes of a resize along the axes that differ from `before`."""
    scales = resize.attributes.get("scales", ())
    if scales:
        scales = tuple(
            1.0 if new == old else scales[axis] for axis, new, old in zip(order, shape, before)
        )
    return {**resize.attributes, "shape": tuple(shape), "scales": scales}
