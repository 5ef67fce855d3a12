"""Writes the kernel of a matrix product or convolution: register tiles over panels of packed
columns.

The input is a `Contraction` (contraction.py) and a `Tiling` (tiles.py), the output a block of the
loop language:

    parallel item in batch x row blocks x panels
      for tile in the block's tiles
        fragment = 0
        for k in depth                        a few steps at a time
          fragment[rows, columns] += a[rows, k] * panel[k, columns]
        epilogue of every row

This file writes the loops over the tiles; tile_sums.py writes what is inside of a tile. The left
operand `a` is read where it lies: in a tile, every address is the tile's base plus a constant. The
panel is the inner index of the items, so that it serves all tiles of a block before the next comes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
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
    Walk,
    walk_of,
)
from bessemer.compiler.schedule.contraction.cuts import Cut, cut_evenly, dealt, panel_of
from bessemer.compiler.schedule.contraction.depth_blocks import depth_blocks, free_depth_blocks
from bessemer.compiler.schedule.contraction.packing import PanelPacking
from bessemer.compiler.schedule.contraction.row_blocks import fewest_blocks, tiles_in_block
from bessemer.compiler.schedule.contraction.tile import DepthBlock, Place, Tile
from bessemer.compiler.schedule.contraction.tile_sums import TileWriter
from bessemer.compiler.schedule.contraction.tiles import Tiling
from bessemer.compiler.targets.machine import Target


def lower_contraction(
    contraction: Contraction, tiling: Tiling, target: Target, packing: PanelPacking | None = None
) -> loops.Block:
    """The body of the kernel: one parallel loop over items (a block of rows by a panel of columns
    each). With a `packing`, each item packs its panel of `b`."""
    builder = KernelBuilder()
    write_contraction(builder, contraction, tiling, target, "parallel", packing)
    return builder.block()


def write_contraction(
    builder: KernelBuilder,
    contraction: Contraction,
    tiling: Tiling,
    target: Target,
    kind: loops.LoopKind = "serial",
    packing: PanelPacking | None = None,
) -> None:
    """Adds the loop over a contraction's items, of this kind, to a kernel that is being built."""
    writer = _Writer(contraction, tiling, target, builder, kind == "parallel", packing)
    with builder.loop(writer.items, kind) as item:
        if packing is not None:
            writer = replace(writer, contraction=replace(contraction, b=packing.allocate(builder)))
        writer.item(item)


def operations(contraction: Contraction, tiling: Tiling) -> Size:
    """Scalar operations of one item of the parallel loop, for `Kernel.operations`.

    No more rows are counted than there are. Where only the run knows the number of tiles, the
    formula is kept to divisions by constants.
    """
    walk = walk_of(contraction, tiling.height)
    cut = cut_evenly(walk.axis.extent, tiling.height // walk.unit)
    rows = dims.minimum(cut.height, walk.axis.extent) * walk.unit
    tiles = dims.product(axis.extent for axis in walk.outer) * cut.count
    panels = dims.ceildiv(contraction.columns, tiling.panel)
    share = dims.ceildiv(tiles, fewest_blocks(panels)) if not isinstance(tiles, int) else tiles
    width = dims.minimum(tiling.panel, contraction.columns) * (tiling.strip or 1)
    return 2 * rows * dims.minimum(tiling.block, share) * width * contraction.depth_extent


Work: TypeAlias = Callable[[Place, Tile], None]


@dataclass(frozen=True, eq=False)
class _Slot:
    """A tile whose height is still to be chosen, with what its code needs to know.

    `outer` are its indices along the walk's outer axes, `row` is its first row in the block's
    partial sums, `next_base` the place in `a` of the tile after it, and `work` writes its code.
    """

    place: Place
    outer: tuple[Size, ...]
    row: Size
    next_base: Size
    work: Work


@dataclass(frozen=True, eq=False)
class _Writer:
    """Writes one contraction to `builder`. The loop over the items is parallel if `is_shared`."""

    contraction: Contraction
    tiling: Tiling
    target: Target
    builder: KernelBuilder
    is_shared: bool
    packing: PanelPacking | None = None

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
        fewest = dims.ceildiv(self.tiles, self._tiles_in_block)
        wanted = fewest_blocks(self.panels, dims.product(a.extent for a in self.walk.batch))
        if isinstance(self.tiles, int) or wanted == 1 or not self.is_shared:
            return fewest
        return dims.maximum(fewest, dims.minimum(dims.ceildiv(self.tiles, 2), wanted))

    @property
    def _tiles_in_block(self) -> Size:
        """The most tiles in a block: fewer than planned if the run finds few steps, and rows of the
        output meet in few sets of the cache (see row_blocks.py)."""
        if self._free_depth_blocks is None:
            return self.tiling.block
        return tiles_in_block(self.contraction, self.tiling.block, self.packing is not None)

    @cached_property
    def panels(self) -> Size:
        return dims.ceildiv(self.contraction.columns, self.tiling.panel)

    @property
    def items(self) -> Size:
        """The trip count of the parallel loop."""
        batch = dims.product(axis.extent for axis in self.walk.batch)
        return batch * self.blocks * self._strips

    @property
    def _strips(self) -> Size:
        """The number of items that have the same rows."""
        return dims.ceildiv(self.panels, self.tiling.strip or 1)

    def item(self, item: Size) -> None:
        """Writes one item: the tiles of one block of rows, for a panel of columns or a strip."""
        per_batch = self.blocks * self._strips
        within = dims.mod(item, per_batch)
        batch = unravel(dims.floordiv(item, per_batch), [a.extent for a in self.walk.batch])
        matrix = dims.total(i * a.b_stride for i, a in zip(batch, self.walk.batch))
        begins = dims.total(i * a.a_stride for i, a in zip(batch, self.walk.batch))
        a_base = self.builder.local(self.contraction.a_base + begins)
        strip, width = self.tiling.strip, self.tiling.panel
        if strip is None:
            panel = panel_of(within, self.panels, self._narrow_width < width)
            place = Place(batch, matrix, a_base, panel, 0, panel * width, width)
            return self._panel(place, *self._tiles_of(dims.floordiv(within, self.panels)))
        tile = self.builder.local(dims.mod(within, self.blocks))
        begin = self.builder.local(dims.floordiv(within, self.blocks) * strip)
        count = self.builder.local(dims.minimum(strip, self.panels - begin))
        with self.builder.loop(count) as number:
            panel = begin + number
            last = self.contraction.columns - width
            column = self.builder.local(dims.minimum(panel * width, last))
            self._panel(Place(batch, matrix, a_base, panel, 0, column, width), tile, 1)

    def _panel(self, place: Place, first: Size, count: Size) -> None:
        place = replace(place, b_base=self.builder.local(self._panel_in_b(place)))
        self._block_of_tiles(place, first, count)

    def _pack(self, place: Place, first: Size, steps: Size) -> None:
        """Packs these steps of the item's panel, if items pack."""
        if self.packing is not None:
            memory = self.contraction.b
            self.packing.write(self.builder, memory, place.matrix, place.panel, first, steps)

    def _panel_in_b(self, place: Place) -> Size:
        """The flat offset in `b` of a panel."""
        of, matrix = self.contraction, place.matrix
        if self.packing is not None:
            return 0
        if of.b_step is not None:
            return of.b_matrix + matrix * of.b_distance + place.column
        number = (matrix + of.b_matrix) * self.panels + place.panel
        return number * ((of.panel_steps or of.depth_steps) * place.width * of.group)

    def _tiles_of(self, block: Size) -> tuple[Size, Size]:
        """The first tile of a block, and the number of its tiles.

        If threads share the blocks, these numbers differ by at most one, so that the shares of two
        threads differ by one tile per panel and not by a whole block.
        """
        if not self.is_shared:
            first = block * self.tiling.block
            return first, dims.minimum(self.tiling.block, self.tiles - first)
        first, count = dealt(self.tiles, self.blocks, block)
        return self.builder.local(first), self.builder.local(count)

    def _block_of_tiles(self, place: Place, first: Size, count: Size) -> None:
        """Writes the tiles of a block. If the last panel has few columns, its tiles are narrower,
        and there is a branch for them."""
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
        """The width in columns of the tiles in the last panel, which is whole in a strip."""
        columns, panel = self.contraction.columns, self.tiling.panel
        if not isinstance(columns, int) or columns % panel == 0 or self.tiling.strip is not None:
            return panel
        return -(-(columns % panel) // self.tiling.lanes) * self.tiling.lanes

    def _tiles(self, place: Place, first: Size, count: Size) -> None:
        """Writes all sums of a block of tiles, and their epilogue. A sum that is cut into depth
        blocks is added up in an array on the stack: one pass over the tiles for each depth block,
        then one for the epilogues. A depth that only the run knows may be one depth block, which
        needs no array."""
        sums, depth = self.sums, self.walk.depth
        if self.tiling.depth_block is None:
            begin = self.contraction.first_step
            whole = DepthBlock(depth, 0, begin, self.contraction.depth_steps)
            self._pack(place, 0, self.contraction.depth_steps)
            self._each(place, first, count, partial(sums.write, depth=whole))
            return
        rows = self.cut.height * self.walk.unit
        shape = (self.tiling.block * rows, place.width)
        memory = self.builder.allocate(self.contraction.dtype, shape)
        with self._if_many_depth_blocks():
            sums.clear(memory, count * rows)
        for part, ahead in depth_blocks(
            self.builder, self.contraction, self.walk.depth, self.tiling.depth_block
        ):
            if self.packing is not None:
                self._pack(place, part.begin, part.length)
                part = replace(part, begin=0)
            work = partial(sums.write_part, depth=part, sums=memory)
            self._each(place, first, count, work, ahead)
        with self._if_many_depth_blocks():
            self._each(place, first, count, partial(sums.write_end, sums=memory))

    def _if_many_depth_blocks(self) -> AbstractContextManager[object]:
        """A branch that is taken unless the run finds that the depth is a single depth block."""
        count = self._free_depth_blocks
        if count is None:
            return nullcontext()
        return self.builder.when(binary("ne", index_value(count), 1))

    @property
    def _free_depth_blocks(self) -> Size | None:
        return free_depth_blocks(self.walk.depth, self.tiling.depth_block)

    def _each(self, place: Place, first: Size, count: Size, work: Work, ahead: Size = 0) -> None:
        """Calls `work` in a loop over all tiles of a block. After the last tile comes the first one
        again, `ahead` elements further in `a` (the next depth block)."""
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
        """The indices of a tile along the outer axes, and its position along the axis of tiles;
        `flat` is its number in the batch."""
        if not self.walk.outer:
            return (), flat
        around = dims.floordiv(flat, self.cut.count)
        outer = unravel(around, [axis.extent for axis in self.walk.outer])
        return outer, dims.mod(flat, self.cut.count)

    def _next_base(self, place: Place, first: Size, count: Size, tile: Size, ahead: Size) -> Size:
        """The base in `a` of the tile after this one, for prefetches; after a block's last tile
        comes its first one again, `ahead` elements further."""

        def base(flat: Size) -> Expression:
            outer, along = self._where(flat)
            return index_value(self._base(place, outer, self._start(along)))

        again = base(first) + index_value(ahead)
        following = select(less(tile + 1, count), base(first + tile + 1), again)
        return self.builder.define(following, "next").index

    def _base(self, place: Place, outer: tuple[Size, ...], start: Size) -> Size:
        """The offset in `a` of a tile's first row, which is step `start` of the axis of tiles."""
        base = place.a_base + start * self.walk.axis.a_stride
        return base + dims.total(i * axis.a_stride for i, axis in zip(outer, self.walk.outer))

    def _choose_height(self, slot: _Slot, along: Size) -> None:
        """Writes the tile at position `along` of the axis, with a branch for each height that it
        may have."""
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
        """The step of the axis at which a tile begins. The lower tiles are spread evenly among the
        others, so that half of the tiles are half of the rows."""
        if isinstance(self.cut.count, int):
            return dims.floordiv(self.walk.axis.extent * along, self.cut.count)
        return along * self.cut.height

    def _last_tiles(self, slot: _Slot) -> None:
        """Writes the remainder tiles of an axis of symbolic extent: one for each power of two that
        the remainder consists of, so that every height is a constant."""
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
        """Collects the offsets and the indices of a tile of `steps` steps from `start` on, and
        calls the slot's `work` with them."""
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
