"""Sequences that have lengths of their own: steps end early, and what is behind the end is 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import convert, index_value
from bessemer.compiler.ir.types import i64
from bessemer.compiler.ops.recurrence.recurrence_cell import Cell

Groups = Callable[[], Iterator[list[Size]]]
"""Opens loops over rows; gives those to work on together: one, if sequences have lengths."""


def length_of(builder: KernelBuilder, cell: Cell, groups: Groups) -> Size:
    """The steps of these rows."""
    steps = cell.inputs.shape[0]
    if cell.lengths is None:
        return steps
    ((row,),) = groups()
    most = index_value(steps)
    length = builder.define(convert(cell.lengths[row], i64), "length")
    wrong = (length.value < 0) | (length.value > most)
    builder.fail_if(wrong, "a sequence is longer than the input, or its length is negative")
    length.set(expr.binary("min", expr.binary("max", length.value, 0), most))
    return length.index


def clear_after_the_end(
    builder: KernelBuilder,
    cell: Cell,
    groups: Groups,
    length: Size,
    columns: Callable[[], AbstractContextManager[Size]],
) -> None:
    """Sets what is behind the end of these rows to 0, in the columns of the state."""
    if cell.lengths is None:
        return
    ((row,),) = groups()
    ended = cell.ended if cell.y is None else (cell.y, *cell.ended)
    with builder.loop(cell.inputs.shape[0] - length) as rest, columns() as j:
        for buffer in ended:
            for gate in cell.gates_in(buffer):
                builder.store(buffer, (length + rest, row, gate * cell.h.shape[1] + j), 0)
