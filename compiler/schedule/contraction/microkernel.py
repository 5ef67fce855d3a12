"""The one schedule of contractions: register tiles over panels of packed columns.

    parallel item in batch x row blocks x panels
      for tile in the block's tiles
        fragment = 0
        for k in depth                        a few steps at a time
          fragment[rows, columns] += a[rows, k] * panel[k, columns]
        epilogue of every row

A is read where it lies: inside a tile every address is the tile's base and a constant. Panels are
the inner index of the items, so that one panel serves all tiles of a block before the next comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TypeAlias

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Expression, binary, index_value, less, select
from bessemer.compiler.ir.ravel import unravel
from bessemer.compiler.schedule.contraction.contraction import (
    Contraction,
    DepthAxis,
    Walk,
    steps_of,
    walk_of,
)
from bessemer.compiler.schedule.contraction.cuts import Cut, cut_evenly, dealt
from bessemer.compiler.schedule.contraction.tile import Place, Stretch, Tile
from bessemer.compiler.schedule.contraction.tile_sums import TileWriter
from bessemer.compiler.schedule.contraction.tiles import Tiling
from bessemer.compiler.targets.machine import Target


def lower_contraction(contraction: Contraction, tiling: Tiling, target: Target) -> loops.Block:
    """The kernel body: one parallel loop over items of equal work."""
    builder = KernelBuilder()
    write_contraction(builder, contraction, tiling, target, "parallel")
    return builder.block()


def write_contraction(
    builder: KernelBuilder,
    contraction: Contraction,
    tiling: Tiling,
    target: Target,
    kind: loops.LoopKind = "serial",
) -> None:
    """Adds the contraction to a kernel, as one loop of this kind."""
    writer = _Writer(contraction, tiling, target, builder, kind == "parallel")
    with builder.loop(writer.items, kind) as item:
        writer.item(item)


def operations(contraction: Contraction, tiling: Tiling) -> Size:
    """Scalar operations of one item of a parallel loop, for `Kernel.operations`: no more than there
    are rows for. Where the run knows how many tiles there are, it is to divide by constants only.
    """
    walk = walk_of(contraction, tiling.height)
    cut = cut_evenly(walk.axis.extent, tiling.height // walk.unit)
    rows = dims.minimum(cut.height, walk.axis.extent) * walk.unit
    tiles = dims.product(axis.extent for axis in walk.outer) * cut.count
    panels = dims.ceildiv(contraction.columns, tiling.panel)
    share = dims.ceildiv(tiles, _fewest_blocks(panels)) if not isinstance(tiles, int) else tiles
    width = dims.minimum(tiling.panel, contraction.columns)
    return 2 * rows * dims.minimum(tiling.block, share) * width * contraction.depth_extent


FEWEST_ITEMS = 6
"""For the threads to share, where there are tiles enough and their number is not known."""


def _fewest_blocks(panels: Size) -> int:
    """Into how many blocks tiles are cut at least, if there are so many, for threads to share."""
    return max(1, -(-FEWEST_ITEMS // panels)) if isinstance(panels, int) else 1


Work: TypeAlias = Callable[[Place, Tile], None]


@dataclass(frozen=True, eq=False)
class _Slot:
    """Where a tile belongs: `row` is its first one in the block's partial sums."""

    place: Place
    outer: tuple[Size, ...]
    row: Size
    next_base: Size
    work: Work


@dataclass(frozen=True, eq=False)
class _Writer:
    contraction: Contraction
    tiling: Tiling
    target: Target
    builder: KernelBuilder
    is_shared: bool

    @cached_property
    def walk(self) -> Walk:
        return walk_of(self.contraction, self.tiling.height)

    @cached_property
    def sums(self) -> TileWriter:
        return TileWriter(self.contraction, self.tiling, self.target, self.builder)

    @cached_property
    def cut(self) -> Cut:
        return cut_evenly(self.walk.axis.extent, self.tiling.height // self.walk.unit)

    @cached_property
    def tiles(self) -> Size:
        return dims.product(axis.extent for axis in self.walk.outer) * self.cut.count

    @cached_property
    def blocks(self) -> Size:
        fewest = dims.ceildiv(self.tiles, self.tiling.block)
        wanted = _fewest_blocks(self.panels)
        if isinstance(self.tiles, int) or wanted == 1 or not self.is_shared:
            return fewest
        return dims.maximum(fewest, dims.minimum(dims.ceildiv(self.tiles, 2), wanted))

    @cached_property
    def panels(self) -> Size:
        return dims.ceildiv(self.contraction.columns, self.tiling.panel)

    @property
    def items(self) -> Size:
        """The trip count of the parallel loop."""
        batch = dims.product(axis.extent for axis in self.walk.batch)
        return batch * self.blocks * self.panels

    def item(self, item: Size) -> None:
        """One panel for one block of rows."""
        per_batch = self.blocks * self.panels
        within = dims.mod(item, per_batch)
        batch = unravel(dims.floordiv(item, per_batch), [a.extent for a in self.walk.batch])
        block = dims.floordiv(within, self.panels)
        panel = dims.mod(within, self.panels)
        matrix = dims.total(i * a.b_stride for i, a in zip(batch, self.walk.batch))
        a_base = dims.total(i * a.a_stride for i, a in zip(batch, self.walk.batch))
        b_base = self.builder.local(self._panel_in_b(matrix, panel))
        a_base = self.builder.local(self.contraction.a_base + a_base)
        first, count = self._tiles_of(block)
        column, width = panel * self.tiling.panel, self.tiling.panel
        self._block_of_tiles(Place(batch, a_base, panel, b_base, column, width), first, count)

    def _panel_in_b(self, matrix: Size, panel: Size) -> Size:
        """The offset of a panel of a matrix."""
        contraction, width = self.contraction, self.tiling.panel
        if contraction.b_step is not None:
            first = contraction.b_matrix + matrix * contraction.b_distance
            return first + panel * width
        steps = contraction.panel_steps or contraction.depth_steps
        number = (matrix + contraction.b_matrix) * self.panels + panel
        return number * (steps * width * contraction.group)

    def _tiles_of(self, block: Size) -> tuple[Size, Size]:
        """The first tile of a block, and how many there are. If threads share the blocks, all get
        about as many: the halves of two threads differ by one tile, not by one block."""
        if not self.is_shared:
            first = block * self.tiling.block
            return first, dims.minimum(self.tiling.block, self.tiles - first)
        first, count = dealt(self.tiles, self.blocks, block)
        return self.builder.local(first), self.builder.local(count)

    def _block_of_tiles(self, place: Place, first: Size, count: Size) -> None:
        """The tiles of a block; a last panel with few columns has narrower ones of its own."""
        narrow = self._narrow_width
        if narrow == self.tiling.panel:
            self._tiles(place, first, count)
        elif self.contraction.columns < self.tiling.panel:  # type: ignore[operator]
            self._tiles(replace(place, width=narrow), first, count)
        else:
            with self.builder.when(less(place.panel, self.panels - 1)):
                self._tiles(place, first, count)
            with self.builder.otherwise():
                self._tiles(replace(place, width=narrow), first, count)

    @property
    def _narrow_width(self) -> int:
        """The fragment's width in the last panel."""
        columns, panel = self.contraction.columns, self.tiling.panel
        if not isinstance(columns, int) or columns % panel == 0:
            return panel
        return -(-(columns % panel) // self.tiling.lanes) * self.tiling.lanes

    def _tiles(self, place: Place, first: Size, count: Size) -> None:
        """All sums of a block of tiles, and their epilogue."""
        sums, depth = self.sums, self.walk.depth
        if self.tiling.stretch is None:
            begin = self.contraction.first_step
            whole = Stretch(depth, 0, begin, self.contraction.depth_steps)
            self._each(place, first, count, partial(sums.write, depth=whole))
            return
        shape = (self.tiling.block * self.cut.height * self.walk.unit, place.width)
        memory = self.builder.allocate(self.contraction.dtype, shape)
        sums.clear(memory)
        for part, ahead in self._stretches(self.tiling.stretch):
            work = partial(sums.write_part, depth=part, sums=memory)
            self._each(place, first, count, work, ahead)
        self._each(place, first, count, partial(sums.write_end, sums=memory))

    def _stretches(self, length: int) -> Iterator[tuple[Stretch, Size]]:
        """Opens the loop over the stretches of the depth; gives the one at work in it, and how far
        from there the next one lies in a."""
        group, first = self.contraction.group, self.contraction.first_step
        run, *others = self.walk.depth
        if others:
            steps = steps_of(self.walk.depth, group)
            with self.builder.loop(run.extent) as step:
                begin = first + step * steps
                yield Stretch(tuple(others), step * run.a_stride, begin, steps), run.a_stride
            return
        with self.builder.loop(dims.ceildiv(run.extent, length)) as step:
            begin = step * length
            extent = self.builder.local(dims.minimum(length, run.extent - begin))
            axis = DepthAxis(extent, run.a_stride)
            steps = dims.ceildiv(extent, group)
            at = first + step * (length // group)
            yield Stretch((axis,), begin * run.a_stride, at, steps), length * run.a_stride

    def _each(self, place: Place, first: Size, count: Size, work: Work, ahead: Size = 0) -> None:
        """Work on every tile of a block; `ahead` in a, the first one is at work again."""
        with self.builder.loop(count) as tile:
            outer, along = self._where(first + tile)
            share = dims.minimum(tile, self.sums.shares - 1)
            shared = replace(place, tile=tile, share=share)
            row = tile * (self.cut.height * self.walk.unit)
            base: Size = 0
            if self.tiling.fetches_rows:
                base = self._next_base(place, first, count, tile, ahead)
            self._choose_height(_Slot(shared, outer, row, base, work), along)

    def _where(self, flat: Size) -> tuple[tuple[Size, ...], Size]:
        """The indices of a tile along the outer axes, and its place along the axis of tiles."""
        around = dims.floordiv(flat, self.cut.count)
        outer = unravel(around, [axis.extent for axis in self.walk.outer])
        return outer, dims.mod(flat, self.cut.count)

    def _next_base(self, place: Place, first: Size, count: Size, tile: Size, ahead: Size) -> Size:
        """The base of the tile after this one; after a block's last one, its first one follows."""

        def base(flat: Size) -> Expression:
            outer, along = self._where(flat)
            return index_value(self._base(place, outer, self._start(along)))

        again = base(first) + index_value(ahead)
        following = select(less(tile + 1, count), base(first + tile + 1), again)
        return self.builder.define(following, "next").index

    def _base(self, place: Place, outer: tuple[Size, ...], start: Size) -> Size:
        """Where the first row of a tile is in a."""
        base = place.a_base + start * self.walk.axis.a_stride
        return base + dims.total(i * axis.a_stride for i, axis in zip(outer, self.walk.outer))

    def _choose_height(self, slot: _Slot, along: Size) -> None:
        """The tile at position `along` of the axis: tall, one lower, or what the last one needs."""
        cut, builder = self.cut, self.builder
        start = self._start(along)
        if cut.rest == 0 and cut.tall == cut.count:
            self._tile(slot, start, cut.height)
            return
        is_tall = less(along, cut.tall)
        if cut.rest == 0:
            is_tall = less(cut.height - 1, self._start(along + 1) - start)
        with builder.when(is_tall):
            self._tile(slot, start, cut.height)
        with builder.otherwise():
            if cut.rest == 0:
                self._tile(slot, start, cut.height - 1)
            else:
                self._last_tiles(slot)

    def _start(self, along: Size) -> Size:
        """Where a tile begins. Those that are one step lower lie between the others: halves of the
        tiles are halves of the rows."""
        if isinstance(self.cut.count, int):
            return dims.floordiv(self.walk.axis.extent * along, self.cut.count)
        return along * self.cut.height

    def _last_tiles(self, slot: _Slot) -> None:
        """The rest of a dynamic axis, as a sum of powers of two."""
        cut = self.cut
        height = 1 << (cut.height - 1).bit_length() >> 1
        while height:
            bit = index_value(dims.mod(dims.floordiv(cut.rest, height), 2))
            with self.builder.when(binary("ne", bit, 0)):
                before = dims.floordiv(cut.rest, 2 * height) * (2 * height)
                part = replace(slot, row=slot.row + before * self.walk.unit)
                self._tile(part, cut.tall * cut.height + before, height)
            height >>= 1

    def _tile(self, slot: _Slot, start: Size, steps: int) -> None:
        """The tile of some steps along the axis."""
        walk, place = self.walk, slot.place
        base = self.builder.local(self._base(place, slot.outer, start))
        axes = (*walk.batch, *walk.outer, walk.axis, *walk.inner)
        offsets: list[Size] = []
        indices: list[tuple[Size, ...]] = []
        for step in range(steps):
            for unit in walk.unit_indices():
                inner = dims.total(i * axis.a_stride for i, axis in zip(unit, walk.inner))
                offsets.append(step * walk.axis.a_stride + inner)
                row: list[Size] = [0] * walk.rank
                for index, axis in zip((*place.batch, *slot.outer, start + step, *unit), axes):
                    axis.scatter(index, row)
                indices.append(tuple(row))
        slot.work(place, Tile(base, tuple(offsets), tuple(indices), slot.row, slot.next_base))
