"""What a member of a team computes of a recurrence: some columns, or some rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Expression, constant, index_value, less
from bessemer.compiler.ir.types import i64
from bessemer.compiler.ops.recurrence.recurrence_cell import Place, Product
from bessemer.compiler.ops.recurrence.recurrence_lengths import Groups


@dataclass(frozen=True)
class Share:
    """The panels of a member of the team: `count`, from `first` on; and its rows, all if `rows`
    is 0."""

    first: Size
    count: Size
    member: Size | None
    row: Size = 0
    rows: int = 0


@dataclass(frozen=True, eq=False)
class StepProduct:
    """The cell's product of this number in one step, for a share's columns and rows in groups."""

    number: int
    product: Product
    share: Share
    groups: Groups
    step: Size
    time: Size

    def place(self, row: Size, column: Size) -> Place:
        return Place(self.time, row, column, self.step)


def takes_rows(blocks: int, members: Size) -> Expression:
    """Whether all of several members get as many blocks of rows."""
    left = expr.binary("mod", constant(blocks, i64), index_value(members))
    return less(1, members) & expr.binary("eq", left, 0)


def row_groups(builder: KernelBuilder, batch: Size, most: int) -> Iterator[list[Size]]:
    """All rows, in groups of about equal size, at most so many."""
    cuts: list[tuple[Size, int]] = [(batch // most, most)]
    if isinstance(batch, int):
        groups = max(1, -(-batch // most))
        larger = batch % groups
        cuts = [(larger, batch // groups + 1), (groups - larger, batch // groups)]
    before: Size = 0
    for count, size in cuts:
        if count == 0 or size == 0:
            continue
        with builder.loop(count) as group:
            yield [before + group * size + i for i in range(size)]
        before = before + count * size
    if not isinstance(batch, int):
        yield from last_rows(builder, before, batch % most, most)


def last_rows(builder: KernelBuilder, first: Size, rest: Size, most: int) -> Iterator[list[Size]]:
    """The `rest` rows from `first` on, which are fewer than `most`: one group, or where only the
    run knows how many there are, one for each power of two that the number consists of."""
    if isinstance(rest, int):
        yield [first + i for i in range(rest)]
        return
    size = 1 << (most - 1).bit_length() >> 1
    while size:
        bit = index_value(rest // size % 2)
        with builder.when(expr.binary("ne", bit, 0)):
            before = first + rest // (2 * size) * (2 * size)
            yield [before + i for i in range(size)]
        size >>= 1
