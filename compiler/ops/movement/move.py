"""Views: operators that only say where an element is found, or what it is by its index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.differential import no_flow
from bessemer.compiler.ir.dims import Size, format_size, is_nonnegative
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import Expression, Index, constant, convert, index_value
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.ravel import broadcast_index
from bessemer.compiler.ir.types import (
    Array,
    DType,
    TensorType,
    bf16,
    boolean,
    f16,
    f32,
    f64,
    i32,
    i64,
    u8,
)
from bessemer.compiler.ops.check import require, require_axis, require_entries
from bessemer.compiler.ops.example_arrays import booleans, integers, ramp
from bessemer.compiler.ops.movement.gradients_move import (
    broadcast_gradient,
    slice_gradient,
    transpose_gradient,
)

# transpose


def _transpose_infer(x: TensorType, *, permutation: tuple[int, ...]) -> TensorType:
    require(
        sorted(permutation) == list(range(x.rank)),
        f"transpose of {x}: {permutation} is not an order of its axes 0 to {x.rank - 1}.",
    )
    return x.with_shape(tuple(x.shape[axis] for axis in permutation))


def _transpose_reference(x: Array, *, permutation: tuple[int, ...]) -> Array:
    return np.transpose(x, permutation)


def _transpose_element(x: Operand, *, index: Index, permutation: tuple[int, ...]) -> Expression:
    source: list[Size] = [0] * len(index)
    for axis, origin in enumerate(permutation):
        source[origin] = index[axis]
    return x[tuple(source)]


register(
    Operator(
        "transpose",
        _transpose_infer,
        _transpose_reference,
        _transpose_element,
        gradient=transpose_gradient,
        is_view=True,
        examples=(
            Example(((3, 5),), {"permutation": (1, 0)}),
            Example(((2, 3, 5, 7),), {"permutation": (0, 2, 3, 1)}),
            Example(((2, 3, 4),), {"permutation": (2, 0, 1)}),
            Example(((),), {"permutation": ()}),
            Example(((0, 1, 3),), {"permutation": (2, 1, 0)}),
            Example((integers((2, 3, 1), i64),), {"permutation": (1, 2, 0)}),
            Example((ramp((4, 3), f16),), {"permutation": (1, 0)}),
        ),
    )
)

# broadcast_to


def _broadcast_infer(x: TensorType, *, shape: tuple[Size, ...]) -> TensorType:
    extra = len(shape) - x.rank
    result = x.with_shape(shape)
    require(extra >= 0, f"{x} cannot be broadcast to {result}: it has more axes.")
    for size, wanted in zip(x.shape, shape[extra:]):
        require(
            size in (1, wanted),
            f"{x} cannot be broadcast to {result}: {format_size(size)} is neither 1 nor "
            f"{format_size(wanted)}.",
        )
    return result


def _broadcast_reference(x: Array, *, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(x, shape)


def _broadcast_element(x: Operand, *, index: Index, shape: tuple[Size, ...]) -> Expression:
    return x[broadcast_index(index, x.shape)]


register(
    Operator(
        "broadcast_to",
        _broadcast_infer,
        _broadcast_reference,
        _broadcast_element,
        gradient=broadcast_gradient,
        is_view=True,
        examples=(
            Example(((3, 1),), {"shape": (3, 5)}),
            Example(((5,),), {"shape": (2, 3, 5)}),
            Example(((),), {"shape": (2, 2)}),
            Example(((1, 3, 1),), {"shape": (4, 2, 3, 7)}),
            Example(((1,),), {"shape": (0,)}),
            Example(((0, 1),), {"shape": (2, 0, 3)}),
            Example(((),), {"shape": ()}),
            Example((booleans((3, 1)),), {"shape": (3, 2)}),
        ),
    )
)

# slice


def _slice_infer(
    x: TensorType, *, starts: tuple[Size, ...], shape: tuple[Size, ...], steps: tuple[int, ...]
) -> TensorType:
    """Bounds in symbols are the caller's promise; what is certain to be outside is an error."""
    for name, entries in (("starts", starts), ("sizes", shape), ("steps", steps)):
        require_entries("slice", name, entries, x.rank)
    for axis, (start, size, step) in enumerate(zip(starts, shape, steps)):
        require(step != 0, f"slice of {x}: the step of axis {axis} is 0.")
        last = start + (size - 1) * step
        outside = [
            end
            for end in (start, last)
            if is_nonnegative(-1 - end) or is_nonnegative(end - x.shape[axis])
        ]
        require(
            not is_nonnegative(-1 - size) and (not outside or not is_nonnegative(size - 1)),
            f"slice of {x}: axis {axis} from {format_size(start)}, {format_size(size)} elements by "
            f"{step}, leaves the tensor.",
        )
    return x.with_shape(shape)


def _slice_reference(
    x: Array, *, starts: tuple[int, ...], shape: tuple[int, ...], steps: tuple[int, ...]
) -> Array:
    places = [start + np.arange(size) * step for start, size, step in zip(starts, shape, steps)]
    return x[np.ix_(*places)] if places else x


def _slice_element(
    x: Operand, *, index: Index, starts: tuple[Size, ...], shape: tuple[Size, ...],
    steps: tuple[int, ...],
) -> Expression:  # fmt: skip
    return x[tuple(start + i * step for i, start, step in zip(index, starts, steps))]


def _slice_example(
    x: object, starts: Sequence[int], shape: Sequence[int], steps: Sequence[int]
) -> Example:
    return Example((x,), {"starts": tuple(starts), "shape": tuple(shape), "steps": tuple(steps)})


register(
    Operator(
        "slice",
        _slice_infer,
        _slice_reference,
        _slice_element,
        gradient=slice_gradient,
        is_view=True,
        examples=(
            _slice_example((5, 7), (1, 2), (3, 4), (1, 1)),
            _slice_example((5, 7), (4, 6), (5, 3), (-1, -3)),
            _slice_example((9,), (8,), (3,), (-4,)),
            _slice_example((3, 4, 5), (0, 1, 4), (3, 2, 2), (1, 2, -2)),
            _slice_example((4,), (4,), (0,), (1,)),
            _slice_example((), (), (), ()),
            _slice_example((1, 6), (0, 5), (1, 1), (-1, 7)),
            _slice_example(integers((6,), i64), (1,), (5,), (1,)),
            _slice_example(ramp((6,), bf16), (5,), (2,), (-5,)),
        ),
    )
)

# full, iota, sizes


def _full_infer(*, shape: tuple[Size, ...], value: float | int | bool, dtype: DType) -> TensorType:
    return TensorType(dtype, tuple(shape))


def _full_reference(*, shape: tuple[int, ...], value: float | int | bool, dtype: DType) -> Array:
    # Through the expression's constant, so that integers wrap in the same way.
    with np.errstate(over="ignore"):
        return np.full(shape, np.asarray(_number(value, dtype)).astype(dtype.numpy))


def _number(value: float | int | bool, dtype: DType) -> float | int | bool:
    number = constant(value, dtype)
    assert isinstance(number, expr.Constant)
    return number.value


def _full_element(
    *, index: Index, shape: tuple[Size, ...], value: float | int | bool, dtype: DType
) -> Expression:
    return constant(value, dtype)


register(
    Operator(
        "full",
        _full_infer,
        _full_reference,
        _full_element,
        gradient=no_flow,
        is_view=True,
        examples=tuple(
            Example((), {"shape": shape, "value": value, "dtype": dtype})
            for shape, value, dtype in (
                ((2, 3), 0.1, f32),
                ((), -3, i32),
                ((0,), True, boolean),
                ((3,), float("inf"), f64),
                ((3,), 0.1, bf16),
                ((1, 2), 200, u8),
            )
        ),
    )
)


def _iota_infer(*, shape: tuple[Size, ...], axis: int, dtype: DType) -> TensorType:
    result = TensorType(dtype, tuple(shape))
    require_axis("iota", axis, result)
    require(dtype is not boolean, "iota counts in numbers, not in bool.")
    return result


def _iota_reference(*, shape: tuple[int, ...], axis: int, dtype: DType) -> Array:
    along = [1] * len(shape)
    along[axis] = shape[axis]
    counted = np.arange(shape[axis]).astype(dtype.numpy).reshape(along)
    return np.broadcast_to(counted, shape)


def _iota_element(*, index: Index, shape: tuple[Size, ...], axis: int, dtype: DType) -> Expression:
    return convert(index_value(index[axis]), dtype)


register(
    Operator(
        "iota",
        _iota_infer,
        _iota_reference,
        _iota_element,
        gradient=no_flow,
        is_view=True,
        examples=tuple(
            Example((), {"shape": shape, "axis": axis, "dtype": dtype})
            for shape, axis, dtype in (
                ((7,), 0, i64),
                ((2, 5), 1, f32),
                ((3, 1, 2), 0, i32),
                ((0, 2), 0, f32),
                ((300,), 0, u8),
                ((5,), 0, f16),
            )
        ),
    )
)


def _sizes_infer(*, sizes: tuple[Size, ...]) -> TensorType:
    return TensorType(i64, (len(sizes),))


def _sizes_reference(*, sizes: tuple[int, ...]) -> Array:
    return np.array(sizes, dtype=np.int64).reshape(len(sizes))


def _sizes_element(*, index: Index, sizes: tuple[Size, ...]) -> Expression:
    (place,) = index
    if isinstance(place, int):
        return index_value(sizes[place])
    result = index_value(sizes[-1] if sizes else 0)
    for position in reversed(range(len(sizes) - 1)):
        is_here = expr.binary("eq", index_value(place), position)
        result = expr.select(is_here, index_value(sizes[position]), result)
    return result


register(
    Operator(
        "sizes",
        _sizes_infer,
        _sizes_reference,
        _sizes_element,
        gradient=no_flow,
        examples=(
            Example((), {"sizes": (3, 1, 4)}),
            Example((), {"sizes": (7,)}),
            Example((), {"sizes": ()}),
        ),
    )
)
