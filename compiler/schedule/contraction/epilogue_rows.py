"""Computes the epilogue of a register tile in a loop over its rows, through arrays on the stack.

This is done for epilogues that contain functions, such as the derivative of GELU:

    fragment = sums
    sums[row, column] = fragment                        the registers are free again
    results[row, column] = epilogue                     row by row
    out[row, column] = results[row, column]

There are two reasons. Written out for each register of a tile, the derivative of GELU is more code
than the first-level instruction cache holds. And rows are often a multiple of 4 KiB apart, in the
input as in the output: the processor then takes a load for one of the bytes that the row before is
about to store (4K aliasing), and delays it until the long chain of operations before that store has
ended. (Derivative of GELU, 1024 x 1024 x 256: 2.0 ms without this, of which the derivative should
take 0.3.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bessemer.compiler.ir import dims, walk_expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Dim, Size, Symbol
from bessemer.compiler.ir.expr import Buffer, Load, Read
from bessemer.compiler.ir.loops import Store
from bessemer.compiler.ir.types import DType
from bessemer.compiler.schedule.contraction.contraction import Contraction
from bessemer.compiler.schedule.costs import has_functions

INTERLEAVE = 2
"""Vectors computed side by side, because each function is a long chain of dependent operations."""
COLUMN = Symbol("epilogue_column")
"""Stands for any column, to find out what an epilogue reads and writes along a row."""


@dataclass(frozen=True)
class Rows:
    """`count` rows whose indices in the output are `first`, `first + steps`, `first + 2 *
    steps`..."""

    first: tuple[Size, ...]
    steps: tuple[Size, ...]
    count: int

    def index(self, row: Size) -> tuple[Size, ...]:
        """The index in the output of row number `row`, counted from the first."""
        return tuple(at + row * step for at, step in zip(self.first, self.steps, strict=True))


def rows_in_steps(indices: Sequence[tuple[Size, ...]]) -> Rows | None:
    """The rows with these indices, if there are at least two and they are evenly spaced; else
    None."""
    if len(indices) < 2:
        return None
    first, second = indices[:2]
    steps = tuple(b - a for a, b in zip(first, second, strict=True))
    rows = Rows(first, steps, len(indices))
    if any(rows.index(number) != index for number, index in enumerate(indices)):
        return None
    return rows


def looped_rows(
    contraction: Contraction, panel: int, indices: Sequence[tuple[Size, ...]]
) -> Rows | None:
    """The rows of a tile whose epilogue should be computed in a loop; None where it should not or
    cannot.

    `panel` is the width of a tile in columns. The loop needs whole panels, evenly spaced rows and a
    single store. It pays where the epilogue contains functions and loads inputs that differ from
    row to row.
    """
    columns = contraction.columns
    rows = rows_in_steps(indices)
    if not isinstance(columns, int) or columns % panel or rows is None:
        return None
    first, second = indices[:2]
    stores = contraction.stores_at(first, dims.atom(COLUMN))
    if len(stores) != 1 or not has_functions(stores[0].value):
        return None
    # If rows load nothing of their own (a sigmoid of the sum), they do not wait for each other.
    others = contraction.stores_at(second, dims.atom(COLUMN))
    own = set(loads_along_columns(stores[0])).difference(loads_along_columns(others[0]))
    return rows if own else None


class RowEpilogue:
    """Writes the epilogue of a tile's rows, for `width` columns from `column` on. The caller stores
    the tile's sums in `sums` [rows, width], which is on the stack, and then calls `finish`."""

    def __init__(
        self,
        builder: KernelBuilder,
        contraction: Contraction,
        rows: Rows,
        column: Size,
        width: int,
        lanes: int,
    ) -> None:
        self.builder = builder
        self.contraction = contraction
        self.rows = rows
        self.column = column
        self.width = width
        self.lanes = lanes
        self.sums = self._room(contraction.dtype)
        self.results = self._room(self._store(0, dims.atom(COLUMN)).buffer.dtype)

    def finish(self) -> None:
        """Computes all rows, then stores them."""
        with self._each() as (row, j):
            self.builder.store(self.results, (row, j), self._store(row, j).value)
        with self._each() as (row, j):
            store = self._store(row, j)
            self.builder.store(store.buffer, store.indices, self.results[row, j])

    @contextmanager
    def _each(self) -> Iterator[tuple[Dim, Dim]]:
        """Loops over rows and columns."""
        interleave = INTERLEAVE if self.width % (INTERLEAVE * self.lanes) == 0 else 1
        with (
            self.builder.loop(self.rows.count) as row,
            self.builder.loop(self.width, "vector", lanes=self.lanes, interleave=interleave) as j,
        ):
            yield row, j

    def _room(self, dtype: DType) -> Buffer:
        return self.builder.allocate(dtype, (self.rows.count, self.width))

    def _store(self, row: Size, j: Dim) -> Store:
        index = self.rows.index(row)
        (store,) = self.contraction.epilogue(index, self.column + j, self.sums[row, j])
        return store


def loads_along_columns(store: Store) -> list[Load]:
    """The loads of a store in column COLUMN that read consecutive elements along the columns,
    without duplicates. Guarded loads are left out."""
    found: dict[Load, None] = {}
    for node in walk_expr.loads_of(store.value):
        if node.guard is None and len(node.indices) == 1:
            (offset,) = node.indices
            # A local is known before the loop over the columns (where a block of rows begins);
            # anything else in an index may depend on the data.
            is_plain = all(isinstance(e, Read) for e in walk_expr.index_expressions(offset))
            if is_plain and dims.coefficient_of(offset, COLUMN) == 1:
                found[node] = None
    return list(found)
