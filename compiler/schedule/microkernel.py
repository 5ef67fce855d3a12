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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import (
    Buffer,
    Expression,
    binary,
    constant,
    fragment_element,
    index_value,
    less,
)
from bessemer.compiler.schedule.contraction import Contraction, DepthAxis, Nest, nest
from bessemer.compiler.schedule.tiles import Split, Tiling, chain_block, chains, split
from bessemer.compiler.targets.machine import Target

_LINE = 64  # bytes in a cache line


def lower_contraction(contraction: Contraction, tiling: Tiling, target: Target) -> loops.Block:
    """The kernel body: one parallel loop over items of equal work."""
    writer = _Writer(contraction, tiling, target)
    with writer.builder.loop(writer.items, "parallel") as item:
        writer.item(item)
    return writer.builder.block()


def operations(contraction: Contraction, tiling: Tiling) -> Size:
    """Scalar operations of one item, for `Kernel.operations`."""
    walk = nest(contraction, tiling.height)
    rows = split(walk.axis.extent, tiling.height // walk.unit).height * walk.unit
    width: Size = tiling.panel
    if isinstance(contraction.columns, int):
        width = min(tiling.panel, contraction.columns)
    return 2 * rows * tiling.block * width * contraction.depth_extent


@dataclass(frozen=True, eq=False)
class _Place:
    """The part of the output at work: a panel's columns for the rows of a batch."""

    batch: tuple[Size, ...]
    a_base: Size
    panel: Size
    b_base: Size
    column: Size
    width: int  # of the fragments, in columns
    share: Size  # which part of the next panel to prefetch


@dataclass(frozen=True, eq=False)
class _Tile:
    """The rows of a tile: their offsets from its base in `a`, and their indices."""

    a_base: Size
    offsets: tuple[Size, ...]
    indices: tuple[tuple[Size, ...], ...]


@dataclass(frozen=True, eq=False)
class _Writer:
    contraction: Contraction
    tiling: Tiling
    target: Target

    @cached_property
    def builder(self) -> KernelBuilder:
        return KernelBuilder()

    @cached_property
    def walk(self) -> Nest:
        return nest(self.contraction, self.tiling.height)

    @cached_property
    def cut(self) -> Split:
        return split(self.walk.axis.extent, self.tiling.height // self.walk.unit)

    @cached_property
    def tiles(self) -> Size:
        return dims.product(axis.extent for axis in self.walk.outer) * self.cut.count

    @cached_property
    def blocks(self) -> Size:
        return dims.ceildiv(self.tiles, self.tiling.block)

    @cached_property
    def panels(self) -> Size:
        return dims.ceildiv(self.contraction.columns, self.tiling.panel)

    @property
    def items(self) -> Size:
        """The trip count of the parallel loop."""
        batch = dims.product(axis.extent for axis in self.walk.batch)
        return batch * self.blocks * self.panels

    def local(self, size: Size) -> Size:
        """The value in a local variable, unless it is as simple as one."""
        if isinstance(size, int) or isinstance(dims.as_atom(size), (Symbol, Expression)):
            return size
        return self.builder.define(index_value(size), "n").index

    def item(self, item: Size) -> None:
        """One panel for one block of rows."""
        per_batch = self.blocks * self.panels
        within = self.local(dims.mod(item, per_batch))
        batch = self._unravel(dims.floordiv(item, per_batch), [a.extent for a in self.walk.batch])
        block = self.local(dims.floordiv(within, self.panels))
        panel = self.local(dims.mod(within, self.panels))
        matrix = dims.total(i * a.b_stride for i, a in zip(batch, self.walk.batch))
        a_base = dims.total(i * a.a_stride for i, a in zip(batch, self.walk.batch))
        panel_elements = self.contraction.depth_extent * self.tiling.panel
        b_base = self.local((matrix * self.panels + panel) * panel_elements)
        a_base = self.local(self.contraction.a_base + a_base)
        first = self.local(block * self.tiling.block)
        count = dims.minimum(self.tiling.block, self.tiles - first)
        place = _Place(
            batch, a_base, panel, b_base, panel * self.tiling.panel, self.tiling.panel, 0
        )
        self._block_of_tiles(place, first, count)

    def _block_of_tiles(self, place: _Place, first: Size, count: Size) -> None:
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

    def _tiles(self, place: _Place, first: Size, count: Size) -> None:
        with self.builder.loop(count) as tile:
            flat = first + tile
            along = self.local(dims.mod(flat, self.cut.count))
            around = self.local(dims.floordiv(flat, self.cut.count))
            outer = self._unravel(around, [axis.extent for axis in self.walk.outer])
            shared = replace(place, share=dims.minimum(tile, self._shares - 1))
            self._choose_height(shared, outer, along)

    @property
    def _shares(self) -> int:
        """Into how many parts the prefetching of the next panel is divided, one a tile."""
        size = self.contraction.dtype.bytes
        most = max(1, self.tiling.unroll * self.tiling.panel * size // _LINE)
        shares = 1
        while shares * 2 <= min(self.tiling.block, most) and self.tiling.panel % (shares * 2) == 0:
            shares *= 2
        return shares

    def _choose_height(self, place: _Place, outer: Sequence[Size], along: Size) -> None:
        """The tile at position `along` of the axis: tall, one lower, or what the last one needs."""
        cut, builder = self.cut, self.builder
        if cut.rest == 0 and cut.tall == cut.count:
            self._tile(place, outer, along * cut.height, cut.height)
            return
        with builder.when(less(along, cut.tall)):
            self._tile(place, outer, along * cut.height, cut.height)
        with builder.otherwise():
            if cut.rest == 0:
                start = along * (cut.height - 1) + cut.tall
                self._tile(place, outer, start, cut.height - 1)
            else:
                self._last_tiles(place, outer)

    def _last_tiles(self, place: _Place, outer: Sequence[Size]) -> None:
        """The rest of a dynamic axis, as a sum of powers of two."""
        cut = self.cut
        rest = self.local(cut.rest)
        height = 1 << (cut.height - 1).bit_length() >> 1
        while height:
            bit = index_value(dims.mod(dims.floordiv(rest, height), 2))
            with self.builder.when(binary("ne", bit, 0)):
                before = dims.floordiv(rest, 2 * height) * (2 * height)
                self._tile(place, outer, cut.tall * cut.height + before, height)
            height >>= 1

    def _tile(self, place: _Place, outer: Sequence[Size], start: Size, steps: int) -> None:
        walk = self.walk
        start = self.local(start)
        base = place.a_base + start * walk.axis.a_stride
        base += dims.total(i * axis.a_stride for i, axis in zip(outer, walk.outer))
        offsets: list[Size] = []
        indices: list[tuple[Size, ...]] = []
        for step in range(steps):
            for unit in walk.unit_indices():
                inner = dims.total(i * axis.a_stride for i, axis in zip(unit, walk.inner))
                offsets.append(step * walk.axis.a_stride + inner)
                row: list[Size] = [0] * walk.rank
                axes = (*walk.batch, *walk.outer, walk.axis, *walk.inner)
                for index, axis in zip((*place.batch, *outer, start + step, *unit), axes):
                    axis.scatter(index, row)
                indices.append(tuple(row))
        tile = _Tile(self.local(base), tuple(offsets), tuple(indices))
        self._sums(place, tile)

    def _sums(self, place: _Place, tile: _Tile) -> None:
        """Fills the fragments of a tile, adds up and stores."""
        registers, lanes = self.target.vector_registers, self.tiling.lanes
        depth = self.contraction.depth_extent
        rows = len(tile.offsets)
        count = min(
            chains(rows, place.width // lanes, registers, depth), max(1, self.tiling.unroll)
        )
        fragments = [self.builder.fresh("sum") for _ in range(count)]
        for name in fragments:
            self.builder.append(loops.Fragment(name, rows, place.width, self.contraction.dtype))
        block = chain_block(depth, count, self.contraction.dtype)
        if block is None:
            self._fill(fragments, place, start=True)
            self._depth(place, tile, fragments, self.walk.depth, 0, 0)
            totals = [self._total(fragments, row) for row in range(rows)]
            self._store(place, tile, fragments[0], totals, self.builder.index(place.width))
        else:
            self._sums_in_blocks(place, tile, fragments, block)

    def _sums_in_blocks(self, place: _Place, tile: _Tile, fragments: list[str], size: int) -> None:
        """Short sums, each from 0, added up in memory: rounding errors grow with a sum's length."""
        rows = len(tile.offsets)
        partial = self.builder.allocate(self.contraction.dtype, (rows, place.width))
        self._fill(fragments[:1], place, start=True)
        self._store_partial(partial, place, fragments[:1], add=False)
        first, *others = self.walk.depth
        if others:
            with self.builder.loop(first.extent) as step:
                self._fill(fragments, place, start=False)
                self._depth(place, tile, fragments, others, step * first.a_stride, step)
                self._store_partial(partial, place, fragments, add=True)
        else:
            size = -(-size // self.tiling.unroll) * self.tiling.unroll
            with self.builder.loop(dims.ceildiv(first.extent, size)) as block:
                begin = block * size
                extent = self.local(dims.minimum(size, first.extent - begin))
                self._fill(fragments, place, start=False)
                run = (DepthAxis(extent, first.a_stride),)
                self._depth(place, tile, fragments, run, begin * first.a_stride, begin, flat=True)
                self._store_partial(partial, place, fragments, add=True)
        column = self.builder.index(place.width)
        totals = [partial[row, dims.atom(column)] for row in range(rows)]
        self._store(place, tile, fragments[0], totals, column)

    def _fill(self, fragments: Sequence[str], place: _Place, *, start: bool) -> None:
        for number, name in enumerate(fragments):
            column = self.builder.index(place.width)
            value = constant(0, self.contraction.dtype)
            limit: Size = place.width
            if start and number == 0 and self.contraction.start is not None:
                value = self.contraction.start(place.column + dims.atom(column))
                limit = dims.minimum(limit, self.contraction.columns - place.column)
            self.builder.append(loops.FragmentFill(name, column, value, limit))

    def _depth(
        self,
        place: _Place,
        tile: _Tile,
        fragments: Sequence[str],
        axes: Sequence[DepthAxis],
        a_offset: Size,
        k: Size,
        flat: bool = False,
    ) -> None:
        """The loops over the depth axes; `k` counts the steps of the axes around these."""
        first, *others = axes
        before = k if flat else k * first.extent
        if others:
            with self.builder.loop(first.extent) as step:
                inner = a_offset + step * first.a_stride
                self._depth(place, tile, fragments, others, inner, before + step)
            return
        self._run(place, tile, fragments, first, a_offset, before)

    def _run(
        self,
        place: _Place,
        tile: _Tile,
        fragments: Sequence[str],
        axis: DepthAxis,
        a_offset: Size,
        k: Size,
    ) -> None:
        """The innermost loop: `unroll` steps at a time, then the rest."""
        unroll = self.tiling.unroll

        def steps(begin: Size, count: int) -> None:
            for step in range(count):
                at = begin + step
                fragment = fragments[step % len(fragments)]
                self._step(place, tile, fragment, a_offset + at * axis.a_stride, k + at)

        if isinstance(axis.extent, int) and axis.extent <= unroll:
            steps(0, axis.extent)
            return
        whole = dims.floordiv(axis.extent, unroll)
        with self.builder.loop(whole) as i:
            if self.tiling.prefetch:
                self._prefetch(place, k + i * unroll)
            steps(i * unroll, unroll)
        rest = dims.mod(axis.extent, unroll)
        if isinstance(rest, int):
            steps(whole * unroll, rest)
        else:
            with self.builder.loop(rest) as i:
                steps(whole * unroll + i, 1)

    def _step(self, place: _Place, tile: _Tile, fragment: str, a_offset: Size, k: Size) -> None:
        self.builder.append(
            loops.FragmentMac(
                fragment,
                tuple(range(len(tile.offsets))),
                self.contraction.a,
                tuple(tile.a_base + offset + a_offset for offset in tile.offsets),
                self.contraction.b,
                place.b_base + k * self.tiling.panel,
            )
        )

    def _prefetch(self, place: _Place, k: Size) -> None:
        """This tile's share of the panel after this one."""
        shares, panel = self._shares, self.tiling.panel
        line = _LINE // self.contraction.dtype.bytes
        elements = self.contraction.depth_extent * panel
        part = self.contraction.depth_extent * (panel // shares)
        begin = place.b_base + elements + place.share * part + k * (panel // shares)
        for number in range(max(1, self.tiling.unroll * panel // shares // line)):
            self.builder.append(loops.Prefetch(self.contraction.b, begin + number * line, 2))

    def _total(self, fragments: Sequence[str], row: int) -> Expression:
        """The sum of the partial sums of a row, in pairs."""
        totals = [fragment_element(name, row, self.contraction.dtype) for name in fragments]
        while len(totals) > 1:
            pairs = zip(totals[::2], totals[1::2])
            totals = [a + b for a, b in pairs] + totals[len(totals) & ~1 :]
        return totals[0]

    def _store_partial(
        self, partial: Buffer, place: _Place, fragments: Sequence[str], *, add: bool
    ) -> None:
        column = self.builder.index(place.width)
        stores: list[tuple[loops.Store, ...]] = []
        for row in range(int(partial.shape[0])):  # type: ignore[arg-type]
            at = (row, dims.atom(column))
            total = self._total(fragments, row)
            stores.append((loops.Store(partial, at, partial[at] + total if add else total),))
        self.builder.append(loops.FragmentStore(fragments[0], column, place.width, tuple(stores)))

    def _store(
        self,
        place: _Place,
        tile: _Tile,
        fragment: str,
        totals: Sequence[Expression],
        column: Symbol,
    ) -> None:
        """The epilogue of every row, on the columns that exist."""
        at = place.column + dims.atom(column)
        stores = tuple(
            self.contraction.epilogue(indices, at, total)
            for indices, total in zip(tile.indices, totals, strict=True)
        )
        columns, panel = self.contraction.columns, self.tiling.panel

        def store(limit: Size) -> None:
            self.builder.append(loops.FragmentStore(fragment, column, limit, stores))

        if not isinstance(columns, int):
            store(self.local(dims.minimum(panel, columns - place.column)))
        elif columns % panel == 0:
            store(panel)
        elif columns < panel or place.width < panel:
            store(columns % panel)
        else:
            with self.builder.when(less(place.panel, self.panels - 1)):
                store(panel)
            with self.builder.otherwise():
                store(columns % panel)

    def _unravel(self, flat: Size, extents: Sequence[Size]) -> tuple[Size, ...]:
        """The indices of nested axes from their joint index, outer first."""
        found: list[Size] = []
        for extent in reversed(extents[1:]):
            found.append(self.local(dims.mod(flat, extent)))
            flat = self.local(dims.floordiv(flat, extent))
        return (*([flat] if extents else []), *reversed(found))
