"""tensor_scatter: new rows put into a cache of keys or values, from a place of each sample's on.

    out = x, padded with zeros along the axis to `size` places
    out[sample, ..., (positions[sample] + i) mod size, ...] = updates[sample, ..., i, ...]

The mode "linear" has no remainder: there a place behind the last one is an error. Below `cleared`
a sample's places behind its new rows become zeros: whoever multiplies what counts of a longer
sample with nothing of this one then finds numbers there. Where the output has the memory of `x`,
only the new rows and these zeros are written (schedule/in_place_updates.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, binary, checked, constant, convert, index_value
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType, i64
from bessemer.compiler.ops.check import require, require_axis, require_dtype
from bessemer.compiler.ops.indexing.gradients_scatter import tensor_scatter_gradient
from bessemer.compiler.ops.indexing.index import INDEX_TYPES

MODES = ("linear", "circular")


def _infer(
    x: TensorType, positions: TensorType, updates: TensorType, *, axis: int, size: Size,
    mode: str = "linear", cleared: Size = 0,
) -> TensorType:  # fmt: skip
    require_axis("tensor_scatter", axis, x)
    require_dtype("tensor_scatter's positions", positions, INDEX_TYPES)
    require(mode in MODES, f"tensor_scatter has mode {mode!r}; it knows {' and '.join(MODES)}.")
    require(
        mode == "linear" or cleared == 0, "A circular tensor_scatter has no place behind others."
    )
    require(
        axis > 0, "tensor_scatter wants samples along the first axis, and places along another."
    )
    rest = (*x.shape[:axis], *x.shape[axis + 1 :])
    require(
        x.rank == updates.rank and x.dtype is updates.dtype and positions.shape == x.shape[:1]
        and rest == (*updates.shape[:axis], *updates.shape[axis + 1 :]),
        f"tensor_scatter into {x} along axis {axis} wants a position for each sample and updates "
        f"with the other sizes of the input, but got {positions} and {updates}.",
    )  # fmt: skip
    return x.with_shape((*x.shape[:axis], size, *x.shape[axis + 1 :]))


def _reference(
    x: Array, positions: Array, updates: Array, *, axis: int, size: int, mode: str = "linear",
    cleared: int = 0,
) -> Array:  # fmt: skip
    widths = [(0, size - x.shape[axis] if place == axis else 0) for place in range(x.ndim)]
    result = np.pad(x, widths)
    places = np.moveaxis(result, axis, 1)
    for sample, first in enumerate(positions):
        for i, row in enumerate(np.moveaxis(updates, axis, 1)[sample]):
            place = int(first) + i
            places[sample, place % size if mode == "circular" else place] = row
        places[sample, int(first) + updates.shape[axis] : cleared] = 0
    return result


def _statements(
    builder: KernelBuilder, inputs: list[Buffer], outputs: list[Buffer], *, axis: int, size: Size,
    mode: str = "linear", cleared: Size = 0,
) -> None:  # fmt: skip
    x, positions, updates = inputs
    (out,) = outputs
    with _outer(builder, out, axis) as before:
        with _rows(builder, out, axis, x.shape[axis]) as (row, within):
            builder.store(out, (*before, row, *within), x[(*before, row, *within)])
        kept = x.shape[axis]
        with _rows(builder, out, axis, size - kept) as (row, within):
            builder.store(out, (*before, kept + row, *within), constant(0, x.dtype))
        _put(builder, positions, updates, out, before, axis, mode)
        _clear(builder, positions, updates.shape[axis], out, before, axis, cleared)


def _over(
    builder: KernelBuilder, inputs: list[Buffer], outputs: list[Buffer], *, axis: int, size: Size,
    mode: str = "linear", cleared: Size = 0,
) -> None:  # fmt: skip
    positions, updates = inputs
    (out,) = outputs
    with _outer(builder, out, axis) as before:
        _put(builder, positions, updates, out, before, axis, mode)
        _clear(builder, positions, updates.shape[axis], out, before, axis, cleared)


@contextmanager
def _outer(builder: KernelBuilder, out: Buffer, axis: int) -> Iterator[tuple[Size, ...]]:
    """A parallel loop over what lies before the axis."""
    sizes = out.shape[:axis]
    with builder.loop(dims.product(sizes), "parallel") as flat:
        place: list[Size] = []
        rest: Size = flat
        for size in reversed(sizes[1:]):
            place.insert(0, dims.mod(rest, size))
            rest = dims.floordiv(rest, size)
        yield (rest, *place)


@contextmanager
def _rows(
    builder: KernelBuilder, out: Buffer, axis: int, count: Size
) -> Iterator[tuple[Size, tuple[Size, ...]]]:
    """Loops over some rows, and over what lies in each."""
    inner = out.shape[axis + 1 :]
    with ExitStack() as nest:
        row = nest.enter_context(builder.loop(count))
        within = [nest.enter_context(builder.loop(size)) for size in inner[:-1]]
        if inner:
            within.append(nest.enter_context(builder.loop(inner[-1], "vector", lanes=0)))
        yield row, tuple(within)


def _put(
    builder: KernelBuilder,
    positions: Buffer,
    updates: Buffer,
    out: Buffer,
    before: tuple[Size, ...],
    axis: int,
    mode: str,
) -> None:
    size, inner = out.shape[axis], out.shape[axis + 1 :]
    first = builder.define(convert(positions[before[0]], i64), "first")
    with builder.loop(updates.shape[axis]) as row, ExitStack() as nest:
        place = first.value + index_value(row)
        if mode == "circular":
            place = binary("mod", place, index_value(size))
        named = builder.define(index_value(checked(place, size)), "place")
        within = [nest.enter_context(builder.loop(one)) for one in inner[:-1]]
        if inner:
            within.append(nest.enter_context(builder.loop(inner[-1], "vector", lanes=0)))
        update = updates[(*before, row, *within)]
        builder.store(out, (*before, named.index, *within), update)


def _clear(
    builder: KernelBuilder,
    positions: Buffer,
    length: Size,
    out: Buffer,
    before: tuple[Size, ...],
    axis: int,
    cleared: Size,
) -> None:
    """Writes the zeros from behind the new rows to the place `cleared`."""
    if cleared == 0:
        return
    end = index_value(cleared)
    behind = convert(positions[before[0]], i64) + index_value(length)
    behind = binary("min", binary("max", behind, constant(0, i64)), end)
    count = builder.define(end - behind, "count")
    with _rows(builder, out, axis, count.index) as (row, within):
        place = checked(end - count.value + index_value(row), out.shape[axis])
        named = builder.define(index_value(place), "place")
        builder.store(out, (*before, named.index, *within), constant(0, out.dtype))


register(
    Operator(
        "tensor_scatter",
        _infer,
        _reference,
        statements=_statements,
        over=_over,
        gradient=tensor_scatter_gradient,
        examples=(
            Example(((2, 3, 5, 4), np.array([0, 3]), (2, 3, 2, 4)), {"axis": 2, "size": 5}),
            Example(((2, 3, 5, 20), np.array([5, 2]), (2, 3, 1, 20)), {"axis": 2, "size": 7}),
            Example(
                ((2, 4, 3), np.array([3, -1], np.int32), (2, 3, 3)),
                {"axis": 1, "size": 4, "mode": "circular"},
            ),
            Example(((1, 0, 3), np.array([0]), (1, 3, 3)), {"axis": 1, "size": 6}),
            Example(((2, 4), np.array([1, 2]), (2, 2)), {"axis": 1, "size": 4}),
            Example(
                ((3, 2, 6, 4), np.array([0, 3, 1]), (3, 2, 1, 4)),
                {"axis": 2, "size": 7, "cleared": 4},
            ),
            Example(((2, 4), np.array([1, 0]), (2, 2)), {"axis": 1, "size": 5, "cleared": 5}),
        ),
    )
)
