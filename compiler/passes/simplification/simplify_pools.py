"""Simplification rules for pools: those with a single window along an axis that reaches beyond the
image, and those with large windows.

    average_pool(x : [1,7,7,c], kernel=(1280, 1280), ...)    becomes   sum(x) / 49
    max_pool(x : [1,7,7,c], kernel=(9, 9), high=(2, 2))      becomes   max_pool(x, kernel=(7, 7))
    max_pool(x, kernel=(5, 5))     becomes   max_pool(max_pool(x, kernel=(1, 5)), kernel=(5, 1))
    average_pool(x, kernel=(5, 5)) likewise: what is divided by is a product over the axes
    max_pool(x, kernel=(1, 1), strides=(2, 2))     becomes   x[:, ::2, ::2]

Taps in the padding cost as much as others. A window much larger than the image, by which exporters
mean a global pool, would read almost only padding. Neighbouring windows share most of what they
read, so the maxima or means of rows are computed once for all windows that the rows are in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter
from bessemer.compiler.ir.types import f32, f64

FEWEST_TAPS = 20
"""Windows with at least this many taps are pooled axis by axis, if they overlap at every place, or
move over planes by several elements."""
FEWEST_FREE_TAPS = 9
"""The same for planes whose size is not a number."""


def _max_pool(rewriter: GraphRewriter, node: Node) -> Value | None:
    if _sees_pixels(node):
        return _pixels(rewriter, node)
    cropped = _cropped(node)
    if cropped is not None:
        return rewriter.emit("max_pool", node.inputs[0], **cropped)
    return _axis_by_axis(rewriter, node) if _is_worth_two_passes(node) else None


def _is_worth_two_passes(node: Node) -> bool:
    kernel, strides = node.attributes["kernel"], node.attributes["strides"]
    if not all(isinstance(size, int) for size in kernel):
        return False
    if set(strides) != {1}:
        return _is_plane_by_strides(node)
    overlapping = [size > 1 and n != 1 for size, n in zip(kernel, node.output.type.shape[1:])]
    return bool(math.prod(kernel) >= FEWEST_TAPS and sum(overlapping) > 1)


def _is_plane_by_strides(node: Node) -> bool:
    """Whether windows of a single channel are several elements apart, which takes shuffles for each
    tap: then rows that are already pooled have fewer taps. If sizes are not known, each tap also
    checks where the image ends."""
    kernel, shape = node.attributes["kernel"], node.inputs[0].type.shape
    if shape[-1] != 1 or node.attributes["strides"][-1] == 1:
        return False
    is_known = all(isinstance(size, int) for size in shape[1:])
    fewest = FEWEST_TAPS if is_known else FEWEST_FREE_TAPS
    taps = math.prod(kernel)
    return bool(taps >= fewest and taps > kernel[-1] > 1)


def _axis_by_axis(rewriter: GraphRewriter, node: Node) -> Value:
    """The pool along one axis after the other. The last axis comes first, since its windows lie
    along memory. If windows are several elements apart, the first axis does: whole rows are pooled,
    and fewer are left."""
    value, attributes = node.inputs[0], node.attributes
    neutral = {"kernel": 1, "strides": 1, "dilations": 1, "low": 0, "high": 0, "uncounted": 0}
    axes = range(len(attributes["kernel"]))
    for axis in axes if max(attributes["strides"]) > 1 else reversed(axes):
        own: dict[str, Any] = {
            name: tuple(e if at == axis else neutral[name] for at, e in enumerate(entries))
            for name, entries in attributes.items()
            if name in neutral
        }
        moves = max(own["kernel"][axis], own["strides"][axis]) > 1
        if moves or own["low"][axis] or own["high"][axis]:
            value = rewriter.emit(node.operator.name, value, **{**attributes, **own})
    return value


def _sees_pixels(node: Node) -> bool:
    """Whether each window is one pixel of the image."""
    kernel, low, high = (node.attributes[name] for name in ("kernel", "low", "high"))
    return all(size == 1 for size in kernel) and not any(size != 0 for size in (*low, *high))


def _pixels(rewriter: GraphRewriter, node: Node) -> Value:
    return rewriter.emit(
        "slice",
        node.inputs[0],
        starts=(0,) * node.output.type.rank,
        shape=node.output.type.shape,
        steps=(1, *node.attributes["strides"], 1),
    )


def _average_pool(rewriter: GraphRewriter, node: Node) -> Value | None:
    if _sees_pixels(node):
        return _pixels(rewriter, node)
    x = node.inputs[0]
    cropped = _cropped(node)
    attributes = node.attributes if cropped is None else cropped
    spatial = x.type.shape[1:-1]
    whole = spatial and attributes["kernel"] == spatial
    unpadded = not any(attributes["low"]) and not any(attributes["high"])
    is_wide = x.type.dtype in (f32, f64)
    if not (whole and unpadded and is_wide) or 0 in spatial:
        if cropped is not None:
            return rewriter.emit("average_pool", x, **cropped)
        return _axis_by_axis(rewriter, node) if is_wide and _is_worth_two_passes(node) else None
    total = rewriter.emit("reduce_sum", x, axes=tuple(range(1, x.type.rank - 1)))
    total = rewriter.emit("reshape", total, shape=node.output.type.shape)
    count = 1
    for size in spatial:
        if not isinstance(size, int):
            return None
        count *= size
    share = rewriter.emit(
        "full", shape=total.type.shape, value=float(count), dtype=total.type.dtype
    )
    return rewriter.emit("div", total, share)


def _cropped(node: Node) -> dict[str, Any] | None:
    """The attributes, with the window of each axis that has only one cut to the taps that are
    inside of the image; None if nothing can be cut."""
    attributes = dict(node.attributes)
    changed = False
    for axis, size in enumerate(node.inputs[0].type.shape[1:-1]):
        if node.output.type.shape[axis + 1] != 1:
            continue
        cut = _seen(attributes, axis, size)
        if cut is None:
            continue
        changed = True
        for name, entry in cut.items():
            if name == "uncounted" and not attributes.get(name):
                continue
            entries = list(attributes[name])
            entries[axis] = entry
            attributes[name] = tuple(entries)
    return attributes if changed else None


def _seen(attributes: Mapping[str, Any], axis: int, size: Size) -> dict[str, int] | None:
    """The kernel and pads of an axis with one window, without the taps outside of the image. None
    if there are no such taps, or the divisor counts them."""
    kernel, low, high = (attributes[name][axis] for name in ("kernel", "low", "high"))
    uncounted = (attributes.get("uncounted") or (0,) * (axis + 1))[axis]
    if attributes["dilations"][axis] != 1:
        return None
    if not all(isinstance(entry, int) for entry in (size, kernel, low, high, uncounted)):
        return None
    assert isinstance(size, int)
    begin, end = max(-low, 0), min(kernel - low, size)
    if end <= begin or end - begin == kernel:
        return None
    if attributes.get("count_include_pad", False):
        counted = min(kernel - low, size + high - uncounted) + low
        if counted != end - begin:
            return None
    return {"kernel": end - begin, "low": -begin, "high": end - size, "uncounted": 0}


POOLS: Mapping[str, Callable[[GraphRewriter, Node], Value | None]] = {
    "average_pool": _average_pool,
    "max_pool": _max_pool,
}
"""The rules, by operator; each gives what a node is equal to, or None."""
