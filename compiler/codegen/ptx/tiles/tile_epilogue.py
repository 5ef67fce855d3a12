"""Stores a tile's sums. They go from registers, in the order of the machine's products, through a
part of shared memory that each warp has for itself (its slab), and from there to memory row by row.

Neighbouring lanes take neighbouring columns, each as many as fill 16 bytes, and run the
contraction's stores on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bessemer.compiler.codegen.kernels.control_flow import Range, branch, counted_loop
from bessemer.compiler.codegen.kernels.state import KernelState, Vectors, number
from bessemer.compiler.codegen.ptx import shared_memory
from bessemer.compiler.codegen.ptx.emitter import Emitter, size_word
from bessemer.compiler.codegen.ptx.tiles.exact_sums import ExactSums
from bessemer.compiler.codegen.ptx.words import Truth, Word, wide
from bessemer.compiler.codegen.values import Value, register_type
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.loops import Contract, Store
from bessemer.compiler.ir.operands import Tile

EmitStore = Callable[[KernelState, Store], None]
_MOST_UNROLLED = 4
"""Steps from which on a loop keeps the code short: its body is a whole epilogue."""


@dataclass(frozen=True)
class Slab:
    """A matrix of sums in a warp's shared memory; rows are `pitch` elements apart."""

    rows: int
    columns: int
    pitch: int
    bytes: int

    @property
    def size(self) -> int:
        """The bytes of the slab."""
        return self.rows * self.pitch * self.bytes


@dataclass(frozen=True)
class Epilogue(Emitter):
    """The stores of one contraction in one kernel. `slab_at` is the offset of the warp's slab."""

    contract: Contract
    slab: Slab
    slab_at: Word
    lane: Word
    emit_store: EmitStore

    def lanes(self) -> int:
        """The number of columns that a lane stores at once."""
        found = lanes_at_once(self.contract)
        while self.slab.columns % found:
            found //= 2
        return found

    def run(self, row: Word, row_step: int, column: Word) -> None:
        """Stores the slab, whose row r is the contraction's row `row + r * row_step` (64 bits)."""
        shared_memory.warp_barrier(self.state.writer)
        count = self.lanes()
        per_row = self.slab.columns // count
        steps = -(-self.slab.rows * per_row // 32)
        writes = frozenset(store.buffer.name for store in self.contract.stores)

        def step(number_: Value) -> None:
            words = self.words
            index = words.add(self.lane, words.mul(words.resized(number_), 32))
            r, c = words.div(index, per_row), words.mul(words.rem(index, per_row), count)
            long = wide(self.state.writer)
            at_row = long.add(row, long.mul(long.resized(r), row_step))
            at_column = long.add(column, long.resized(c))
            wanted = self._wanted(at_row, at_column)
            if steps * 32 != self.slab.rows * per_row:
                wanted = words.both(wanted, words.below(r, self.slab.rows))

            def store() -> None:
                self._store(at_row, at_column, r, c, count)

            if isinstance(wanted, Value):
                branch(self.state, wanted, (), ((store, writes),))
            elif wanted:
                store()

        if steps <= _MOST_UNROLLED:
            for position in range(steps):
                step(number(position))
        else:
            counted_loop(self.state, Range(number(0), number(steps)), (), writes, step)
        shared_memory.warp_barrier(self.state.writer)

    def _wanted(self, row: Word, column: Word) -> Truth:
        """Whether there is such a row and column."""
        long, contract, tile = wide(self.state.writer), self.contract, self.contract.tile
        rows, columns = contract.row.extent or 0, contract.column.extent or 0
        wanted: Truth = True
        if not _divides(tile.rows, rows):
            wanted = long.both(wanted, long.below(row, _extent(self.state, rows)))
        if not _divides(tile.columns, columns):
            wanted = long.both(wanted, long.below(column, _extent(self.state, columns)))
        return wanted

    def _store(self, row: Word, column: Word, r: Word, c: Word, lanes: int) -> None:
        state, contract, slab, words = self.state, self.contract, self.slab, self.words
        place = words.add(words.mul(r, slab.pitch * slab.bytes), words.mul(c, slab.bytes))
        at = words.add(self.slab_at, place)
        kind = register_type(contract.dtype)
        sums = shared_memory.load(state.writer, at, kind, lanes)
        if contract.products == "bf16x3":
            sums = ExactSums(state, contract).instead_of(sums, row, column)
        state.indices[contract.row] = row
        with self._columns(column, lanes):
            state.element = lambda fragment, row: sums
            for store in contract.stores:
                state.values.clear()
                self.emit_store(state, store)
            state.values.clear()
            state.element = None
        del state.indices[contract.row]

    @contextmanager
    def _columns(self, column: Word, lanes: int) -> Iterator[None]:
        state, symbol = self.state, self.contract.column
        vectors = Vectors(symbol, lanes) if lanes > 1 else None
        with state.vector_context(vectors, column):
            state.indices[symbol] = column
            yield
            state.indices.pop(symbol, None)


def lanes_at_once(contract: Contract) -> int:
    """How many columns of a row can be stored at once: they must all exist, or none of them."""
    widest = max(store.buffer.dtype.bytes for store in contract.stores)
    lanes = max(1, shared_memory.CHUNK // widest)
    columns = contract.column.extent
    while lanes > 1 and not (isinstance(columns, int) and columns % lanes == 0):
        lanes //= 2
    return lanes


def slab_of(contract: Contract, rows: int, columns: int) -> Slab:
    """A slab whose rows begin eight banks (of four bytes) apart, so that rows of the same column
    are in different banks."""
    bytes_ = register_type(contract.dtype).bytes
    pitch = columns + (8 * 4 // bytes_ - columns) % (128 // bytes_)
    return Slab(rows, columns, pitch, bytes_)


def slabs_bytes(tile: Tile, slab: Slab) -> int:
    """The bytes of shared memory of all warps' slabs."""
    return tile.warps[0] * tile.warps[1] * slab.size


def _divides(tile: int, extent: dims.Size) -> bool:
    return isinstance(extent, int) and extent % tile == 0


def _extent(state: KernelState, extent: dims.Size) -> Word:
    return size_word(state, extent)
