"""The transforms of Winograd's F(2, 3) along one axis or both, and the places of its tiles.

More taps than three are cut into segments of three and of two, whose products are added up before
the last transform. A segment of two taps is one of three whose last tap is 0; its last product is
then 0, too, and is left out. The numbers of products per two outputs along an axis:

    5 = 3 + 2: 7 products of 10;  7 = 3 + 2 + 2: 10 of 14;  9 = 3 + 3 + 3: 12 of 18
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Expression, index_value

Matrix: TypeAlias = tuple[tuple[float, ...], ...]

INPUT: Matrix = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
WEIGHTS: Matrix = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
OUTPUT: Matrix = ((1, 1, 1, 0), (0, 1, -1, -1))


@dataclass(frozen=True)
class Segments:
    """`number` neighbouring segments of the taps along an axis, of `count` taps each, from tap
    `first` on."""

    first: int
    count: int
    number: int = 1

    @property
    def points(self) -> int:
        """The inputs that a tile sees through one segment; also the number of its products."""
        return 1 if self.count == 1 else self.count + 1

    @property
    def of_inputs(self) -> Matrix:
        """The transform of a tile's inputs."""
        return _corner(INPUT, self.points, self.points)

    @property
    def of_weights(self) -> Matrix:
        """The transform of the taps."""
        return _corner(WEIGHTS, self.points, self.count)


@dataclass(frozen=True)
class Part:
    """All combinations of segments of both axes that have the same transforms. `first` is the
    number of their first matrix of transformed weights; the matrices are in order of the
    segments."""

    down: Segments
    across: Segments
    first: int

    @property
    def points(self) -> int:
        """The products of one segment."""
        return self.down.points * self.across.points

    @property
    def number(self) -> int:
        """The number of segments."""
        return self.down.number * self.across.number

    @property
    def end(self) -> int:
        """The number of the first matrix after those of this part."""
        return self.first + self.number * self.points


@dataclass(frozen=True)
class Taps:
    """The taps along an axis. They are `dilation` apart, and so are the outputs of a tile."""

    count: int = 3
    dilation: int = 1

    @property
    def segments(self) -> tuple[Segments, ...]:
        """As few segments as possible, those of three taps first."""
        if self.count == 1:
            return (Segments(0, 1),)
        twos = -self.count % 3
        threes = (self.count - 2 * twos) // 3
        parts = (Segments(0, 3, threes), Segments(3 * threes, 2, twos))
        return tuple(part for part in parts if part.number)

    @property
    def points(self) -> int:
        """The products from which the outputs of a tile are made; those of all segments are added
        to these."""
        return self.segments[0].points

    @property
    def outputs(self) -> int:
        """The number of outputs of a tile along the axis."""
        return 1 if self.count == 1 else 2

    @property
    def of_outputs(self) -> Matrix:
        """The transform of the products."""
        return _corner(OUTPUT, self.outputs, self.points)

    def tiles(self, outputs: Size) -> Size:
        """The number of tiles along an axis with `outputs` outputs. Behind the last whole rows of
        tiles are only those whose first output is in the image."""
        if self.count == 1:
            return outputs
        step = self.dilation
        if step == 1:
            return dims.ceildiv(outputs, 2)
        rest = dims.minimum(dims.mod(outputs, 2 * step), step)
        return dims.floordiv(outputs, 2 * step) * step + rest

    def first(self, tile: Size) -> Size:
        """The first output of a tile, which is also its first input."""
        if self.count == 1:
            return tile
        step = self.dilation
        return dims.floordiv(tile, step) * (2 * step) + dims.mod(tile, step)

    def inputs(
        self, builder: KernelBuilder, begin: Size, outputs: Size, seen: Segments, number: Size = 0
    ) -> list[Size]:
        """The inputs of a tile that segment number `number` of `seen` reads. Inputs beyond the last
        one are replaced by the last: no output inside of the image depends on them."""
        begin = begin + (seen.first + number * seen.count) * self.dilation
        places = [begin + i * self.dilation for i in range(seen.points)]
        if self.count == 1 or dims.mod(outputs, 2 * self.dilation) == 0:
            return places
        last = outputs + ((self.count - 1) * self.dilation - 1)
        first = seen.points - 1 if self.dilation == 1 else 0
        inside = [index_value(dims.minimum(place, last)) for place in places[first:]]
        return places[:first] + [builder.define(place, "inside").index for place in inside]


def parts_of(taps: tuple[Taps, Taps]) -> tuple[Part, ...]:
    """All combinations of segments of both axes, those with the most points first."""
    parts = list[Part]()
    for down, across in product(taps[0].segments, taps[1].segments):
        parts.append(Part(down, across, parts[-1].end if parts else 0))
    return tuple(parts)


def _corner(matrix: Matrix, rows: int, columns: int) -> Matrix:
    """The first rows and columns of a matrix."""
    return tuple(row[:columns] for row in matrix[:rows])


def both_sides(
    builder: KernelBuilder,
    matrices: tuple[Matrix, Matrix],
    inputs: Sequence[Sequence[Expression]],
) -> list[list[Expression]]:
    """matrices[0] . inputs . transpose of matrices[1], with every value in a local."""
    held = [[builder.define(value, "d").value for value in row] for row in inputs]
    half = [
        [builder.define(_combine(row, line), "d").value for line in zip(*held, strict=True)]
        for row in matrices[0]
    ]
    return [[_combine(row, line) for row in matrices[1]] for line in half]


def _combine(factors: Sequence[float], values: Sequence[Expression]) -> Expression:
    """The sum of the values times their factors. A positive factor comes first, which saves a
    negation."""
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
