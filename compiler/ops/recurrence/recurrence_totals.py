"""Sums over all steps and rows of what a recurrence writes, of a step while caches have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ops.recurrence.recurrence_cell import Cell

Columns = Callable[[], AbstractContextManager[Size]]
"""Opens a loop over columns."""


def clear_totals(builder: KernelBuilder, cell: Cell, columns: Columns) -> None:
    """Sets the sums of these columns to 0."""
    if cell.totals is None:
        return
    _, totals = cell.totals
    with columns() as j:
        for number in cell.gates_in(totals):
            builder.store(totals, (number * cell.h.shape[1] + j,), 0)


def add_to_totals(
    builder: KernelBuilder,
    cell: Cell,
    groups: Callable[[], Iterator[list[Size]]],
    step: Size,
    columns: Columns,
) -> None:
    """Adds what a step has written to these columns, for groups of rows."""
    if cell.totals is None:
        return
    turns, totals = cell.totals
    for rows in groups():
        for number in cell.gates_in(totals):
            with columns() as j:
                at = (number * cell.h.shape[1] + j,)
                total = totals[at]
                for row in rows:
                    total = total + turns[(step + 1) % 2, number, row, j]
                builder.store(totals, at, total)
