"""Operators that move elements: reshape, slice, pad, concat, resize, counting, sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from bessemer.compiler.ir.dims import Size, is_nonnegative, maximum, minimum
from bessemer.compiler.ir.graph import Node
from bessemer.compiler.ir.types import i64
from bessemer.frontends.onnx_writer.emitter import Emitter
from bessemer.frontends.onnx_writer.registry import rule
from bessemer.frontends.onnx_writer.storage import Order, Stored, identity, inverse

_T = TypeVar("_T")

FIRST = -(2**63)
"""As the end of a slice with a negative step: the first element is the last one taken."""
LAST = 2**63 - 1
"""As the end of a slice: everything to the end."""


def in_frame(entries: Sequence[_T], order: Order) -> list[_T]:
    """One entry an axis of a value, as entries of the tensor that stores it in an order."""
    return [entries[axis] for axis in inverse(order)]


@rule("reshape")
def write_reshape(emitter: Emitter, node: Node) -> None:
    (x,) = node.inputs
    shape = node.output.type.shape
    name = emitter.name_of(x)
    if all(isinstance(size, int) for size in shape) or 0 in shape:
        emitter.store(node.output, emitter.reshaped(name, shape))
        return
    # Sizes that stay at their place are 0, and one may be found out: no need to compute them.
    before = x.type.shape
    short = [
        0 if not isinstance(size, int) and axis < len(before) and before[axis] == size else size
        for axis, size in enumerate(shape)
    ]
    symbolic = [axis for axis, size in enumerate(short) if not isinstance(size, int)]
    if len(symbolic) == 1 and 0 not in before:
        short[symbolic[0]] = -1
    emitter.store(node.output, emitter.one("Reshape", name, emitter.sizes(short)))


@rule("slice")
def write_slice(emitter: Emitter, node: Node) -> None:
    (x,) = node.inputs
    (name,), order = emitter.frame([x])
    starts, counts, steps = (
        in_frame(node.attributes[key], order) for key in ("starts", "shape", "steps")
    )
    sizes = in_frame(x.type.shape, order)
    axes = [
        axis
        for axis, entries in enumerate(zip(starts, counts, steps, sizes))
        if not _is_everything(*entries)
    ]
    ends = [_end(starts[axis], counts[axis], steps[axis]) for axis in axes]
    if any(end is None for end in ends):
        name = _taken(emitter, name, axes, starts, counts, steps)
    elif axes:
        name = emitter.one(
            "Slice",
            name,
            emitter.sizes([starts[axis] for axis in axes]),
            emitter.sizes([end for end in ends if end is not None]),
            emitter.integers(axes),
            emitter.sizes([steps[axis] for axis in axes]),
        )
    emitter.store(node.output, name, order)


def _is_everything(start: Size, count: Size, step: Size, size: Size) -> bool:
    return start == 0 and step == 1 and count == size


def _end(start: Size, count: Size, step: Size) -> Size | None:
    """Where ONNX stops; None where that is a number whose sign is not certain."""
    end = start + count * step
    if is_nonnegative(end):
        return end
    return FIRST if is_nonnegative(-1 - end) else None


def _taken(
    emitter: Emitter, name: str, axes: Sequence[int], starts: Sequence[Size],
    counts: Sequence[Size], steps: Sequence[Size],
) -> str:  # fmt: skip
    """A slice by its places, one axis after the other."""
    for axis in axes:
        scalars = [
            emitter.reshaped(emitter.size(size), ()) for size in (0, counts[axis], 1, steps[axis])
        ]
        places = emitter.one("Mul", emitter.one("Range", *scalars[:3]), scalars[3])
        places = emitter.one("Add", places, emitter.size(starts[axis]))
        name = emitter.one("Gather", name, places, axis=axis)
    return name


@rule("pad")
def write_pad(emitter: Emitter, node: Node) -> None:
    (x,) = node.inputs
    mode: str = node.attributes["mode"]
    if x.type.rank == 0:
        emitter.put(node.output, emitter.stored(x))
        return
    (name,), order = emitter.frame([x])
    low, high = (in_frame(node.attributes[key], order) for key in ("low", "high"))
    if mode == "constant":
        value = emitter.number(node.attributes["value"], x.type.dtype)
        padded = emitter.one("Pad", name, emitter.sizes([*low, *high]), value)
    else:
        # What is cropped is still there to be mirrored.
        more = [maximum(size, 0) for size in (*low, *high)]
        padded = emitter.one("Pad", name, emitter.sizes(more), mode=mode)
        padded = _cropped(emitter, padded, low, high)
    emitter.store(node.output, padded, order)


def _cropped(emitter: Emitter, name: str, low: Sequence[Size], high: Sequence[Size]) -> str:
    """Without what negative pads take away."""
    axes = [
        axis
        for axis, pads in enumerate(zip(low, high))
        if not all(is_nonnegative(size) for size in pads)
    ]
    if not axes:
        return name
    starts = emitter.sizes([maximum(-1 * low[axis], 0) for axis in axes])
    ends = [minimum(high[axis], 0) for axis in axes]
    # An end of 0 would be the beginning.
    last = emitter.sizes([LAST if end == 0 else end for end in ends])
    return emitter.one("Slice", name, starts, last, emitter.integers(axes))


@rule("concat")
def write_concat(emitter: Emitter, node: Node) -> None:
    names, order = emitter.frame(node.inputs)
    axis = order[node.attributes["axis"]]
    emitter.store(node.output, emitter.one("Concat", *names, axis=axis), order)


@rule("iota")
def write_iota(emitter: Emitter, node: Node) -> None:
    type = node.output.type
    axis: int = node.attributes["axis"]
    ends = [emitter.reshaped(emitter.size(size), ()) for size in (0, type.shape[axis], 1)]
    counted = emitter.one("Range", *ends)
    if type.dtype != i64:
        counted = emitter.cast(counted, type.dtype)
    shape: list[Size] = [type.shape[axis], *[1] * (type.rank - 1 - axis)]
    if len(shape) > 1:
        counted = emitter.one("Reshape", counted, emitter.integers([-1, *[1] * (len(shape) - 1)]))
    emitter.put(node.output, Stored(counted, tuple(shape), identity(len(shape))))


@rule("sizes")
def write_sizes(emitter: Emitter, node: Node) -> None:
    emitter.store(node.output, emitter.sizes(node.attributes["sizes"]))


@rule("resize")
def write_resize(emitter: Emitter, node: Node) -> None:
    (x,) = node.inputs
    (name,), order = emitter.frame([x])
    given = {
        "scales": (), "mode": "nearest", "coordinate": "half_pixel",
        "nearest": "round_prefer_floor", "cubic_a": -0.75,
        "exclude_outside": False, "antialias": False, "roi": (),
        "extrapolation": 0.0, **node.attributes,
    }  # fmt: skip
    rank = x.type.rank
    regions, scales, sizes = "", "", ""
    if given["roi"]:
        starts, ends = given["roi"][:rank], given["roi"][rank:]
        regions = emitter.floats([*in_frame(starts, order), *in_frame(ends, order)])

    if given["scales"] and all(given["scales"]):
        scales = emitter.floats(in_frame(given["scales"], order))
    else:
        sizes = emitter.sizes(in_frame(given["shape"], order))
    resized = emitter.one(
        "Resize",
        name,
        regions,
        scales,
        sizes,
        mode=given["mode"],
        coordinate_transformation_mode=given["coordinate"],
        nearest_mode=given["nearest"],
        cubic_coeff_a=float(given["cubic_a"]) if given["mode"] == "cubic" else None,
        exclude_outside=1 if given["exclude_outside"] else None,
        antialias=1 if given["antialias"] else None,
        extrapolation_value=float(given["extrapolation"]) or None,
    )
    emitter.store(node.output, resized, order)
