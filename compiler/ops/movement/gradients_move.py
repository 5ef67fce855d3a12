"""Gradients of what moves elements: every one is the move back, adding where elements meet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bessemer.compiler.ir.differential import Cotangents, Differential
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import i64
from bessemer.compiler.ops.composite.composite import (
    binary,
    cast,
    reshape,
    scalar_like,
    size_as,
    transpose,
    where,
)


def summed_to(d: Differential, x: Value, shape: Sequence[Size]) -> Value:
    """x added up over the axes along which `shape` was broadcast to x's shape."""
    missing = x.type.rank - len(shape)
    axes = tuple(
        axis
        for axis, size in enumerate(x.type.shape)
        if axis < missing or (shape[axis - missing] == 1 and size != 1)
    )
    total = d.apply("reduce_sum", x, axes=axes) if axes else x
    return reshape(d.builder, total, shape)


def transpose_gradient(d: Differential) -> Cotangents:
    """The inverse permutation."""
    permutation: tuple[int, ...] = d["permutation"]
    inverse = sorted(range(len(permutation)), key=permutation.__getitem__)
    return (transpose(d.builder, d.dy, inverse),)


def reshape_gradient(d: Differential) -> Cotangents:
    """Back to the old shape."""
    return (reshape(d.builder, d.dy, d.x.type.shape),)


def broadcast_gradient(d: Differential) -> Cotangents:
    """What was repeated adds up."""
    return (summed_to(d, d.dy, d.x.type.shape),)


def slice_gradient(d: Differential) -> Cotangents:
    """Zeros between and around, axis by axis."""
    dy = d.dy
    zeros: list[Size] = [0] * dy.type.rank
    entries = zip(d["starts"], d["steps"], d.x.type.shape, strict=True)
    for axis, (start, step, whole) in enumerate(entries):
        count = dy.type.shape[axis]
        if step < 0:
            # The same elements from the other end, read upwards.
            dy = _reversed(d, dy, axis)
            start, step = start + (count - 1) * step, -step
        if step > 1:
            dy = _spread(d, dy, axis, step)
        low, high = list(zeros), list(zeros)
        low[axis], high[axis] = start, whole - start - dy.type.shape[axis]
        if low[axis] != 0 or high[axis] != 0:
            dy = _padded(d, dy, low, high)
    return (dy,)


def _reversed(d: Differential, x: Value, axis: int) -> Value:
    starts = tuple(size - 1 if a == axis else 0 for a, size in enumerate(x.type.shape))
    steps = tuple(-1 if a == axis else 1 for a in range(x.type.rank))
    return d.apply("slice", x, starts=starts, shape=x.type.shape, steps=steps)


def _spread(d: Differential, x: Value, axis: int, step: int) -> Value:
    """Zeros behind every element of an axis."""
    shape = x.type.shape
    split = reshape(d.builder, x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    high: list[Size] = [0] * split.type.rank
    high[axis + 1] = step - 1
    split = _padded(d, split, [0] * split.type.rank, high)
    return reshape(d.builder, split, (*shape[:axis], shape[axis] * step, *shape[axis + 1 :]))


def _padded(d: Differential, x: Value, low: Sequence[Size], high: Sequence[Size]) -> Value:
    return d.apply("pad", x, low=tuple(low), high=tuple(high), mode="constant", value=0)


def pad_gradient(d: Differential) -> Cotangents:
    """Cut off; pads that repeat elements add up where these came from."""
    dy = d.dy
    rank = dy.type.rank
    for axis in range(rank):
        low, high = d["low"][axis], d["high"][axis]
        if low == 0 and high == 0:
            continue
        before: list[Size] = [0] * rank
        after: list[Size] = [0] * rank
        before[axis], after[axis] = -low, -high
        inner = _padded(d, dy, before, after)
        if d["mode"] != "constant":
            if not _repeats_once(d, axis):
                dy = _gathered_up(d, dy, axis)
                continue
            for margin in _margins(d, dy, axis):
                inner = d.apply("add", inner, margin)
        dy = inner
    return (dy,)


def _repeats_once(d: Differential, axis: int) -> bool:
    """Whether a margin surely has every element once at most, or always the same one."""
    low, high, size = d["low"][axis], d["high"][axis], d.x.type.shape[axis]
    if not (isinstance(low, int) and isinstance(high, int) and isinstance(size, int)):
        return False
    within = size - 1 if d["mode"] == "reflect" else size
    return d["mode"] == "edge" or max(low, high) <= within


def _gathered_up(d: Differential, dy: Value, axis: int) -> Value:
    """Every element goes to the one that it repeats, whose number the pad itself tells."""
    size = d.x.type.shape[axis]
    numbers = d.apply("iota", shape=(size,), axis=0, dtype=i64)
    given = {"mode": d["mode"], "low": (d["low"][axis],), "high": (d["high"][axis],), "value": 0}
    places = d.apply("pad", numbers, **given)
    places = reshape(d.builder, places, (*places.type.shape, 1))
    order = [axis, *(a for a in range(dy.type.rank) if a != axis)]
    updates = transpose(d.builder, dy, order)
    shape = (size, *updates.type.shape[1:])
    zeros = d.apply("full", shape=shape, value=0, dtype=dy.type.dtype)
    found = d.apply("scatter_nd", zeros, places, updates, reduction="add")
    return transpose(d.builder, found, sorted(range(dy.type.rank), key=order.__getitem__))


def _margins(d: Differential, dy: Value, axis: int) -> list[Value]:
    """The two margins of an axis, each where its elements came from."""
    low, high, size = d["low"][axis], d["high"][axis], d.x.type.shape[axis]
    found = []
    for count, start in ((low, 0), (high, dy.type.shape[axis] - high)):
        if count <= 0:
            continue
        margin = _part(d, dy, axis, start, count)
        match d["mode"]:
            case "edge":
                margin = d.apply("reduce_sum", margin, axes=(axis,))
                shape = list(dy.type.shape)
                shape[axis] = count = 1
                margin = reshape(d.builder, margin, shape)
                place = 0 if start == 0 else size - 1
            case "reflect":
                margin = _reversed(d, margin, axis)
                place = 1 if start == 0 else size - 1 - count
            case _:
                place = size - count if start == 0 else 0
        before: list[Size] = [0] * dy.type.rank
        after: list[Size] = [0] * dy.type.rank
        before[axis], after[axis] = place, size - place - count
        found.append(_padded(d, margin, before, after))
    return found


def _part(d: Differential, x: Value, axis: int, start: Size, count: Size) -> Value:
    starts = tuple(start if a == axis else 0 for a in range(x.type.rank))
    shape = tuple(count if a == axis else size for a, size in enumerate(x.type.shape))
    return d.apply("slice", x, starts=starts, shape=shape, steps=(1,) * x.type.rank)


def concat_gradient(d: Differential) -> Cotangents:
    """Each part its slice."""
    axis = d["axis"] % d.y.type.rank
    start: Size = 0
    parts = []
    for value in d.inputs:
        count = value.type.shape[axis]
        parts.append(_part(d, d.dy, axis, start, count))
        start = start + count
    return tuple(parts)


def gather_gradient(d: Differential) -> Cotangents:
    """Rows go back to where they came from; of one that was read twice, both."""
    x, indices = d.inputs
    axis: int = d["axis"]
    rank, count = x.type.rank, indices.type.rank
    # The gathered axis first, as scatter_nd wants it.
    others = [a for a in range(rank) if a != axis]
    front = [*range(axis, axis + count), *range(axis), *range(axis + count, d.dy.type.rank)]
    updates = transpose(d.builder, d.dy, front)
    zeros = transpose(d.builder, scalar_like(d.builder, x, 0), [axis, *others])
    places = reshape(d.builder, indices, (*indices.type.shape, 1))
    found = d.apply("scatter_nd", zeros, places, updates, reduction="add")
    back = sorted(range(rank), key=[axis, *others].__getitem__)
    return transpose(d.builder, found, back), None


def gather_elements_gradient(d: Differential) -> Cotangents:
    """As gather's, element by element; of rows that give one each, a comparison says which."""
    x, indices = d.inputs
    axis: int = d["axis"] % x.type.rank
    if indices.type.shape == (*x.type.shape[:axis], 1, *x.type.shape[axis + 1 :]):
        return _where_read(d, x, indices, axis), None
    zeros = scalar_like(d.builder, x, 0)
    arguments = {"axis": axis, "reduction": "add"}
    return d.apply("scatter_elements", zeros, indices, d.dy, **arguments), None


def _where_read(d: Differential, x: Value, indices: Value, axis: int) -> Value:
    """What flows back to the one element of each row that was read, and zeros."""
    b, shape = d.builder, x.type.shape
    places = cast(b, indices, i64)
    from_end = binary(b, "add", places, size_as(b, shape[axis], i64, indices.type.shape))
    places = where(b, binary(b, "lt", places, 0), from_end, places)
    numbers = d.apply("iota", shape=shape, axis=axis, dtype=i64)
    return where(b, binary(b, "eq", numbers, places), d.dy, 0)


def gather_nd_gradient(d: Differential) -> Cotangents:
    """As gather's; batch axes become indices."""
    x, indices = d.inputs
    batch: int = d.attributes.get("batch_dims", 0)
    shape = indices.type.shape
    places = [
        reshape(
            d.builder,
            d.apply("iota", shape=shape[:-1], axis=axis, dtype=indices.type.dtype),
            (*shape[:-1], 1),
        )
        for axis in range(batch)
    ]
    joined = d.apply("concat", *places, indices, axis=len(shape) - 1) if places else indices
    zeros = scalar_like(d.builder, x, 0)
    return d.apply("scatter_nd", zeros, joined, d.dy, reduction="add"), None


def top_k_gradient(d: Differential) -> Cotangents:
    """The chosen values go back to their places."""
    dy = d.cotangents[0]
    if dy is None:
        return (None,)
    zeros = scalar_like(d.builder, d.x, 0)
    arguments = {"axis": d["axis"] % d.x.type.rank, "reduction": "add"}
    return (d.apply("scatter_elements", zeros, d.outputs[1], dy, **arguments),)


def cumulative_gradient(d: Differential) -> Cotangents:
    """Running sums from the other end."""
    if d.attributes.get("reduction", "add") == "add":
        return (_running_back(d, d.dy),)
    return (_running_product(d),)


def _running_back(d: Differential, x: Value) -> Value:
    reverse = not d.attributes.get("reverse", False)
    return d.apply("cumulative", x, **{**d.attributes, "reduction": "add", "reverse": reverse})


def _running_product(d: Differential) -> Value:
    """By way of y / x up to the first 0. That one has the products of the others, and what comes
    behind it is in no product that is not 0."""
    b, x = d.builder, d.x
    zero, one = (scalar_like(b, x, number) for number in (0, 1))
    is_zero = d.apply("eq", x, zero)
    zeros = d.apply("select", is_zero, one, zero)
    before = {**d.attributes, "reduction": "add", "exclusive": True}
    is_open = d.apply("eq", d.apply("cumulative", zeros, **before), zero)
    is_first = d.apply("and", is_zero, is_open)
    others = d.apply("cumulative", d.apply("select", is_first, one, x), **d.attributes)
    to_first = _running_back(d, d.apply("mul", d.dy, others))
    to_rest = _running_back(d, d.apply("mul", d.dy, d.y))
    to_rest = d.apply("div", to_rest, d.apply("select", is_zero, one, x))
    to_rest = d.apply("select", is_open, to_rest, zero)
    return d.apply("select", is_first, to_first, to_rest)


def one_hot_gradient(d: Differential) -> Cotangents:
    """[off, on]: the sums over where each of them is."""
    indices, off_on = d.inputs
    unit = d.builder.constant(np.array([0, 1], off_on.type.dtype.numpy))
    is_on = d.apply("one_hot", indices, unit, depth=d["depth"], axis=d["axis"])
    axes = tuple(range(d.dy.type.rank))
    on = d.apply("reduce_sum", d.apply("mul", d.dy, is_on), axes=axes)
    off = d.apply("sub", d.apply("reduce_sum", d.dy, axes=axes), on)
    parts = (reshape(d.builder, part, (1,)) for part in (off, on))
    return None, d.apply("concat", *parts, axis=0)
