"""grid_sample: an image read at positions that another tensor holds, as ONNX GridSample has it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import (
    Expression,
    Index,
    as_index,
    binary,
    constant,
    convert,
    index_value,
    select,
    unary,
)
from bessemer.compiler.ir.guard import guarded
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import FLOATS, Array, TensorType, boolean, f16, f32, f64, i32, i64
from bessemer.compiler.ops.check import require, require_dtype
from bessemer.compiler.ops.image.gradients_sample import grid_sample_gradient
from bessemer.compiler.ops.image.interpolate import cubic_weights
from bessemer.compiler.ops.precise import rounded_once

_CUBIC_A = -0.75


def _infer(
    x: TensorType,
    grid: TensorType,
    *,
    mode: str = "linear",
    padding: str = "zeros",
    align_corners: bool = False,
) -> TensorType:
    """(x [N, *S, C], grid [N, *O, rank of S]) -> [N, *O, C].

    A position has the coordinate of the last spatial axis first; -1 and 1 are the image's ends:
    the centres of its outermost elements if `align_corners`, else their outer edges.
    """
    require_dtype("grid_sample", x, FLOATS)
    require_dtype("grid_sample's grid", grid, FLOATS)
    require(
        x.rank >= 3 and grid.rank >= 2 and grid.shape[-1] == x.rank - 2,
        f"grid_sample wants an image [N, *S, C] and a grid [N, *O, rank of S]: got {x}, {grid}.",
    )
    require(mode in ("nearest", "linear", "cubic"), f"grid_sample has no mode {mode!r}.")
    require(
        padding in ("zeros", "border", "reflection"), f"grid_sample has no padding {padding!r}."
    )
    return x.with_shape((x.shape[0], *grid.shape[1:-1], x.shape[-1]))


# The element rule


@dataclass(frozen=True)
class _Axis:
    """One spatial axis: its size, and what is beyond it."""

    size: Size
    padding: str
    align_corners: bool
    one: Expression  # 1 in the type that positions are computed in

    def number(self, size: Size) -> Expression:
        """A size as a float."""
        return convert(index_value(size), self.one.dtype)

    def position(self, coordinate: Expression) -> Expression:
        """A coordinate from -1 to 1 as a place among the elements of the axis."""
        if self.align_corners:
            return (coordinate + 1) * 0.5 * self.number(self.size - 1)
        return ((coordinate + 1) * self.number(self.size) - 1) * 0.5

    def brought_inside(self, position: Expression) -> Expression:
        """The position that stands for one beyond the ends; those inside stay."""
        match self.padding:
            case "border":
                last = self.number(self.size - 1)
                return binary("min", binary("max", position, 0), last)
            case "reflection":
                return self._reflected(position)
            case _:
                return position

    def _reflected(self, position: Expression) -> Expression:
        low = 0.0 if self.align_corners else -0.5
        # Between mirrors that coincide there is one place; the span must not be 0.
        span = self.number(self.size - 1) if self.align_corners else self.number(self.size)
        span = binary("max", span, self.one)
        distance = unary("abs", position - low)
        turns = unary("floor", distance / span)
        rest = distance - turns * span
        is_even = binary("eq", binary("mod", turns, 2), 0)
        return select(is_even, rest + low, span - rest + low)

    def tap(self, position: Expression) -> tuple[Expression, Size]:
        """Whether an element counts, and its index, made safe."""
        # Narrow places fill vectors better.
        places = i32 if isinstance(self.size, int) and self.size < 1 << 31 else i64
        place = convert(self.brought_inside(position), places)
        inside = constant(True, boolean)
        if self.padding == "zeros":
            inside = (place >= 0) & (place < convert(index_value(self.size), places))
        last = convert(index_value(self.size - 1), places)
        return inside, as_index(convert(binary("min", binary("max", place, 0), last), i64))


def _element(
    x: Operand,
    grid: Operand,
    *,
    index: Index,
    mode: str = "linear",
    padding: str = "zeros",
    align_corners: bool = False,
) -> Expression:
    working = f64 if grid.dtype is f64 else f32
    sample, *place, channel = index
    spatial = x.shape[1:-1]
    taps: list[list[tuple[Expression | None, Expression, Size]]] = []
    for number, size in enumerate(spatial):
        axis = _Axis(size, padding, align_corners, constant(1, working))
        given = grid[(sample, *place, len(spatial) - 1 - number)]
        taps.append(_taps(axis, axis.position(convert(given, working)), mode))
    has_elements = all(isinstance(size, int) and size > 0 for size in spatial)
    total: Expression | None = None
    for chosen in itertools.product(*taps):
        inside = constant(True, boolean)
        weight: Expression | None = None
        for part, is_inside, _ in chosen:
            inside = inside & is_inside
            weight = part if weight is None or part is None else weight * part
        value = x[(sample, *(at for _, _, at in chosen), channel)]
        # The index is safe, so that a guard would only make the loop ask again for each tap.
        value = select(inside, value, 0) if has_elements else guarded(inside, value, 0)
        if weight is None:
            return value
        term = convert(value, working) * weight
        total = term if total is None else total + term
    assert total is not None
    return convert(total, x.dtype)


def _taps(
    axis: _Axis, position: Expression, mode: str
) -> list[tuple[Expression | None, Expression, Size]]:
    """(weight, whether it counts, index) of each neighbour along an axis."""
    if mode == "nearest":
        return [(None, *axis.tap(axis.brought_inside(unary("round", position))))]
    if mode == "linear":
        position = axis.brought_inside(position)
    floor = unary("floor", position)
    fraction = position - floor
    weights: Sequence[Expression] = (
        cubic_weights(fraction, _CUBIC_A) if mode == "cubic" else (1 - fraction, fraction)
    )
    first = -1 if mode == "cubic" else 0
    return [
        (weight, *axis.tap(floor + (first + number) if first + number else floor))
        for number, weight in enumerate(weights)
    ]


# The reference


@rounded_once
def _reference(
    x: Array,
    grid: Array,
    *,
    mode: str = "linear",
    padding: str = "zeros",
    align_corners: bool = False,
) -> Array:
    spatial = x.shape[1:-1]
    shape = grid.shape[1:-1]
    result = np.zeros((x.shape[0], *shape, x.shape[-1]))
    for place in np.ndindex(x.shape[0], *shape):
        taps = [
            _reference_taps(grid[place][-1 - axis], size, mode, padding, align_corners)
            for axis, size in enumerate(spatial)
        ]
        for chosen in itertools.product(*taps):
            weight = np.prod([part for part, _ in chosen])
            at = tuple(position for _, position in chosen)
            if all(0 <= i < size for i, size in zip(at, spatial)):
                result[place] += weight * x[(place[0], *at)]
    return result


def _reference_taps(
    coordinate: float, size: int, mode: str, padding: str, align_corners: bool
) -> list[tuple[float, int]]:
    low, high = (0.0, size - 1.0) if align_corners else (-0.5, size - 0.5)
    at = low + (coordinate + 1) / 2 * (high - low)

    def inside(position: float) -> float:
        if padding == "border":
            return min(max(position, 0.0), size - 1.0)
        if padding == "reflection" and high == low:
            return low
        while padding == "reflection" and not low <= position <= high:
            position = 2 * low - position if position < low else 2 * high - position
        return position

    if mode == "nearest":
        at = inside(float(np.rint(at)))
        return [(1.0, round(min(max(at, 0), size - 1) if padding == "reflection" else at))]
    # Cubic keeps the way to a position outside, and only brings the neighbours inside.
    at = inside(at) if mode == "linear" else at
    floor = int(np.floor(at))
    reach = 2 if mode == "cubic" else 1
    taps = range(floor + 1 - reach, floor + 1 + reach)
    return [(_kernel(abs(tap - at), mode), int(inside(tap))) for tap in taps]


def _kernel(distance: float, mode: str) -> float:
    if mode == "linear":
        return 1 - distance
    a = _CUBIC_A
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    return a * (distance**3 - 5 * distance**2 + 8 * distance - 4)


def _example(x: tuple[int, ...], shape: tuple[int, ...], **attributes: Any) -> Example:
    """Positions reach beyond the image on all sides."""
    rng = np.random.default_rng(len(shape))
    grid = rng.uniform(-1.7, 1.7, (x[0], *shape, len(x) - 2)).astype(np.float32)
    return Example((x, grid), attributes)


register(
    Operator(
        "grid_sample",
        _infer,
        _reference,
        _element,
        gradient=grid_sample_gradient,
        examples=(
            *(
                _example((2, 4, 5, 3), (3, 7), mode=m, padding=p, align_corners=a)
                for m in ("nearest", "linear", "cubic")
                for p in ("zeros", "border", "reflection")
                for a in (False, True)
            ),
            _example((1, 2, 3, 4, 1), (5, 1, 2)),
            _example((3, 5, 2), (9,), mode="cubic", padding="reflection"),
            _example((1, 1, 1, 2), (3, 3), padding="reflection", align_corners=True),
            Example(
                (
                    np.linspace(-1, 1, 12).reshape(1, 3, 4, 1).astype(f16.numpy),
                    np.linspace(-1, 0.9, 8).reshape(1, 2, 2, 2).astype(f16.numpy),
                ),
                tolerance=4e-3,
            ),
        ),
    )
)
