"""Depthwise convolution, channels last: no sum over channels, so no micro-kernel.

    parallel item in images x tiles of rows
      for tile of columns
        for channel                            vectors
          for the tile's rows of inputs
            every input is loaded once and goes to all outputs that it is in

Pixels outside, channels inside: the memory is read in order, and a tile's weights come from the
first-level cache. The border is never multiplied: a row of inputs outside of the image is skipped
by a branch, and the columns outside are left out of the code of the tiles at the ends of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, product
from typing import TypeAlias

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import (
    Buffer,
    Constant,
    Expression,
    binary,
    constant,
    index_value,
    less,
    within,
)
from bessemer.compiler.ir.graph import Node
from bessemer.compiler.ir.types import boolean, f32, f64
from bessemer.compiler.schedule.contraction.tiles import split
from bessemer.compiler.targets.machine import Target

Epilogue: TypeAlias = Callable[[tuple[Size, Size, Size], Size, Expression], tuple[loops.Store, ...]]

MOST_PRODUCTS = 256
"""Products in the code of one tile; more only make it longer."""


def has_one_filter_a_channel(node: Node) -> bool:
    """Whether a convolution is lowered so: lines and images, and it widens what it reads itself."""
    kernel = node.inputs[1].type.shape
    return (
        node.operator.name == "conv"
        and kernel[-2] == 1
        and 1 < node.attributes["groups"] == kernel[-1]
        and len(kernel) in (3, 4)
        and all(isinstance(size, int) for size in kernel[:-2])
        and node.output.type.dtype in (f32, f64)
    )


@dataclass(frozen=True, eq=False)
class Depthwise:
    """One depthwise convolution with one filter a channel.

    `x(n, row, column, channel)` is an element of the input. `weights` is [kernel rows, kernel
    columns, channels]. `outputs` is the number of images, rows and columns of the result.
    `epilogue((n, row, column), channel, total)` gives the stores of one element. Windows begin
    `low` rows and columns before the input; `inputs` is its number of rows and columns, None where
    no window leaves it along that axis.
    """

    x: Callable[[Size, Size, Size, Size], Expression]
    weights: Buffer
    strides: tuple[int, int]
    dilations: tuple[int, int]
    outputs: tuple[Size, Size, Size]
    channels: Size
    epilogue: Epilogue
    start: Callable[[Size], Expression] | None = None
    low: tuple[Size, Size] = (0, 0)
    inputs: tuple[Size | None, Size | None] = (None, None)

    @property
    def kernel(self) -> tuple[int, int]:
        """The taps along rows and columns, which are always known."""
        rows, columns, _ = self.weights.shape
        assert isinstance(rows, int) and isinstance(columns, int)
        return rows, columns

    @property
    def holds_weights(self) -> bool:
        """Whether a tile's weights stay in registers, not only those of a row of inputs."""
        return self.kernel[0] * self.kernel[1] <= 9

    def reach(self, axis: int, count: int) -> int:
        """The inputs along an axis that so many outputs see."""
        taps = (self.kernel[axis] - 1) * self.dilations[axis] + 1
        return (count - 1) * self.strides[axis] + taps

    def place(self, axis: int, begin: Size, offset: int) -> Size:
        """The input's row or column that is `offset` behind the first that output `begin` sees."""
        return begin * self.strides[axis] + offset - self.low[axis]


@dataclass(frozen=True)
class TileSize:
    """Outputs in a tile."""

    rows: int
    columns: int


def plan_depthwise(work: Depthwise, target: Target) -> TileSize:
    """The tile that needs fewest loads an output, of those whose sums and weights fit registers."""
    kernel_rows, kernel_columns = work.kernel
    best, best_cost = TileSize(1, 1), float("inf")
    for rows, columns in product(range(1, 5), range(1, 9)):
        sums = rows * columns
        weights = kernel_columns * (kernel_rows if work.holds_weights else min(rows, kernel_rows))
        if target.vector_registers < 32:
            weights = 1  # few registers hold the sums only: products read weights from memory
        if sums > 1 and sums * kernel_rows * kernel_columns > MOST_PRODUCTS:
            continue
        if sums > max(1, target.vector_registers - weights - 2):
            continue
        cost = _loads(work, rows, columns)
        if cost < best_cost:
            best, best_cost = TileSize(rows, columns), cost
    return best


def _loads(work: Depthwise, rows: int, columns: int) -> float:
    """Loads an output, with what uneven cuts add; more tile shapes cost code."""
    height, width = work.reach(0, rows), work.reach(1, columns)
    kernel_rows, kernel_columns = work.kernel
    weights = kernel_rows * kernel_columns
    if not work.holds_weights:
        weights *= min(rows, kernel_rows)
    cost = (height * width + weights) / (rows * columns)
    for extent, size in zip(work.outputs[1:], (rows, columns)):
        if not isinstance(extent, int):
            cost *= 1.0 + 0.1 * (size > 1)
            continue
        cut = split(extent, size)
        if cut.tall != cut.count:
            cost *= 1.25
        if cut.height < size:
            cost *= 2.0  # the same tile is there under its own size
    return cost


def lower_depthwise(work: Depthwise, tile: TileSize) -> loops.Block:
    """The kernel body: one parallel loop over the images' tiles of rows."""
    builder = KernelBuilder()
    images, rows, _ = work.outputs
    cut = split(rows, tile.rows)
    with builder.loop(images * cut.count, "parallel") as item:
        image, along = dims.floordiv(item, cut.count), dims.mod(item, cut.count)

        def band(begin: Size, height: int) -> None:
            _Band(builder, work, image, begin, height).write(tile.columns)

        if not isinstance(rows, int) or cut.tall == cut.count:
            band(along * cut.height, cut.height)
        else:
            with builder.when(less(along, cut.tall)):
                band(along * cut.height, cut.height)
            with builder.otherwise():
                band(along * (cut.height - 1) + cut.tall, cut.height - 1)
    return builder.block()


@dataclass(frozen=True, eq=False)
class _Band:
    """Rows of outputs, as many as a tile has. The last band of an unknown number may be lower."""

    builder: KernelBuilder
    work: Depthwise
    image: Size
    begin: Size
    height: int

    def write(self, width: int) -> None:
        """All tiles, of at most this width."""
        columns = self.work.outputs[2]
        if isinstance(columns, int):
            self._known_columns(columns, width)
        else:
            self._unknown_columns(columns, width)

    def _known_columns(self, columns: int, width: int) -> None:
        """Tiles inside of the image share a loop; each one at the border has code of its own."""
        cut = split(columns, width)
        assert isinstance(cut.count, int) and isinstance(cut.tall, int)
        widths = [cut.height - (number >= cut.tall) for number in range(cut.count)]
        tiles = [(sum(widths[:number]), size) for number, size in enumerate(widths)]

        def kind(entry: tuple[int, int]) -> tuple[int, int]:
            left, size = entry
            return size, -1 if self._is_inside(left, size) else left

        for (size, at), group in groupby(tiles, kind):
            members = list(group)
            if at >= 0 or len(members) == 1:
                for left, _ in members:
                    _Tile(self, left, size, is_checked=False).write()
                continue
            with self.builder.loop(len(members)) as number:
                _Tile(self, members[0][0] + number * size, size, is_checked=False).write()

    def _is_inside(self, left: int, size: int) -> bool:
        """Whether a tile sees no column outside of the image."""
        inputs = self.work.inputs[1]
        if inputs is None:
            return True
        first = self.work.place(1, left, 0)
        last = first + self.work.reach(1, size) - 1
        return dims.is_nonnegative(first) and dims.is_nonnegative(inputs - 1 - last)

    def _unknown_columns(self, columns: Size, width: int) -> None:
        """Tiles inside of the image, and tiles that ask for every column whether it exists."""
        work, step = self.work, width * self.work.strides[1]
        inputs = work.inputs[1]
        inner_begin: Size = 0
        inner_end = dims.floordiv(columns, width)
        if inputs is not None:
            inner_begin = dims.ceildiv(work.low[1], step)
            seen = inputs + work.low[1] - work.reach(1, width)
            inner_end = dims.minimum(inner_end, dims.floordiv(seen, step) + 1)
        with self.builder.loop(dims.ceildiv(columns, width)) as number:
            is_inside = binary("ge", index_value(number), index_value(inner_begin))
            with self.builder.when(is_inside & less(number, inner_end)):
                _Tile(self, number * width, width, is_checked=False).write()
            with self.builder.otherwise():
                _Tile(self, number * width, width, is_checked=True).write()


_Output: TypeAlias = tuple[int, int]


@dataclass(frozen=True, eq=False)
class _Tile:
    """A tile of a band. One that `is_checked` asks which of its columns and outputs exist."""

    band: _Band
    left: Size
    width: int
    is_checked: bool

    def write(self) -> None:
        """All channels."""
        work, builder = self.band.work, self.band.builder
        with builder.loop(work.channels, "vector", lanes=0) as channel:
            weights: dict[_Output, Expression] = {}
            if work.holds_weights:
                weights = self._weights(range(work.kernel[0]), channel)
            start = constant(0, work.weights.dtype)
            if work.start is not None:
                start = work.start(channel)
            outputs = product(range(self.band.height), range(self.width))
            sums = {output: builder.define(start, "sum") for output in outputs}
            for y in range(work.reach(0, self.band.height)):
                self._row_of_inputs(y, weights, sums, channel)
                for row in range(self.band.height):
                    if row * work.strides[0] + work.reach(0, 1) - 1 == y:
                        self._finish(row, sums, channel)

    def _weights(self, rows: range | list[int], channel: Size) -> dict[_Output, Expression]:
        work, builder = self.band.work, self.band.builder
        taps = product(rows, range(work.kernel[1]))
        return {tap: builder.define(work.weights[*tap, channel], "w").value for tap in taps}

    def _row_of_inputs(
        self,
        y: int,
        weights: dict[_Output, Expression],
        sums: dict[_Output, Local],
        channel: Size,
    ) -> None:
        """Adds what the inputs of one row contribute, if the image has that row."""
        work, band = self.band.work, self.band
        taps = {row: _tap(y, row, work.strides[0], work.dilations[0]) for row in range(band.height)}
        taps = {row: tap for row, tap in taps.items() if tap in range(work.kernel[0])}
        if not taps:
            return
        place = work.place(0, band.begin, y)
        with _when(band.builder, self._row_exists(y, place)):
            if not work.holds_weights:
                weights = self._weights(sorted({tap for tap in taps.values() if tap >= 0}), channel)
            for x in range(work.reach(1, self.width)):
                self._input(x, place, taps, weights, sums, channel)

    def _input(
        self,
        x: int,
        row: Size,
        rows: dict[int, int],
        weights: dict[_Output, Expression],
        sums: dict[_Output, Local],
        channel: Size,
    ) -> None:
        """Adds what one input contributes to all outputs that see it, if the image has it."""
        work, builder = self.band.work, self.band.builder
        columns = {at: _tap(x, at, work.strides[1], work.dilations[1]) for at in range(self.width)}
        columns = {at: tap for at, tap in columns.items() if tap in range(work.kernel[1])}
        column = work.place(1, self.left, x)
        exists = self._column_exists(column)
        if not columns or _is_false(exists):
            return
        with _when(builder, exists):
            value = builder.define(work.x(self.band.image, row, column, channel), "x").value
            for (at_row, tap_row), (at, tap) in product(rows.items(), columns.items()):
                sums[at_row, at].accumulate("add", value * weights[tap_row, tap])

    def _row_exists(self, y: int, place: Size) -> Expression:
        """Whether the image has a row; decided at once where every band's answer is the same."""
        work, band = self.band.work, self.band
        rows = work.inputs[0]
        outputs = work.outputs[1]
        result = constant(True, boolean)
        if rows is None:
            if isinstance(outputs, int):
                return result
            rows = (outputs - 1) * work.strides[0] + work.reach(0, 1) - work.low[0]
        elif not dims.is_nonnegative(y - work.low[0]):
            result = binary("ge", index_value(place), 0)
        last_band = outputs - band.height
        if isinstance(outputs, int) and dims.is_nonnegative(rows - 1 - work.place(0, last_band, y)):
            return result
        return result & less(place, rows)

    def _column_exists(self, column: Size) -> Expression:
        work = self.band.work
        columns = work.inputs[1]
        if self.is_checked:
            if columns is None:
                seen = (work.outputs[2] - 1) * work.strides[1] + work.reach(1, 1)
                return less(column, seen - work.low[1])
            return within(column, columns)
        if columns is None or not isinstance(column, int):
            return constant(True, boolean)
        return within(column, columns)

    def _finish(self, row: int, sums: dict[_Output, Local], channel: Size) -> None:
        """Stores a row of outputs, those that exist."""
        work, band = self.band.work, self.band
        _, rows, columns = work.outputs
        at_row = band.begin + row
        row_exists = constant(True, boolean)
        if not isinstance(rows, int):
            row_exists = less(at_row, rows)
        with _when(band.builder, row_exists):
            for column in range(self.width):
                at = (band.image, at_row, self.left + column)
                exists = less(at[2], columns) if self.is_checked else constant(True, boolean)
                with _when(band.builder, exists):
                    for store in work.epilogue(at, channel, sums[row, column].value):
                        band.builder.append(store)


def _tap(place: int, output: int, stride: int, dilation: int) -> int:
    """The tap under which an output sees an input of its tile; -1 if under none."""
    tap, rest = divmod(place - output * stride, dilation)
    return -1 if rest else tap


def _is_false(condition: Expression) -> bool:
    return isinstance(condition, Constant) and not condition.value


@contextmanager
def _when(builder: KernelBuilder, condition: Expression) -> Iterator[None]:
    """A branch, unless it is always taken."""
    if isinstance(condition, Constant) and condition.value:
        yield
        return
    with builder.when(condition):
        yield
