"""resize: interpolation to another shape, as ONNX Resize has it, along any axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce as fold
from typing import TypeAlias

import numpy as np

from bessemer.compiler.ir import dims, expr
from bessemer.compiler.ir.dims import Size, ceildiv
from bessemer.compiler.ir.element import Operand, reduction_symbols
from bessemer.compiler.ir.expr import Expression, Index, constant, convert, index_value, select
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import (
    FLOATS,
    INTEGERS,
    Array,
    DType,
    TensorType,
    bf16,
    f16,
    f32,
    f64,
)
from bessemer.compiler.ops.check import require, require_dtype, require_entries
from bessemer.compiler.ops.image.gradients_resize import resize_gradient
from bessemer.compiler.ops.image.interpolate import clamped, cubic_weight, cubic_weights
from bessemer.compiler.ops.image.resize_position import (
    COORDINATES,
    ROUNDINGS,
    Point,
    Ratio,
    is_size_ratio,
    source,
)
from bessemer.compiler.ops.image.resize_reference import reference

_Along: TypeAlias = Callable[[Size], Expression]
"""The element at a place of an axis."""


@dataclass(frozen=True)
class _Axis:
    """One axis of a resize."""

    size: Size
    resized: Size
    scale: float
    start: float
    end: float
    coordinate: str

    @property
    def is_kept(self) -> bool:
        """Whether every element stays where it is."""
        inside = self.coordinate != "tf_crop_and_resize" or (self.start == 0 and self.end == 1)
        return self.size == self.resized and self.has_size_ratio and inside

    @property
    def has_size_ratio(self) -> bool:
        return is_size_ratio(self.size, self.resized, self.scale)

    def source(self, place: Size) -> Ratio | Point:
        """The position in the input of an element of the output."""
        return source(
            place, self.size, self.resized, self.scale, self.coordinate, self.start, self.end
        )

    @property
    def may_shrink(self) -> bool:
        """Whether elements of the output may lie further apart than those of the input."""
        if self.has_size_ratio:
            return not dims.is_nonnegative(self.resized - self.size)
        return self.scale < 1


def _axes(
    x: TensorType,
    shape: tuple[Size, ...],
    scales: tuple[float, ...],
    coordinate: str,
    roi: tuple[float, ...],
) -> tuple[_Axis, ...]:
    rank = x.rank
    known = scales or (0.0,) * rank
    region = roi or (0.0,) * rank + (1.0,) * rank
    return tuple(
        _Axis(x.shape[i], shape[i], known[i], region[i], region[rank + i], coordinate)
        for i in range(rank)
    )


def _infer(
    x: TensorType,
    *,
    shape: tuple[Size, ...],
    scales: tuple[float, ...] = (),
    mode: str = "nearest",
    coordinate: str = "half_pixel",
    nearest: str = "round_prefer_floor",
    cubic_a: float = -0.75,
    exclude_outside: bool = False,
    antialias: bool = False,
    roi: tuple[float, ...] = (),
    extrapolation: float = 0.0,
) -> TensorType:
    """Names as ONNX has them. A scale of 0, or no scales, is the ratio of the sizes.

    `roi` has the starts of all axes, then the ends. Integers are computed in f32 and rounded.
    """
    require_dtype("resize", x, (*FLOATS, *INTEGERS))
    require_entries("resize", "sizes", shape, x.rank)
    require_entries("resize", "scales", scales or shape, x.rank)
    require_entries("resize", "region bounds", roi or (*shape, *shape), 2 * x.rank)
    require(mode in ("nearest", "linear", "cubic"), f"resize has no mode {mode!r}.")
    require(coordinate in COORDINATES, f"resize has no coordinate mode {coordinate!r}.")
    require(nearest in ROUNDINGS, f"resize has no nearest mode {nearest!r}.")
    require(all(scale >= 0 for scale in scales), f"resize wants positive scales, not {scales}.")
    require(not (antialias and mode == "nearest"), "resize cannot antialias in mode nearest.")
    return x.with_shape(shape)


def _element(
    x: Operand,
    *,
    index: Index,
    shape: tuple[Size, ...],
    scales: tuple[float, ...] = (),
    mode: str = "nearest",
    coordinate: str = "half_pixel",
    nearest: str = "round_prefer_floor",
    cubic_a: float = -0.75,
    exclude_outside: bool = False,
    antialias: bool = False,
    roi: tuple[float, ...] = (),
    extrapolation: float = 0.0,
) -> Expression:
    axes = _axes(x.type, shape, scales, coordinate, roi)
    working = f64 if x.dtype is f64 else f32
    filter = _Filter(working, mode, cubic_a, exclude_outside, antialias)

    def value(place: Index) -> Expression:
        """The element at `place`, whose leading axes are those of the input already."""
        number = len(place)
        if number == len(axes):
            return x[place] if mode == "nearest" else convert(x[place], working)
        axis, at = axes[number], index[number]
        if axis.is_kept:
            return value((*place, at))
        if mode == "nearest":
            return value((*place, clamped(axis.source(at).nearest(nearest), axis.size)))
        return filter.apply(axis, axis.source(at), lambda tap: value((*place, tap)))

    result = value(())
    if result.dtype != x.dtype:
        result = expr.unary("round", result) if x.dtype.is_integer else result
        result = convert(result, x.dtype)
    if coordinate != "tf_crop_and_resize":
        return result
    return _extrapolated(axes, index, result, extrapolation)


def _extrapolated(
    axes: tuple[_Axis, ...], index: Index, inside: Expression, value: float
) -> Expression:
    result = inside
    for axis, at in zip(axes, index, strict=True):
        position = axis.source(at)
        if not axis.is_kept and isinstance(position, Point):
            last = convert(index_value(axis.size - 1), f64)
            is_outside = (position.value < 0) | (position.value > last)
            result = select(is_outside, constant(value, inside.dtype), result)
    return result


@dataclass(frozen=True)
class _Filter:
    """A weighted sum of neighbours along one axis."""

    working: DType
    mode: str
    cubic_a: float
    exclude_outside: bool
    antialias: bool

    def apply(self, axis: _Axis, position: Ratio | Point, value: _Along) -> Expression:
        """The sum, where value(i) is the element at i of the axis."""
        fraction = position.fraction(self.working)
        if self.antialias and axis.may_shrink:
            return self._widened(axis, position, fraction, value)
        first = position.floor() - (1 if self.mode == "cubic" else 0)
        weights = (
            cubic_weights(fraction, self.cubic_a)
            if self.mode == "cubic"
            else (1 - fraction, fraction)
        )
        taps = [first + i for i in range(len(weights))]
        if self.exclude_outside:
            weights = tuple(self._inside(tap, axis, w) for tap, w in zip(taps, weights))
        terms = [w * value(clamped(tap, axis.size)) for tap, w in zip(taps, weights)]
        sum_of_terms = fold(lambda a, b: a + b, terms)
        if not self.exclude_outside:
            return sum_of_terms
        return sum_of_terms / fold(lambda a, b: a + b, weights)

    def _inside(self, tap: Size, axis: _Axis, weight: Expression) -> Expression:
        return select(expr.within(tap, axis.size), weight, 0)

    def _widened(
        self, axis: _Axis, position: Ratio | Point, fraction: Expression, value: _Along
    ) -> Expression:
        """The filter stretched over all neighbours that a shrunk element covers, normalised."""
        reach = 2 if self.mode == "cubic" else 1
        if axis.has_size_ratio:
            half: Size = ceildiv(reach * axis.size, axis.resized)
            resized = convert(index_value(axis.resized), self.working)
            scale = resized / convert(index_value(axis.size), self.working)
        else:
            half = math.ceil(reach / axis.scale)
            scale = constant(axis.scale, self.working)
        # Symbolic sizes may turn out to grow: then the filter is as wide as ever.
        scale = expr.binary("min", scale, 1.0)
        first = position.floor() + 1 - half

        def weight(number: Size) -> Expression:
            offset = convert(index_value(number + 1 - half), self.working) - fraction
            distance = expr.unary("abs", offset * scale)
            if self.mode == "cubic":
                found = cubic_weight(distance, self.cubic_a)
            else:
                found = expr.binary("max", 1 - distance, 0.0)
            return self._inside(first + number, axis, found) if self.exclude_outside else found

        taps = reduction_symbols((2 * half, 2 * half))
        one, another = (dims.atom(tap) for tap in taps)
        element = value(clamped(first + one, axis.size))
        terms = expr.reduce("add", taps[:1], weight(one) * element)
        return terms / expr.reduce("add", taps[1:], weight(another))


def _example(
    given: Array | tuple[int, ...],
    shape: tuple[int, ...],
    scales: tuple[float, ...] = (),
    mode: str = "nearest",
    **attributes: object,
) -> Example:
    return Example((given,), {"shape": shape, "scales": scales, "mode": mode, **attributes})


_SMALL = np.arange(1, 17, dtype=np.float32).reshape(1, 4, 4, 1)
_ROI = (0.0, 0.4, 0.6, 0.0, 1.0, 0.6, 1.2, 1.0)

register(
    Operator(
        "resize",
        _infer,
        reference,
        _element,
        gradient=resize_gradient,
        examples=(
            _example((2, 3, 5, 3), (2, 6, 15, 3)),
            _example((1, 3, 4), (1, 6, 8), (1, 2, 2), coordinate="asymmetric", nearest="floor"),
            *(
                _example((1, 7, 4, 2), (1, 5, 9, 2), coordinate=coordinate, nearest=nearest)
                for coordinate in COORDINATES[:-2]
                for nearest in ROUNDINGS
            ),
            _example((5, 3), (3, 1), (0.625, 0.5), nearest="ceil"),
            _example(np.arange(12).reshape(3, 4), (7, 2)),
            *(
                _example((2, 5, 4, 3), (2, 7, 3, 3), (), mode, coordinate=coordinate)
                for mode in ("linear", "cubic")
                for coordinate in COORDINATES[:-2]
            ),
            *(
                _example((2, 4), (1, 2), (0.6, 0.6), "linear", coordinate=coordinate)
                for coordinate in COORDINATES[:-2]
            ),
            _example((1, 2, 3, 4, 1), (1, 3, 5, 7, 1), (), "linear"),
            _example((4, 1), (1, 3), (), "linear", coordinate="pytorch_half_pixel"),
            _example(_SMALL, (1, 6, 3, 1), (), "cubic", cubic_a=-0.5, exclude_outside=True),
            _example(_SMALL, (1, 2, 3, 1), (1, 0.6, 0.8, 1), "linear", antialias=True),
            _example(_SMALL, (1, 3, 9, 1), (), "linear", antialias=True, exclude_outside=True),
            _example(_SMALL, (1, 2, 2, 1), (1, 0.6, 0.6, 1), "cubic", antialias=True),
            _example(_SMALL, (1, 3, 1, 1), (), "cubic", antialias=True, exclude_outside=True),
            *(
                _example(
                    _SMALL,
                    (1, 3, 5, 1),
                    (),
                    mode,
                    coordinate="tf_crop_and_resize",
                    roi=_ROI,
                    extrapolation=10.0,
                )
                for mode in ("nearest", "linear", "cubic")
            ),
            _example(_SMALL, (1, 1, 3, 1), (), "linear", coordinate="tf_crop_and_resize", roi=_ROI),
            _example(np.array([[0, 255, 7]], np.uint8), (1, 7), (), "linear"),
            Example(
                (np.linspace(-1, 1, 15).reshape(3, 5).astype(f16.numpy),),
                {"shape": (5, 3), "mode": "linear"},
                tolerance=2e-3,
            ),
            Example(
                (np.linspace(-1, 1, 15).reshape(3, 5).astype(bf16.numpy),),
                {"shape": (5, 3), "mode": "cubic"},
                tolerance=2e-2,
            ),
            Example(((3, 2),), {"shape": (0, 4), "mode": "linear"}),
        ),
    )
)
