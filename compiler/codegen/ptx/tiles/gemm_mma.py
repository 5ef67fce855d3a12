"""Writes contractions by mma.sync: a warp multiplies 16 x 8 matrices, whose rows ldmatrix loads.

Tiles lie in shared memory in the order of the operands in global memory, in 16-byte chunks that are
permuted within every line, so that one chunk of eight lines lies in different banks. A tile that is
contiguous along its rows or columns is transposed by ldmatrix (16-bit types), or loaded word by
word (tf32).
"""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.codegen.ptx import shared_memory
from bessemer.compiler.codegen.ptx.shared_memory import CHUNK, Layout
from bessemer.compiler.codegen.ptx.tiles.tile_copies import Direction
from bessemer.compiler.codegen.ptx.tiles.tile_epilogue import Slab, slab_of
from bessemer.compiler.codegen.ptx.tiles.tile_products import Part, Pass
from bessemer.compiler.codegen.ptx.words import Word, vector_of
from bessemer.compiler.codegen.values import Value, literal
from bessemer.compiler.ir.operands import Operand
from bessemer.compiler.ir.types import bf16, boolean, f32, i32

ROWS, COLUMNS = 16, 8
"""Rows and columns of the sums of one instruction."""
_QUAD = "{i32, i32, i32, i32}"
_SUMS = "{float, float, float, float}"


@dataclass(frozen=True)
class MmaProducts(Part):
    """The sums of one warp."""

    @property
    def bytes(self) -> int:
        """Bytes of an operand's element."""
        return self.contract.left.buffer.dtype.bytes

    @property
    def step(self) -> int:
        """The depth of one instruction in elements: two chunks."""
        return 2 * CHUNK // self.bytes

    @property
    def counts(self) -> tuple[int, int]:
        """The number of instructions along a warp's rows and along its columns."""
        tile = self.contract.tile
        return (
            tile.rows // tile.warps[0] // ROWS,
            tile.columns // tile.warps[1] // COLUMNS,
        )

    def layouts(self) -> tuple[Layout, Layout]:
        contract, tile = self.contract, self.contract.tile
        return (
            self._layout(contract.left, self.left, tile.rows),
            self._layout(contract.right, self.right, tile.columns),
        )

    def _layout(self, operand: Operand, direction: Direction, outer: int) -> Layout:
        bytes_, depth = operand.buffer.dtype.bytes, self.contract.tile.depth
        if direction == "depth":
            return Layout(outer, depth, bytes_, swizzled=True)
        return Layout(depth, outer, bytes_, swizzled=True, by_words=bytes_ == 4)

    def names(self) -> tuple[str, ...]:
        rows, columns = self.counts
        return tuple(
            self.name(i, j, part) for i in range(rows) for j in range(columns) for part in range(4)
        )

    def name(self, i: int, j: int, part: int) -> str:
        """The local with number `part` of a lane's four sums of a 16 x 8 matrix: two neighbours of
        one row, then two of the row eight further."""
        return f"{self.contract.sums}.{i}.{j}.{part}"

    def clear(self) -> None:
        for name in self.names():
            self.state.locals[name] = literal(0.0, f32)

    def multiply(self, left: Word, right: Word) -> None:
        rows, columns = self.counts
        layouts = self.layouts()
        for step in range(self.contract.tile.depth // self.step):
            a = [self._left(layouts[0], left, i, step) for i in range(rows)]
            for j in range(0, columns, 2):
                four = self.right_part(layouts[1], right, j, step)
                for i in range(rows):
                    self.accumulate(i, j, a[i], four[:2])
                    self.accumulate(i, j + 1, a[i], four[2:])

    def accumulate(self, i: int, j: int, a: list[Value], b: list[Value]) -> None:
        """Writes one instruction."""
        w, locals_ = self.state.writer, self.state.locals
        name = f"llvm.nvvm.mma.m16n8k{self.step}.row.col.{self._kind()}"
        names = [self.name(i, j, part) for part in range(4)]
        operands = [*a, *b]
        if self.contract.left.buffer.dtype.name == "f16":
            # LLVM takes pairs of f16 for what they are.
            operands = [
                w.compute(f"bitcast {x.typed} to <2 x half>", boolean, 1, x.level) for x in operands
            ]
            texts, type_ = [f"<2 x half> {x.text}" for x in operands], "<2 x half>"
            name = "llvm.nvvm.mma.m16n8k16.row.col.f32.f32"
        else:
            texts, type_ = [x.typed for x in operands], "i32"
        sums = [locals_[n].typed for n in names]
        w.declarations.add(f"declare {_SUMS} @{name}({', '.join([type_] * 6 + ['float'] * 4)})")
        result = w.here(f"call {_SUMS} @{name}({', '.join(texts + sums)})", boolean)
        for part, local in enumerate(names):
            locals_[local] = w.here(f"extractvalue {_SUMS} {result.text}, {part}", f32)

    def _kind(self) -> str:
        dtype = self.contract.left.buffer.dtype
        return "tf32" if dtype is f32 else "bf16" if dtype is bf16 else "f16"

    # Fragments

    def _left(self, at: Layout, tile: Word, i: int, step: int) -> list[Value]:
        """The registers with 16 rows x one step: four matrices of 8 rows x 16 bytes, numbered down
        first."""
        words, lane = self.words, self.threads.lane
        if self.left == "depth":
            line = words.add(self.threads.warp_row, words.rem(lane, 16))
            chunk = words.add(words.div(lane, 16), 2 * step)
            return self._matrices(at, tile, line, i * ROWS, chunk, transposed=False)
        if self.bytes == 4:
            return self._by_words(at, tile, self.threads.warp_row, i * ROWS, step, left=True)
        line = words.add(words.rem(lane, 8), words.mul(words.div(lane, 16), 8))
        first = words.div(words.add(self.threads.warp_row, i * ROWS), 8)
        chunk = words.add(first, words.rem(words.div(lane, 8), 2))
        return self._matrices(at, tile, line, step * 16, chunk, transposed=True)

    def right_part(self, at: Layout, tile: Word, j: int, step: int) -> list[Value]:
        """The registers with 16 columns x one step: four matrices of 8 columns x 16 bytes, numbered
        along the depth first."""
        words, lane = self.words, self.threads.lane
        if self.right == "depth":
            own = words.add(words.rem(lane, 8), words.mul(words.div(lane, 16), 8))
            line = words.add(self.threads.warp_column, own)
            chunk = words.add(words.rem(words.div(lane, 8), 2), 2 * step)
            return self._matrices(at, tile, line, j * COLUMNS, chunk, transposed=False)
        if self.bytes == 4:
            return self._by_words(at, tile, self.threads.warp_column, j * COLUMNS, step, left=False)
        first = words.div(words.add(self.threads.warp_column, j * COLUMNS), 8)
        chunk = words.add(first, words.div(lane, 16))
        line = words.rem(lane, 16)
        return self._matrices(at, tile, line, step * 16, chunk, transposed=True)

    def _matrices(
        self, at: Layout, tile: Word, line: Word, further: int, chunk: Word, transposed: bool
    ) -> list[Value]:
        """Loads four matrices of 8 lines x 16 bytes by ldmatrix. Each lane gives the address of one
        line: `chunk` of line `line + further`. Since `further` is a multiple of 8, the permutation
        does not depend on it, and it becomes a displacement."""
        w, words = self.state.writer, self.words
        own = at.chunk(words, line, chunk)
        place = shared_memory.place(w, words.add(tile, own), further * at.pitch)
        suffix = ".trans" if transposed else ""
        name = f"llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4{suffix}.b16.p3"
        w.declarations.add(f"declare {_QUAD} @{name}(ptr addrspace(3))")
        found = w.here(f"call {_QUAD} @{name}({place})", boolean)
        return [w.here(f"extractvalue {_QUAD} {found.text}, {i}", i32) for i in range(4)]

    def _by_words(
        self, at: Layout, tile: Word, own: Word, outer: int, step: int, left: bool
    ) -> list[Value]:
        """The same registers, loaded word by word from lines along rows or columns: lane (g, t)
        takes row g at depth t."""
        words, lane = self.words, self.threads.lane
        depth = words.add(words.rem(lane, 4), step * 8)
        place = words.add(words.add(own, words.div(lane, 4)), outer)
        pairs = [(0, 0), (8, 0), (0, 4), (8, 4)] if left else [(0, 0), (0, 4), (8, 0), (8, 4)]
        found: list[Value] = []
        for rows, deeper in pairs:
            offset = at.element(words, words.add(depth, deeper), words.add(place, rows))
            found.append(shared_memory.load(self.state.writer, words.add(tile, offset), i32))
        return found

    # The way to memory: 16 rows at a time

    def slab(self) -> Slab:
        columns = self.contract.tile.columns // self.contract.tile.warps[1]
        return slab_of(self.contract, ROWS, columns)

    def passes(self) -> tuple[Pass, ...]:
        return tuple(Pass(i * ROWS, 1) for i in range(self.counts[0]))

    def put(self, number: int, slab_at: Word) -> None:
        w, words, slab = self.state.writer, self.words, self.slab()
        lane = self.threads.lane
        at = words.add(slab_at, words.mul(words.div(lane, 4), slab.pitch * slab.bytes))
        at = words.add(at, words.mul(words.rem(lane, 4), 2 * slab.bytes))
        for j in range(self.counts[1]):
            for half in range(2):
                pair = [self.state.locals[self.name(number, j, 2 * half + i)] for i in range(2)]
                displacement = (8 * half * slab.pitch + j * COLUMNS) * slab.bytes
                shared_memory.store(w, at, vector_of(w, pair), displacement)
