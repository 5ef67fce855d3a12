"""Looks up where the pixels of an image lie that is resized to a size which only the run knows.

    %1 = resize(%0 : [n,c,h,w], shape=(n, c, h, W))
becomes
    %1 = resize(iota : f64[w], shape=(W,))            positions, one for each column
    %2 = mix_neighbours(%0, floor(%1), 1 - %1 + floor(%1), %1 - floor(%1), axis=3)

A position is a division of integers. By a known size it costs little; by an unknown one it costs
more than all the rest, so it is done once for a column instead of once for a pixel. What an axis
of its own positions becomes when it is resized tells where its elements come from, in every
coordinate mode. The last axis is first: images mostly grow, and its pixels are gathered one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, map_regions, rewrite_graph
from bessemer.compiler.ir.types import DType, f32, f64, i64


def tabulate_resizes(graph: Graph) -> Graph:
    """The same network with such resizes as look-ups, also inside regions."""
    nodes = tuple(map_regions(node, tabulate_resizes) for node in graph.nodes)
    if any(new is not old for new, old in zip(nodes, graph.nodes)):
        graph = replace(graph, nodes=nodes)
    if not any(_is_looked_up(node) for node in graph.nodes):
        return graph
    users, outputs = graph.users(), set(graph.outputs)

    def rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
        if not _is_looked_up(node):
            return None
        x, straight = rewriter.now(node.inputs[0]), tuple(range(node.output.type.rank))
        order = straight if node.output in outputs else _wanted(node, users.get(node.output, []))
        if order == straight:
            return [_resized(rewriter, node, x, order)]
        # Transposed first, the image's rows are vectors, and what moved its channels cancels.
        turned = rewriter.emit("transpose", x, permutation=order)
        back = tuple(order.index(axis) for axis in straight)
        resized = _resized(rewriter, node, turned, order)
        return [rewriter.emit("transpose", resized, permutation=back)]

    return rewrite_graph(graph, rule)


def _wanted(resize: Node, users: Sequence[Node]) -> tuple[int, ...]:
    """The order of axes in which a resize is computed: that of the transpose which alone reads it,
    if this puts pixels side by side."""
    if len(users) == 1 and users[0].operator.name == "transpose":
        order: tuple[int, ...] = users[0].attributes["permutation"]
        if order[-1] in _changed(resize):
            return order
    return tuple(range(resize.output.type.rank))


def _resized(rewriter: GraphRewriter, resize: Node, x: Value, order: Sequence[int]) -> Value:
    """`x`, which has the axes of the resize's input in this order, resized."""
    changed = _changed(resize)
    for place in reversed(range(len(order))):
        if order[place] in changed:
            x = _along(rewriter, resize, x, order[place], place)
    return x


def _is_looked_up(resize: Node) -> bool:
    """Whether its positions are worth a table, and the order in which its axes are done is free."""
    if resize.operator.name != "resize":
        return False
    x, attributes = resize.inputs[0].type, resize.attributes
    mode = attributes.get("mode", "nearest")
    if attributes.get("coordinate") == "tf_crop_and_resize" or x.rank < 2:
        return False
    if mode != "nearest" and (
        mode != "linear" or attributes.get("antialias") or attributes.get("exclude_outside")
    ):
        return False
    if mode == "linear" and x.dtype not in (f32, f64):
        return False
    axes = _changed(resize)
    return any(_is_free(x.shape[axis], resize.output.type.shape[axis]) for axis in axes)


def _changed(resize: Node) -> list[int]:
    """The axes whose elements do not all stay where they are."""
    shape = resize.output.type.shape
    scales = resize.attributes.get("scales") or (0.0,) * len(shape)
    sizes = zip(resize.inputs[0].type.shape, shape, scales)
    return [axis for axis, (old, new, s) in enumerate(sizes) if old != new or s not in (0.0, 1.0)]


def _is_free(size: Size, resized: Size) -> bool:
    """Whether neither is known to be a multiple of the other."""
    if isinstance(size, int) and isinstance(resized, int):
        return False
    multiples = dims.divide_exactly(resized, size), dims.divide_exactly(size, resized)
    return not any(isinstance(multiple, int) for multiple in multiples)


def _along(rewriter: GraphRewriter, resize: Node, x: Value, axis: int, place: int) -> Value:
    """`x` resized along one axis of the resize, which is its axis `place`."""
    if resize.attributes.get("mode", "nearest") == "nearest":
        places = _positions(rewriter, resize, axis, i64)
        return rewriter.emit("mix_neighbours", x, places, axis=place)
    positions = _positions(rewriter, resize, axis, f64)
    floor = rewriter.emit("floor", positions)
    places = rewriter.emit("cast", floor, dtype=i64)
    fraction = rewriter.emit("sub", positions, floor)
    one = rewriter.emit("full", shape=positions.type.shape, value=1.0, dtype=f64)
    weights = [
        rewriter.emit("cast", weight, dtype=x.type.dtype)
        for weight in (rewriter.emit("sub", one, fraction), fraction)
    ]
    return rewriter.emit("mix_neighbours", x, places, *weights, axis=place)


def _positions(rewriter: GraphRewriter, resize: Node, axis: int, dtype: DType) -> Value:
    """Where along an axis of the input each element of the output lies, inside of it."""
    size, resized = resize.inputs[0].type.shape[axis], resize.output.type.shape[axis]
    places = rewriter.emit("iota", shape=(size,), axis=0, dtype=dtype)
    scales = resize.attributes.get("scales", ())
    attributes: dict[str, Any] = {
        **resize.attributes,
        "shape": (resized,),
        "scales": scales and (scales[axis],),
        "roi": (),
    }
    return rewriter.emit("resize", places, **attributes)
