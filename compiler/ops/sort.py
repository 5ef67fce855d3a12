"""top_k, and sorting as the case in which k is everything.

NaN counts as larger than every number; of equal elements the one that comes first comes first.
"""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir import dims, expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Constant, Expression, as_index, index_value, less
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import FLOATS, INTEGERS, Array, TensorType, bf16, f16, i64
from bessemer.compiler.ops.check import require, require_axis, require_dtype
from bessemer.compiler.ops.gradients_move import top_k_gradient
from bessemer.compiler.ops.heap import Heap
from bessemer.compiler.ops.precise import widened
from bessemer.compiler.ops.rows import Row, each_row


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
    with each_row(builder, x.shape, axis) as row:
        too_many = less(x.shape[axis], k)
        if not isinstance(too_many, Constant):
            builder.fail_if(too_many, "top_k wants more elements than its axis has")
        count = dims.minimum(k, x.shape[axis])
        with builder.when(less(0, count)):
            _keep_best(builder, x, indices, row, count, x.shape[axis], largest)
        with builder.loop(count) as i:
            builder.store(values, row(i), x[row(as_index(indices[row(i)]))])


def _keep_best(
    builder: KernelBuilder,
    x: Buffer,
    indices: Buffer,
    row: Row,
    count: Size,
    size: Size,
    largest: bool,
) -> None:
    """The best `count` of a row's indices, best first; the heap's root is the worst one kept."""

    def better(a: Expression, b: Expression) -> Expression:
        return is_greater(a, b) if largest else is_greater(b, a)

    def comes_after(i: Expression, j: Expression) -> Expression:
        a, b = x[row(as_index(i))], x[row(as_index(j))]
        return better(b, a) | (~better(a, b) & (i > j))

    heap = Heap(builder, indices, row, comes_after)
    with builder.loop(count) as i:
        heap.put(i, index_value(i))
    heap.build(count)
    bar = builder.define(x[row(as_index(heap.item(0)))], "bar")
    with builder.loop(size - count) as i:
        candidate = index_value(count + i)
        # A tie loses: the candidate comes later than everything that is kept.
        with builder.when(better(x[row(as_index(candidate))], bar.value)):
            heap.sift_down(0, count, candidate)
            bar.set(x[row(as_index(heap.item(0)))])
    heap.drain(count)


_TIES = np.array([[2, 1, 2, 0, 2, 1, 7], [0, 0, 0, 0, 0, 0, 0]], np.float32)
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
        ),
    )
)
