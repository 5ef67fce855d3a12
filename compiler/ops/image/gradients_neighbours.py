"""An image read between its elements, written with other operators, and the gradient of that.

A position is read as a sum of the neighbours along every axis times their weights. What comes back
goes to all neighbours by their weights; to the position go their values by the weights' slopes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import i64
from bessemer.compiler.ops.composite.composite import (
    Number,
    binary,
    broadcast_to,
    cast,
    reshape,
    scalar_like,
    size_as,
    where,
)

CUBIC_A = -0.75
FIRST = {"nearest": 0, "linear": 0, "cubic": -1}
COUNT = {"nearest": 1, "linear": 2, "cubic": 4}
"""The neighbours that an interpolation reads along an axis, by its mode: the first one, counted
from the floor of the position, and how many they are."""


@dataclass(frozen=True, eq=False)
class Taps:
    """The neighbours along one axis of positions [N, P]: their indices [N, P, T], made safe, their
    weights, and the weights' slopes by the position. What is outside of the image has neither."""

    places: Value
    weights: Value
    slopes: Value


def taps_of(
    b: GraphBuilder,
    position: Value,
    size: Size,
    mode: str,
    bring_inside: Callable[[Value], Value] | None = None,
) -> Taps:
    """Of positions in elements of an axis. `bring_inside` says which element stands for one that is
    outside; without it that is 0."""
    count = COUNT[mode]
    shape = (*position.type.shape, count)
    floor = b.apply("floor", position)
    steps = np.arange(FIRST[mode], FIRST[mode] + count).astype(position.type.dtype.numpy)
    step = broadcast_to(b, b.constant(steps), shape)
    wide = [
        broadcast_to(b, reshape(b, value, (*position.type.shape, 1)), shape)
        for value in (floor, b.apply("sub", position, floor))
    ]
    place = b.apply("add", wide[0], step)
    place = cast(b, bring_inside(place) if bring_inside else place, i64)
    last = binary(b, "sub", size_as(b, size, i64, shape), 1)
    safe = b.apply("min", binary(b, "max", place, 0), last)
    weight, slope = _weights(b, b.apply("sub", wide[1], step), mode)
    if bring_inside is None:
        inside = b.apply("eq", place, safe)
        weight, slope = where(b, inside, weight, 0), where(b, inside, slope, 0)
    return Taps(safe, weight, slope)


def _weights(b: GraphBuilder, way: Value, mode: str) -> tuple[Value, Value]:
    """Of neighbours that lie `way` below the position, and the slopes."""
    if mode == "nearest":
        return scalar_like(b, way, 1), scalar_like(b, way, 0)
    one = scalar_like(b, way, 1)
    # At a position on an element the way along is the one upwards.
    is_below = b.apply("ge", way, scalar_like(b, way, 0))
    side = b.apply("select", is_below, one, b.apply("neg", one))
    distance = b.apply("abs", way)
    if mode == "linear":
        return b.apply("sub", one, distance), b.apply("neg", side)
    near = b.apply("le", distance, one)
    a = CUBIC_A
    weight = where(
        b,
        near,
        _polynomial(b, distance, (a + 2, -(a + 3), 0, 1)),
        _polynomial(b, distance, (a, -5 * a, 8 * a, -4 * a)),
    )
    slope = where(
        b,
        near,
        _polynomial(b, distance, (3 * (a + 2), -2 * (a + 3), 0)),
        _polynomial(b, distance, (3 * a, -10 * a, 8 * a)),
    )
    return weight, b.apply("mul", slope, side)


def _polynomial(b: GraphBuilder, x: Value, factors: Sequence[Number]) -> Value:
    """By Horner's rule, the highest power's factor first."""
    found = scalar_like(b, x, factors[0])
    for factor in factors[1:]:
        found = binary(b, "add", b.apply("mul", found, x), float(factor))
    return found


@dataclass(frozen=True, eq=False)
class Reading:
    """x [N, *S, C] read at positions [N, P], each the sum of K neighbours: their indices
    [N, P, K, 1 + rank of S], values [N, P, K, C], weights and, for each axis, slopes [N, P, K]."""

    b: GraphBuilder
    x: Value
    places: Value
    seen: Value
    weights: Value
    slopes: tuple[Value, ...]

    def value(self) -> Value:
        """What is read: [N, P, C]."""
        share = _over_channels(self.b, self.weights, self.seen)
        return self.b.apply("reduce_sum", self.b.apply("mul", self.seen, share), axes=(2,))

    def back(self, dy: Value) -> tuple[Value, list[Value]]:
        """The cotangents of x, and of the positions along each axis, [N, P]."""
        b = self.b
        samples, positions, channels = dy.type.shape
        dy = reshape(b, dy, (samples, positions, 1, channels))
        dy = broadcast_to(b, dy, self.seen.type.shape)
        updates = b.apply("mul", dy, _over_channels(b, self.weights, dy))
        zeros = scalar_like(b, self.x, 0)
        dx = b.apply("scatter_nd", zeros, self.places, updates, reduction="add")
        dots = b.apply("reduce_sum", b.apply("mul", self.seen, dy), axes=(3,))
        return dx, [
            b.apply("reduce_sum", b.apply("mul", dots, slope), axes=(2,)) for slope in self.slopes
        ]


def _over_channels(b: GraphBuilder, x: Value, like: Value) -> Value:
    return broadcast_to(b, reshape(b, x, (*x.type.shape, 1)), like.type.shape)


def reading(b: GraphBuilder, x: Value, taps: Sequence[Taps]) -> Reading:
    """Of x at the positions whose neighbours along every axis are given."""
    samples, positions, _ = taps[0].places.type.shape
    counts = tuple(tap.places.type.shape[2] for tap in taps)
    grid = (samples, positions, *counts)
    flat = (samples, positions, product(counts))

    def spread(value: Value, axis: int) -> Value:
        shape = [1] * len(counts)
        return broadcast_to(
            b,
            reshape(
                b,
                value,
                (samples, positions, *shape[:axis], counts[axis], *shape[axis + 1 :]),
            ),
            grid,
        )

    columns = [b.apply("iota", shape=grid, axis=0, dtype=i64)]
    columns += [spread(tap.places, axis) for axis, tap in enumerate(taps)]
    places = b.apply("concat", *(reshape(b, c, (*flat, 1)) for c in columns), axis=3)
    weights = [spread(tap.weights, axis) for axis, tap in enumerate(taps)]
    slopes = []
    for axis, tap in enumerate(taps):
        factors = list(weights)
        factors[axis] = spread(tap.slopes, axis)
        slopes.append(reshape(b, _product(b, factors), flat))
    seen = b.apply("gather_nd", x, places, batch_dims=0)
    return Reading(b, x, places, seen, reshape(b, _product(b, weights), flat), tuple(slopes))


def _product(b: GraphBuilder, factors: Sequence[Value]) -> Value:
    found = factors[0]
    for factor in factors[1:]:
        found = b.apply("mul", found, factor)
    return found
