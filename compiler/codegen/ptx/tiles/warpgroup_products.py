"""The sums of one warpgroup, and the wgmma instructions that add to them.

LLVM has no intrinsics for these products, so they are inline assembly with the sums as operands in
and out.
"""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.codegen.ptx import shared_memory
from bessemer.compiler.codegen.ptx.emitter import Emitter
from bessemer.compiler.codegen.ptx.tiles.tile_epilogue import Slab
from bessemer.compiler.codegen.ptx.words import Word, vector_of
from bessemer.compiler.codegen.values import Value, literal
from bessemer.compiler.ir.loops import Contract
from bessemer.compiler.ir.tensor_boxes import BOX_BYTES
from bessemer.compiler.ir.types import bf16, boolean, f32, i32, i64

ROWS = 64
"""Rows of one instruction."""
STEP_BYTES = 32
"""Bytes of the depth of one instruction."""
_LAYOUT = (1 << 62) | (8 * BOX_BYTES // 16 << 32) | (1 << 16)
"""The fields of a descriptor that all matrices share: rows of 128 bytes, permuted, in blocks of
eight rows (1024 bytes)."""


@dataclass(frozen=True)
class WarpgroupProducts(Emitter):
    """The sums of a warpgroup; `group` is its number among those that multiply."""

    contract: Contract
    group: Word

    @property
    def count(self) -> int:
        """The number of matrices of 64 rows."""
        tile = self.contract.tile
        return tile.rows // tile.warps[0] // ROWS

    @property
    def registers(self) -> int:
        """The registers of a thread for the sums of one matrix."""
        return self.contract.tile.columns // 2

    def names(self) -> tuple[str, ...]:
        """The locals that hold the sums."""
        return tuple(name for m in range(self.count) for name in self._names(m))

    def _names(self, m: int) -> list[str]:
        return [f"{self.contract.sums}.{m}.{i}" for i in range(self.registers)]

    def clear(self) -> None:
        """Sets the sums to 0."""
        for name in self.names():
            self.state.locals[name] = literal(0.0, f32)
        self.pin()

    def pin(self) -> None:
        """Keeps the compiler from moving computations of the sums across this point."""
        for m in range(self.count):
            results = ["=f"] * self.registers + [str(i) for i in range(self.registers)]
            operands = [self.state.locals[name].typed for name in self._names(m)]
            self._assembly("", results, operands, m)

    def multiply(self, left: Word, right: Word) -> None:
        """Starts adding the products of the stages at these offsets."""
        words = self.words
        start = words.add(left, words.mul(self.group, self.count * ROWS * BOX_BYTES))
        a = [self._descriptor(words.add(start, m * ROWS * BOX_BYTES)) for m in range(self.count)]
        b = self._descriptor(right)
        self._call("fence.sync.aligned()")
        for step in range(BOX_BYTES // STEP_BYTES):
            for m in range(self.count):
                self._product(m, self._further(a[m], step), self._further(b, step))
        self._call("commit_group.sync.aligned()")
        self._declare()

    def _declare(self) -> None:
        declared = self.state.writer.declarations
        declared.add("declare void @llvm.nvvm.wgmma.fence.sync.aligned()")
        declared.add("declare void @llvm.nvvm.wgmma.commit_group.sync.aligned()")

    @property
    def is_complete(self) -> bool:
        """Whether the products are complete when `multiply` ends."""
        return False

    def finish_before(self) -> None:
        """Waits for all `multiply`s but the last one."""
        self.wait(1)

    def finish(self) -> None:
        """Waits for all `multiply`s."""
        self.wait(0)
        self.pin()

    def wait(self, groups: int) -> None:
        """Waits until at most so many `multiply`s are not complete."""
        self.state.writer.declarations.add(
            "declare void @llvm.nvvm.wgmma.wait_group.sync.aligned(i64)"
        )
        self._call(f"wait_group.sync.aligned(i64 {groups})")

    def _call(self, text: str) -> None:
        self.state.writer.line(f"call void @llvm.nvvm.wgmma.{text}")

    def _descriptor(self, offset: Word) -> Value:
        """The descriptor of the matrix at an offset of shared memory."""
        w, words = self.state.writer, self.words
        base = w.compute(f"ptrtoint ptr addrspace(3) @{shared_memory.SHARED} to i32", i32, 1, 0)
        at = words.value(words.rem(words.div(words.add(base, offset), 16), 1 << 14))
        wide = w.compute(f"zext {at.typed} to i64", i64, 1, at.level)
        return w.operate("or", i64, wide, Value(str(_LAYOUT), i64))

    def _further(self, descriptor: Value, step: int) -> Value:
        if step == 0:
            return descriptor
        distance = literal(step * STEP_BYTES // 16, i64)
        return self.state.writer.operate("add", i64, descriptor, distance)

    def _product(self, m: int, a: Value, b: Value, adds: bool = True) -> None:
        """Writes one instruction. If not `adds`, the sums begin with it."""
        count = self.registers
        sums = ", ".join(f"${i}" for i in range(count))
        dtype = self.contract.left.buffer.dtype
        kind, depth = ("tf32", 8) if dtype is f32 else ("bf16" if dtype is bf16 else "f16", 16)
        majors = "" if kind == "tf32" else ", 0, 0"
        text = (
            f"wgmma.mma_async.sync.aligned.m64n{self.contract.tile.columns}k{depth}"
            f".f32.{kind}.{kind} {{{sums}}}, ${2 * count}, ${2 * count + 1}, p, 1, 1{majors};"
        )
        text = f"{{ .reg .pred p; setp.ne.b32 p, {int(adds)}, 0; {text} }}"
        results = ["=f"] * count + [str(i) for i in range(count)] + ["l", "l"]
        operands = [self.state.locals[name].typed for name in self._names(m)]
        self._assembly(text, results, [*operands, a.typed, b.typed], m)

    def _assembly(self, text: str, constraints: list[str], operands: list[str], m: int) -> None:
        w, names = self.state.writer, self._names(m)
        type_ = "{" + ", ".join(["float"] * len(names)) + "}"
        result = w.here(
            f'call {type_} asm sideeffect "{text}", "{",".join(constraints)}"'
            f"({', '.join(operands)}) convergent",
            boolean,
        )
        for i, name in enumerate(names):
            self.state.locals[name] = w.here(f"extractvalue {type_} {result.text}, {i}", f32)

    def sum_of(self, name: str) -> Value:
        """The value of a sum, after `finish`."""
        return self.state.locals[name]

    def put(self, m: int, column: int, slab: Slab, slab_at: Word, lane: Word) -> None:
        """Writes a warp's 16 rows of some columns to its slab."""
        w, words, names = self.state.writer, self.words, self._names(m)
        at = words.add(slab_at, words.mul(words.div(lane, 4), slab.pitch * slab.bytes))
        at = words.add(at, words.mul(words.rem(lane, 4), 2 * slab.bytes))
        for j in range(slab.columns // 8):
            for half in range(2):
                first = (column // 8 + j) * 4 + 2 * half
                pair = [self.sum_of(names[first + i]) for i in range(2)]
                displacement = (8 * half * slab.pitch + j * 8) * slab.bytes
                shared_memory.store(w, at, vector_of(w, pair), displacement)
