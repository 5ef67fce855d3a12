"""Padding and concatenation: an element is found in an input, or nowhere."""

from __future__ import annotations

from typing import Literal

import numpy as np

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.dims import (
    Size,
    format_size,
    is_nonnegative,
    maximum,
    minimum,
    mod,
    total,
)
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import Expression, Index, constant
from bessemer.compiler.ir.guard import guarded
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType, bf16, boolean, f32, i64, u8
from bessemer.compiler.ops.check import listed, require, require_axis, require_entries
from bessemer.compiler.ops.example_arrays import booleans, integers, ramp
from bessemer.compiler.ops.movement.gradients_move import concat_gradient, pad_gradient

Mode = Literal["constant", "reflect", "edge", "wrap"]


def _infer(
    x: TensorType, *, low: tuple[Size, ...], high: tuple[Size, ...], mode: Mode, value: float
) -> TensorType:
    for name, entries in (("low pads", low), ("high pads", high)):
        require_entries("pad", name, entries, x.rank)
    require(
        mode in ("constant", "reflect", "edge", "wrap"),
        f"pad has mode '{mode}'; it knows constant, reflect, edge and wrap.",
    )
    shape: list[Size] = []
    for axis, (size, before, after) in enumerate(zip(x.shape, low, high)):
        padded = size + before + after
        require(
            not is_nonnegative(-1 - padded),
            f"pad of {x}: {format_size(before)} and {format_size(after)} take away more than "
            f"there is along axis {axis}.",
        )
        require(
            mode == "constant" or size != 0 or padded == 0,
            f"pad of {x} with mode '{mode}': axis {axis} has no elements to repeat.",
        )
        shape.append(padded)
    return x.with_shape(tuple(shape))


def _reference(
    x: Array, *, low: tuple[int, ...], high: tuple[int, ...], mode: Mode, value: float
) -> Array:
    result = x
    for axis, (before, after) in enumerate(zip(low, high)):
        size = x.shape[axis]
        places = np.arange(-before, size + after)
        # Every position of the padded axis as one of the axis: those inside are their own image.
        match mode:
            case "reflect":
                found = np.pad(np.arange(size), _margins(size, before, after), "reflect")
                places = found[places + max(before, 0)]
            case "edge":
                places = np.clip(places, 0, size - 1)
            case "wrap":
                places = places % max(size, 1)
            case _:
                result = _with_margin(result, axis, max(before, 0), max(after, 0), value)
                places = places + max(before, 0)
        result = np.take(result, places, axis)
    return result


def _margins(size: int, before: int, after: int) -> tuple[int, int]:
    return (max(before, 0), max(after, 0)) if size else (0, 0)


def _with_margin(x: Array, axis: int, before: int, after: int, value: float) -> Array:
    widths = [(before, after) if a == axis else (0, 0) for a in range(x.ndim)]
    return np.pad(x, widths, "constant", constant_values=np.asarray(value).astype(x.dtype))


def _element(
    x: Operand, *, index: Index, low: tuple[Size, ...], high: tuple[Size, ...], mode: Mode,
    value: float,
) -> Expression:  # fmt: skip
    source = [i - before for i, before in zip(index, low)]
    if mode != "constant":
        places = zip(source, x.shape, low, high)
        return x[tuple(_image(place, size, mode, b, a) for place, size, b, a in places)]
    inside = constant(True, boolean)
    for place, size, before, after in zip(source, x.shape, low, high):
        inside = inside & within_pads(place, size, before, after)
    return guarded(inside, x[tuple(source)], value)


def within_pads(place: Size, size: Size, low: Size, high: Size) -> Expression:
    """Whether `place` is on an axis of `size`, when it is known to be on the padded axis."""
    result = constant(True, boolean)
    if not is_nonnegative(-1 * low):
        result = result & expr.binary("ge", expr.index_value(place), 0)
    if not is_nonnegative(-1 * high):
        result = result & expr.less(place, size)
    return result


def _image(place: Size, size: Size, mode: Mode, low: Size, high: Size) -> Size:
    """The position on the axis that the position `place`, maybe outside, repeats."""
    if is_nonnegative(-1 * low) and is_nonnegative(-1 * high):
        return place
    match mode:
        case "edge":
            return maximum(minimum(place, size - 1), 0)
        case "wrap":
            return mod(place, size)
        case _ if size == 1:
            return 0
        case _ if is_nonnegative(size - 1 - low) and is_nonnegative(size - 1 - high):
            # Reflected once at most: |place|, and the same from the other end.
            folded = maximum(place, -1 * place)
            return minimum(folded, 2 * (size - 1) - folded)
        case _ if isinstance(size, int):
            return _folded(place, size)
        case _:
            # What lies outside is folded, so that what lies inside is seen to stay.
            outside = maximum(-1 * place, 0) + maximum(place - (size - 1), 0)
            moved = maximum(minimum(place, size - 1), 0) - _folded(outside, size)
            return maximum(moved, -1 * moved)


def _folded(place: Size, size: Size) -> Size:
    """Where a place lies on an axis on which one goes to and fro."""
    period = maximum(2 * (size - 1), 1)
    there = mod(place, period)
    return minimum(there, period - there) if size != 2 else there


_PADS: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], ...] = (
    ((3, 5), (1, 2), (2, 0)),
    ((4, 5), (-1, 2), (1, -3)),
    ((7,), (3,), (5,)),
    ((2, 3, 4), (0, 1, 0), (0, 1, 3)),
    ((1, 3), (2, 0), (1, 2)),
    ((2,), (5,), (4,)),
    ((), (), ()),
    ((4, 3), (-2, 0), (-1, -3)),
    ((3, 61), (2, 3), (1, 17)),
    ((2, 80), (0, -5), (1, 2)),
)
"""Shapes with low and high pads."""


def _examples() -> tuple[Example, ...]:
    found = [
        Example((shape,), {"low": low, "high": high, "mode": mode, "value": 0.5})
        for mode in ("constant", "reflect", "edge", "wrap")
        for shape, low, high in _PADS
    ]
    constants = [
        (integers((3,), i64), -7),
        (integers((3,), u8), 255),
        (booleans((3,)), True),
        (ramp((3,), bf16), 0.1),
        (ramp((0,), f32), -1.0),
        (ramp((3,), f32), float("-inf")),
    ]
    for x, value in constants:
        pads = {"low": (1,), "high": (2,), "mode": "constant", "value": value}
        found.append(Example((x,), pads))
    return tuple(found)


register(Operator("pad", _infer, _reference, _element, gradient=pad_gradient, examples=_examples()))

# concat


def _concat_infer(*inputs: TensorType, axis: int) -> TensorType:
    require(len(inputs) > 0, "concat wants one input at least.")
    first = inputs[0]
    require_axis("concat", axis, first)
    fits = all(
        other.dtype == first.dtype
        and other.rank == first.rank
        and all(a == b or i == axis for i, (a, b) in enumerate(zip(first.shape, other.shape)))
        for other in inputs
    )
    require(
        fits,
        f"concat along axis {axis} wants inputs that differ in that axis only, but they are "
        f"{listed(inputs)}.",
    )
    along = total(type.shape[axis] for type in inputs)
    return first.with_shape((*first.shape[:axis], along, *first.shape[axis + 1 :]))


def _concat_reference(*inputs: Array, axis: int) -> Array:
    return np.concatenate(inputs, axis)


def _concat_element(*inputs: Operand, index: Index, axis: int) -> Expression:
    """Each input is read under a guard of its own, so that none is read outside."""
    start: Size = 0
    result: Expression | None = None
    for x in inputs:
        place = index[axis] - start
        value = x[(*index[:axis], place, *index[axis + 1 :])]
        here = expr.within(place, x.shape[axis])
        result = guarded(here, value, 0 if result is None else result)
        start = start + x.shape[axis]
    assert result is not None
    return result


register(
    Operator(
        "concat",
        _concat_infer,
        _concat_reference,
        _concat_element,
        gradient=concat_gradient,
        examples=(
            Example(((2, 3), (2, 5)), {"axis": 1}),
            Example(((2, 3), (1, 3), (4, 3)), {"axis": 0}),
            Example(((2, 3, 1),), {"axis": 2}),
            Example(((2, 0), (2, 3), (2, 0)), {"axis": 1}),
            Example(((0, 3), (0, 2)), {"axis": 1}),
            Example((integers((3,), i64), integers((2,), i64)), {"axis": 0}),
            Example((booleans((2, 2)), booleans((2, 3), 2)), {"axis": 1}),
            Example((ramp((2,), bf16), ramp((5,), bf16)), {"axis": 0}),
        ),
    )
)
