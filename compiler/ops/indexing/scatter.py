"""Writing at places that data names: scatter_elements and scatter_nd.

The output is a copy of `x` with `updates` put in, or combined with what is there by `reduction`:
"none" (the update replaces; of several at one place the last stays), "add", "mul", "max" or "min".
Combining goes in the order of the updates. Indices are as in index.py. Where the output may
have the memory of `x`, there is nothing to copy (schedule/in_place_updates.py).
"""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from bessemer.compiler.ir import dims, expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, checked, index_value, less
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType
from bessemer.compiler.ops.check import require, require_axis, require_dtype
from bessemer.compiler.ops.indexing.gradients_scatter import (
    scatter_elements_gradient,
    scatter_nd_gradient,
)
from bessemer.compiler.ops.indexing.index import INDEX_TYPES
from bessemer.compiler.ops.indexing.scatter_rows import combine_by_row, is_worth_sorting

REDUCTIONS = ("none", "add", "mul", "max", "min")

_LINE = 16
"""Elements of four bytes in a cache line."""
_FEWEST_COLUMNS, _MOST_SHARES = 64, 4


def _require_reduction(name: str, reduction: str) -> None:
    wanted = ", ".join(REDUCTIONS)
    require(reduction in REDUCTIONS, f"{name} has reduction {reduction!r}; it knows {wanted}.")


def _combine(reduction: str, present: Array, update: Array) -> Array:
    match reduction:
        case "add":
            return np.asarray(present + update)
        case "mul":
            return np.asarray(present * update)
        case "max":
            return np.maximum(present, update)
        case "min":
            return np.minimum(present, update)
        case _:
            return update


def _combined(
    reduction: str, out: Buffer, place: tuple[Size, ...], update: Expression
) -> Expression:
    return update if reduction == "none" else expr.binary(reduction, out[place], update)


def _copy(builder: KernelBuilder, source: Buffer, target: Buffer, fixed: tuple[Size, ...]) -> None:
    """Copies everything below the fixed leading indices."""
    rest = source.shape[len(fixed) :]
    with ExitStack() as nest:
        places = [nest.enter_context(builder.loop(size)) for size in rest[:-1]]
        if rest:
            places.append(nest.enter_context(builder.loop(rest[-1], "vector", lanes=0)))
        place = (*fixed, *places)
        builder.store(target, place, source[place])


# scatter_elements


def _elements_infer(
    x: TensorType, indices: TensorType, updates: TensorType, *, axis: int, reduction: str = "none"
) -> TensorType:
    require_axis("scatter_elements", axis, x)
    require_dtype("scatter_elements' indices", indices, INDEX_TYPES)
    _require_reduction("scatter_elements", reduction)
    require(
        indices.shape == updates.shape and indices.rank == x.rank and updates.dtype == x.dtype,
        f"scatter_elements into {x} wants indices and updates of one shape with as many axes, and "
        f"updates of the input's type, but got {indices} and {updates}.",
    )
    return x


def _elements_reference(
    x: Array, indices: Array, updates: Array, *, axis: int, reduction: str = "none"
) -> Array:
    result = x.copy()
    for place in np.ndindex(*indices.shape):
        target = (*place[:axis], int(indices[place]), *place[axis + 1 :])
        result[target] = _combine(reduction, result[target], updates[place])
    return result


def _elements_statements(
    builder: KernelBuilder,
    inputs: list[Buffer],
    outputs: list[Buffer],
    *,
    axis: int,
    reduction: str = "none",
) -> None:
    x, indices, updates = inputs
    (out,) = outputs
    if axis == 0:
        _copy(builder, x, out, ())
        _put_elements(builder, indices, updates, out, (), axis, reduction)
        return
    # Updates stay inside their slice of the first axis, so that slices may be written at once.
    with builder.loop(x.shape[0], "parallel") as first:
        _copy(builder, x, out, (first,))
        with builder.when(less(first, indices.shape[0])):
            _put_elements(builder, indices, updates, out, (first,), axis, reduction)


def _elements_over(
    builder: KernelBuilder,
    inputs: list[Buffer],
    outputs: list[Buffer],
    *,
    axis: int,
    reduction: str = "none",
) -> None:
    indices, updates = inputs
    (out,) = outputs
    if axis == 0:
        _put_elements(builder, indices, updates, out, (), axis, reduction)
        return
    count = dims.minimum(indices.shape[0], out.shape[0])
    with builder.loop(count, "parallel") as first:
        _put_elements(builder, indices, updates, out, (first,), axis, reduction)


def _put_elements(
    builder: KernelBuilder,
    indices: Buffer,
    updates: Buffer,
    out: Buffer,
    fixed: tuple[Size, ...],
    axis: int,
    reduction: str,
) -> None:
    with ExitStack() as nest:
        rest = indices.shape[len(fixed) :]
        place = (*fixed, *[nest.enter_context(builder.loop(size)) for size in rest])
        named = builder.define(index_value(checked(indices[place], out.shape[axis])), "place")
        target = (*place[:axis], named.index, *place[axis + 1 :])
        builder.store(out, target, _combined(reduction, out, target, updates[place]))


_INTEGERS = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.int64)

register(
    Operator(
        "scatter_elements",
        _elements_infer,
        _elements_reference,
        statements=_elements_statements,
        over=_elements_over,
        gradient=scatter_elements_gradient,
        examples=(
            Example(((3, 3), np.array([[1, 0, 2], [0, 2, -2]]), (2, 3)), {"axis": 0}),
            Example(((1, 5), np.array([[1, -2]], np.int32), (1, 2)), {"axis": 1}),
            Example(
                ((3, 2, 5), np.array([[[1, 1, -5]], [[4, 1, 4]]]), (2, 1, 3)),
                {"axis": 2, "reduction": "add"},
            ),
            Example(
                (_INTEGERS, np.array([[0, 0, 2]]), np.array([[-5, 2, 3]])),
                {"axis": 0, "reduction": "mul"},
            ),
            Example(((7,), np.array([0, 0, 6, 0]), (4,)), {"axis": 0, "reduction": "max"}),
            Example(((7,), np.array([5, 5, 5]), (3,)), {"axis": 0, "reduction": "min"}),
        ),
    )
)


# scatter_nd


def _nd_infer(
    x: TensorType, indices: TensorType, updates: TensorType, *, reduction: str = "none"
) -> TensorType:
    require_dtype("scatter_nd's indices", indices, INDEX_TYPES)
    _require_reduction("scatter_nd", reduction)
    depth = indices.shape[-1] if indices.rank else None
    if not isinstance(depth, int):
        require(False, f"scatter_nd wants a last axis of known size in its indices, not {indices}.")
        raise AssertionError
    expected = x.with_shape((*indices.shape[:-1], *x.shape[depth:]))
    require(
        depth <= x.rank and updates == expected,
        f"scatter_nd into {x} at {indices} wants updates {expected}, but got {updates}.",
    )
    return x


def _nd_reference(x: Array, indices: Array, updates: Array, *, reduction: str = "none") -> Array:
    result = x.copy()
    for place in np.ndindex(*indices.shape[:-1]):
        target = tuple(int(i) for i in indices[place])
        result[target] = _combine(reduction, result[target], updates[place])
    return result


def _nd_statements(
    builder: KernelBuilder,
    inputs: list[Buffer],
    outputs: list[Buffer],
    *,
    reduction: str = "none",
) -> None:
    x, indices, updates = inputs
    _write_nd(builder, x, indices, updates, outputs[0], reduction)


def _nd_over(
    builder: KernelBuilder,
    inputs: list[Buffer],
    outputs: list[Buffer],
    *,
    reduction: str = "none",
) -> None:
    indices, updates = inputs
    _write_nd(builder, outputs[0], indices, updates, outputs[0], reduction)


def _write_nd(
    builder: KernelBuilder,
    x: Buffer,
    indices: Buffer,
    updates: Buffer,
    out: Buffer,
    reduction: str,
) -> None:
    """`x` may be `out`."""
    if len(x.shape) != 2 or indices.shape[-1] != 1:
        if x is not out:
            _copy(builder, x, out, ())
        _put_rows(builder, indices, updates, out, reduction)
        return
    # Every thread has columns of its own, in which it goes through all updates in order.
    rows, width = x.shape
    share = _share(width)
    is_plain = reduction != "none" and len(updates.shape) == 2
    if is_plain and isinstance(share, int) and is_worth_sorting(rows, updates.shape[0]):
        combine_by_row(builder, x, indices, updates, out, reduction, share)
        return
    with builder.loop(dims.ceildiv(width, share), "parallel") as part:
        first, count = part * share, dims.minimum(share, width - part * share)
        if x is not out:
            with builder.loop(rows) as row, builder.loop(count, "vector", lanes=0) as column:
                builder.store(out, (row, first + column), x[row, first + column])
        _put_rows(builder, indices, updates, out, reduction, first, count)


def _share(width: Size) -> Size:
    """Columns that a thread takes at once: whole cache lines, and not so few that going through
    all indices again costs more than they do."""
    if not isinstance(width, int):
        return width
    return max(_FEWEST_COLUMNS, -(-width // (_MOST_SHARES * _LINE)) * _LINE)


def _put_rows(
    builder: KernelBuilder,
    indices: Buffer,
    updates: Buffer,
    out: Buffer,
    reduction: str,
    first: Size = 0,
    count: Size | None = None,
) -> None:
    """All updates, or of a row's last axis only `count` elements from the first one on."""
    depth = indices.shape[-1]
    assert isinstance(depth, int)
    with ExitStack() as nest:
        place = tuple(nest.enter_context(builder.loop(size)) for size in indices.shape[:-1])
        named = [
            builder.define(index_value(checked(indices[(*place, k)], out.shape[k])), "place")
            for k in range(depth)
        ]
        row = out.shape[depth:]
        within: list[Size] = [nest.enter_context(builder.loop(size)) for size in row[:-1]]
        if row:
            last = row[-1] if count is None else count
            within.append(first + nest.enter_context(builder.loop(last, "vector", lanes=0)))
        target = (*(local.index for local in named), *within)
        builder.store(out, target, _combined(reduction, out, target, updates[(*place, *within)]))


register(
    Operator(
        "scatter_nd",
        _nd_infer,
        _nd_reference,
        statements=_nd_statements,
        over=_nd_over,
        gradient=scatter_nd_gradient,
        examples=(
            Example(((8,), np.array([[4], [3], [1], [-1]]), (4,))),
            Example(((4, 3, 5), np.array([[0], [2], [0]], np.int32), (3, 3, 5))),
            Example(((4, 3), np.array([[[0, 1]], [[3, -1]]]), (2, 1)), {"reduction": "mul"}),
            Example(((4, 3), np.array([[1], [1]]), (2, 3)), {"reduction": "add"}),
            Example(((3, 70), np.array([[2], [0], [-1], [2]]), (4, 70)), {"reduction": "add"}),
            Example(((2, 130), np.array([[1], [1]], np.int32), (2, 130)), {"reduction": "min"}),
            Example(((3,), np.array([[1], [1]]), (2,)), {"reduction": "max"}),
            Example(((3,), np.array([[1], [1]]), (2,)), {"reduction": "min"}),
            Example(
                (
                    np.array([2, 0, 0, 3], np.float32),
                    np.array([[0], [0], [1], [2], [2], [-1]]),
                    np.array([0, 5, -2, 4, 0, 3], np.float32),
                ),
                {"reduction": "mul"},
            ),
            Example(((3, 2), np.zeros((1, 0), np.int64), (1, 3, 2)), {"reduction": "add"}),
        ),
    )
)
