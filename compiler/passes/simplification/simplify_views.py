"""The laws of views that simplify.py applies, one function per operator.

Two consecutive views of the same kind become one. A view that changes nothing is replaced by its
input.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from bessemer.compiler.ir.dims import Size, is_nonnegative
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter
from bessemer.compiler.passes.known_values import known
from bessemer.compiler.passes.simplification.simplify_arithmetic import Rule


def moves_only_units(shape: tuple[Size, ...], permutation: tuple[int, ...]) -> bool:
    """Whether a transpose keeps the order of all axes that are not of size 1."""
    moved = [axis for axis in permutation if shape[axis] != 1]
    return moved == sorted(moved)


def _reshape(rewriter: GraphRewriter, node: Node) -> Value | None:
    (x,) = node.inputs
    shape = node.output.type.shape
    if x.type.shape == shape:
        return x
    inner = rewriter.producer(x)
    if inner is None:
        return None
    match inner.operator.name:
        case "reshape":
            return rewriter.emit("reshape", inner.inputs[0], shape=shape, merged=(inner,))
        case "full":
            return _refill(rewriter, inner, shape)
        case "broadcast_to":
            return _widen(rewriter, node, inner)
        case _:
            return None


def _widen(rewriter: GraphRewriter, node: Node, inner: Node) -> Value | None:
    """Moves a reshape that adds or removes leading axes of size 1 into the broadcast before it."""
    before, after = inner.output.type.shape, node.output.type.shape
    extra = len(after) - len(before)
    if extra > 0 and after == (1,) * extra + before:
        return rewriter.emit("broadcast_to", inner.inputs[0], shape=after, merged=(inner,))
    return None


def _refill(rewriter: GraphRewriter, full: Node, shape: tuple[Size, ...]) -> Value:
    return rewriter.emit("full", merged=(full,), **{**full.attributes, "shape": shape})


def _transpose(rewriter: GraphRewriter, node: Node) -> Value | None:
    (x,) = node.inputs
    permutation: tuple[int, ...] = node.attributes["permutation"]
    if permutation == tuple(range(x.type.rank)):
        return x
    inner = rewriter.producer(x)
    if inner is not None and inner.operator.name == "transpose":
        first = inner.attributes["permutation"]
        both = tuple(first[axis] for axis in permutation)
        return rewriter.emit("transpose", inner.inputs[0], permutation=both, merged=(inner,))
    if inner is not None and inner.operator.name == "full":
        return _refill(rewriter, inner, node.output.type.shape)
    if moves_only_units(x.type.shape, permutation):
        return rewriter.emit("reshape", x, shape=node.output.type.shape)
    return None


def _broadcast_to(rewriter: GraphRewriter, node: Node) -> Value | None:
    (x,) = node.inputs
    shape = node.output.type.shape
    if x.type.shape == shape:
        return x
    inner = rewriter.producer(x)
    array = rewriter.constants.get(x)
    if array is not None and array.size == 1:
        number = array.reshape(-1)[0].item()
        if number == number:
            return rewriter.emit("full", shape=shape, value=number, dtype=x.type.dtype)
    if inner is None:
        return None
    match inner.operator.name:
        case "broadcast_to":
            return rewriter.emit("broadcast_to", inner.inputs[0], shape=shape, merged=(inner,))
        case "full":
            return _refill(rewriter, inner, shape)
        case "reshape" if _adds_leading_units(inner):
            return rewriter.emit("broadcast_to", inner.inputs[0], shape=shape, merged=(inner,))
        case _:
            return None


def _adds_leading_units(reshape: Node) -> bool:
    before, after = reshape.inputs[0].type.shape, reshape.output.type.shape
    extra = len(after) - len(before)
    return extra >= 0 and after == (1,) * extra + before


def _slice(rewriter: GraphRewriter, node: Node) -> Value | None:
    (x,) = node.inputs
    starts, steps = node.attributes["starts"], node.attributes["steps"]
    shape = node.output.type.shape
    if shape == x.type.shape and all(step == 1 for step in steps):
        return x
    inner = rewriter.producer(x)
    if inner is not None and inner.operator.name == "full":
        return _refill(rewriter, inner, shape)
    if inner is None or inner.operator.name != "slice":
        return None
    first = inner.attributes
    places = zip(first["starts"], first["steps"], starts)
    return rewriter.emit(
        "slice",
        inner.inputs[0],
        starts=tuple(start + step * later for start, step, later in places),
        shape=shape,
        steps=tuple(a * b for a, b in zip(first["steps"], steps)),
        merged=(inner,),
    )


def _concat(rewriter: GraphRewriter, node: Node) -> Value | None:
    axis: int = node.attributes["axis"]
    merged: list[Node] = []
    parts: list[Value] = []
    for value in node.inputs:
        inner = rewriter.producer(value, "concat")
        if inner is not None and inner.attributes["axis"] == axis:
            merged.append(inner)
            parts.extend(inner.inputs)
        else:
            parts.append(value)
    parts = [value for value in parts if value.type.shape[axis] != 0] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    if len(parts) == len(node.inputs) and not merged:
        return None
    return rewriter.emit("concat", *parts, axis=axis, merged=merged)


def _pad(rewriter: GraphRewriter, node: Node) -> Value | None:
    low, high = node.attributes["low"], node.attributes["high"]
    if all(size == 0 for size in (*low, *high)):
        return node.inputs[0]
    return None


def _gather(rewriter: GraphRewriter, node: Node) -> Value | None:
    return _gather_narrow(rewriter, node) or _gather_slice(rewriter, node)


def _gather_narrow(rewriter: GraphRewriter, node: Node) -> Value | None:
    """Some numbers of a table of floats that is cast as casts of these, so that what else reads the
    cast table decides alone whether it is folded."""
    x, indices = node.inputs
    cast = rewriter.producer(x, "cast")
    if cast is None or cast.inputs[0] not in rewriter.constants:
        return None
    (table,) = cast.inputs
    if not table.type.dtype.is_float:
        return None
    found = rewriter.emit("gather", table, indices, **node.attributes)
    return rewriter.emit("cast", found, merged=(cast,), **cast.attributes)


def _gather_slice(rewriter: GraphRewriter, node: Node) -> Value | None:
    """A gather at known, evenly spaced places as a slice."""
    x, indices = node.inputs
    axis: int = node.attributes["axis"]
    extent = x.type.shape[axis]
    array = known(rewriter, indices)
    if array is None or indices.type.rank > 1 or not indices.type.is_static:
        return None
    places = np.broadcast_to(array, indices.type.static_shape).reshape(-1).tolist()
    if not places or (min(places) < 0 and not isinstance(extent, int) and len(places) > 1):
        return None
    if isinstance(extent, int):
        places = [place + extent if place < 0 else place for place in places]
        if not all(0 <= place < extent for place in places):
            return None
    elif max(places) >= 0 or not is_nonnegative(extent + places[0]):
        return None  # whether it is inside is only known when the model runs
    steps = {b - a for a, b in pairwise(places)} or {1}
    if len(steps) > 1 or 0 in steps:
        return None
    (step,) = steps
    return _slice_axis(rewriter, node, extent, places, step)


def _slice_axis(
    rewriter: GraphRewriter, node: Node, extent: Size, places: list[int], step: int
) -> Value:
    x, axis = node.inputs[0], node.attributes["axis"]
    starts: list[Size] = [0] * x.type.rank
    starts[axis] = places[0] if places[0] >= 0 else extent + places[0]
    shape = [*x.type.shape]
    shape[axis] = len(places)
    part = rewriter.emit(
        "slice",
        x,
        starts=tuple(starts),
        shape=tuple(shape),
        steps=tuple(step if a == axis else 1 for a in range(x.type.rank)),
    )
    return rewriter.emit("reshape", part, shape=node.output.type.shape)


def _reduce(rewriter: GraphRewriter, node: Node) -> Value | None:
    """A reduction over axes of size 1 as a reshape."""
    (x,) = node.inputs
    if all(x.type.shape[axis] == 1 for axis in node.attributes["axes"]):
        return rewriter.emit("reshape", x, shape=node.output.type.shape)
    return None


VIEWS: dict[str, Rule] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast_to": _broadcast_to,
    "slice": _slice,
    "concat": _concat,
    "pad": _pad,
    "gather": _gather,
    **{f"reduce_{name}": _reduce for name in ("sum", "prod", "max", "min", "any", "all")},
}
"""What each operator becomes, or None where it stays."""
