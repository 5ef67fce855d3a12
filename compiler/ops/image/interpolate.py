"""Weights of cubic interpolation: R. G. Keys' convolution kernel (IEEE ASSP 29, 1981)."""

from __future__ import annotations

from bessemer.compiler.ir.dims import Size, maximum, minimum
from bessemer.compiler.ir.expr import Expression, constant, select


def cubic_near(distance: Expression, a: float) -> Expression:
    """The weight of a neighbour at a distance of at most 1."""
    return ((a + 2) * distance - (a + 3)) * distance * distance + 1


def cubic_far(distance: Expression, a: float) -> Expression:
    """The weight of a neighbour at a distance from 1 to 2."""
    return ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a


def cubic_weight(distance: Expression, a: float) -> Expression:
    """The weight of a neighbour at any distance (not negative)."""
    beyond = select(distance < 2, cubic_far(distance, a), constant(0, distance.dtype))
    return select(distance <= 1, cubic_near(distance, a), beyond)


def cubic_weights(fraction: Expression, a: float) -> tuple[Expression, ...]:
    """The weights of the neighbours at floor - 1 to floor + 2."""
    return (
        cubic_far(fraction + 1, a),
        cubic_near(fraction, a),
        cubic_near(1 - fraction, a),
        cubic_far(2 - fraction, a),
    )


def clamped(place: Size, size: Size) -> Size:
    """The index on an axis of `size` that is nearest to `place`."""
    return minimum(maximum(place, 0), size - 1)
