"""Sums over all steps and rows of what a recurrence writes, of a step while caches have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ops.recurrence.recurrence_cell import Cell

Columns = Callable[[], AbstractContextManager[Size]]
"""Opens a loop over columns."""


@dataclass(frozen=True, eq=False)
class Sums:
    """Where sums are gathered: those of the cell, or one for every block of so many rows, which
    are added up at the end."""

    builder: KernelBuilder
    cell: Cell
    blocks: Buffer | None = None
    rows: int = 0

    def clear(self, columns: Columns) -> None:
        """Sets the sums of these columns to 0."""
        if self.cell.totals is None:
            return
        _, totals = self.cell.totals
        for number in self.cell.gates_in(totals):
            with columns() as j:
                column = number * self.cell.h.shape[1] + j
                if self.blocks is None:
                    self.builder.store(totals, (column,), 0)
                    continue
                for block in range(self._count):
                    self.builder.store(self.blocks, (block, column), 0)

    def add(self, groups: Callable[[], Iterator[list[Size]]], step: Size, columns: Columns) -> None:
        """Adds what a step has written to these columns, for groups of rows."""
        if self.cell.totals is None:
            return
        double_buffer, totals = self.cell.totals
        target = totals if self.blocks is None else self.blocks
        for rows in groups():
            block = () if self.blocks is None else (dims.floordiv(rows[0], self.rows),)
            for number in self.cell.gates_in(totals):
                with columns() as j:
                    at = (*block, number * self.cell.h.shape[1] + j)
                    total = target[at]
                    for row in rows:
                        total = total + double_buffer[(step + 1) % 2, number, row, j]
                    self.builder.store(target, at, total)

    def add_up(self, columns: Columns) -> None:
        """The cell's sums of these columns from those of the blocks."""
        if self.cell.totals is None or self.blocks is None:
            return
        _, totals = self.cell.totals
        for number in self.cell.gates_in(totals):
            with columns() as j:
                column = number * self.cell.h.shape[1] + j
                total = self.blocks[0, column]
                for block in range(1, self._count):
                    total = total + self.blocks[block, column]
                self.builder.store(totals, (column,), total)

    @property
    def _count(self) -> int:
        assert self.blocks is not None
        count = self.blocks.shape[0]
        assert isinstance(count, int)
        return count
