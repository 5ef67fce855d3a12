"""Computes tables of where the pixels of a resized image come from, if only the run knows the size,
or if rows of pixels are known to become longer.

    %1 = resize(%0 : [n,c,h,w], shape=(n, c, h, W))
becomes
    %1 = resize_positions(size=w, resized=W) : f64[W]         one for each column
    %2 = neighbour_weight(%1, tap=0), %3 = neighbour_weight(%1, tap=1)
    %4 = mix_neighbours(%0, neighbour_place(%1), %2, %3, axis=3)

A position is a quotient of integers. Dividing by a known size is cheap, but dividing by an unknown
one takes longer than everything else, so it is done once per column and not once per pixel. Tables
of known sizes are constants: lanes that are close to each other are then selected from the vectors
of a row (../../codegen/kernels/clustered_gathers.py), at places that all rows share. (For
the mode "nearest", the table is what an axis of places becomes when it is resized.)

If pixels are interpolated, whole rows are interpolated first: in an image that shrinks, which is
the slowest case for its size, fewer rows are then left in which pixels are looked up. If an image
is known to grow, pixels are looked up first, before there are more rows. Pixels that are not
interpolated are all looked up at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter, map_regions, rewrite_graph
from bessemer.compiler.ir.types import f32, f64, i32
from bessemer.compiler.ops.image.neighbours import TAPS
from bessemer.compiler.passes.pointwise import is_pointwise
from bessemer.compiler.passes.simplification.remove_dead import remove_dead

_FEWEST = 16
"""Elements of rows that are taken whole, which several axes find in one kernel."""


def tabulate_resizes(graph: Graph) -> Graph:
    """The same network with such resizes as look-ups, also inside of regions."""
    nodes = tuple(map_regions(node, tabulate_resizes) for node in graph.nodes)
    if any(new is not old for new, old in zip(nodes, graph.nodes)):
        graph = replace(graph, nodes=nodes)
    if not any(map(_has_positions, graph.nodes)):
        return graph
    users, outputs = remove_dead(graph).users(), set(graph.outputs)

    def rule(rewriter: GraphRewriter, node: Node) -> Sequence[Value] | None:
        if not _has_positions(node):
            return None
        x, straight = rewriter.now(node.inputs[0]), tuple(range(node.output.type.rank))
        order = _wanted(node, users, outputs)
        if not is_looked_up(node) and not _mixes_longer_rows(node, order):
            return None
        if order == straight:
            return [_resized(rewriter, node, x, order)]
        # Transposed first, the image's rows are vectors, and what moved its channels cancels.
        turned = rewriter.emit("transpose", x, permutation=order)
        back = tuple(order.index(axis) for axis in straight)
        resized = _resized(rewriter, node, turned, order)
        return [rewriter.emit("transpose", resized, permutation=back)]

    return rewrite_graph(graph, rule)


def _wanted(
    resize: Node, users: Mapping[Value, Sequence[Node]], outputs: Collection[Value]
) -> tuple[int, ...]:
    """The order of axes in which a resize is computed: that of a transpose, if it puts pixels
    side by side, and is the only reader of the resize or of what is computed from each of its
    elements."""
    value, straight = resize.output, tuple(range(resize.output.type.rank))
    while value not in outputs and len(readers := users.get(value, [])) == 1:
        (reader,) = readers
        if reader.operator.name == "transpose":
            order: tuple[int, ...] = reader.attributes["permutation"]
            return order if order[-1] in changed_axes(resize) else straight
        if not is_pointwise(reader.operator) or len(reader.inputs) > 1:
            break
        value = reader.output
    return straight


def _resized(rewriter: GraphRewriter, resize: Node, x: Value, order: Sequence[int]) -> Value:
    """`x`, which has the axes of the resize's input in this order, resized."""
    changed = changed_axes(resize)
    places = [place for place, axis in enumerate(order) if axis in changed]
    for place in reversed(places) if _grows(resize) else places:
        x = _along(rewriter, resize, x, order, place)
    return x


def _grows(resize: Node) -> bool:
    """Whether an image is known not to get smaller along any axis."""
    shape = resize.output.type.shape
    scales = resize.attributes.get("scales") or (0.0,) * len(shape)
    sizes = zip(resize.inputs[0].type.shape, shape, scales)
    return all(s >= 1 or dims.is_nonnegative(new - old) for old, new, s in sizes)


def is_looked_up(resize: Node) -> bool:
    """Whether only the run knows the sizes, and the axes may be resized in any order."""
    if not _has_positions(resize):
        return False
    x = resize.inputs[0].type
    pairs = [(x.shape[axis], resize.output.type.shape[axis]) for axis in changed_axes(resize)]
    if resize.attributes.get("coordinate") == "align_corners":
        # The ratio is that of the sizes less one.
        return any(not isinstance(size, int) for pair in pairs for size in pair)
    return any(_is_free(*pair) for pair in pairs)


def _mixes_longer_rows(resize: Node, order: Sequence[int]) -> bool:
    """Whether rows of pixels, which lie side by side in this order of the axes, are interpolated to
    what are known to be longer ones. Each position serves all rows; in shorter ones, its pixels are
    too far apart for this to pay."""
    if resize.attributes.get("mode", "nearest") == "nearest":
        return False
    before, after = resize.inputs[0].type.shape, resize.output.type.shape
    rows = [axis for axis in order if after[axis] != 1][-1:]
    sizes = [(before[axis], after[axis]) for axis in rows if changed_axes(resize) == rows]
    return any(dims.is_nonnegative(b - a) for a, b in sizes)


def _has_positions(resize: Node) -> bool:
    """Whether the pixels of a resize can be described by a table of positions for each axis."""
    if resize.operator.name != "resize":
        return False
    x, attributes = resize.inputs[0].type, resize.attributes
    # Cropping depends on all axes; the other mode moves pixels even where the size stays.
    if attributes.get("coordinate") in ("tf_crop_and_resize", "tf_half_pixel_for_nn"):
        return False
    if x.rank < 2 or attributes.get("mode", "nearest") == "nearest":
        return x.rank >= 2
    filtered = attributes.get("antialias") or attributes.get("exclude_outside")
    return not filtered and x.dtype in (f32, f64)


def changed_axes(resize: Node) -> list[int]:
    """The axes along which elements may move."""
    shape = resize.output.type.shape
    scales = resize.attributes.get("scales") or (0.0,) * len(shape)
    sizes = zip(resize.inputs[0].type.shape, shape, scales)
    return [axis for axis, (old, new, s) in enumerate(sizes) if old != new or s not in (0.0, 1.0)]


def _is_free(size: Size, resized: Size) -> bool:
    """Whether neither size is known to be a multiple of the other."""
    if isinstance(size, int) and isinstance(resized, int):
        return False
    multiples = dims.divide_exactly(resized, size), dims.divide_exactly(size, resized)
    return not any(isinstance(multiple, int) for multiple in multiples)


def _along(
    rewriter: GraphRewriter, resize: Node, x: Value, order: Sequence[int], place: int
) -> Value:
    """`x`, whose axes are those of the resize's input in this order, resized along one of them."""
    attributes, axis, changed = resize.attributes, order[place], changed_axes(resize)
    mode = attributes.get("mode", "nearest")
    size, resized = resize.inputs[0].type.shape[axis], resize.output.type.shape[axis]
    scales = attributes.get("scales") or (0.0,) * resize.output.type.rank
    if mode == "nearest":
        straight = rewriter.emit("iota", shape=(size,), axis=0, dtype=i32)
        own = {**attributes, "shape": (resized,), "scales": (scales[axis],), "roi": ()}
        places = rewriter.emit("resize", straight, **own)
        last = x.type.shape[-1]
        if order[-1] not in changed and (not isinstance(last, int) or last >= _FEWEST):
            return rewriter.emit("gather", x, places, axis=place)
        return rewriter.emit("mix_neighbours", x, places, axis=place)
    positions = rewriter.emit(
        "resize_positions",
        size=size,
        resized=resized,
        scale=scales[axis],
        coordinate=attributes.get("coordinate", "half_pixel"),
    )
    places = rewriter.emit("neighbour_place", positions, mode=mode)
    cubic_a, dtype = attributes.get("cubic_a", -0.75), x.type.dtype
    weights = [
        rewriter.emit(
            "neighbour_weight", positions, tap=tap, mode=mode, cubic_a=cubic_a, dtype=dtype
        )
        for tap in range(TAPS[mode])
    ]
    return rewriter.emit("mix_neighbours", x, places, *weights, axis=place)
