"""unique: the distinct elements of a vector, or rows of a matrix; how many, the run will know.

Other shapes and axes are reshapes and transposes around it. NaN is one value, larger than every
number; rows compare by their first elements that differ.
"""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.differential import Cotangents, Differential
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.dims import symbol as size_symbol
from bessemer.compiler.ir.expr import Buffer, Expression, as_index, constant, index_value, select
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType, boolean, i64
from bessemer.compiler.ops.check import require
from bessemer.compiler.ops.composite.composite import reshape, scalar_like
from bessemer.compiler.ops.sorting.heap import Heap
from bessemer.compiler.ops.sorting.radix_sort import sort_by_digits
from bessemer.compiler.ops.sorting.sort import is_greater
from bessemer.compiler.ops.sorting.sort_keys import is_packable, rising_key


def _infer(
    x: TensorType, *, symbol: str, ordered: bool = True
) -> tuple[TensorType, TensorType, TensorType, TensorType]:
    """(distinct rows, first index of each, each row's number, count of each).

    They are in ascending order, or if not `ordered` in that of their first occurrence.
    """
    require(x.rank in (1, 2), f"unique wants a vector or a matrix of rows, not {x}. Reshape it.")
    count = size_symbol(symbol)
    each = TensorType(i64, (count,))
    return x.with_shape((count, *x.shape[1:])), each, TensorType(i64, (x.shape[0],)), each


def _capacity(x: TensorType, *, symbol: str, ordered: bool = True) -> tuple[Size, Size, None, Size]:
    return x.numel, x.shape[0], None, x.shape[0]


def _reference(x: Array, *, symbol: str, ordered: bool = True) -> tuple[Array, Array, Array, Array]:
    rows = [tuple((v != v, 0 if v != v else v) for v in np.ravel(row).tolist()) for row in x]
    first: dict[tuple[object, ...], int] = {}
    for position, row in enumerate(rows):
        first.setdefault(row, position)
    distinct = sorted(first) if ordered else list(first)
    number = {row: position for position, row in enumerate(distinct)}
    inverse = np.array([number[row] for row in rows], np.int64)
    firsts = np.array([first[row] for row in distinct], np.int64)
    return x[firsts], firsts, inverse, np.bincount(inverse, minlength=len(distinct))


def _statements(
    builder: KernelBuilder,
    inputs: list[Buffer],
    outputs: list[Buffer],
    *,
    symbol: str,
    ordered: bool = True,
) -> None:
    (x,) = inputs
    count = x.shape[0]
    order = builder.scratch(i64, (count,))
    leader = builder.scratch(i64, (count,))
    number = builder.scratch(i64, (count,))
    _sort(builder, x, order)
    found = builder.define(constant(0, i64), "found")
    _lead(builder, x, order, leader)
    with builder.loop(count) as i:
        candidate = as_index(order[i]) if ordered else i
        with builder.when(expr.binary("eq", leader[candidate], index_value(candidate))):
            builder.store(number, (candidate,), found.value)
            found.set(found.value + 1)
    builder.set_dim(symbol, found.value)
    _write(builder, x, leader, number, outputs)


def _sort(builder: KernelBuilder, x: Buffer, order: Buffer) -> None:
    """Puts the rows' indices in ascending order of the rows, equal ones in their own order."""

    if len(x.shape) == 1:
        _sort_elements(builder, x, order)
        return

    def comes_after(i: Expression, j: Expression) -> Expression:
        verdict = _compare(builder, x, as_index(i), as_index(j)).value
        return (verdict > 0) | (expr.binary("eq", verdict, 0) & (i > j))

    heap = Heap(builder, order, lambda position: (position,), comes_after)
    with builder.loop(x.shape[0]) as i:
        heap.put(i, index_value(i))
    heap.build(x.shape[0])
    heap.drain(x.shape[0])


def _sort_elements(builder: KernelBuilder, x: Buffer, order: Buffer) -> None:
    """The same for single elements. Keys of up to 32 bits are moved along with their places."""
    count = x.shape[0]
    items = builder.scratch(i64, (2, count))
    packs = is_packable(x.dtype)
    low, half = constant((1 << 32) - 1, i64), constant(32, i64)
    with builder.loop(count, "vector", 0) as i:
        place = index_value(i)
        item = expr.binary("shl", rising_key(x[i]), half) + place if packs else place
        builder.store(items, (0, i), item)

    def key_of(item: Expression) -> Expression:
        return expr.binary("shr", item, half) if packs else rising_key(x[as_index(item)])

    row = sort_by_digits(builder, items, count, key_of)
    with builder.loop(count, "vector", 0) as i:
        item = items[row.index, i]
        builder.store(order, (i,), item & low if packs else item)


def _compare(builder: KernelBuilder, x: Buffer, i: Size, j: Size) -> Local:
    """A local that is 1, 0 or -1 as row i is above, equal to or below row j."""
    if len(x.shape) == 1:
        return builder.define(_verdict(x[i], x[j]), "verdict")
    verdict = builder.define(constant(0, i64), "verdict")
    column = builder.define(constant(0, i64), "column")
    undecided = expr.binary("eq", verdict.value, 0)
    with builder.repeat_while((column.value < index_value(x.shape[1])) & undecided):
        verdict.set(_verdict(x[i, column.index], x[j, column.index]))
        column.set(column.value + 1)
    return verdict


def _verdict(a: Expression, b: Expression) -> Expression:
    below = select(is_greater(b, a), constant(-1, i64), 0)
    return select(is_greater(a, b), constant(1, i64), below)


def _lead(builder: KernelBuilder, x: Buffer, order: Buffer, leader: Buffer) -> None:
    """leader[i] = the first index whose row equals row i."""
    lead = builder.define(constant(0, i64), "lead")
    with builder.loop(x.shape[0]) as i:
        current = builder.define(order[i], "current")
        differs = builder.define(constant(True, boolean), "differs")
        with builder.when(expr.less(0, i)):
            same = _compare(builder, x, as_index(order[i - 1]), current.index)
            differs.set(expr.binary("ne", same.value, 0))
        with builder.when(differs.value):
            lead.set(current.value)
        builder.store(leader, (current.index,), lead.value)


def _write(
    builder: KernelBuilder, x: Buffer, leader: Buffer, number: Buffer, outputs: list[Buffer]
) -> None:
    values, first, inverse, counts = outputs
    with builder.loop(x.shape[0]) as i:
        own = builder.define(number[as_index(leader[i])], "number")
        builder.store(inverse, (i,), own.value)
        with builder.when(expr.binary("eq", leader[i], index_value(i))):
            builder.store(first, (own.index,), index_value(i))
            builder.store(counts, (own.index,), 1)
            if len(x.shape) == 1:
                builder.store(values, (own.index,), x[i])
            else:
                with builder.loop(x.shape[1], "vector", lanes=0) as j:
                    builder.store(values, (own.index, j), x[i, j])
        with builder.otherwise():
            builder.store(counts, (own.index,), counts[own.index] + 1)


def _gradient(d: Differential) -> Cotangents:
    """Of equal rows the first has it, as it is the one that was taken."""
    dy = d.cotangents[0]
    if dy is None:
        return (None,)
    first = reshape(d.builder, d.outputs[1], (*d.outputs[1].type.shape, 1))
    zeros = scalar_like(d.builder, d.x, 0)
    return (d.apply("scatter_nd", zeros, first, dy, reduction="add"),)


_ROWS = np.array([[1, 0, 2], [0, 5, 5], [1, 0, 2], [1, 0, -2], [0, 5, 5]], np.float32)
_FLOATS = np.array([2, np.nan, -0.0, 2, 0.0, np.nan, -np.inf], np.float32)

register(
    Operator(
        "unique",
        _infer,
        _reference,
        statements=_statements,
        capacity=_capacity,
        gradient=_gradient,
        examples=(
            Example((np.array([2, 1, 1, 3, 4, 3]),), {"symbol": "n"}),
            Example((np.array([2, 1, 1, 3, 4, 3]),), {"symbol": "n", "ordered": False}),
            Example((_FLOATS,), {"symbol": "n"}),
            Example((_FLOATS,), {"symbol": "n", "ordered": False}),
            Example((_ROWS,), {"symbol": "n"}),
            Example((_ROWS,), {"symbol": "n", "ordered": False}),
            Example((np.array([7], np.uint8),), {"symbol": "n"}),
            Example((np.zeros((0,), np.int32),), {"symbol": "n"}),
            *(
                Example((given,), {"symbol": "n"})
                for given in (
                    np.array([-(2**63), 2**63 - 1, 0, -1, 2**63 - 1, -300, 70000, -(2**63)]),
                    np.array([2**64 - 1, 2**63, 0, 2**64 - 1, 5, 2**32], np.uint64),
                    np.array([2**32 - 1, 2**31, 0, 2**32 - 1, 5, 2**16], np.uint32),
                    np.array([-(2**31), 2**31 - 1, 0, -1, -(2**31)], np.int32),
                    np.array([np.nan, -np.inf, 1e300, -0.0, 0.0, np.inf, -1e-3, np.nan, 1e300]),
                    np.arange(1000) * 7919 % 613 - 300,
                )
            ),
        ),
    )
)
