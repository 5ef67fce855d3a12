"""top_k, and sorting as the case in which k is everything.

NaN counts as larger than every number; of equal elements the one that comes first comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bessemer.compiler.ir import dims, expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import (
    Buffer,
    Constant,
    Expression,
    as_index,
    constant,
    index_value,
    less,
    load,
)
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import FLOATS, INTEGERS, Array, TensorType, bf16, boolean, f16, i64
from bessemer.compiler.ops.check import require, require_axis, require_dtype
from bessemer.compiler.ops.movement.gradients_move import top_k_gradient
from bessemer.compiler.ops.precise import widened
from bessemer.compiler.ops.rows import Row, each_row, rows_side_by_side
from bessemer.compiler.ops.sorting.arg_extremes import find_extremes
from bessemer.compiler.ops.sorting.heap import Heap
from bessemer.compiler.ops.sorting.insertion import (
    MOST_OF_A_ROW,
    Kept,
    best_places,
    is_by_insertion,
)
from bessemer.compiler.ops.sorting.sort_keys import is_packable, packed_key, place_in

BEGIN, BLOCK = 16, 64
"""Elements that are all inserted first; and that are compared at once with the worst one kept."""


def is_greater(a: Expression, b: Expression) -> Expression:
    """a > b, where NaN is larger than every number."""
    if not a.dtype.is_float:
        return a > b
    return (a > b) | (expr.unary("isnan", a) & ~expr.unary("isnan", b))


def _infer(
    x: TensorType, *, k: Size, axis: int, largest: bool = True
) -> tuple[TensorType, TensorType]:
    require_axis("top_k", axis, x)
    require_dtype("top_k", x, (*FLOATS, *INTEGERS))
    size = x.shape[axis]
    require(
        not (isinstance(k, int) and isinstance(size, int)) or 0 <= k <= size,
        f"top_k wants k = {k} elements of axis {axis} of {x}, which has {size}.",
    )
    values = x.with_shape((*x.shape[:axis], k, *x.shape[axis + 1 :]))
    return values, values.with_dtype(i64)


def _reference(x: Array, *, k: int, axis: int, largest: bool = True) -> tuple[Array, Array]:
    wide = widened(x)  # NumPy knows where NaN belongs only in its own types
    if largest:
        # A stable ascending sort of the reversed row, read backwards, leaves ties in order.
        last = x.shape[axis] - 1
        order = last - np.flip(np.argsort(np.flip(wide, axis), axis=axis, kind="stable"), axis)
    else:
        order = np.argsort(wide, axis=axis, kind="stable")
    kept = np.take(order, np.arange(k), axis=axis)
    return np.take_along_axis(x, kept, axis), kept


def _statements(
    builder: KernelBuilder,
    inputs: list[Buffer],
    outputs: list[Buffer],
    *,
    k: Size,
    axis: int,
    largest: bool = True,
) -> None:
    (x,) = inputs
    values, indices = outputs

    def put(
        row: Row, position: Size, place: Expression, is_there: Expression | None = None
    ) -> None:
        kept = builder.define(place, "place")
        builder.store(indices, row(position), kept.value)
        builder.store(values, row(position), load(x, row(kept.index), is_there))

    if k == 1 and (largest or not x.dtype.is_float):
        # The smallest of floats is another matter: there NaN comes last.
        name = "arg_max" if largest else "arg_min"
        find_extremes(builder, x, name, axis, last=False, put=lambda row, place: put(row, 0, place))
        return

    def alone(row: Row) -> None:
        """A row in scalar registers if few are kept, else in a heap."""
        enough = _fail_if_fewer(builder, x.shape[axis], k)
        if isinstance(k, int) and 0 < k <= MOST_OF_A_ROW:
            for position, place in enumerate(_few(builder, x, row, axis, k, largest, enough)):
                put(row, position, place, enough)
            return
        count = dims.minimum(k, x.shape[axis])
        items = _packed_items(x, row, largest) if is_packable(x.dtype) else _places(x, row, largest)
        with builder.when(less(0, count)):
            _keep_best(builder, x, indices, row, (count, x.shape[axis]), items, largest)
        with builder.loop(count) as i:
            put(row, i, items.place(indices[row(i)]))

    if not isinstance(k, int) or not is_by_insertion(x, k, axis):
        with each_row(builder, x.shape, axis) as row:
            alone(row)
        return
    with rows_side_by_side(builder, x.shape, axis, alone=alone) as row:
        enough = _fail_if_fewer(builder, x.shape[axis], k)
        for position, place in enumerate(best_places(builder, x, row, axis, k, largest)):
            put(row, position, place, enough)


def _fail_if_fewer(builder: KernelBuilder, size: Size, k: Size) -> Expression | None:
    """Whether there are k elements, where that is not known; with fewer the run ends."""
    too_few = less(size, k)
    if isinstance(too_few, Constant):
        return None
    builder.fail_if(too_few, "top_k wants more elements than its axis has")
    return ~too_few


@dataclass(frozen=True)
class _Items:
    """What a heap holds of a row's elements: how one is made of its place, read and compared."""

    item: Callable[[Expression], Expression]
    place: Callable[[Expression], Expression]
    better: Callable[[Expression, Expression], Expression]


def _packed_items(x: Buffer, row: Row, largest: bool) -> _Items:
    def item(place: Expression) -> Expression:
        return packed_key(x[row(as_index(place))], place, largest)

    return _Items(item, place_in, lambda a, b: a > b)


def _places(x: Buffer, row: Row, largest: bool) -> _Items:
    def better(i: Expression, j: Expression) -> Expression:
        a, b = x[row(as_index(i))], x[row(as_index(j))]
        first, second = (a, b) if largest else (b, a)
        return is_greater(first, second) | (~is_greater(second, first) & (i < j))

    return _Items(lambda place: place, lambda place: place, better)


def _few(
    builder: KernelBuilder,
    x: Buffer,
    row: Row,
    axis: int,
    k: int,
    largest: bool,
    enough: Expression | None,
) -> list[Expression]:
    """The places of a row's best few, best first, which stay in registers."""
    kept, size = Kept(builder, x, row, k, largest), x.shape[axis]
    begin = dims.minimum(size, BEGIN)
    kept.begin(begin)
    worst = _Worst(lambda: load(x, row(as_index(kept.places()[-1])), enough), largest)
    _look_at_better(builder, x, row, (begin, size), worst, kept.insert)
    return kept.places()


def _keep_best(
    builder: KernelBuilder,
    x: Buffer,
    slots: Buffer,
    row: Row,
    extent: tuple[Size, Size],
    items: _Items,
    largest: bool,
) -> None:
    """The best of a row's items (so many, of so many), best first; the heap's root is the worst
    one kept."""
    count, size = extent
    heap = Heap(builder, slots, row, lambda a, b: items.better(b, a))
    with builder.loop(count) as i:
        heap.put(i, items.item(index_value(i)))
    heap.build(count)
    worst = _Worst(lambda: x[row(as_index(items.place(heap.item(0))))], largest)

    def replace_worst(place: Size) -> None:
        heap.sift_down(0, count, items.item(index_value(place)))

    _look_at_better(builder, x, row, (count, size), worst, replace_worst)
    heap.drain(count)


@dataclass(frozen=True)
class _Worst:
    """The worst element that is kept, which others have to beat."""

    element: Callable[[], Expression]
    largest: bool

    def loses(self, bar: Expression, other: Expression) -> Expression:
        """Whether `bar` loses. A tie wins: it comes earlier."""
        return is_greater(other, bar) if self.largest else is_greater(bar, other)


def _look_at_better(
    builder: KernelBuilder,
    x: Buffer,
    row: Row,
    span: tuple[Size, Size],
    worst: _Worst,
    take: Callable[[Size], None],
) -> None:
    """Calls `take` for the places from span[0] to span[1] whose element beats the worst one."""
    begin, end = span
    bar = builder.define(worst.element(), "bar")

    def look_at(place: Size) -> None:
        with builder.when(worst.loses(bar.value, x[row(place)])):
            take(place)
            bar.set(worst.element())

    blocks = dims.floordiv(end - begin, BLOCK)
    with builder.loop(blocks) as block:
        first = begin + block * BLOCK
        found = builder.define(constant(False, boolean), "found")
        with builder.loop(BLOCK, "vector", 0, 4) as lane:
            found.accumulate("or", worst.loses(bar.value, x[row(first + lane)]))
        with builder.when(found.value), builder.loop(BLOCK) as place:
            look_at(first + place)
    with builder.loop(end - begin - blocks * BLOCK) as place:
        look_at(begin + blocks * BLOCK + place)


_TIES = np.array([[2, 1, 2, 0, 2, 1, 7], [0, 0, 0, 0, 0, 0, 0]], np.float32)
_EXTREMES = np.array([3, -(2**31), -(2**31), 2**31 - 1, 0, -1], np.int32)
_NAN = np.array([[1, np.nan, -np.inf, 3, np.nan, np.inf]], np.float32)

register(
    Operator(
        "top_k",
        _infer,
        _reference,
        statements=_statements,
        gradient=top_k_gradient,
        examples=(
            Example(((3, 11),), {"k": 3, "axis": 1}),
            Example(((5, 2, 3),), {"k": 2, "axis": 0, "largest": False}),
            Example(((2, 37, 3),), {"k": 20, "axis": 1}),
            Example(((4, 3, 0),), {"k": 2, "axis": 1}),
            Example(((1, 9),), {"k": 9, "axis": 1, "largest": False}),
            Example((_TIES,), {"k": 4, "axis": 1}),
            Example((_TIES,), {"k": 7, "axis": 1, "largest": False}),
            Example((_NAN,), {"k": 5, "axis": 1}),
            Example((_NAN,), {"k": 3, "axis": 1, "largest": False}),
            Example((np.array([3, -(2**63), 2**63 - 1, 0]),), {"k": 1, "axis": 0}),
            Example((np.array([5, 200, 7], np.uint8),), {"k": 2, "axis": 0}),
            Example((_TIES.astype(f16.numpy),), {"k": 3, "axis": 1}),
            Example((_NAN.astype(bf16.numpy),), {"k": 3, "axis": 1}),
            Example(((2, 3),), {"k": 0, "axis": 1}),
            Example(((2, 60, 9),), {"k": 3, "axis": 1}),
            Example(((19, 50),), {"k": 1, "axis": 1}),
            Example((np.tile(_TIES, (6, 1)),), {"k": 3, "axis": 1, "largest": False}),
            Example((np.tile(_NAN, (9, 1)),), {"k": 6, "axis": 1, "largest": False}),
            Example((np.tile(_NAN, (9, 1)),), {"k": 1, "axis": 1, "largest": False}),
            Example((_EXTREMES[:, None],), {"k": 4, "axis": 0}),
            Example((np.tile(_EXTREMES, (9, 1)),), {"k": 4, "axis": 1, "largest": False}),
            Example((np.tile(_EXTREMES.view(np.uint32), (9, 1)),), {"k": 4, "axis": 1}),
            Example((_EXTREMES.view(np.uint32),), {"k": 3, "axis": 0, "largest": False}),
            Example((np.array([0.0, -0.0, 0.0, -1.0, 1.0], np.float32),), {"k": 4, "axis": 0}),
        ),
    )
)
