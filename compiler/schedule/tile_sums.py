"""The sums of one register tile: the innermost loops of every contraction.

    fragment = 0
    for outer depth axes, for k in the last one          a few steps at a time
      fragment[rows, columns] += a[rows, k] * panel[k, columns]
    epilogue of every row

A tile with few rows has several fragments whose sums take turns: one sum alone would wait for the
arithmetic unit at each step. A very long sum is added up in blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import (
    Buffer,
    Expression,
    constant,
    fragment_element,
    index_value,
    less,
)
from bessemer.compiler.schedule.contraction import Contraction, DepthAxis
from bessemer.compiler.schedule.tiles import Tiling, chain_block, chains
from bessemer.compiler.targets.machine import Target

_LINE = 64  # bytes in a cache line


@dataclass(frozen=True, eq=False)
class Place:
    """The part of the output at work: a panel's columns for the rows of a batch."""

    batch: tuple[Size, ...]
    a_base: Size
    panel: Size
    b_base: Size
    column: Size
    width: int  # of the fragments, in columns
    share: Size  # which part of the next panel to prefetch


@dataclass(frozen=True, eq=False)
class Tile:
    """The rows of a tile: their offsets from its base in `a`, and their indices."""

    a_base: Size
    offsets: tuple[Size, ...]
    indices: tuple[tuple[Size, ...], ...]


@dataclass(frozen=True, eq=False)
class TileWriter:
    """Writes the sums of tiles to a kernel. `depth` are the contraction's merged depth axes."""

    contraction: Contraction
    tiling: Tiling
    target: Target
    builder: KernelBuilder
    depth: tuple[DepthAxis, ...]

    def local(self, size: Size) -> Size:
        """The value in a local variable, unless it is as simple as one."""
        if isinstance(size, int) or isinstance(dims.as_atom(size), (Symbol, Expression)):
            return size
        return self.builder.define(index_value(size), "n").index

    @property
    def shares(self) -> int:
        """Into how many parts the prefetching of the next panel is divided, one a tile."""
        size = self.contraction.dtype.bytes
        most = max(1, self.tiling.unroll * self.tiling.panel * size // _LINE)
        shares = 1
        while shares * 2 <= min(self.tiling.block, most) and self.tiling.panel % (shares * 2) == 0:
            shares *= 2
        return shares

    def write(self, place: Place, tile: Tile) -> None:
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
            self._depth(place, tile, fragments, self.depth, 0, 0)
            totals = [self._total(fragments, row) for row in range(rows)]
            self._store(place, tile, fragments[0], totals, self.builder.index(place.width))
        else:
            self._sums_in_blocks(place, tile, fragments, block)

    def _sums_in_blocks(self, place: Place, tile: Tile, fragments: list[str], size: int) -> None:
        """Short sums, each from 0, added up in memory: rounding errors grow with a sum's length."""
        rows = len(tile.offsets)
        partial = self.builder.allocate(self.contraction.dtype, (rows, place.width))
        self._fill(fragments[:1], place, start=True)
        self._store_partial(partial, place, fragments[:1], add=False)
        first, *others = self.depth
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

    def _fill(self, fragments: Sequence[str], place: Place, *, start: bool) -> None:
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
        place: Place,
        tile: Tile,
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
        place: Place,
        tile: Tile,
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

    def _step(self, place: Place, tile: Tile, fragment: str, a_offset: Size, k: Size) -> None:
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

    def _prefetch(self, place: Place, k: Size) -> None:
        """This tile's share of the panel after this one."""
        shares, panel = self.shares, self.tiling.panel
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
        self, partial: Buffer, place: Place, fragments: Sequence[str], *, add: bool
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
        place: Place,
        tile: Tile,
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
            with self.builder.when(less(place.panel, columns // panel)):
                store(panel)
            with self.builder.otherwise():
                store(columns % panel)
