"""Writes the kernel of a contraction on a matrix unit, in blocks of 2 x 2 tiles of 16 x 16 sums.

    parallel item in batch x row blocks x panels
      for block in the item's blocks of 32 rows
        tiles 0..3 = 0
        for step in depth                       64 bytes of a's rows at a time
          tiles 4, 5 = a[rows, step];   tiles 6, 7 = panel[step]
          tiles 0..3 += products
        the epilogue of the block before, row by row
        tiles 0..3 to the stack

The processor thus computes the epilogue of one block while its matrix unit multiplies the next.

`a` is read where it lies: the 16 rows of a tile may be any constant distance apart. A block that
would reach beyond the last row begins earlier, and its epilogue leaves out the rows that the block
before it has done. Where the rows come in lines that are not evenly spaced (those of a map's
pixels), the positions between the lines are computed as if they were rows, and then left out.

Float32 numbers in three parts (matrix_tiles_packing.py) give wrong results for infinities, since
products of their parts may be inf - inf. A block with a sum that is not finite is therefore
computed again, in float32 arithmetic on the sums of the parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import (
    Buffer,
    Expression,
    binary,
    constant,
    convert,
    less,
)
from bessemer.compiler.ir.ravel import unravel
from bessemer.compiler.ir.tile_statements import TileLoad, TileMac, TileSetup, TileStore, TileZero
from bessemer.compiler.ir.types import f32
from bessemer.compiler.schedule.contraction.contraction import Contraction
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_packing import COLUMNS
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_plan import ROWS, MatrixTiling, TileWalk
from bessemer.compiler.targets.machine import CACHE_LINE, Target

_LEFT, _RIGHT = 4, 6
"""The first tiles of the left and of the right side; the sums are tiles 0 to 3."""
_CHECK_INTERLEAVE = 4


def lower_on_tiles(contraction: Contraction, tiling: MatrixTiling, target: Target) -> loops.Block:
    """The body of the kernel: one parallel loop over items of equal work.

    `contraction.a` is of the form's type, with its parts `tiling.part_stride` elements apart.
    `contraction.b` is packed (matrix_tiles_packing.py).
    """
    builder = KernelBuilder()
    write_on_tiles(builder, contraction, tiling, target, "parallel")
    return builder.block()


def write_on_tiles(
    builder: KernelBuilder,
    contraction: Contraction,
    tiling: MatrixTiling,
    target: Target,
    kind: loops.LoopKind = "serial",
    sets_up: bool = True,
) -> None:
    """The same as a part of a kernel. Unless this part `sets_up` the unit's tiles, another part
    must have done so."""
    writer = _Writer(contraction, tiling, target, builder)
    with builder.loop(tiling.items(contraction), kind) as item:
        if sets_up:
            builder.append(TileSetup((*((tiling.rows,) * _RIGHT), ROWS, ROWS)))
        writer.item(item)


@dataclass(frozen=True, eq=False)
class _Place:
    """The current panel, for the rows of one batch. `share` says which part of the next panel is
    prefetched."""

    batch: tuple[Size, ...]
    a_base: Size
    panel: Size
    b_base: Size
    share: Size = 0


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of a tile: `outer` are the indices along the axes around, `first` the position of
    its row 0, and `done` the number of its rows that the tile before has already done."""

    outer: tuple[Size, ...]
    first: Size
    done: Size
    a_base: Size


@dataclass(frozen=True, eq=False)
class _Writer:
    contraction: Contraction
    tiling: MatrixTiling
    target: Target
    builder: KernelBuilder

    @property
    def walk(self) -> TileWalk:
        return self.tiling.walk

    @cached_property
    def tiles(self) -> int:
        """The number of tiles side by side in a panel."""
        return self.tiling.panel // COLUMNS

    @cached_property
    def step_elements(self) -> int:
        """The number of elements of a panel for one step of the depth."""
        return self.tiling.form.parts * self.tiles * self.tiling.form.tile

    @cached_property
    def panel_elements(self) -> int:
        return self.tiling.runs.count * self.tiling.runs.steps * self.step_elements

    def item(self, item: Size) -> None:
        """Writes one item: one panel for some blocks of rows."""
        tiling, walk = self.tiling, self.walk
        panels = tiling.panels(self.contraction)
        blocks = dims.product(axis.extent for axis in walk.outer) * tiling.blocks
        per_batch = dims.ceildiv(blocks, tiling.block) * panels
        within = dims.mod(item, per_batch)
        batch = unravel(dims.floordiv(item, per_batch), [a.extent for a in walk.batch])
        panel = dims.mod(within, panels)
        first = dims.floordiv(within, panels) * tiling.block
        matrix = self.contraction.b_matrix
        matrix += dims.total(i * a.b_stride for i, a in zip(batch, walk.batch))
        a_base = dims.total(i * a.a_stride for i, a in zip(batch, walk.batch))
        b_base = self.builder.local((matrix * panels + panel) * self.panel_elements)
        place = _Place(batch, self.builder.local(self.contraction.a_base + a_base), panel, b_base)
        sums = self.builder.allocate(tiling.form.sum, (tiling.tall * ROWS, tiling.panel))
        if tiling.block == 1:
            self._multiply(place, first)
            self._store_tiles(sums)
            self._finish(place, first, sums)
            return
        count = self.builder.local(dims.minimum(tiling.block, blocks - first))
        with self.builder.loop(count + 1) as block:
            before = dims.maximum(block - 1, 0)
            with self.builder.when(less(block, count)):
                self._multiply(replace(place, share=block), first + block)
            with self.builder.when(less(0, block)):
                self._finish(place, first + before, sums)
            with self.builder.when(less(block, count)):
                self._store_tiles(sums)

    def _multiply(self, place: _Place, block: Size) -> None:
        """Computes the sums of a block of rows in the tile registers."""
        rows = [self._rows(place, block, tile) for tile in range(self.tiling.tall)]
        for tile in self._sum_tiles():
            self.builder.append(TileZero(tile))
        self._depth(place, rows)

    def _store_tiles(self, sums: Buffer) -> None:
        for tile in self._sum_tiles():
            at = sums.offset((tile // 2 * ROWS, tile % 2 * COLUMNS))
            self.builder.append(TileStore(tile, sums, at, self.tiling.panel))

    def _finish(self, place: _Place, block: Size, sums: Buffer) -> None:
        """Computes the epilogue of a block whose sums are in memory."""
        tiling = self.tiling
        if tiling.is_checked:
            with self.builder.when(self._is_not_finite(sums)), self._tile_loop() as tile:
                self._compute_again(place, self._rows(place, block, tile), sums, tile)
        if dims.mod(self.walk.axis.extent, tiling.tall * ROWS) == 0:
            self._epilogue(place, self._rows(place, block, 0), sums, 0, tiling.tall * ROWS)
            return
        with self._tile_loop() as tile:
            self._epilogue(place, self._rows(place, block, tile), sums, tile, tiling.rows)

    @contextmanager
    def _tile_loop(self) -> Iterator[Size]:
        """A loop over the tiles of a block, from top to bottom."""
        if self.tiling.tall == 1:
            yield 0
            return
        with self.builder.loop(self.tiling.tall) as tile:
            yield tile

    def _sum_tiles(self) -> list[int]:
        return [2 * i + j for i in range(self.tiling.tall) for j in range(self.tiles)]

    def _rows(self, place: _Place, block: Size, tile: Size) -> _Rows:
        """The rows of a block's tile."""
        axis, tiling = self.walk.axis, self.tiling
        outer: tuple[Size, ...] = ()
        if self.walk.outer:
            around, block = dims.floordiv(block, tiling.blocks), dims.mod(block, tiling.blocks)
            outer = unravel(around, [a.extent for a in self.walk.outer])
        wanted = (block * tiling.tall + tile) * ROWS
        begin = dims.minimum(wanted, axis.extent - tiling.rows)
        first = self.builder.local(begin)
        base = place.a_base + first * axis.a_stride
        base += dims.total(i * a.a_stride for i, a in zip(outer, self.walk.outer))
        done: Size = 0 if begin == wanted else wanted - first
        return _Rows(outer, first, done, self.builder.local(base))

    # Sums

    @contextmanager
    def _run_loops(self) -> Iterator[tuple[Size, Size]]:
        """Opens the loops over the runs of the depth; yields the run's offset in `a`, and its
        number."""
        offset: Size = 0
        run: Size = 0
        with ExitStack() as around:
            for axis in self.walk.depth[:-1]:
                i = around.enter_context(self.builder.loop(axis.extent))
                offset, run = offset + i * axis.a_stride, run * axis.extent + i
            yield offset, run

    def _depth(self, place: _Place, rows: Sequence[_Rows]) -> None:
        """Writes the loops over the runs of the depth and over their steps."""
        runs = self.tiling.runs
        with self._run_loops() as (offset, run):
            with self.builder.loop(runs.whole) as step:
                self._step(place, rows, offset + step * runs.depth, run * runs.steps + step)
            if runs.rest:
                last = offset + runs.length - runs.depth
                self._step(place, rows, last, run * runs.steps + runs.whole)

    def _step(self, place: _Place, rows: Sequence[_Rows], a_offset: Size, step: Size) -> None:
        """Writes one step of all sums. Every tile is loaded once for the products that use it
        consecutively."""
        ahead = self._prefetches(place, step) if self.tiling.prefetch else []
        products = [*self._products(place, rows, a_offset, step)]
        for number, statements in enumerate(products):
            begin, end = (k * len(ahead) // len(products) for k in (number, number + 1))
            # Prefetches are spread over the products: all at once would delay the tiles' loads.
            for statement in (*statements, *ahead[begin:end]):
                self.builder.append(statement)

    def _products(
        self, place: _Place, rows: Sequence[_Rows], a_offset: Size, step: Size
    ) -> Iterator[list[loops.Statement]]:
        """The statements of each product of a step: the loads that it is the first to need, then
        the product."""
        form, a, b = self.tiling.form, self.contraction.a, self.contraction.b
        line = CACHE_LINE // form.right.bytes
        tile, row = (line, line * self.tiles) if self.tiling.is_interleaved else (form.tile, line)
        b_step = place.b_base + step * self.step_elements
        left = right = -1
        for a_part, b_part in form.products:
            for i, tile_rows in enumerate(rows):
                for j in range(self.tiles):
                    found: list[loops.Statement] = []
                    if i == 0 and right != b_part:
                        offset = b_step + b_part * self.tiles * form.tile + j * tile
                        found.append(TileLoad(_RIGHT + j, b, offset, row))
                    if j == 0 and left != a_part:
                        offset = tile_rows.a_base + a_offset + a_part * self.tiling.part_stride
                        found.append(TileLoad(_LEFT + i, a, offset, self.walk.axis.a_stride))
                    sums = (2 * i + j, _LEFT + i, _RIGHT + j)
                    yield [*found, TileMac(*sums, form.left, form.right)]
            left, right = a_part, b_part

    def _prefetches(self, place: _Place, step: Size) -> list[loops.Prefetch]:
        """This block's share of the prefetches of the next panel."""
        runs, line = self.tiling.runs, CACHE_LINE // self.tiling.form.right.bytes
        lines = -(-self.step_elements // line // self.tiling.block)
        begin = place.b_base + self.panel_elements
        begin += (place.share * (runs.count * runs.steps) + step) * (lines * line)
        b = self.contraction.b
        return [loops.Prefetch(b, begin + number * line, 2) for number in range(lines)]

    # Sums that are not finite

    def _is_not_finite(self, sums: Buffer) -> Expression:
        """Whether any sum of the block is not finite. Such a sum times zero is NaN, and so is the
        total of all these products."""
        width, rows = self.tiling.panel, self.tiling.rows
        zero = self.builder.define(constant(0.0, f32), "zero")
        kind = (self.target.lanes(f32), _CHECK_INTERLEAVE)
        flat = Buffer(sums.name, sums.dtype, (ROWS * self.tiling.tall * width,))

        def check(begin: Size, count: Size) -> None:
            with self.builder.loop(count, "vector", *kind) as i:
                value = flat[begin + i]
                zero.accumulate("add", value * constant(0.0, f32))

        if rows == ROWS:
            check(0, self.tiling.tall * ROWS * width)
            return binary("ne", zero.value, zero.value)
        with self._tile_loop() as tile:
            check(tile * (ROWS * width), rows * width)
        return binary("ne", zero.value, zero.value)

    def _compute_again(self, place: _Place, rows: _Rows, sums: Buffer, tile: Size) -> None:
        """Computes a tile's sums in float32 arithmetic, one after the other. This is rarely
        needed."""
        builder, runs, form = self.builder, self.tiling.runs, self.tiling.form
        a, b, a_stride = self.contraction.a, self.contraction.b, self.walk.axis.a_stride
        parts = range(form.parts)
        with (
            builder.loop(self.tiling.rows) as row,
            builder.loop(self.tiles) as j,
            builder.loop(COLUMNS, "vector", self.target.lanes(f32)) as c,
        ):
            total = builder.define(constant(0.0, f32), "total")
            with self._run_loops() as (offset, run), builder.loop(runs.length) as k:
                # The elements after the whole steps of a run are in its last step, which overlaps.
                step = dims.minimum(dims.floordiv(k, runs.depth), runs.steps - 1)
                within = k - step * runs.depth
                if runs.rest:
                    is_last = dims.floordiv(step, runs.whole)
                    within += is_last * (runs.depth - runs.rest)
                a_at = rows.a_base + row * a_stride + offset + k
                b_at = place.b_base + (run * runs.steps + step) * self.step_elements
                b_at += j * form.tile + dims.floordiv(within, form.group) * (COLUMNS * form.group)
                b_at += c * form.group + dims.mod(within, form.group)
                left = [convert(a[a_at + p * self.tiling.part_stride], f32) for p in parts]
                right = [convert(b[b_at + p * self.tiles * form.tile], f32) for p in parts]
                total.accumulate("add", _exact_sum(left) * _exact_sum(right))
            builder.store(sums, (tile * ROWS + row, j * COLUMNS + c), total.value)

    # The epilogue

    def _epilogue(self, place: _Place, rows: _Rows, sums: Buffer, tile: Size, height: Size) -> None:
        """Writes the epilogue of `height` rows, less those that the tile before has done, row by
        row."""
        with self.builder.loop(dims.maximum(0, height - rows.done)) as i:
            row = rows.done + i
            line, position = self.walk.position(rows.first + row)
            if self.walk.pitch is None:
                self._epilogue_row(place, (*rows.outer, position), sums, tile * ROWS + row)
                return
            position = self.builder.local(position)
            with self.builder.when(less(position, self.walk.line_extent)):
                self._epilogue_row(place, (*rows.outer, line, position), sums, tile * ROWS + row)

    def _epilogue_row(
        self, place: _Place, inner: tuple[Size, ...], sums: Buffer, row: Size
    ) -> None:
        indices: list[Size] = [0] * self.walk.rank
        for index, axis in zip((*place.batch, *inner), self.walk.all_axes, strict=True):
            axis.scatter(index, indices)
        panel, columns = self.tiling.panel, self.contraction.columns
        column = self.builder.index(panel)
        at = place.panel * panel + dims.atom(column)
        total = sums[row, dims.atom(column)]
        stores = self.contraction.epilogue(tuple(indices), at, total)
        name = self.builder.fresh("row")
        self.builder.append(loops.Fragment(name, 1, panel, self.tiling.form.sum))

        def store(limit: Size) -> None:
            self.builder.append(loops.FragmentStore(name, column, limit, (stores,)))

        if not isinstance(columns, int):
            store(self.builder.local(dims.minimum(panel, columns - place.panel * panel)))
        elif columns % panel == 0:
            store(panel)
        elif columns < panel:
            store(columns)
        else:
            with self.builder.when(less(place.panel, columns // panel)):
                store(panel)
            with self.builder.otherwise():
                store(columns % panel)


def _exact_sum(parts: Sequence[Expression]) -> Expression:
    """The number that was split into these parts. Adding the smallest parts first, nothing is
    rounded."""
    total = parts[-1]
    for part in reversed(parts[:-1]):
        total = total + part
    return total
