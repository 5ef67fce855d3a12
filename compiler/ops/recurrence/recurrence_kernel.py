"""Writes the kernels of lstm, gru and rnn.

    for every step, for every panel of columns
      for some rows                                   that share each load of weights
        sums of all gates, rows x columns             in registers
          += state[row, k] * weights[k, gate, column]
        new state of these columns, from the sums

A state is read whole while its columns are written one after the other: it is double-buffered.
Panels go up in even steps and down in odd ones: where the weights are a little more than a cache
holds, those read last are read again first.

The columns may be divided among a team, which then meets after every product, and hands what it has
written from core to core. A small team takes blocks of rows instead, where every core's cache holds
all weights: nothing is handed over. Otherwise blocks of rows are what runs in parallel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, constant, convert, index_value, less
from bessemer.compiler.ir.types import i32
from bessemer.compiler.ops.recurrence.recurrence_blocks import Blocks
from bessemer.compiler.ops.recurrence.recurrence_bytes import ByteState
from bessemer.compiler.ops.recurrence.recurrence_cell import Cell, Place, Product, working_dtype
from bessemer.compiler.ops.recurrence.recurrence_fetch import Fetch
from bessemer.compiler.ops.recurrence.recurrence_layout import (
    MOST_SUMS,
    Layout,
    pack_panels,
    padded_columns,
)
from bessemer.compiler.ops.recurrence.recurrence_lengths import (
    Groups,
    clear_after_the_end,
    length_of,
)
from bessemer.compiler.ops.recurrence.recurrence_pairs import PAIR, PairState
from bessemer.compiler.ops.recurrence.recurrence_shares import (
    Share,
    StepProduct,
    last_rows,
    row_groups,
    takes_rows,
)
from bessemer.compiler.ops.recurrence.recurrence_totals import Sums


def write_recurrence(builder: KernelBuilder, cell: Cell, layout: Layout | None = None) -> None:
    """The whole kernel."""
    if layout is None:
        gates = max(len(product.gates) for product in cell.products)
        layout = Layout(rows=max(1, MOST_SUMS // gates))
    _Writer(builder, cell, layout).write()


def _element(buffer: Buffer, row: Size, column: Size) -> tuple[Buffer, tuple[Size, ...]]:
    return buffer, (row, column)


class _Writer:
    def __init__(self, builder: KernelBuilder, cell: Cell, layout: Layout) -> None:
        self.builder = builder
        self.cell = cell
        self.layout = layout
        self.steps = cell.inputs.shape[0]
        self.batch, self.hidden = cell.h.shape
        self.working = working_dtype(cell.h.dtype)
        self.width: Size = layout.width or self.hidden
        self.panels: Size = dims.ceildiv(self.hidden, self.width) if layout.width else 1
        columns = padded_columns(self.hidden, cell.h.dtype.bytes)
        self.state = builder.scratch(cell.h.dtype, (2, self.batch, columns))
        self.bytes: ByteState | None = None
        self.pairs: PairState | None = None
        self.blocks = _known(self.batch) // layout.block_rows if layout.block_rows else 1
        self.sums = Sums(builder, cell)
        if layout.block_rows and cell.totals is not None:
            _, totals = cell.totals
            parts = builder.scratch(totals.dtype, (self.blocks, *totals.shape))
            self.sums = Sums(builder, cell, parts, layout.block_rows)
        members = self.panels if layout.team else 1
        if cell.scales is not None:
            self.bytes = ByteState(builder, members, self.batch, self.hidden)
        elif layout.group == PAIR:
            self.pairs = PairState(builder, members, self.batch, self.hidden)

    # Rows

    def write(self) -> None:
        builder = self.builder
        if not self.layout.team:
            share = Share(0, self.panels, None)
            if self.bytes is None and self.cell.totals is None:
                self._parallel(share)
            else:
                self._all_sequences(share)  # all rows are rounded alike, or added up
            return
        with builder.team() as (member, members):
            first = self._local(dims.floordiv(self.panels * member, members))
            end = dims.floordiv(self.panels * (member + 1), members)
            share = Share(first, self._local(end - first), member)
            if self.layout.packs:
                pack_panels(builder, self.cell, self.layout, first, share.count)
            if not self.layout.block_rows:
                self._all_sequences(share)
                return
            self.sums.clear(lambda: self._columns(share))
            self._meet(share)
            with builder.when(takes_rows(self.blocks, members)):
                self._own_rows(member, members)
            with builder.otherwise():
                self._sequences(share, self._groups)
            self._meet(share)
            self.sums.add_up(lambda: self._columns(share))

    def _own_rows(self, member: Size, members: Size) -> None:
        """The blocks of rows of a member, one after the other, with all columns."""
        count = self._local(dims.floordiv(self.blocks, members))
        with self.builder.loop(count) as number:
            row = self._local((member * count + number) * self.layout.block_rows)
            share = Share(0, self.panels, None, row, self.layout.block_rows)
            rows = [row + i for i in range(self.layout.block_rows)]
            self._sequences(share, lambda: iter([rows]))

    def _all_sequences(self, share: Share) -> None:
        """All rows side by side; one after the other if they have lengths of their own."""
        self.sums.clear(lambda: self._columns(share))
        if self.cell.lengths is None:
            self._sequences(share, self._groups)
            return
        with self.builder.loop(self.batch) as row:
            self._sequences(share, lambda: iter([[row]]))

    def _parallel(self, share: Share) -> None:
        """Blocks of rows, each for itself."""
        builder, batch = self.builder, self.batch
        count = 1 if self.cell.lengths is not None else self.layout.rows
        if isinstance(batch, int):
            count = next((n for n in range(min(count, batch), 1, -1) if batch % n == 0), count)
            count = min(count, max(batch, 1))
        whole = batch // count
        with builder.loop(dims.ceildiv(batch, count), "parallel") as block:
            rows = [block * count + i for i in range(count)]
            if whole * count == batch:
                self._sequences(share, lambda: iter([rows]))
                return
            with builder.when(less(block, whole)):
                self._sequences(share, lambda: iter([rows]))
            with builder.otherwise():
                first, rest = whole * count, self._local(batch - whole * count)
                self._sequences(share, lambda: last_rows(builder, first, rest, count))

    def _groups(self) -> Iterator[list[Size]]:
        """All rows, in groups of about equal size."""
        return row_groups(self.builder, self.batch, self.layout.block_rows or self.layout.rows)

    # Steps

    def _sequences(self, share: Share, groups: Groups) -> None:
        """Some rows, from the first step to the last."""
        cell, builder = self.cell, self.builder
        self._copy(share, groups, cell.h0, lambda row, j: (self.state, (0, row, j)))
        for source, target in cell.kept:
            self._copy(share, groups, source, partial(_element, target))
        self._clear(share, groups)
        self._meet(share)
        length = length_of(builder, cell, groups)
        with self.builder.loop(length) as step:
            time = length - 1 - step if cell.reverse else step
            if self.bytes is not None:
                self.bytes.round(self.state, step % 2, share.member or 0, self.layout.lanes)
            for number, product in enumerate(cell.products):
                self._product(StepProduct(number, product, share, groups, step, time))
                self._meet(share)
            if not self.layout.blocked:
                self.sums.add(groups, step, lambda: self._columns(share))
        clear_after_the_end(builder, cell, groups, length, lambda: self._columns(share))
        for rows in groups():
            with self._columns(share) as j:
                for row in rows:
                    self.builder.store(cell.h, (row, j), self.state[length % 2, row, j])

    def _clear(self, share: Share, groups: Groups) -> None:
        for buffer in self.cell.cleared:
            for rows in groups():
                with self._columns(share) as j:
                    for part in range(_known(buffer.shape[1])):
                        for row in rows:
                            self.builder.store(buffer, (0, part, row, j), 0)

    def _copy(
        self,
        share: Share,
        groups: Groups,
        source: Buffer,
        target: Callable[[Size, Size], tuple[Buffer, tuple[Size, ...]]],
    ) -> None:
        for rows in groups():
            with self._columns(share) as j:
                for row in rows:
                    self.builder.store(*target(row, j), source[row, j])

    @contextmanager
    def _columns(self, share: Share) -> Iterator[Size]:
        """A loop over the columns of a share."""
        if share.member is None:
            with self.builder.loop(self.hidden, "vector", lanes=self.layout.lanes) as j:
                yield j
            return
        first = share.first * self.width
        end = dims.minimum((share.first + share.count) * self.width, self.hidden)
        with self.builder.loop(end - first, "vector", lanes=self.layout.lanes) as j:
            yield first + j

    @contextmanager
    def _panel_columns(self, panel: Size) -> Iterator[Size]:
        """A loop over the columns of a full panel."""
        with self.builder.loop(self.layout.width, "vector", lanes=self.layout.lanes) as j:
            yield panel * self.width + j

    def _meet(self, share: Share) -> None:
        if share.member is not None:
            self.builder.barrier(share.member)

    # Products

    def _product(self, work: StepProduct) -> None:
        """A product and what follows from it, for all columns of the share."""
        share = work.share
        if self.pairs is not None:
            element = partial(self._factor, work, part=0)
            for rows in work.groups():
                self.pairs.round(element, rows, share.member or 0, self.layout.lanes)

        def tiles(panel: Size, width: Size) -> None:
            for rows in work.groups():
                self._tile(work, panel, width, rows)

        if not self.layout.packed:
            tiles(0, self.hidden)
            return
        full, rest = self.hidden // self.width, self.hidden % self.width
        with self.builder.loop(share.count) as i:
            mirrored = (work.step % 2) * (share.count - 1 - 2 * i)
            panel = self._local(share.first + i + mirrored)
            if self.layout.blocked:
                self._blocks(work, panel).write()
                self.sums.add(work.groups, work.step, partial(self._panel_columns, panel))
            elif rest == 0:
                tiles(panel, self.width)
            elif full == 0:
                tiles(panel, rest)
            else:
                with self.builder.when(less(panel, full)):
                    tiles(panel, self.width)
                with self.builder.otherwise():
                    tiles(panel, rest)

    def _blocks(self, work: StepProduct, panel: Size) -> Blocks:
        """A product for a full panel and all rows of a share."""
        product, packed, share = work.product, self.layout.packed[work.number], work.share
        first = panel * self.width
        parts, depth = map(_known, product.depth(self.hidden))

        def place(row: Size, j: Size) -> Place:
            return work.place(share.row + row, first + j)

        def approach(part: Size, k: Size, gate: Size, j: Size) -> None:
            # Behind a gate's last row lies the next gate's first one.
            offset = packed.offset((panel, gate, part * depth + k, j))
            self.builder.append(loops.Prefetch(packed, offset, 2))

        builder = self.builder
        fetch = Fetch(builder, self.cell, product, work.time, first, self.layout.width)
        return Blocks(
            builder, self.working, share.rows or _known(self.batch), self.layout.rows,
            len(product.gates), parts, depth, self.layout.width, self.layout.lanes,
            weight=lambda part, k, gate, j: convert(
                packed[panel, gate, part * depth + k, j], self.working
            ),
            factor=lambda row, part, k: self._factor(work, share.row + row, k, part),
            fetch=lambda row, *piece: fetch.piece(lambda near: share.row + row(near), *piece),
            approach=approach if self.layout.far else None,
            open=lambda row, gate, j, total: self._opened(product, place(row, j), gate, total),
            finish=lambda row, j, sums: self._settle(product, place(row, j), sums),
            is_share=share.rows != 0,
        )  # fmt: skip

    def _tile(self, work: StepProduct, panel: Size, width: Size, rows: list[Size]) -> None:
        """Some rows of a panel, `width` columns of it."""
        builder, product = self.builder, work.product
        gates = range(len(product.gates))
        first = panel * self.width
        if self.layout.packed and isinstance(width, int):
            Fetch(builder, self.cell, product, work.time, first, width).rows(rows)
        rounded = self.bytes or self.pairs
        if rounded is not None and self.layout.packed:
            packed = self.layout.packed[work.number]
            total_of = rounded.multiply(packed, panel, rows, work.share.member or 0)
        lanes, interleave = self.layout.lanes, 1
        if lanes:
            interleave = self.layout.width // lanes
        with builder.loop(width, "vector", lanes=lanes, interleave=interleave) as j:
            if rounded is not None and self.layout.packed:
                sums = [[total_of(r, g, j) for g in gates] for r in range(len(rows))]
            else:
                sums = self._sums(work, panel, rows, j)
            for row, totals in zip(rows, sums, strict=True):
                place = work.place(row, first + j)
                opened = [self._opened(product, place, g, total) for g, total in enumerate(totals)]
                self._settle(product, place, opened)

    def _opened(self, product: Product, place: Place, number: int, total: Expression) -> Expression:
        """What a gate's sum is to the product's `finish`."""
        gate = product.gates[number]
        whole = self.builder.define(self._whole(product, place, gate, total), "sum").value
        if product.open is None:
            return whole
        return self.builder.define(product.open(gate, whole), "gate").value

    def _settle(self, product: Product, place: Place, whole: Sequence[Expression]) -> None:
        """The new state of a column."""
        builder, row = self.builder, place.row
        before = convert(self.state[place.step % 2, row, place.column], self.working)
        after = product.finish(place, whole, before)
        if after is not None:
            new = builder.define(after, "h").value
            builder.store(self.state, ((place.step + 1) % 2, row, place.column), new)
            if self.cell.y is not None:
                builder.store(self.cell.y, (place.time, row, place.column), new)

    def _sums(
        self, work: StepProduct, panel: Size, rows: list[Size], j: Size
    ) -> list[list[Expression]]:
        """Of the state times the weights of a column, by row and gate."""
        builder, product = self.builder, work.product
        gates = range(len(product.gates))
        dtype = i32 if self.bytes is not None else self.working
        zero = constant(0, dtype)
        sums = [[builder.define(zero, "sum") for _ in gates] for _ in rows]
        parts, depth = product.depth(self.hidden)
        with builder.loop(parts) as part, builder.loop(depth) as k:
            at = part * depth + k
            weights = [
                builder.define(convert(self._weight(work, panel, at, g, j), dtype), "w").value
                for g in gates
            ]
            for row, totals in zip(rows, sums, strict=True):
                factor = self._factor(work, row, k, part)
                for total, weight in zip(totals, weights, strict=True):
                    total.accumulate("add", factor * weight)
        return [[total.value for total in totals] for totals in sums]

    def _whole(self, product: Product, place: Place, gate: int, total: Expression) -> Expression:
        """A gate's sum with all that belongs to it."""
        start = product.start(place, gate)
        if self.bytes is None or self.cell.scales is None:
            return total + start
        column = gate * self.hidden + place.column
        if self.layout.totals is not None:
            total = total - self.bytes.zero * self.layout.totals[column]
        scale = self.bytes.scale * self.cell.scales[column]
        return convert(total, self.working) * scale + start

    def _weight(self, work: StepProduct, panel: Size, k: Size, gate: int, j: Size) -> Expression:
        if self.layout.packed:
            return self.layout.packed[work.number][panel, k, gate, j]
        product = work.product
        return self.cell.recurrent[product.first + k, product.gates[gate] * self.hidden + j]

    def _factor(self, work: StepProduct, row: Size, k: Size, part: Size) -> Expression:
        if self.bytes is not None:
            return self.bytes.element(row, k)
        factor = work.product.factor
        if factor is not None:
            buffer = (work.step % 2, part) if len(factor.shape) == 4 else ()
            return convert(factor[(*buffer, row, k)], self.working)
        return convert(self.state[work.step % 2, row, k], self.working)

    def _local(self, size: Size) -> Size:
        """A size that is computed once, here."""
        if isinstance(size, int):
            return size
        return self.builder.define(index_value(size), "at").index


def _known(size: Size) -> int:
    """A size that is a number where this is asked."""
    assert isinstance(size, int)
    return size
