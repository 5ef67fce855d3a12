"""Writes the kernel of a depthwise convolution, channels last. It has no sum over channels, so the
register tiles of contractions would be of no use.

    parallel item in images x tiles of rows (x parts of a row, where there is one row)
      for tile of columns
        for channel                            vectors
          for the tile's rows of inputs
            every input is loaded once, and multiplied for all outputs that see it

With pixels outside and channels inside, memory is read in order, and a tile's weights come from the
first-level cache. The border is never multiplied: a row of inputs outside of the image is skipped
by a branch, and columns outside are left out of the code of the tiles at the ends of a row.
For large windows, a tile is one row of outputs, and its taps are loops (depthwise_taps.py). The
loop over the tiles is then inside of the loop over the channels, so that the tiles share what the
first-level cache has room for. A volume counts as one image for each of its planes, and the planes
of a window are one more loop. Where the tile says so, a tile of all planes comes before the next
tile, so that the planes' windows share what they see.
Convolutions in groups of few channels are done in the same way: an input is multiplied for all
outputs of its group, spread by one shuffle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby, product
from math import ceil

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import (
    Expression,
    binary,
    constant,
    index_value,
    less,
)
from bessemer.compiler.ir.types import boolean
from bessemer.compiler.schedule.contraction.cuts import cut_evenly, dealt
from bessemer.compiler.schedule.convolution.depthwise_plan import Depthwise, TileSize
from bessemer.compiler.schedule.convolution.depthwise_taps import (
    Output,
    Range,
    TapLoops,
    column_exists,
    is_false,
    planes_of_taps,
    rows_of_taps,
    when,
)

FEWEST_ITEMS = 16
"""Fewer images of one row than that are divided into parts of the row. (512 channels of 1000 on two
threads: 210 us as one item, 133 as 16.)"""


def lower_depthwise(work: Depthwise, tile: TileSize) -> loops.Block:
    """The body of the kernel: one parallel loop over the tiles of rows of all images. Those of the
    planes of a volume are neighbours."""
    builder = KernelBuilder()
    images, rows, _ = work.outputs
    planes = 1 if work.planes is None else work.planes.outputs
    volumes = dims.floordiv(images, planes)
    if tile.all_planes:
        planes = 1
    cut = cut_evenly(rows, tile.rows)
    parts = _parts_of_rows(work, tile)
    with builder.loop(volumes * cut.count * planes * parts, "parallel") as item:
        image_number, part = dims.floordiv(item, parts), dims.mod(item, parts)
        band_number, plane = dims.floordiv(image_number, planes), dims.mod(image_number, planes)
        volume, along = dims.floordiv(band_number, cut.count), dims.mod(band_number, cut.count)
        image = volume * planes + plane

        def band(begin: Size, height: int) -> None:
            _write_band(_Band(builder, work, tile, image, begin, height, (parts, part)))

        if not isinstance(rows, int) or cut.tall == cut.count:
            band(along * cut.height, cut.height)
        else:
            with builder.when(less(along, cut.tall)):
                band(along * cut.height, cut.height)
            with builder.otherwise():
                band(along * (cut.height - 1) + cut.tall, cut.height - 1)
    return builder.block()


def _parts_of_rows(work: Depthwise, tile: TileSize) -> int:
    """Into how many parts the columns are divided, for the threads: a line is an image of one
    row."""
    images, rows, columns = work.outputs
    if rows != 1:
        return 1
    parts = ceil(FEWEST_ITEMS / max(images, 1)) if isinstance(images, int) else FEWEST_ITEMS
    tiles = cut_evenly(columns, tile.columns).count
    return min(parts, tiles) if isinstance(tiles, int) else parts


def _write_band(band: _Band) -> None:
    """Writes all tiles of a band of rows. If they share weights, the loop over the channels is
    outside of the tiles."""
    work, builder, width = band.work, band.builder, band.tile.columns
    if work.loops_over_taps:
        band = replace(band, rows_of_taps=rows_of_taps(builder, work, band.begin))
        if not band.tile.all_planes:
            band = band.of_plane(band.image)
    if work.shares_weights:
        with builder.loop(work.channels, "vector", lanes=0) as channel:
            replace(band, channel=channel).write(width)
    else:
        band.write(width)


@dataclass(frozen=True, eq=False)
class _Band:
    """The rows of outputs of one tile's height. The last band of an unknown number of rows may be
    lower. `part` says into how many parts its columns are divided, and which of these it is.

    If its tile takes `all_planes`, `image` is the number of a volume.
    `rows_of_taps` and `planes_of_taps` are used if the band loops over them
    (`Depthwise.loops_over_taps`). `channel` is the index of a loop around the band, if there is
    one.
    """

    builder: KernelBuilder
    work: Depthwise
    tile: TileSize
    image: Size
    begin: Size
    height: int
    part: tuple[int, Size]
    rows_of_taps: Range = (0, 0)
    planes_of_taps: Range = (0, 0)
    channel: Size | None = None

    def of_plane(self, image: Size) -> _Band:
        """The same rows of the plane `image`, or of an image."""
        taps = planes_of_taps(self.builder, self.work, image)
        return replace(self, image=image, planes_of_taps=taps)

    def write(self, width: int) -> None:
        """Writes all tiles of the band, each of at most `width` columns."""
        columns = self.work.outputs[2]
        if isinstance(columns, int):
            self._known_columns(columns, width)
        else:
            self._unknown_columns(columns, width)

    def _known_columns(self, columns: int, width: int) -> None:
        """Writes the tiles of a known number of columns. Tiles inside of the image share a loop;
        each tile at the border has code of its own."""
        cut = cut_evenly(columns, width)
        assert isinstance(cut.count, int) and isinstance(cut.tall, int)
        widths = [cut.height - (number >= cut.tall) for number in range(cut.count)]
        tiles = [(sum(widths[:number]), size) for number, size in enumerate(widths)]

        def kind(entry: tuple[int, int]) -> tuple[int, int]:
            left, size = entry
            return size, -1 if self._is_inside(left, size) else left

        begin, many = dealt(len(tiles), *self.part)
        number = 0
        for (size, at), group in groupby(tiles, kind):
            members = list(group)
            first = dims.maximum(begin - number, 0)
            own = dims.maximum(dims.minimum(begin + many - number, len(members)) - first, 0)
            number += len(members)
            if at < 0 and len(members) > 1:
                with self.builder.loop(own) as place:
                    left = members[0][0] + (first + place) * size
                    _Tile(self, left, size, is_checked=False).write()
                continue
            for left, _ in members:
                with when(self.builder, less(0, own)):
                    _Tile(self, left, size, is_checked=False).write()

    def _is_inside(self, left: int, size: int) -> bool:
        """Whether a tile sees no column outside of the image, or its segments find that out."""
        inputs = self.work.inputs[1]
        if inputs is None or self.work.loops_over_segments:
            return True
        first = self.work.place(1, left, 0)
        last = first + self.work.reach(1, size) - 1
        return dims.is_nonnegative(first) and dims.is_nonnegative(inputs - 1 - last)

    def _unknown_columns(self, columns: Size, width: int) -> None:
        """Writes the tiles of an unknown number of columns: a loop for those inside of the image,
        and one for those that check of every column whether it exists."""
        work, step = self.work, width * self.work.strides[1]
        inputs = work.inputs[1]
        inner_begin: Size = 0
        inner_end = dims.floordiv(columns, width)
        if inputs is not None and not work.loops_over_segments:
            inner_begin = dims.ceildiv(work.low[1], step)
            seen = inputs + work.low[1] - work.reach(1, width)
            inner_end = dims.minimum(inner_end, dims.floordiv(seen, step) + 1)
        begin, many = dealt(dims.ceildiv(columns, width), *self.part)
        with self.builder.loop(many) as place:
            number = begin + place
            is_inside = binary("ge", index_value(number), index_value(inner_begin))
            with self.builder.when(is_inside & less(number, inner_end)):
                _Tile(self, number * width, width, is_checked=False).write()
            with self.builder.otherwise():
                _Tile(self, number * width, width, is_checked=True).write()


@dataclass(frozen=True, eq=False)
class _Tile:
    """A tile of a band, from column `left` on. If it `is_checked`, its code checks which of its
    input columns and outputs exist."""

    band: _Band
    left: Size
    width: int
    is_checked: bool

    def write(self) -> None:
        """All channels of the tile, or only the band's."""
        band = self.band
        if band.channel is not None:
            self._sums(band.channel)
            return
        with band.builder.loop(band.work.channels, "vector", lanes=0) as channel:
            self._sums(channel)

    def _sums(self, channel: Size) -> None:
        """One vector of channels, for all planes if the tile takes them."""
        band, planes = self.band, self.band.work.planes
        if planes is None or not band.tile.all_planes:
            self._sums_of_image(channel)
            return
        with band.builder.loop(planes.outputs) as number:
            plane = band.of_plane(band.image * planes.outputs + number)
            replace(self, band=plane)._sums_of_image(channel)

    def _sums_of_image(self, channel: Size) -> None:
        work, builder = self.band.work, self.band.builder
        zero = constant(0, work.weights.dtype)
        outputs = product(range(self.band.height), range(self.width))
        sums = {output: builder.define(zero, "sum") for output in outputs}
        if work.loops_over_taps:
            self._taps().add(sums, channel)
            self._finish(0, sums, channel)
            return
        weights: dict[Output, Expression] = {}
        if work.holds_weights:
            weights = self._weights(range(work.kernel[0]), channel)
        for y in range(work.reach(0, self.band.height)):
            self._row_of_inputs(y, weights, sums, channel)
            for row in range(self.band.height):
                if row * work.strides[0] + work.reach(0, 1) - 1 == y:
                    self._finish(row, sums, channel)

    def _taps(self) -> TapLoops:
        band = self.band
        return TapLoops(
            band.builder,
            band.work,
            (band.image, band.begin, self.left),
            self.width,
            self.is_checked,
            band.rows_of_taps,
            band.planes_of_taps,
        )

    def _weights(self, rows: range | list[int], channel: Size) -> dict[Output, Expression]:
        work, builder = self.band.work, self.band.builder
        taps = product(rows, range(work.kernel[1]))
        return {tap: builder.define(work.weights[*tap, channel], "w").value for tap in taps}

    def _row_of_inputs(
        self,
        y: int,
        weights: dict[Output, Expression],
        sums: dict[Output, Local],
        channel: Size,
    ) -> None:
        """Adds what the inputs of one row contribute, if the image has that row."""
        work, band = self.band.work, self.band
        taps = {row: work.tap(0, y, row) for row in range(band.height)}
        taps = {row: tap for row, tap in taps.items() if tap in range(work.kernel[0])}
        if not taps:
            return
        place = work.place(0, band.begin, y)
        with when(band.builder, self._row_exists(y, place)):
            if not work.holds_weights:
                weights = self._weights(sorted({tap for tap in taps.values() if tap >= 0}), channel)
            for x in range(work.reach(1, self.width)):
                self._input(x, place, taps, weights, sums, channel)

    def _input(
        self,
        x: int,
        row: Size,
        rows: dict[int, int],
        weights: dict[Output, Expression],
        sums: dict[Output, Local],
        channel: Size,
    ) -> None:
        """Adds what one input contributes to all outputs that see it, if the image has it."""
        work, builder = self.band.work, self.band.builder
        columns = {at: work.tap(1, x, at) for at in range(self.width)}
        columns = {at: tap for at, tap in columns.items() if tap in range(work.kernel[1])}
        column = work.place(1, self.left, x)
        exists = column_exists(work, column, self.is_checked)
        if not columns or is_false(exists):
            return
        with when(builder, exists):
            source = work.source(channel)
            value = builder.define(work.x(self.band.image, row, column, source), "x").value
            for (at_row, tap_row), (at, tap) in product(rows.items(), columns.items()):
                sums[at_row, at].accumulate("add", value * weights[tap_row, tap])

    def _row_exists(self, y: int, place: Size) -> Expression:
        """A condition that the image has a row; a constant where the answer is the same for every
        band."""
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

    def _finish(self, row: int, sums: dict[Output, Local], channel: Size) -> None:
        """Stores those outputs of a row that exist."""
        work, band = self.band.work, self.band
        _, rows, columns = work.outputs
        at_row = band.begin + row
        row_exists = constant(True, boolean)
        if not isinstance(rows, int):
            row_exists = less(at_row, rows)
        with when(band.builder, row_exists):
            for column in range(self.width):
                at = (band.image, at_row, self.left + column)
                exists = less(at[2], columns) if self.is_checked else constant(True, boolean)
                with when(band.builder, exists):
                    for store in work.epilogue(at, channel, sums[row, column].value):
                        band.builder.append(store)
