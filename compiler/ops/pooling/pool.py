"""Pooling over the spatial axes of [N, *spatial, C]: the maximum or mean of what a window sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.differential import Cotangents, Differential
from bessemer.compiler.ir.dims import Size, Symbol, ceildiv, floordiv, maximum, minimum, product
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import Expression, Index, convert, index_value, reduce
from bessemer.compiler.ir.guard import guarded
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import (
    FLOATS,
    INTEGERS,
    Array,
    TensorType,
    bf16,
    dtype_of,
    f16,
    f64,
    i8,
    u8,
)
from bessemer.compiler.ops.check import require_dtype, require_entries
from bessemer.compiler.ops.example_arrays import SPECIAL, integers, ramp
from bessemer.compiler.ops.precise import rounded_once
from bessemer.compiler.ops.reductions.reduce import accumulator
from bessemer.compiler.ops.window import Window, reduction_index, tap_views, window_of


def _max_infer(
    x: TensorType, *, kernel: tuple[Size, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...], low: tuple[Size, ...], high: tuple[Size, ...],
) -> TensorType:  # fmt: skip
    require_dtype("max_pool", x, (*FLOATS, *INTEGERS))
    window = window_of(kernel, strides, dilations, low, high)
    window.check("max_pool", x)
    return x.with_shape((x.shape[0], *window.positions("max_pool", x), x.shape[-1]))


def _max_reference(
    x: Array, *, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...],
    low: tuple[int, ...], high: tuple[int, ...],
) -> Array:  # fmt: skip
    window = window_of(kernel, strides, dilations, low, high)
    result: Array | None = None
    for _, seen in tap_views(x, window, dtype_of(x).lowest):
        result = seen if result is None else np.maximum(result, seen)
    assert result is not None
    return result


def _max_element(
    x: Operand, *, index: Index, kernel: tuple[Size, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...], low: tuple[Size, ...], high: tuple[Size, ...],
) -> Expression:  # fmt: skip
    window = window_of(kernel, strides, dilations, low, high)
    lowest = expr.neutral("max", x.dtype)
    over, value, inside = _seen(x, window, index)
    return reduce("max", over, guarded(inside, value, lowest))


def _seen(
    x: Operand, window: Window, index: Index
) -> tuple[tuple[Symbol, ...], Expression, Expression]:
    """The taps to reduce over, what is seen at one, and whether it is in the input."""
    sample, *output, channel = index
    over, taps = reduction_index(window.kernel)
    place = window.source(output, taps)
    return over, x[(sample, *place, channel)], window.is_inside(place, x.shape[1:-1])


MOST_TAPS = 64
"""Windows of more taps have gradients axis by axis."""


def has_few_taps(kernel: Sequence[Size]) -> bool:
    """Whether a window has a known number of taps, of which each may be code of its own."""
    count = product(kernel)
    return isinstance(count, int) and count <= MOST_TAPS


def _by_axes(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The attributes of the poolings that make up one: itself, or one for each axis of a large
    window, the last axis first. The first of the largest elements in the order of memory is also
    the first that this order finds."""
    kernel = attributes["kernel"]
    if has_few_taps(kernel):
        return [dict(attributes)]
    none = {"kernel": 1, "strides": 1, "dilations": 1, "low": 0, "high": 0, "uncounted": 0}

    def along(axis: int) -> dict[str, Any]:
        return {
            name: tuple(s if k == axis else none[name] for k, s in enumerate(setting))
            if name in none
            else setting
            for name, setting in attributes.items()
        }

    return [along(axis) for axis in reversed(range(len(kernel)))]


def _max_gradient(d: Differential) -> Cotangents:
    poolings = _by_axes(d.attributes)
    values = [d.x]
    for given in poolings[:-1]:
        values.append(d.apply("max_pool", values[-1], **given))
    values.append(d.y)
    cotangent = d.dy
    for given, x, y in reversed(list(zip(poolings, values, values[1:]))):
        cotangent = d.apply("max_pool_gradient", x, y, cotangent, **given)
    return (cotangent,)


def _average_gradient(d: Differential) -> Cotangents:
    before, after = d.x.type.shape[1:-1], d.y.type.shape[1:-1]
    cotangent = d.dy
    for pooled, given in reversed(list(enumerate(_by_axes(d.attributes)))):
        left = len(before) - pooled
        spatial = (*before[:left], *after[left:])
        cotangent = d.apply("average_pool_gradient", cotangent, spatial=spatial, **given)
    return (cotangent,)


def _max_case(
    x: Any, kernel: tuple[int, ...], stride: int = 1, low: int = 0, high: int | None = None,
    dilation: int = 1, **more: Any,
) -> Example:  # fmt: skip
    count = len(kernel)
    attributes = {
        "kernel": kernel,
        "strides": (stride,) * count,
        "dilations": (dilation,) * count,
        "low": (low,) * count,
        "high": (low if high is None else high,) * count,
        **more,
    }
    rounding = {np.dtype(bf16.numpy): 2e-2, np.dtype(f16.numpy): 2e-3}
    tolerance = rounding.get(x.dtype, 1e-5) if isinstance(x, np.ndarray) else 1e-5
    return Example((x,), attributes, tolerance)


def _all_cases(**more: Any) -> tuple[Example, ...]:
    return (
        _max_case((1, 5, 7, 3), (2, 2), 2, **more),
        _max_case((2, 7, 7, 3), (3, 3), 2, 1, **more),
        _max_case((1, 9, 9, 1), (3, 2), 1, 0, 1, 2, **more),
        _max_case((1, 6, 5, 2), (3, 3), 2, 0, 1, **more),
        _max_case((2, 11, 3), (4,), 3, 1, **more),
        _max_case((1, 4, 4, 4, 2), (2, 2, 2), 2, **more),
        _max_case((1, 5, 5, 2), (5, 5), **more),
        _max_case((1, 6, 9, 2), (7, 10), 1, 4, **more),
        _max_case((1, 6, 6, 2), (2, 2), 1, -1, 1, **more),
        _max_case((3, 4), (), **more),
        _max_case((0, 4, 4, 2), (2, 2), **more),
        _max_case(ramp((1, 5, 5, 3), f64), (2, 2), **more),
        _max_case(ramp((1, 5, 5, 3), f16), (3, 3), 1, 1, **more),
        _max_case(ramp((1, 5, 5, 3), bf16), (2, 2), **more),
    )


register(
    Operator(
        "max_pool",
        _max_infer,
        _max_reference,
        _max_element,
        gradient=_max_gradient,
        examples=(
            *_all_cases(),
            _max_case(SPECIAL.reshape(1, -1, 1), (3,), 1, 1),
            _max_case(integers((1, 5, 5, 2), i8), (3, 3), 1, 1),
            _max_case(integers((1, 5, 5, 2), u8), (2, 2), 2),
        ),
    )
)

# average_pool


def _average_infer(
    x: TensorType, *, kernel: tuple[Size, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...], low: tuple[Size, ...], high: tuple[Size, ...],
    count_include_pad: bool, uncounted: tuple[Size, ...] = (),
) -> TensorType:  # fmt: skip
    """`uncounted`: how much of `high` no divisor counts (none if empty): what a rounding up of the
    output's shape has added to the pads of the model."""
    require_dtype("average_pool", x, FLOATS)
    window = window_of(kernel, strides, dilations, low, high)
    window.check("average_pool", x)
    if uncounted:
        require_entries("average_pool", "uncounted pads", uncounted, x.rank - 2)
    return x.with_shape((x.shape[0], *window.positions("average_pool", x), x.shape[-1]))


@rounded_once
def _average_reference(
    x: Array, *, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...],
    low: tuple[int, ...], high: tuple[int, ...], count_include_pad: bool,
    uncounted: tuple[int, ...] = (),
) -> Array:  # fmt: skip
    window = window_of(kernel, strides, dilations, low, high)
    total = sum(seen for _, seen in tap_views(x, window, 0))
    # The divisor is the sum of a picture of ones, seen through the same windows.
    ones = np.ones((1, *x.shape[1:-1], 1))
    counted = window
    if count_include_pad:
        beyond = uncounted or (0,) * len(kernel)
        kept = [h - b for h, b in zip(high, beyond)]
        pads = [(0, 0), *((max(b, 0), max(a, 0)) for b, a in zip(low, kept)), (0, 0)]
        ones = np.pad(ones, pads, constant_values=1)
        outside_low = tuple(min(b, 0) for b in low)
        outside_high = tuple(h - max(k, 0) for h, k in zip(high, kept))
        counted = window_of(kernel, strides, dilations, outside_low, outside_high)
    count = sum(seen for _, seen in tap_views(ones, counted, 0))
    return np.asarray(total / np.maximum(count, 1))


def _average_element(
    x: Operand, *, index: Index, kernel: tuple[Size, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...], low: tuple[Size, ...], high: tuple[Size, ...],
    count_include_pad: bool, uncounted: tuple[Size, ...] = (),
) -> Expression:  # fmt: skip
    window = window_of(kernel, strides, dilations, low, high)
    over, value, inside = _seen(x, window, index)
    sum_type = accumulator(x.dtype)
    total = reduce("add", over, guarded(inside, convert(value, sum_type), 0))
    count = counted_taps(window, index[1:-1], x.shape[1:-1], count_include_pad, uncounted)
    return convert(total / convert(index_value(maximum(count, 1)), sum_type), x.dtype)


def counted_taps(
    window: Window,
    output: Index,
    spatial: Sequence[Size],
    count_include_pad: bool,
    uncounted: tuple[Size, ...],
) -> Size:
    """The divisor at an output position; 0 where a window sees nothing that counts."""
    left, right = window.low, window.high
    if uncounted:
        right = tuple(h - u for h, u in zip(right, uncounted))
    if not count_include_pad:
        left = right = (0,) * len(window.kernel)
    return product(
        _counted(window, axis, output[axis], spatial[axis], left[axis], right[axis])
        for axis in range(len(window.kernel))
    )


def _counted(
    window: Window, axis: int, output: Size, size: Size, before: Size, after: Size
) -> Size:
    """How many taps of a window fall on the axis with `before` and `after` more at its ends."""
    kernel, step = window.kernel[axis], window.dilations[axis]
    first_place = output * window.strides[axis] - window.low[axis]
    first: Size = 0
    if before != window.low[axis]:
        first = maximum(ceildiv(-1 * first_place - before, step), 0)
    last = kernel - 1
    if after != window.high[axis]:
        last = minimum(floordiv(size + after - 1 - first_place, step), last)
    return maximum(last - first + 1, 0)


register(
    Operator(
        "average_pool",
        _average_infer,
        _average_reference,
        _average_element,
        gradient=_average_gradient,
        examples=(
            *_all_cases(count_include_pad=False),
            *_all_cases(count_include_pad=True),
            _max_case((1, 6, 6, 2), (3, 3), 2, 1, 2, count_include_pad=True, uncounted=(1, 1)),
            _max_case((1, 6, 6, 2), (3, 3), 2, 0, 1, count_include_pad=True, uncounted=(1, 1)),
            _max_case((1, 6, 6, 2), (3, 3), 2, 1, 2, count_include_pad=False, uncounted=(1, 1)),
        ),
    )
)
