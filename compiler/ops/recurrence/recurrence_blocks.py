"""A product of a step with many rows: one gate at a time, in blocks that the first cache holds.

    for a panel of columns, for a bundle of rows
      for every gate, for every block of the depth
        for the groups of the bundle
          sums, rows x columns                        in registers, on from the block before
      what becomes of the sums, row by row

The groups after the first find the block's weights in the first-level cache: otherwise each of
them would take the whole panel out of the second level again. What rows need at the end is fetched
meanwhile, piece by piece; so is the next block, if the second level does not hold all weights.

In a loop over rows, an instruction reads addresses a row apart, and the processor fetches those of
the rows that would come next: where threads share the rows, another core's, which has to take each
line back before it writes it. So each row of a share has instructions of its own. (Zen 5, a step of
an LSTM's training on two threads: 25.0 -> 22.9 ms if the cores have no common last cache, otherwise
20.9 -> 20.6.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Dim, Size
from bessemer.compiler.ir.expr import Buffer, Expression, constant
from bessemer.compiler.ir.types import DType
from bessemer.compiler.targets.machine import CACHE_LINE

BLOCK_BYTES = 32 << 10
"""Of weights: what the first-level cache holds beside the states."""
BUNDLE = 4
"""Groups of rows whose sums wait together on the stack."""
PIECES = 32
"""Of a block's depth, at most."""
UNROLL = 4
"""Steps of the depth in the body of the innermost loop, where a piece divides so. (Zen 5, the way
forward of an LSTM of 256, 16 sequences: 4.475 -> 4.405 ms; 2 and 8 steps 4.46 and 4.51.)"""


@dataclass(frozen=True)
class _Block:
    """One of `count` blocks of the depth, which begin `size` apart, for a gate: `length` numbers of
    each of the `parts` from `part` on."""

    gate: Size
    number: Size
    count: int
    part: Size
    parts: int
    start: Size
    size: int
    length: Size


@dataclass(frozen=True, eq=False)
class Blocks:
    """A product for one panel, with the depth in parts. `rows` is the most that share a load.

    `weight` gives an element by part, depth, gate and column of the panel, `factor` by row, part
    and depth. `fetch(row, count, piece, pieces)` asks for a piece of what will be read of row(0),
    row(1) ... row(count - 1). `approach`, where weights are far, asks for the cache line of an
    element. `open` gives what becomes of a sum of a row, a gate and a column, and `finish` is then
    given all gates of a row and a column. `is_share`: whether other rows are another thread's.
    """

    builder: KernelBuilder
    dtype: DType
    batch: int
    rows: int
    gates: int
    parts: int
    depth: int
    width: int
    lanes: int
    weight: Callable[[Size, Size, Size, Size], Expression]
    factor: Callable[[Size, Size, Size], Expression]
    fetch: Callable[[Callable[[Size], Size], int, Size, int], None]
    approach: Callable[[Size, Size, Size, Size], None] | None
    open: Callable[[Size, int, Size, Expression], Expression]
    finish: Callable[[Size, Size, list[Expression]], None]
    is_share: bool

    def write(self) -> None:
        """The loops over all rows."""
        memory = self._room()
        for first, count in even_parts(self.builder, self.batch, BUNDLE * self.rows):
            with self.builder.loop(self.gates) as number:
                self._multiply(memory, number, first, count)
            if not self.is_share:
                with self.builder.loop(count) as row:
                    self._end(memory, first, row)
                continue
            for before, height in even_parts(self.builder, count, self.rows):
                for within in range(height):
                    self._end(memory, first, before + within)

    def _end(self, memory: Buffer, first: Size, row: Size) -> None:
        """What becomes of the sums of one row of a bundle that begins at `first`."""
        for gate in range(self.gates):
            # Chains of operations as short as this run side by side.
            with self._vectors() as j:
                value = self.open(first + row, gate, j, memory[row, gate, j])
                self.builder.store(memory, (row, gate, j), value)
        with self.builder.loop(self.width, "vector", lanes=self.lanes) as j:
            opened = [memory[row, gate, j] for gate in range(self.gates)]
            self.finish(first + row, j, opened)

    def _room(self) -> Buffer:
        bundles = -(-self.batch // (BUNDLE * self.rows))
        most = -(-self.batch // bundles)
        return self.builder.allocate(self.dtype, (most, self.gates, self.width))

    def _multiply(self, memory: Buffer, gate: Size, first: Size, count: int) -> None:
        """The sums of a bundle of rows, block by block."""
        builder = self.builder
        blocks = -(-self.depth // self._most)
        size = -(-self.depth // blocks)
        # Sums stay in registers over all parts, unless blocks come back for each of them.
        outer, inner = (1, self.parts) if blocks == 1 else (self.parts, 1)
        if blocks > 1:
            with builder.loop(count) as row, self._vectors() as j:
                builder.store(memory, (row, gate, j), 0)
        with builder.loop(outer) as around, builder.loop(blocks) as number:
            start = number * size
            length = size if self.depth % size == 0 else dims.minimum(size, self.depth - start)
            block = _Block(gate, number, blocks, around, inner, start, size, length)
            for before, group in even_parts(builder, count, self.rows):
                self._multiply_group(memory, block, (first, count), (before, group))

    def _multiply_group(
        self, memory: Buffer, block: _Block, bundle: tuple[Size, int], group: tuple[Size, int]
    ) -> None:
        """Adds a block's products to the sums of one group of a bundle; both are given by where
        they begin (the group in the bundle) and how many rows they have."""
        builder, gate = self.builder, block.gate
        (first, count), (before, height) = bundle, group
        rows = [before + i for i in range(height)]
        groups = -(-count // self.rows)
        with self._vectors() as j:
            places = [(row, gate, j) for row in rows]
            zero = constant(0, self.dtype)
            begin = [zero if block.count == 1 else memory[place] for place in places]
            sums = [builder.define(value, "sum") for value in begin]
            with builder.loop(block.parts) as within:
                part = block.part + within
                step = (gate * self.parts + part) * block.count + block.number
                number = dims.ceildiv(before, -(-count // groups))
                ahead = partial(self._ahead, part, block.start + block.size, gate, number, groups)
                for k in self._depth(first + before, height, step, block.length, ahead):
                    at = (part, block.start + k)
                    weight = builder.define(self.weight(*at, gate, j), "w").value
                    for row, total in zip(rows, sums, strict=True):
                        total.accumulate("add", self.factor(first + row, *at) * weight)
            for place, total in zip(places, sums, strict=True):
                builder.store(memory, place, total.value)

    def _depth(
        self, first: Size, rows: int, step: Size, length: Size, ahead: Callable[[Size, int], None]
    ) -> Iterator[Size]:
        """Opens the loop over a block's depth, in pieces, before each of which a part of what a few
        rows need is fetched: in every block some."""
        steps = self.gates * self.parts * -(-self.depth // self._most)
        each = -(-rows // steps)
        pieces = 1
        if isinstance(length, int):
            pieces = next(count for count in range(PIECES, 0, -1) if length % count == 0)
        with self.builder.loop(pieces) as piece:
            self.fetch(
                lambda row: first + dims.minimum(step * each + row, rows - 1), each, piece, pieces
            )
            ahead(piece, pieces)
            depth = length // pieces
            unroll = UNROLL if isinstance(depth, int) and depth % UNROLL == 0 else 1
            with self.builder.loop(depth // unroll) as number:
                for within in range(unroll):
                    yield piece * depth + number * unroll + within

    def _ahead(
        self,
        part: Size,
        start: Size,
        gate: Size,
        group: Size,
        groups: int,
        piece: Size,
        pieces: int,
    ) -> None:
        """Asks for a piece of one group's share of the block that begins at this depth."""
        if self.approach is None:
            return
        line = CACHE_LINE // self.dtype.bytes
        across = max(1, self.width // line)
        each = -(-min(self.depth, self._most) * across // (pieces * groups))
        for number in range(each):
            at = (group * pieces + piece) * each + number
            row = start + dims.floordiv(at, across)
            self.approach(part, row, gate, dims.mod(at, across) * line)

    @property
    def _most(self) -> int:
        """The depth of a block at most."""
        return max(1, BLOCK_BYTES // (self.width * self.dtype.bytes))

    def _vectors(self) -> AbstractContextManager[Dim]:
        vectors = self.width // self.lanes
        return self.builder.loop(self.width, "vector", lanes=self.lanes, interleave=vectors)


def even_parts(builder: KernelBuilder, total: int, most: int) -> Iterator[tuple[Size, int]]:
    """Opens loops over parts of about equal size, at most `most`: where each begins, its size."""
    parts = max(1, -(-total // most))
    larger, smaller = total % parts, total // parts
    for before, count, size in (
        (0, larger, smaller + 1),
        (larger * (smaller + 1), parts - larger, smaller),
    ):
        if count and size:
            with builder.loop(count) as part:
                yield before + part * size, size
