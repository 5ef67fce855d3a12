"""Writes contractions by fused multiply-adds: every thread has a small matrix of sums.

The lanes of a warp are arranged as 4 x 8. If an operand is contiguous along the depth, a lane has
every fourth row (or eighth column), and loads four steps of the depth at once. If it is contiguous
the other way, a lane has groups of four neighbouring rows (or columns). Either way the lanes that
load together read different banks.
"""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.codegen.arithmetic import intrinsic
from bessemer.compiler.codegen.kernels.conversions import from_memory, memory_kind, resized
from bessemer.compiler.codegen.lanes import extract
from bessemer.compiler.codegen.ptx import shared_memory
from bessemer.compiler.codegen.ptx.shared_memory import CHUNK, Layout
from bessemer.compiler.codegen.ptx.tiles.tile_copies import Direction
from bessemer.compiler.codegen.ptx.tiles.tile_epilogue import Slab, slab_of
from bessemer.compiler.codegen.ptx.tiles.tile_products import Part, Pass
from bessemer.compiler.codegen.ptx.words import Word, vector_of
from bessemer.compiler.codegen.values import Value, literal, register_type
from bessemer.compiler.ir.operands import Operand, Tile
from bessemer.compiler.ir.types import DType

LANES = (4, 8)
"""A warp's lanes along rows and along columns."""
RUN = 4
"""Neighbours that are loaded at once."""


def layout(operand: Operand, direction: Direction, outer: int, depth: int) -> Layout:
    """The layout of a tile in shared memory. A line along the depth is padded, to change the
    banks."""
    bytes_ = operand.buffer.dtype.bytes
    if direction == "outer":
        return Layout(depth, outer, bytes_, swizzled=False)
    return Layout(outer, depth, bytes_, swizzled=False, padding=CHUNK)


def thread_sums(tile: Tile) -> tuple[int, int]:
    """The rows and columns of one thread's sums."""
    return (
        tile.rows // tile.warps[0] // LANES[0],
        tile.columns // tile.warps[1] // LANES[1],
    )


@dataclass(frozen=True)
class _Side:
    """A thread's part of an operand whose tile begins at offset `begin` of shared memory: `count`
    rows (or columns), of which `own` is the first. A warp has `lanes` lanes along them."""

    operand: Operand
    layout: Layout
    direction: Direction
    begin: Word
    own: Word
    count: int
    lanes: int


def _width(direction: Direction) -> int:
    """The number of neighbouring rows (or columns) that a lane has."""
    return 1 if direction == "depth" else RUN


@dataclass(frozen=True)
class SimtProducts(Part):
    """The sums of one thread."""

    @property
    def kind(self) -> DType:
        return register_type(self.contract.dtype)

    def layouts(self) -> tuple[Layout, Layout]:
        contract, tile = self.contract, self.contract.tile
        return (
            layout(contract.left, self.left, tile.rows, tile.depth),
            layout(contract.right, self.right, tile.columns, tile.depth),
        )

    def names(self) -> tuple[str, ...]:
        rows, columns = thread_sums(self.contract.tile)
        return tuple(self._name(i, j) for i in range(rows) for j in range(columns))

    def _name(self, row: int, column: int) -> str:
        return f"{self.contract.sums}.{row}.{column}"

    def clear(self) -> None:
        for name in self.names():
            self.state.locals[name] = literal(0, self.kind)

    def multiply(self, left: Word, right: Word) -> None:
        contract, words, threads = self.contract, self.words, self.threads
        layouts, counts = self.layouts(), thread_sums(contract.tile)
        lane_row = words.div(threads.lane, LANES[1])
        lane_column = words.rem(threads.lane, LANES[1])
        own_row = words.add(threads.warp_row, words.mul(lane_row, _width(self.left)))
        own_column = words.add(threads.warp_column, words.mul(lane_column, _width(self.right)))
        rows = _Side(contract.left, layouts[0], self.left, left, own_row, counts[0], LANES[0])
        columns = _Side(
            contract.right, layouts[1], self.right, right, own_column, counts[1], LANES[1]
        )
        for start in range(0, contract.tile.depth, RUN):
            a, b = self._elements(rows, start), self._elements(columns, start)
            for k in range(RUN):
                for i in range(counts[0]):
                    for j in range(counts[1]):
                        self._accumulate(self._name(i, j), a[k][i], b[k][j])

    def _accumulate(self, name: str, a: Value, b: Value) -> None:
        w, total = self.state.writer, self.state.locals[name]
        if self.kind.is_float:
            self.state.locals[name] = intrinsic(w, "fma", a, b, total)
        else:
            product = w.operate("mul", self.kind, a, b)
            self.state.locals[name] = w.operate("add", self.kind, total, product)

    def _elements(self, side: _Side, start: int) -> list[list[Value]]:
        """The elements of RUN steps of the depth for each of the thread's rows: [step][row]."""
        words, pitch, bytes_ = self.words, side.layout.pitch, side.operand.buffer.dtype.bytes
        if side.direction == "depth":
            base = words.add(side.begin, words.mul(side.own, pitch))
            runs = [
                self._run(side.operand, base, i * side.lanes * pitch + start * bytes_)
                for i in range(side.count)
            ]
            return [[run[k] for run in runs] for k in range(RUN)]
        base = words.add(side.begin, words.mul(side.own, bytes_))
        found: list[list[Value]] = []
        for k in range(RUN):
            line: list[Value] = []
            for group in range(0, side.count, RUN):
                displacement = (start + k) * pitch + group * side.lanes * bytes_
                line += self._run(side.operand, base, displacement)
            found.append(line[: side.count])
        return found

    def _run(self, operand: Operand, base: Word, displacement: int) -> list[Value]:
        """RUN neighbours, converted to the type of the sums."""
        state, dtype = self.state, operand.buffer.dtype
        kind = memory_kind(dtype)
        loaded = shared_memory.load(state.writer, base, kind, RUN, displacement)
        value = from_memory(state, loaded, dtype)
        if not self.kind.is_float:
            value = resized(state.writer, value, self.kind)
        return [extract(state.writer, value, i) for i in range(RUN)]

    # The way to memory: a row of every lane at a time

    def slab(self) -> Slab:
        columns = self.contract.tile.columns // self.contract.tile.warps[1]
        return slab_of(self.contract, LANES[0], columns)

    def passes(self) -> tuple[Pass, ...]:
        rows, _ = thread_sums(self.contract.tile)
        if self.left == "depth":
            return tuple(Pass(LANES[0] * i, 1) for i in range(rows))
        return tuple(Pass(LANES[0] * RUN * (i // RUN) + i % RUN, RUN) for i in range(rows))

    def put(self, number: int, slab_at: Word) -> None:
        words, slab, w = self.words, self.slab(), self.state.writer
        _, columns = thread_sums(self.contract.tile)
        row = words.div(self.threads.lane, LANES[1])
        column = words.rem(self.threads.lane, LANES[1])
        at = words.add(slab_at, words.mul(row, slab.pitch * slab.bytes))
        if self.right == "depth":
            at = words.add(at, words.mul(column, slab.bytes))
            for j in range(columns):
                value = self.state.locals[self._name(number, j)]
                shared_memory.store(w, at, value, j * LANES[1] * slab.bytes)
            return
        at = words.add(at, words.mul(column, RUN * slab.bytes))
        for j in range(0, columns, RUN):
            run = [self.state.locals[self._name(number, j + i)] for i in range(RUN)]
            shared_memory.store(w, at, vector_of(w, run), j * LANES[1] * slab.bytes)
