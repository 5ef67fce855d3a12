"""Asks for what the end of a step needs while its products are summed: no cache has it yet.

Inputs come from the last cache or from memory, and outputs take a line's old content from there.
All at once, these requests would keep weights from coming.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ops.recurrence.recurrence_cell import Cell, Product
from bessemer.compiler.targets.machine import CACHE_LINE


@dataclass(frozen=True, eq=False)
class Fetch:
    """Of a step's rows, `width` columns from `first` on, of every gate."""

    builder: KernelBuilder
    cell: Cell
    product: Product
    time: Size
    first: Size
    width: int

    def rows(self, rows: list[Size]) -> None:
        """Everything of these rows."""
        for row in rows:
            for buffer, gates in self._buffers():
                line = CACHE_LINE // buffer.dtype.bytes
                for gate in gates:
                    for start in range(0, self.width, line):
                        self._line(buffer, row, gate, start)

    def piece(self, row: Callable[[Size], Size], count: int, piece: Size, pieces: int) -> None:
        """One of so many pieces of what is needed of row(0), row(1) ... row(count - 1)."""
        for buffer, gates in self._buffers():
            line = CACHE_LINE // buffer.dtype.bytes
            lines = max(1, self.width // line)
            total = count * len(gates) * lines
            each = -(-total // pieces)
            for number in range(each):
                # Where there are fewer lines than pieces, several ask for the same one.
                at = dims.minimum(piece * each + number, total - 1)
                if total < pieces:
                    at = dims.floordiv(piece * total, pieces)
                near, within = (
                    dims.floordiv(at, len(gates) * lines),
                    dims.mod(at, len(gates) * lines),
                )
                gate = gates[0] + dims.floordiv(within, lines)
                self._line(buffer, row(near), gate, dims.mod(within, lines) * line)

    def _buffers(self) -> Iterator[tuple[Buffer, range]]:
        """What is read or written of a step, and the gates in it."""
        of_product = self.product.gates
        yield self.cell.inputs, range(of_product[0], of_product[-1] + 1)
        for buffer in (*self.cell.read, *self.cell.written):
            if buffer is not self.cell.inputs:
                yield buffer, self.cell.gates_in(buffer)

    def _line(self, buffer: Buffer, row: Size, gate: Size, start: Size) -> None:
        column = gate * self.cell.h.shape[1] + self.first + start
        offset = buffer.offset((self.time, row, column))
        self.builder.append(loops.Prefetch(buffer, offset))
