"""Where in the input an element of a resized axis lies: the coordinate modes of ONNX Resize.

Where the scale is the ratio of the two sizes, positions are ratios of integers: no rounding, ties
are ties, and an upscaled nearest neighbour is a plain division of the index, so a view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bessemer.compiler.ir import dims, expr
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Expression, as_index, constant, convert, index_value, select
from bessemer.compiler.ir.types import DType, f32, f64, i64

COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
    "tf_half_pixel_for_nn",
)
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@dataclass(frozen=True)
class Ratio:
    """(slope * place + offset) / denominator, exactly."""

    place: Size
    slope: Size
    offset: Size
    denominator: Size

    def _divided(self, slope: Size, offset: Size, denominator: Size) -> Size:
        """floor((slope * place + offset) / denominator), in lowest terms."""
        if isinstance(slope, int) and isinstance(offset, int) and isinstance(denominator, int):
            shared = math.gcd(slope, denominator)
            slope, offset, denominator = slope // shared, offset // shared, denominator // shared
        return dims.floordiv(slope * self.place + offset, denominator)

    def nearest(self, rounding: str) -> Size:
        """The neighbour that a rounding mode names; it may lie outside of the axis."""
        match rounding:
            case "floor":
                return self._divided(self.slope, self.offset, self.denominator)
            case "ceil":
                return self._divided(
                    self.slope, self.offset + self.denominator - 1, self.denominator
                )
            case _:
                # floor(x + 1/2), and ceil(x - 1/2), in halves.
                less = 1 if rounding == "round_prefer_floor" else 0
                offset = 2 * self.offset + self.denominator - less
                return self._divided(2 * self.slope, offset, 2 * self.denominator)

    def floor(self) -> Size:
        """The last place of the axis that is not behind the position."""
        return self.nearest("floor")

    def fraction(self, dtype: DType) -> Expression:
        """The position minus its floor."""
        numerator = dims.mod(self.slope * self.place + self.offset, self.denominator)
        whole = convert(index_value(self.denominator), dtype)
        return convert(index_value(numerator), dtype) / whole


@dataclass(frozen=True)
class Point:
    """A position that is computed in f64; and in f32, by which the nearest neighbour is chosen, as
    others do: 7 / 0.7 is 10 there, and not behind it."""

    value: Expression
    rough: Expression

    def nearest(self, rounding: str) -> Size:
        """As Ratio.nearest, of the rough position."""
        match rounding:
            case "floor":
                return _rounded("floor", self.rough)
            case "ceil":
                return _rounded("ceil", self.rough)
            case "round_prefer_floor":
                return _rounded("ceil", self.rough - 0.5)
            case _:
                return _rounded("floor", self.rough + 0.5)

    def floor(self) -> Size:
        """As Ratio.floor, of the exact position, as the fraction is."""
        return _rounded("floor", self.value)

    def fraction(self, dtype: DType) -> Expression:
        """As Ratio.fraction."""
        return convert(self.value - expr.unary("floor", self.value), dtype)


def _rounded(function: str, position: Expression) -> Size:
    return as_index(convert(expr.unary(function, position), i64))


def is_size_ratio(size: Size, resized: Size, scale: float) -> bool:
    """Whether the scale is just what the sizes say (0 says so); scales come as float32."""
    if scale == 0:
        return True
    if isinstance(size, int) and isinstance(resized, int):
        return size > 0 and bool(np.float32(resized / size) == np.float32(scale))
    return scale == int(scale) and dims.divide_exactly(resized, size) == int(scale)


def source(
    place: Size,
    size: Size,
    resized: Size,
    scale: float,
    coordinate: str,
    start: float,
    end: float,
) -> Ratio | Point:
    """The position along an axis of `size` that element `place` of `resized` is taken from.

    `start` and `end` are the axis' part of the region of interest (tf_crop_and_resize only).
    """
    if resized == 0:
        return Ratio(place, 0, 0, 1)
    if coordinate == "tf_crop_and_resize":
        crops = (_crop(place, size, resized, scale, start, end, dtype) for dtype in (f64, f32))
        return Point(*crops)
    if not is_size_ratio(size, resized, scale):
        given = (_scaled(place, size, resized, scale, coordinate, dtype) for dtype in (f64, f32))
        return Point(*given)
    match coordinate:
        case "asymmetric":
            new, old = _lowest_terms(resized, size)
            return Ratio(place, old, 0, new)
        case "tf_half_pixel_for_nn":
            new, old = _lowest_terms(resized, size)
            return Ratio(place, 2 * old, old, 2 * new)
        case "align_corners":
            new, old = _lowest_terms(dims.maximum(resized - 1, 1), size - 1)
            return Ratio(place, old, 0, new)
        case _:
            new, old = _lowest_terms(resized, size)
            half = Ratio(place, 2 * old, old - new, 2 * new)
            if coordinate != "pytorch_half_pixel":
                return half
            # A single element is taken from position 0, not from the middle.
            wide = dims.minimum(resized - 1, 1)
            return Ratio(place, half.slope * wide, half.offset * wide, half.denominator)


def _lowest_terms(a: Size, b: Size) -> tuple[Size, Size]:
    if isinstance(a, int) and isinstance(b, int):
        shared = math.gcd(a, b) or 1
        return a // shared, b // shared
    factor = dims.divide_exactly(a, b)
    if isinstance(factor, int):
        return factor, 1
    factor = dims.divide_exactly(b, a)
    return (1, factor) if isinstance(factor, int) else (a, b)


def _scaled(
    place: Size, size: Size, resized: Size, scale: float, coordinate: str, dtype: DType
) -> Expression:
    """A given scale that the sizes do not reproduce, as for sizes that were rounded down."""
    at, old, new = (convert(index_value(number), dtype) for number in (place, size, resized))
    match coordinate:
        case "asymmetric":
            return at / scale
        case "tf_half_pixel_for_nn":
            return (at + 0.5) / scale
        case "align_corners":
            # The length before it was rounded down, as the ONNX evaluator has it.
            steps = old * scale - 1.0
            one = expr.binary("eq", steps, 0.0)
            last = convert(index_value(size - 1), dtype)
            return select(one, constant(0.0, dtype), at * last / steps)
        case "half_pixel_symmetric":
            adjustment = new / (old * scale)
            middle = old * 0.5 * (1.0 - adjustment)
            return middle + (at + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            half = (at + 0.5) / scale - 0.5
            return select(expr.less(1, resized), half, 0.0)
        case _:
            return (at + 0.5) / scale - 0.5


def _crop(
    place: Size, size: Size, resized: Size, scale: float, start: float, end: float, dtype: DType
) -> Expression:
    at, old, new, last = (
        convert(index_value(number), dtype) for number in (place, size, resized, size - 1)
    )
    length = new if is_size_ratio(size, resized, scale) else old * scale
    one = expr.binary("eq", length, 1.0)
    steps = at * (end - start) * last / (length - 1.0)
    middle = last * ((end - start) / 2)
    return select(one, middle, steps) + last * start
