"""mix_neighbours: along one axis, the elements at places that a table holds, or weighted sums of
neighbours there; resize_positions: where the elements of a resized axis lie; neighbour_place and
neighbour_weight: which neighbours are mixed at such positions, and how much of each. Together they
resize an axis whose sizes only the run knows (passes/gathers/tabulate_resizes.py)."""

from __future__ import annotations

from functools import reduce as fold

import numpy as np

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import Expression, Index, as_index, convert, index_value, unary
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import FLOATS, Array, DType, TensorType, f32, f64, i32, i64
from bessemer.compiler.ops.check import require, require_axis, require_dtype
from bessemer.compiler.ops.image.interpolate import clamped, cubic_weights
from bessemer.compiler.ops.image.resize_position import COORDINATES, Point, is_size_ratio, source
from bessemer.compiler.ops.image.resize_reference import positions

TAPS = {"linear": 2, "cubic": 4}
"""How many neighbours along an axis a mode mixes; half of them lie at or before the position."""


def _infer(x: TensorType, places: TensorType, *weights: TensorType, axis: int) -> TensorType:
    """(x, places [n], for each tap its weights [n], if any) -> x with n elements along `axis`.

    A place is that of the first tap; taps beyond an end of the axis are the element at the end.
    """
    require_axis("mix_neighbours", axis, x)
    require_dtype("mix_neighbours' places", places, (i32, i64))
    require(
        all(given.shape == places.shape and given.rank == 1 for given in (places, *weights)),
        f"mix_neighbours wants a place and each weight of every element, not {places}, {weights}.",
    )
    for given in weights:
        require_dtype("mix_neighbours' weights", given, FLOATS)
        require(given.dtype is x.dtype, f"mix_neighbours wants weights of the type of {x}.")
    return x.with_shape((*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]))


def _element(x: Operand, places: Operand, *weights: Operand, index: Index, axis: int) -> Expression:
    at = index[axis]
    place = as_index(convert(places[(at,)], i64))

    def tap(number: int) -> Expression:
        inside = clamped(place + number, x.shape[axis])
        return x[(*index[:axis], inside, *index[axis + 1 :])]

    if not weights:
        return tap(0)
    terms = [weight[(at,)] * tap(number) for number, weight in enumerate(weights)]
    return fold(lambda a, b: a + b, terms)


def _reference(x: Array, places: Array, *weights: Array, axis: int) -> Array:
    last = x.shape[axis] - 1

    def tap(number: int) -> Array:
        return np.asarray(np.take(x, np.clip(places + number, 0, last), axis=axis))

    if not weights:
        return tap(0)
    behind = (-1, *[1] * (x.ndim - axis - 1))
    total = np.zeros_like(tap(0), np.float64)
    for number, weight in enumerate(weights):
        total += weight.reshape(behind).astype(np.float64) * tap(number)
    return total.astype(x.dtype)


register(
    Operator(
        "mix_neighbours",
        _infer,
        _reference,
        _element,
        gradient=None,
        examples=(
            Example(((2, 5, 3), np.array([4, 0, -1, 9])), {"axis": 1}),
            Example(((2, 5), np.array([3, 0, 4]), (3,), (3,)), {"axis": 1}),
            Example(((2, 5), np.array([3, 0, 4], np.int32), (3,), (3,)), {"axis": 1}),
            Example(((5, 4, 2), np.array([-1, 3]), (2,), (2,), (2,), (2,)), {"axis": 0}),
        ),
    )
)


def _positions_infer(
    *, size: Size, resized: Size, scale: float = 0.0, coordinate: str = "half_pixel"
) -> TensorType:
    """Positions along an axis of `size` elements; a scale of 0 is the ratio of the sizes."""
    known = coordinate in COORDINATES and coordinate != "tf_crop_and_resize"
    require(known, f"resize_positions has no coordinate mode {coordinate!r}.")
    return TensorType(f64, (resized,))


def _positions_reference(
    *, size: int, resized: int, scale: float = 0.0, coordinate: str = "half_pixel"
) -> Array:
    exact = is_size_ratio(size, resized, scale)
    return positions(size, resized, 0.0 if exact else scale, coordinate, 0.0, 1.0)


def _positions_element(
    *,
    index: Index,
    size: Size,
    resized: Size,
    scale: float = 0.0,
    coordinate: str = "half_pixel",
) -> Expression:
    position = source(index[0], size, resized, scale, coordinate, 0.0, 1.0)
    if isinstance(position, Point):
        return position.value
    return convert(index_value(position.floor()), f64) + position.fraction(f64)


register(
    Operator(
        "resize_positions",
        _positions_infer,
        _positions_reference,
        _positions_element,
        gradient=None,
        examples=(
            *(
                Example((), {"size": size, "resized": resized, "coordinate": coordinate})
                for coordinate in COORDINATES
                if coordinate != "tf_crop_and_resize"
                for size, resized in ((7, 12), (9, 4))
            ),
            Example((), {"size": 7, "resized": 9, "scale": 1.3}),
            Example((), {"size": 5, "resized": 1, "coordinate": "pytorch_half_pixel"}),
        ),
    )
)


def _place_infer(positions: TensorType, *, mode: str) -> TensorType:
    """Where the first of the neighbours is that a mode mixes at positions f64 [n]."""
    require_dtype("neighbour_place's positions", positions, (f64,))
    require(mode in TAPS, f"neighbour_place has no mode {mode!r}.")
    return positions.with_dtype(i32)


def _place_reference(positions: Array, *, mode: str) -> Array:
    return np.asarray(np.floor(positions) - (TAPS[mode] // 2 - 1), np.int32)


def _place_element(positions: Operand, *, index: Index, mode: str) -> Expression:
    return convert(unary("floor", positions[index]) - (TAPS[mode] // 2 - 1), i32)


register(
    Operator(
        "neighbour_place",
        _place_infer,
        _place_reference,
        _place_element,
        gradient=None,
        examples=tuple(
            Example((np.array(positions),), {"mode": mode})
            for mode in TAPS
            for positions in ([-1.25, -0.5, 0, 0.3, 2, 7.9], [3.5])
        ),
    )
)


def _weight_infer(
    positions: TensorType, *, tap: int, mode: str, cubic_a: float, dtype: DType
) -> TensorType:
    """The weights, at positions f64 [n], of neighbour `tap` of those that a mode mixes."""
    require_dtype("neighbour_weight's positions", positions, (f64,))
    require(
        0 <= tap < TAPS.get(mode, 0), f"neighbour_weight has no neighbour {tap} in mode {mode!r}."
    )
    return positions.with_dtype(dtype)


def _weight_reference(
    positions: Array, *, tap: int, mode: str, cubic_a: float, dtype: DType
) -> Array:
    fraction = positions - np.floor(positions)
    if mode == "linear":
        return np.asarray(np.abs(1 - tap - fraction), dtype.numpy)
    distance, a = np.abs(fraction - (tap - 1)), cubic_a
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return np.asarray(np.where(distance <= 1, near, far), dtype.numpy)


def _weight_element(
    positions: Operand, *, index: Index, tap: int, mode: str, cubic_a: float, dtype: DType
) -> Expression:
    position = positions[index]
    fraction = position - unary("floor", position)
    linear = (1 - fraction, fraction)
    weights = linear if mode == "linear" else cubic_weights(fraction, cubic_a)
    return convert(weights[tap], dtype)


register(
    Operator(
        "neighbour_weight",
        _weight_infer,
        _weight_reference,
        _weight_element,
        gradient=None,
        examples=tuple(
            Example(
                (np.array([-1.25, -0.5, 0, 0.3, 2, 7.9]),),
                {"tap": tap, "mode": mode, "cubic_a": -0.75, "dtype": dtype},
            )
            for mode, taps in TAPS.items()
            for tap in range(taps)
            for dtype in (f32, f64)
        ),
    )
)
