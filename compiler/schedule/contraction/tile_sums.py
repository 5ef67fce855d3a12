"""Writes the sums of one register tile: the innermost loops of every contraction.

    fragment = 0
    for outer depth axes, for k in the last one          a few steps at a time
      fragment[rows, columns] += a[rows, k] * panel[k, columns]
    epilogue of every row

microkernel.py calls this for each tile. A tile with few rows has several fragments, to which the
steps are added alternately: a single sum would wait for the arithmetic unit at each step. A very
long sum is added up in depth blocks, each from 0, because rounding errors grow with the length of a
sum; between the depth blocks, the sums of a block are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

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
    within,
)
from bessemer.compiler.schedule.contraction.banded_steps import banded_iterations
from bessemer.compiler.schedule.contraction.contraction import Contraction, DepthAxis, steps_of
from bessemer.compiler.schedule.contraction.epilogue_prefetches import (
    Iteration,
    epilogue_prefetches,
)
from bessemer.compiler.schedule.contraction.epilogue_rows import RowEpilogue, looped_rows
from bessemer.compiler.schedule.contraction.tile import DepthBlock, Place, Tile
from bessemer.compiler.schedule.contraction.tiles import Tiling, chains
from bessemer.compiler.schedule.contraction.valid_taps import valid_taps
from bessemer.compiler.targets.machine import CACHE_LINE, PAGE, Target

_NEAR_AHEAD = 2 * PAGE
"""Bytes: the processor prefetches by itself only to the end of a page."""


@dataclass(frozen=True, eq=False)
class _Work:
    """What is added up: a depth block, to the fragments of a tile, alternately."""

    place: Place
    tile: Tile
    fragments: Sequence[str]
    depth: DepthBlock


@dataclass(frozen=True, eq=False)
class TileWriter:
    """Writes the sums of tiles to a kernel. Either `write` computes a tile at once, or `clear`,
    `write_part` for each depth block, and `write_end` do."""

    contraction: Contraction
    tiling: Tiling
    target: Target
    builder: KernelBuilder

    @property
    def shares(self) -> int:
        """Into how many parts the prefetches of b's next depth block are divided; each tile of a
        block issues one part."""
        most = max(1, self.tiling.unroll * self._step_bytes // CACHE_LINE)
        shares = 1
        while shares * 2 <= min(self.tiling.block, most) and self.tiling.panel % (shares * 2) == 0:
            shares *= 2
        return shares

    @property
    def _step_bytes(self) -> int:
        """The bytes of `b` that one step of the depth reads."""
        return self.tiling.panel * self.contraction.group * self.contraction.b.dtype.bytes

    def write(self, place: Place, tile: Tile, depth: DepthBlock) -> None:
        """Writes the whole sums of a tile, and their epilogue."""
        fragments = self._fragments(place, tile)
        complete = self._epilogue(place, tile, fragments)
        self._add_up(_Work(place, tile, fragments, depth))
        complete()

    def _epilogue(self, place: Place, tile: Tile, fragments: Sequence[str]) -> Callable[[], None]:
        """A function that writes the epilogue of a tile, to be called where its fragments are
        complete."""
        totals = [self._total(fragments, row) for row in range(len(tile.offsets))]
        column = self.builder.index(place.width)
        rows = looped_rows(self.contraction, self.tiling.panel, tile.indices)
        if rows is None:
            return partial(self._finish, place, tile, fragments[0], totals, column)
        at, lanes = place.column, self.tiling.lanes
        epilogue = RowEpilogue(self.builder, self.contraction, rows, at, place.width, lanes)
        stores = tuple(
            (loops.Store(epilogue.sums, (row, dims.atom(column)), total),)
            for row, total in enumerate(totals)
        )

        def complete() -> None:
            self.builder.append(loops.FragmentStore(fragments[0], column, place.width, stores))
            epilogue.finish()

        return complete

    def clear(self, sums: Buffer, rows: Size) -> None:
        """Sets the first rows of a block's partial sums [rows, columns] to 0."""
        columns = sums.shape[1]
        with self.builder.loop(rows) as row, self.builder.loop(columns, "vector", 0) as column:
            self.builder.store(sums, (row, column), constant(0, self.contraction.dtype))

    def write_part(self, place: Place, tile: Tile, depth: DepthBlock, sums: Buffer) -> None:
        """Sums up one depth block of a tile from 0, and adds that to the partial sums in memory,
        unless the depth block is a tap through which the tile sees padding only, or the run finds
        that it is all of the depth: then the epilogue takes the sums from the registers."""
        if depth.tap is None or depth.tap[0].image is None:
            self._add_part(place, tile, depth, sums)
            return
        axis, tap = depth.tap
        first, count = valid_taps(axis.image, axis.extent, tile.indices)
        with self.builder.when(within(tap - first, count)):
            self._add_part(place, tile, depth, sums)

    def _add_part(self, place: Place, tile: Tile, depth: DepthBlock, sums: Buffer) -> None:
        fragments = self._fragments(place, tile)
        self._add_up(_Work(place, tile, fragments, depth))
        if depth.is_all is None:
            self._add_to(sums, place, tile, fragments)
            return
        with self.builder.when(depth.is_all):
            self._epilogue(place, tile, fragments)()
        with self.builder.otherwise():
            self._add_to(sums, place, tile, fragments)

    def _add_to(self, sums: Buffer, place: Place, tile: Tile, fragments: Sequence[str]) -> None:
        column = self.builder.index(place.width)
        stores: list[tuple[loops.Store, ...]] = []
        for row in range(len(tile.offsets)):
            at = (tile.first + row, dims.atom(column))
            total = sums[at] + self._total(fragments, row)
            stores.append((loops.Store(sums, at, total),))
        self.builder.append(loops.FragmentStore(fragments[0], column, place.width, tuple(stores)))

    def write_end(self, place: Place, tile: Tile, sums: Buffer) -> None:
        """Writes the epilogue of a tile whose sums are complete in memory."""
        fragment, *_ = self._fragments(place, tile)
        column = self.builder.index(place.width)
        rows = range(len(tile.offsets))
        totals = [sums[tile.first + row, dims.atom(column)] for row in rows]
        self._finish(place, tile, fragment, totals, column)

    def _fragments(self, place: Place, tile: Tile) -> list[str]:
        """Declares the tile's fragments: several, to which the steps add alternately, if it has few
        rows."""
        rows = len(tile.offsets)
        vectors, registers = place.width // self.tiling.lanes, self.target.vector_registers
        count = chains(rows, vectors, registers, self.contraction.depth_extent)
        names = [self.builder.fresh("sum") for _ in range(min(count, self.tiling.unroll))]
        for name in names:
            self.builder.append(loops.Fragment(name, rows, place.width, self.contraction.dtype))
        return names

    def _add_up(self, work: _Work) -> None:
        """Sets the fragments to 0, and adds the depth block."""
        width, depth = work.place.width, work.depth
        for name in work.fragments:
            column = self.builder.index(width)
            zero = constant(0, self.contraction.dtype)
            self.builder.append(loops.FragmentFill(name, column, zero, width))
        self._depth(work, depth.axes, depth.a_offset, 0)

    def _depth(self, work: _Work, axes: Sequence[DepthAxis], a_offset: Size, k: Size) -> None:
        """Writes the loops over these axes of a depth block, whose steps begin with number `k`."""
        first, *others = axes
        if not others:
            self._run(work, a_offset, k)
            return
        steps = steps_of(axes, self.contraction.group)
        inside = valid_taps(first.image, first.extent, work.tile.indices)
        begin, count = map(self.builder.local, inside)
        with self.builder.loop(count) as step:
            at = begin + step
            self._depth(work, others, a_offset + at * first.a_stride, k + at * steps)

    def _run(self, work: _Work, a_offset: Size, k: Size) -> None:
        """Writes the innermost loop: whole groups of products first, then the remainder of a
        group."""
        axis, group = work.depth.axes[-1], self.contraction.group
        extent = dims.floordiv(axis.extent, group)

        def steps(begin: Size, count: int, terms: int | None = None) -> None:
            for step in range(count):
                at = begin + step
                fragment = work.fragments[step % len(work.fragments)]
                a_at = a_offset + at * (axis.a_stride * group)
                if self.tiling.fetches_rows:
                    self._fetch_rows(work.tile, axis, a_at)
                self._step(work, fragment, a_at, k + at, terms)

        self._whole_groups(work, k, extent, steps)
        terms = dims.mod(axis.extent, group)
        if isinstance(terms, int):
            steps(extent, 1 if terms else 0, None if self.contraction.reads_on else terms)
            return
        for number in range(1, group):
            with self.builder.when(binary("eq", index_value(terms), number)):
                steps(extent, 1, number)

    def _whole_groups(
        self, work: _Work, k: Size, extent: Size, steps: Callable[[Size, int], None]
    ) -> None:
        """Writes the loop over whole groups, `unroll` per iteration with the prefetches of that
        iteration, then the remaining groups. A short run needs no loop, but if the loops around it
        run through large weights, these are prefetched just as well."""
        place, tile, depth = work.place, work.tile, work.depth
        unroll = self.tiling.unroll
        if isinstance(extent, int) and extent <= unroll:
            if self.tiling.prefetch and len(depth.axes) > 1:
                self._prefetch(work, k)
            steps(0, extent)
            return
        whole = dims.floordiv(extent, unroll)
        first, count = self._iterations(work, k, whole)
        with self.builder.loop(count) as number:
            i = first + number
            if self.tiling.prefetch:
                self._prefetch(work, k + i * unroll)
            if self.tiling.depth_block is None and len(depth.axes) == 1:
                iteration = Iteration(number, count)
                for hint in epilogue_prefetches(
                    self.contraction, self.target, place, tile, iteration
                ):
                    self.builder.append(hint)
            if self.contraction.fetch is not None:
                at = depth.begin + k + i * unroll
                for hint in self.contraction.fetch(place.panel, place.tile, at):
                    self.builder.append(hint)
            steps(i * unroll, unroll)
        rest = dims.mod(extent, unroll)
        if isinstance(rest, int):
            steps(whole * unroll, rest)
        else:
            with self.builder.loop(rest) as i:
                steps(whole * unroll + i, 1)

    def _iterations(self, work: _Work, k: Size, whole: Size) -> tuple[Size, Size]:
        """The first iteration in which something is added to the tile's sums, and the number of
        iterations. `whole` is their number without bands (banded_steps.py)."""
        bands, group = self.contraction.bands, self.contraction.group
        if bands is None:
            return 0, whole
        begin = (work.depth.begin - self.contraction.first_step + k) * group
        length, columns = self.tiling.unroll * group, (work.place.column, work.place.width)
        first, end = banded_iterations(bands, work.tile.indices, columns, begin, length, whole)
        first = self.builder.local(first)
        return first, self.builder.local(end - first)

    def _step(self, work: _Work, fragment: str, a_offset: Size, k: Size, terms: int | None) -> None:
        """The products of step `k` of the depth block. `terms` is the number of products of a last
        group that is not whole, else None."""
        tile = work.tile
        group, step = self.contraction.group, self.contraction.b_step
        if step is None:
            step = self.tiling.panel * group
        self.builder.append(
            loops.FragmentMac(
                fragment=fragment,
                rows=tuple(range(len(tile.offsets))),
                a=self.contraction.a,
                a_offsets=tuple(tile.a_base + offset + a_offset for offset in tile.offsets),
                b=self.contraction.b,
                b_offset=work.place.b_base + (work.depth.begin + k) * step,
                group=group,
                terms=terms,
            )
        )

    def _fetch_rows(self, tile: Tile, run: DepthAxis, a_offset: Size) -> None:
        """Prefetches a step's share of the next tile's rows: the lines of this step that this tile
        does not have; or, if rows are contiguous in memory, as many lines as a step reads."""
        line, rows = CACHE_LINE // self.contraction.a.dtype.bytes, len(tile.offsets)
        if run.a_stride == 1:
            begin = tile.next_base + a_offset * rows
            places = range(0, rows * self.contraction.group, line)
        else:
            begin = tile.next_base + tile.offsets[0] + a_offset
            places = range(rows - 1, -1, -line)
        for place in places:
            self.builder.append(loops.Prefetch(self.contraction.a, begin + place, 2))

    def _prefetch(self, work: _Work, k: Size) -> None:
        """Prefetches this tile's share of the part of `b` that follows the current depth block. A
        single row, which reads all of `b` once and multiplies little, prefetches what comes soon
        (88 MB 2.2 -> 1.9 ms; four rows 2.4 -> 2.9)."""
        if self.contraction.b_step is not None:
            self._prefetch_rows(work, k, self.contraction.b_step)
            return
        place, depth = work.place, work.depth
        shares, step = self.shares, self.tiling.panel * self.contraction.group
        line = CACHE_LINE // self.contraction.b.dtype.bytes
        ahead = depth.length * step
        if self.shares == len(work.tile.offsets) == 1:
            ahead = _NEAR_AHEAD // self.contraction.b.dtype.bytes
        following = place.b_base + depth.begin * step + ahead
        begin = following + (place.share * depth.length + k) * (step // shares)
        for number in range(max(1, self.tiling.unroll * step // shares // line)):
            self.builder.append(loops.Prefetch(self.contraction.b, begin + number * line, 2))

    def _prefetch_rows(self, work: _Work, k: Size, step: Size) -> None:
        """The same for a `b` that is not packed: the rows of the next depth block, or after the
        last depth block those of the next panel. The next panel is of the same matrix, because
        another core may be at work on the next matrix and would lose the lines."""
        place, depth = work.place, work.depth
        line = CACHE_LINE // self.contraction.b.dtype.bytes
        lines = max(1, self.tiling.panel // line)
        end, whole = depth.begin + depth.length, self.contraction.depth_steps
        turn = self.tiling.panel - whole * step
        first = place.b_base + end * step + dims.floordiv(end, whole) * turn
        begin = dims.floordiv((place.share * depth.length + k) * lines, self.shares)
        for number in range(max(1, self.tiling.unroll * lines // self.shares)):
            row, part = dims.floordiv(begin + number, lines), dims.mod(begin + number, lines)
            hint = loops.Prefetch(self.contraction.b, first + row * step + part * line, 2)
            self.builder.append(hint)

    def _total(self, fragments: Sequence[str], row: int) -> Expression:
        """The sum of a row's partial sums, added in pairs."""
        totals = [fragment_element(name, row, self.contraction.dtype) for name in fragments]
        while len(totals) > 1:
            pairs = zip(totals[::2], totals[1::2])
            totals = [a + b for a, b in pairs] + totals[len(totals) & ~1 :]
        return totals[0]

    def _finish(
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

        if self.tiling.strip is not None:
            store(panel)
        elif not isinstance(columns, int):
            store(self.builder.local(dims.minimum(panel, columns - place.column)))
        elif columns % panel == 0:
            store(panel)
        elif columns < panel or place.width < panel:
            store(columns % panel)
        else:
            with self.builder.when(less(place.panel, columns // panel)):
                store(panel)
            with self.builder.otherwise():
                store(columns % panel)
