"""Reading at places that data names: gather in three forms, and one_hot.

Indices are i32 or i64. Below zero they count from the end of their axis; outside the axis the run
fails (one_hot has no axis to leave: a class that does not exist is nowhere hot).
"""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import Expression, Index, checked, convert, index_value, select
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType, i32, i64
from bessemer.compiler.ops.check import require, require_axis, require_dtype
from bessemer.compiler.ops.movement.gradients_move import (
    gather_elements_gradient,
    gather_gradient,
    gather_nd_gradient,
    one_hot_gradient,
)

INDEX_TYPES = (i32, i64)


def _as_integers(indices: Array) -> Array:
    """i64; the builder also asks for what is gathered by known sizes, which are objects."""
    return indices.astype(np.int64)


# gather


def _gather_infer(x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
    require_axis("gather", axis, x)
    require_dtype("gather's indices", indices, INDEX_TYPES)
    return x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _gather_reference(x: Array, indices: Array, *, axis: int) -> Array:
    return np.asarray(np.take(x, _as_integers(indices), axis=axis))


def _gather_element(x: Operand, indices: Operand, *, index: Index, axis: int) -> Expression:
    end = axis + indices.type.rank
    place = checked(indices[index[axis:end]], x.shape[axis])
    return x[(*index[:axis], place, *index[end:])]


register(
    Operator(
        "gather",
        _gather_infer,
        _gather_reference,
        _gather_element,
        gradient=gather_gradient,
        examples=(
            Example(((5, 3), np.array([[0, 4, -1], [2, 2, -5]])), {"axis": 0}),
            Example(((2, 3, 7), np.array([6, 0], np.int32)), {"axis": 2}),
            Example(((4, 1), np.array(2)), {"axis": 0}),
            Example(((3, 2), np.zeros((0,), np.int64)), {"axis": 1}),
            Example((np.arange(6, dtype=np.int64), np.array([5, -6])), {"axis": 0}),
        ),
    )
)


# gather_elements


def _gather_elements_infer(x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
    require_axis("gather_elements", axis, x)
    require_dtype("gather_elements' indices", indices, INDEX_TYPES)
    require(
        indices.rank == x.rank,
        f"gather_elements wants indices with the axes of its input, but got {indices} for {x}.",
    )
    return x.with_shape(indices.shape)


def _gather_elements_reference(x: Array, indices: Array, *, axis: int) -> Array:
    places: list[Array] = list(np.indices(indices.shape, sparse=True))
    places[axis] = _as_integers(indices)
    return np.asarray(x[tuple(places)])


def _gather_elements_element(
    x: Operand, indices: Operand, *, index: Index, axis: int
) -> Expression:
    place = checked(indices[index], x.shape[axis])
    return x[(*index[:axis], place, *index[axis + 1 :])]


register(
    Operator(
        "gather_elements",
        _gather_elements_infer,
        _gather_elements_reference,
        _gather_elements_element,
        gradient=gather_elements_gradient,
        examples=(
            Example(((3, 3), np.array([[1, 2, 0], [-1, 0, 0]])), {"axis": 0}),
            Example(((2, 5, 3), np.array([[[4], [-5]]], np.int32)), {"axis": 1}),
            Example(((7,), np.array([6, 0, -7, 3])), {"axis": 0}),
        ),
    )
)


# gather_nd


def _gather_nd_infer(x: TensorType, indices: TensorType, *, batch_dims: int) -> TensorType:
    require_dtype("gather_nd's indices", indices, INDEX_TYPES)
    depth = indices.shape[-1] if indices.rank else None
    if not isinstance(depth, int):
        require(False, f"gather_nd wants a last axis of known size in its indices, not {indices}.")
        raise AssertionError
    require(
        batch_dims < indices.rank and batch_dims + depth <= x.rank,
        f"gather_nd has {batch_dims} batch axes and indices {indices}: its input {x} is too small.",
    )
    return x.with_shape((*indices.shape[:-1], *x.shape[batch_dims + depth :]))


def _gather_nd_reference(x: Array, indices: Array, *, batch_dims: int) -> Array:
    places = np.indices(indices.shape[:-1], sparse=True)[:batch_dims]
    depth = indices.shape[-1]
    named = [_as_integers(indices)[..., k] for k in range(depth)]
    lead = indices.ndim - 1
    result = np.asarray(x[(*places, *named)])
    # Without any index NumPy has not made the axes of the indices.
    if not batch_dims and not depth:
        result = np.broadcast_to(x, (*indices.shape[:-1], *x.shape))
    elif not depth:
        shape = (*indices.shape[:-1], *x.shape[batch_dims:])
        wide = x.reshape(*x.shape[:batch_dims], *[1] * (lead - batch_dims), *x.shape[batch_dims:])
        result = np.broadcast_to(wide, shape)
    return result


def _gather_nd_element(
    x: Operand, indices: Operand, *, index: Index, batch_dims: int
) -> Expression:
    lead = indices.type.rank - 1
    depth = indices.shape[-1]
    assert isinstance(depth, int)
    places = tuple(
        checked(indices[(*index[:lead], k)], x.shape[batch_dims + k]) for k in range(depth)
    )
    return x[(*index[:batch_dims], *places, *index[lead:])]


register(
    Operator(
        "gather_nd",
        _gather_nd_infer,
        _gather_nd_reference,
        _gather_nd_element,
        gradient=gather_nd_gradient,
        examples=(
            Example(((2, 3), np.array([[0, 0], [1, -1]])), {"batch_dims": 0}),
            Example(((2, 3, 5), np.array([[1], [0], [-2]], np.int32)), {"batch_dims": 0}),
            Example(((2, 3, 5), np.array([[[2], [0]], [[1], [-1]]])), {"batch_dims": 1}),
            Example(((3, 4), np.array([[[1, 2]], [[2, 3]]])), {"batch_dims": 0}),
            Example(((3, 2), np.zeros((4, 0), np.int64)), {"batch_dims": 0}),
        ),
    )
)


# one_hot


def _one_hot_infer(
    indices: TensorType, off_on: TensorType, *, depth: Size, axis: int
) -> TensorType:
    require_dtype("one_hot's indices", indices, INDEX_TYPES)
    require(
        off_on.shape == (2,),
        f"one_hot wants the values [off, on] as its second input, not {off_on}.",
    )
    require(
        0 <= axis <= indices.rank,
        f"one_hot has axis {axis}, but its output has {indices.rank + 1} axes, counted from 0.",
    )
    return off_on.with_shape((*indices.shape[:axis], depth, *indices.shape[axis:]))


def _one_hot_reference(indices: Array, off_on: Array, *, depth: int, axis: int) -> Array:
    classes = np.where(indices < 0, indices + depth, indices)
    shape = [1] * (indices.ndim + 1)
    shape[axis] = depth
    hot = np.expand_dims(classes, axis) == np.arange(depth).reshape(shape)
    return np.asarray(np.where(hot, off_on[1], off_on[0]))


def _one_hot_element(
    indices: Operand, off_on: Operand, *, index: Index, depth: Size, axis: int
) -> Expression:
    named = convert(indices[(*index[:axis], *index[axis + 1 :])], i64)
    named = select(named < 0, named + index_value(depth), named)
    hot = expr.binary("eq", named, index_value(index[axis]))
    return select(hot, off_on[(1,)], off_on[(0,)])


register(
    Operator(
        "one_hot",
        _one_hot_infer,
        _one_hot_reference,
        _one_hot_element,
        gradient=one_hot_gradient,
        examples=(
            Example(
                (np.array([[1, 9], [2, -1], [-4, 0]]), np.array([0, 1], np.float32)),
                {"depth": 3, "axis": 2},
            ),
            Example((np.array([0, 4, 2], np.int32), (2,)), {"depth": 5, "axis": 0}),
            Example((np.array(1), np.array([7, -3])), {"depth": 2, "axis": 0}),
        ),
    )
)
