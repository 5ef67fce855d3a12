"""What cells are to the writer of their kernels: products of the state, and what follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, convert
from bessemer.compiler.ir.types import DType, bf16, f16, f32


@dataclass(frozen=True)
class Place:
    """One column of one sequence at one time, in the step with that number."""

    time: Size
    row: Size
    column: Size
    step: Size


@dataclass(frozen=True, eq=False)
class Product:
    """Some gates' sums over the columns of `factor` (None: the state), and what becomes of them.

    `finish(place, sums, state)` gives the new state of a column, if these gates settle it; `sums`
    have the type that is computed in. `start(place, gate)`: what else belongs to a sum.
    `open(gate, sum)`: what becomes of it before `finish` sees it, without a look at other sums.
    A factor [B, K], or [2, n, B, K] that is double-buffered as states are, is multiplied with K
    rows of the weights, or n * K, from `first` on.
    """

    gates: tuple[int, ...]
    finish: Callable[[Place, Sequence[Expression], Expression], Expression | None]
    start: Callable[[Place, int], Expression]
    factor: Buffer | None = None
    first: int = 0
    open: Callable[[int, Expression], Expression] | None = None

    def depth(self, hidden: Size) -> tuple[Size, Size]:
        """How many parts the factor has, and the columns of each."""
        if self.factor is None:
            return 1, hidden
        *buffers, _, columns = self.factor.shape
        return (buffers[1] if buffers else 1), columns


@dataclass(frozen=True, eq=False)
class Cell:
    """A recurrence: y [T, B, H] and the last state h [B, H], from h0 and products in order.

    `inputs` have a row [B, *] for every step, which it starts from; `read` have too, and are only
    read. `kept` are (first, last) values of what else a column carries from step to step.
    `cleared`, [2, n, B, H], are 0 at the beginning. `ended`, of H columns or a multiple, are 0
    behind the end of a sequence, as y is. `replaces`: an input, and the output that may lie in its
    place, since each element is read before the one of the same place is written. `totals` are sums
    over all steps and rows, [n * H], of what products write to a buffer [2, n, B, H] that is
    double-buffered. With `scales`, one for each column of the weights, these are i8 and the state
    is rounded to u8 in every step (see recurrence_bytes.py).
    """

    recurrent: Buffer
    h0: Buffer
    y: Buffer | None
    h: Buffer
    inputs: Buffer
    products: tuple[Product, ...]
    kept: tuple[tuple[Buffer, Buffer], ...] = ()
    lengths: Buffer | None = None
    reverse: bool = False
    scales: Buffer | None = None
    cleared: tuple[Buffer, ...] = ()
    ended: tuple[Buffer, ...] = ()
    read: tuple[Buffer, ...] = ()
    replaces: tuple[Buffer, Buffer] | None = None
    totals: tuple[Buffer, Buffer] | None = None

    @property
    def written(self) -> tuple[Buffer, ...]:
        """What steps write to memory of their own."""
        _, in_place = self.replaces or (None, None)
        rows = self.ended if self.y is None else (self.y, *self.ended)
        return tuple(buffer for buffer in rows if buffer is not in_place)

    def gates_in(self, buffer: Buffer) -> range:
        """How often the last axis of a buffer has the columns of the state."""
        columns = self.h.shape[1]
        count = dims.divide_exactly(buffer.shape[-1], columns) if columns != 0 else 0
        assert isinstance(count, int)
        return range(count)


def working_dtype(dtype: DType) -> DType:
    """What gates are computed in."""
    return f32 if dtype in (f16, bf16) else dtype


def from_input(gates_x: Buffer, width: Size, working: DType) -> Callable[[Place, int], Expression]:
    """The input's part of a gate: what most sums start with."""

    def start(place: Place, gate: int) -> Expression:
        return convert(gates_x[place.time, place.row, gate * width + place.column], working)

    return start
