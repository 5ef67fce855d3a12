"""The transforms of Winograd's F(2, 3), along one axis or both, and the places of their tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Expression, index_value

Matrix: TypeAlias = tuple[tuple[float, ...], ...]

INPUT: Matrix = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
WEIGHTS: Matrix = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
OUTPUT: Matrix = ((1, 1, 1, 0), (0, 1, -1, -1))
_ONE: Matrix = ((1,),)


@dataclass(frozen=True)
class Taps:
    """The taps along an axis: three, or one. Outputs of a tile are `dilation` apart, like taps."""

    count: int = 3
    dilation: int = 1

    @property
    def points(self) -> int:
        """Inputs that a tile sees, and products an output is made of."""
        return 4 if self.count == 3 else 1

    @property
    def outputs(self) -> int:
        """Outputs of a tile."""
        return 2 if self.count == 3 else 1

    def matrix(self, of_three: Matrix) -> Matrix:
        """The transform along the axis, if this is the one for three taps."""
        return of_three if self.count == 3 else _ONE

    def tiles(self, outputs: Size) -> Size:
        """Tiles along an axis of so many outputs."""
        if self.count == 1:
            return outputs
        return dims.ceildiv(outputs, 2 * self.dilation) * self.dilation

    def first(self, tile: Size) -> Size:
        """The first output of a tile, also its first input."""
        if self.count == 1:
            return tile
        step = self.dilation
        return dims.floordiv(tile, step) * (2 * step) + dims.mod(tile, step)

    def inputs(self, builder: KernelBuilder, begin: Size, outputs: Size) -> list[Size]:
        """The inputs of a tile; for those beyond the last one stands the last: no output inside
        depends on them."""
        places = [begin + i * self.dilation for i in range(self.points)]
        if self.count == 1 or dims.mod(outputs, 2 * self.dilation) == 0:
            return places
        last = outputs + (2 * self.dilation - 1)
        first = 3 if self.dilation == 1 else 0
        inside = [index_value(dims.minimum(place, last)) for place in places[first:]]
        return places[:first] + [builder.define(place, "inside").index for place in inside]


def both_sides(
    builder: KernelBuilder,
    taps: tuple[Taps, Taps],
    matrix: Matrix,
    inputs: Sequence[Sequence[Expression]],
) -> list[list[Expression]]:
    """matrix . inputs . matrix', with every value in a local; the identity along an axis of one."""
    held = [[builder.define(value, "d").value for value in row] for row in inputs]
    half = [
        [builder.define(_combine(row, line), "d").value for line in zip(*held, strict=True)]
        for row in taps[0].matrix(matrix)
    ]
    return [[_combine(row, line) for row in taps[1].matrix(matrix)] for line in half]


def _combine(factors: Sequence[float], values: Sequence[Expression]) -> Expression:
    """The sum of the values with their factors, a positive one first."""
    terms = sorted(
        ((factor, value) for factor, value in zip(factors, values, strict=True) if factor),
        key=lambda term: -term[0],
    )
    first, total = terms[0]
    total = total if first == 1 else total * first
    for factor, value in terms[1:]:
        part = value if abs(factor) == 1 else value * abs(factor)
        total = total + part if factor > 0 else total - part
    return total
