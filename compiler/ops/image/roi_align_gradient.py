"""roi_align_gradient: every sample hands its cell's cotangent back to what it saw.

It gives to its four neighbours by their weights, and to the box what the slopes of the weights say.
Where a cell is a maximum, only the largest weighted neighbour has a part, the first of equal ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import (
    Buffer,
    Expression,
    binary,
    checked,
    constant,
    convert,
    index_value,
    select,
)
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType, f16, i64
from bessemer.compiler.ops.image.roi import BOXES, IMAGES
from bessemer.compiler.ops.image.roi_backwards import (
    each_image,
    require_cotangent,
    sums_of,
    working_type,
)
from bessemer.compiler.ops.image.roi_span import Neighbours, Span, span
from bessemer.compiler.ops.precise import widened

_SIDES = (1, 3), (0, 2)
"""Where a box has the start and the end of its rows and of its columns."""


def _align_infer(
    x: TensorType, boxes: TensorType, images: TensorType, dy: TensorType, *,
    shape: tuple[int, int], samples: int = 0, scale: float = 1.0, mode: str = "avg",
    half_pixel: bool = True,
) -> tuple[TensorType, TensorType]:  # fmt: skip
    """(roi_align's inputs, its output's cotangent) -> those of x and of the boxes."""
    require_cotangent("roi_align_gradient", x, boxes, dy, shape)
    return x, boxes


@dataclass(frozen=True)
class _Line:
    """The cells of a box along one axis, and the cotangents of its two sides, in locals."""

    span: Span
    cells: int
    moves_end: Expression  # 1, or 0 where the length of a cell is its least
    start: Local
    end: Local

    def add(self, cell: Size, number: Size, slope: Expression) -> None:
        """What the position of a sample had, of which a part belongs to each side."""
        working = slope.dtype
        within = (convert(index_value(number), working) + 0.5) / convert(
            self.span.samples.value, working
        )
        part = (convert(index_value(cell), working) + within) / self.cells * self.moves_end
        self.start.accumulate("add", slope * (1 - part))
        self.end.accumulate("add", slope * part)


def _line(
    builder: KernelBuilder, start: Expression, end: Expression, scale: float, cells: int,
    samples: int, half_pixel: bool,
) -> _Line:  # fmt: skip
    working = start.dtype
    found = span(builder, start, end, scale, cells, samples, half_pixel)
    moves = constant(1, working)
    if not half_pixel:
        is_short = end * scale - found.start.value < 1
        moves = builder.define(select(is_short, constant(0, working), 1), "moves").value
    zero = constant(0, working)
    return _Line(found, cells, moves, builder.define(zero, "from"), builder.define(zero, "to"))


def _align_statements(
    builder: KernelBuilder, inputs: list[Buffer], outputs: list[Buffer], *,
    shape: tuple[int, int], samples: int = 0, scale: float = 1.0, mode: str = "avg",
    half_pixel: bool = True,
) -> None:  # fmt: skip
    x, boxes, images, _ = inputs
    dx, dboxes = outputs
    total, working = sums_of(builder, dx), working_type(x)
    channels = (x.shape[0], x.shape[3])
    best = (builder.scratch(working, channels), builder.scratch(i64, channels))
    with each_image(builder, dx, total) as image, builder.loop(boxes.shape[0]) as box:
        owner = index_value(checked(images[box], x.shape[0]))
        with builder.when(binary("eq", owner, index_value(image))):
            lines = []
            for axis, (first, last) in enumerate(_SIDES):
                start, end = (convert(boxes[box, side], working) for side in (first, last))
                lines.append(_line(builder, start, end, scale, shape[axis], samples, half_pixel))
            cell = _Cell(builder, x, inputs[3], total, image, box, best, mode)
            with builder.loop(shape[0]) as i, builder.loop(shape[1]) as j:
                cell.write(lines, i, j)
            for axis, line in enumerate(lines):
                for side, local in zip(_SIDES[axis], (line.start, line.end), strict=True):
                    builder.store(dboxes, (box, side), local.value * scale)


@dataclass(frozen=True)
class _Cell:
    """What is written for each cell of a box; `best` has the largest weighted neighbours of all
    channels and their numbers."""

    builder: KernelBuilder
    x: Buffer
    dy: Buffer
    total: Buffer
    image: Size
    box: Size
    best: tuple[Buffer, Buffer]
    mode: str

    def write(self, lines: Sequence[_Line], i: Size, j: Size) -> None:
        """Adds to `total` and to the lines' sides."""
        builder, working = self.builder, self.total.dtype
        if self.mode == "max":
            with builder.loop(self.x.shape[3], "vector", lanes=0) as channel:
                builder.store(self.best[0], (self.image, channel), -math.inf)
                builder.store(self.best[1], (self.image, channel), -1)
            for row, column, neighbours in self._samples(lines, i, j):
                self._choose(lines, row, column, neighbours)
        counts = [line.span.samples.value for line in lines]
        share = builder.define(1 / convert(counts[0] * counts[1], working), "share")
        for row, column, neighbours in self._samples(lines, i, j):
            slopes = [builder.define(constant(0, working), "slope") for _ in lines]
            self._give(lines, (row, column), (i, j), neighbours, share.value, slopes)
            for line, place, number, slope, at in zip(
                lines, (i, j), (row, column), slopes, neighbours, strict=True
            ):
                line.add(place, number, slope.value * at.slope)

    def _samples(
        self, lines: Sequence[_Line], i: Size, j: Size
    ) -> Iterator[tuple[Size, Size, tuple[Neighbours, Neighbours]]]:
        """The body of the loops over a cell's samples."""
        rows, columns = (line.span for line in lines)
        with self.builder.loop(rows.samples.index) as row:
            beside = self._neighbours(rows, i, row, self.x.shape[1])
            with self.builder.loop(columns.samples.index) as column:
                yield row, column, (beside, self._neighbours(columns, j, column, self.x.shape[2]))

    def _neighbours(self, span: Span, cell: Size, number: Size, size: Size) -> Neighbours:
        position = self.builder.define(span.sample(cell, number), "position").value
        return span.neighbours(position, size)

    def _number(self, lines: Sequence[_Line], row: Size, column: Size, corner: int) -> Expression:
        width = lines[1].span.samples.value
        sample = index_value(row) * width + index_value(column)
        return sample * 4 + corner

    def _choose(
        self, lines: Sequence[_Line], row: Size, column: Size,
        neighbours: tuple[Neighbours, Neighbours],
    ) -> None:  # fmt: skip
        """Keeps the weighted neighbours that are larger than all before."""
        builder, (value, number) = self.builder, self.best
        inside = builder.define(neighbours[0].inside & neighbours[1].inside, "inside").value
        with builder.loop(self.x.shape[3], "vector", lanes=0) as channel:
            largest = builder.define(value[self.image, channel], "largest")
            chosen = builder.define(number[self.image, channel], "chosen")
            for corner, (rows, columns) in enumerate(_corners(neighbours)):
                (at, a, _), (beside, b, _) = rows, columns
                found = convert(self.x[self.image, at, beside, channel], value.dtype) * (a * b)
                found = builder.define(select(inside, found, 0), "found").value
                is_better = found > largest.value
                its = self._number(lines, row, column, corner)
                chosen.set(select(is_better, its, chosen.value))
                largest.set(select(is_better, found, largest.value))
            builder.store(value, (self.image, channel), largest.value)
            builder.store(number, (self.image, channel), chosen.value)

    def _give(
        self, lines: Sequence[_Line], sample: tuple[Size, Size], cell: tuple[Size, Size],
        neighbours: tuple[Neighbours, Neighbours], share: Expression, slopes: Sequence[Local],
    ) -> None:  # fmt: skip
        """The parts of a sample's neighbours, and of its position, over all channels."""
        builder, working = self.builder, self.total.dtype
        with (
            builder.when(neighbours[0].inside & neighbours[1].inside),
            builder.loop(self.x.shape[3], "vector", lanes=0) as channel,
        ):
            dy = builder.define(convert(self.dy[(self.box, *cell, channel)], working), "dy").value
            for corner, (rows, columns) in enumerate(_corners(neighbours)):
                (at, a, rises), (beside, b, widens) = rows, columns
                if self.mode == "max":
                    its = self._number(lines, *sample, corner)
                    is_it = binary("eq", self.best[1][self.image, channel], its)
                    given = builder.define(select(is_it, dy, 0), "given").value
                else:
                    given = builder.define(dy * share, "given").value
                place = (self.image, at, beside, channel)
                builder.store(self.total, place, self.total[place] + given * (a * b))
                seen = builder.define(given * convert(self.x[place], working), "seen").value
                slopes[0].accumulate("add", seen * b * rises)
                slopes[1].accumulate("add", seen * a * widens)


_Weighted = tuple[Size, Expression, int]
"""The index of a neighbour, its weight, and the slope of the weight while it has one."""


def _corners(neighbours: tuple[Neighbours, Neighbours]) -> Iterator[tuple[_Weighted, ...]]:
    along = [
        [(at, weight, slope) for (at, weight), slope in zip(one.weighted(), (-1, 1), strict=True)]
        for one in neighbours
    ]
    return itertools.product(*along)


def _align_reference(
    x: Array, boxes: Array, images: Array, dy: Array, *, shape: tuple[int, int], samples: int = 0,
    scale: float = 1.0, mode: str = "avg", half_pixel: bool = True,
) -> tuple[Array, Array]:  # fmt: skip
    dtype = x.dtype
    x, boxes, dy = widened(x), widened(boxes), widened(dy)
    dx, dboxes = np.zeros(x.shape), np.zeros(boxes.shape)
    for box, i, j in np.ndindex(len(boxes), *shape):
        along = [
            _reference_samples(
                boxes[box, list(_SIDES[axis])] * scale - 0.5 * half_pixel,
                (i, j)[axis], shape[axis], samples, x.shape[1 + axis], half_pixel,
            )
            for axis in range(2)
        ]  # fmt: skip
        parts = [(row, column, *pair) for row, column in itertools.product(*along)
                 for pair in itertools.product(row[0], column[0])]  # fmt: skip
        if not parts:
            continue
        at = [(images[box], one[0], other[0]) for _, _, one, other in parts]
        weights = np.array([one[1] * other[1] for _, _, one, other in parts])
        seen = np.stack([x[place] for place in at])
        if mode == "avg":
            given = np.broadcast_to(dy[box, i, j] * 4 / len(parts), seen.shape)
        else:
            largest = np.argmax(weights[:, None] * seen, axis=0)
            given = (np.arange(len(parts))[:, None] == largest) * dy[box, i, j]
        for part, place, weight, value, share in zip(parts, at, weights, seen, given, strict=True):
            dx[place] += share * weight
            (_, u), (_, v), one, other = part
            dot = (share * value).sum()
            for axis, slope, way in ((0, one[2] * other[1], u), (1, one[1] * other[2], v)):
                dboxes[box, list(_SIDES[axis])] += scale * dot * slope * np.array(way)
    return dx.astype(dtype), dboxes.astype(dtype)


def _reference_samples(
    sides: Array, cell: int, cells: int, samples: int, size: int, half_pixel: bool
) -> list[tuple[list[tuple[int, float, float]], tuple[float, float]]]:
    """Of each sample of a cell: its neighbours (index, weight, the weight's slope by the position)
    and what the position goes by when either side of the box does."""
    start, end = sides
    is_least = not half_pixel and end - start < 1
    length = 1.0 if is_least else end - start
    count = samples or int(np.ceil(length / cells))
    found = []
    for number in range(count):
        part = (cell + (number + 0.5) / count) / cells
        position = start + part * length
        low = int(min(max(position, 0.0), size - 1))
        share = min(max(position, 0.0), size - 1) - low
        is_inside = -1 <= position <= size
        slope = float(is_inside and position > 0 and low < size - 1)
        neighbours = [
            (low, is_inside * (1 - share), -slope),
            (min(low + 1, size - 1), is_inside * share, slope),
        ]
        found.append((neighbours, (1.0, 0.0) if is_least else (1 - part, part)))
    return found


register(
    Operator(
        "roi_align_gradient",
        _align_infer,
        _align_reference,
        statements=_align_statements,
        gradient=None,
        examples=(
            Example(((2, 7, 5, 3), BOXES, IMAGES, (4, 3, 2, 3)), {"shape": (3, 2)}, 1e-4),
            Example(
                ((2, 7, 5, 3), BOXES, IMAGES, (4, 2, 2, 3)),
                {"shape": (2, 2), "samples": 2, "half_pixel": False},
                1e-4,
            ),
            Example(
                ((2, 7, 5, 17), BOXES, IMAGES, (4, 1, 3, 17)),
                {"shape": (1, 3), "mode": "max", "scale": 0.5},
                1e-4,
            ),
            Example(
                (
                    np.linspace(-1, 1, 16).reshape(1, 4, 4, 1).astype(f16.numpy),
                    BOXES.astype(f16.numpy),
                    np.zeros(4, np.int32),
                    np.linspace(-1, 2, 16).reshape(4, 2, 2, 1).astype(f16.numpy),
                ),
                {"shape": (2, 2), "samples": 3},
                tolerance=8e-3,
            ),
        ),
    )
)
