"""A block's shared memory: addresses in it, tiles laid out in it, and what orders accesses.

All of it is one array whose size the launch gives. Offsets are in bytes from its start.
"""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.codegen.ptx.words import Word, Words
from bessemer.compiler.codegen.values import Value, type_text
from bessemer.compiler.codegen.writer import Writer
from bessemer.compiler.ir.types import DType, boolean

SHARED = "shared"
CHUNK = 16
"""Bytes that one access moves at most, and that one matrix row of ldmatrix has."""


def place(w: Writer, offset: Word, displacement: int = 0) -> str:
    """The typed address at an offset; the displacement goes into the instruction."""
    words = Words(w)
    base = f"@{SHARED}"
    level = 0
    if not isinstance(offset, int):
        level = offset.level
        found = w.compute(
            f"getelementptr i8, ptr addrspace(3) @{SHARED}, {offset.typed}", boolean, 1, level
        )
        base = found.text
    elif offset:
        displacement += offset
    if displacement:
        text = f"getelementptr i8, ptr addrspace(3) {base}, {words.value(displacement).typed}"
        base = w.compute(text, boolean, 1, max(level, w.depth)).text
    return f"ptr addrspace(3) {base}"


def load(
    w: Writer, offset: Word, kind: DType, lanes: int = 1, displacement: int = 0, align: int = 0
) -> Value:
    """Neighbouring elements, aligned to all of them (to 16 bytes at most) if not said otherwise."""
    alignment = align or min(CHUNK, kind.bytes * lanes)
    at = place(w, offset, displacement)
    return w.here(f"load {type_text(kind, lanes)}, {at}, align {alignment}", kind, lanes)


def store(w: Writer, offset: Word, value: Value, displacement: int = 0) -> None:
    """Stores neighbouring elements, aligned to all of them (to 16 bytes at most)."""
    alignment = min(CHUNK, value.kind.bytes * value.lanes)
    w.line(f"store {value.typed}, {place(w, offset, displacement)}, align {alignment}")


def block_barrier(w: Writer) -> None:
    """All threads of the block have come here, and see what each has written before."""
    w.declarations.add("declare void @llvm.nvvm.barrier.cta.sync.aligned.all(i32)")
    w.line("call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)")


def warp_barrier(w: Writer) -> None:
    """The same for the threads of a warp."""
    w.declarations.add("declare void @llvm.nvvm.bar.warp.sync(i32)")
    w.line("call void @llvm.nvvm.bar.warp.sync(i32 -1)")


@dataclass(frozen=True)
class Layout:
    """Where the elements of a tile lie: `lines` of `length` elements of `bytes` bytes.

    A swizzled line's 16-byte chunks are permuted so that the same chunk of neighbouring lines lies
    in different banks; `by_words` does so for accesses of single words of four lines, `by_pairs` of
    every other one of eight lines. A line that is not swizzled is followed by `padding` bytes.
    """

    lines: int
    length: int
    bytes: int
    swizzled: bool
    padding: int = 0
    by_words: bool = False
    by_pairs: bool = False

    @property
    def pitch(self) -> int:
        """Bytes from line to line."""
        return self.length * self.bytes + self.padding

    @property
    def size(self) -> int:
        """Bytes of the tile."""
        return self.lines * self.pitch

    def chunk(self, words: Words, line: Word, chunk: Word) -> Word:
        """The offset of a 16-byte chunk."""
        if self.swizzled:
            chunk = words.xor(chunk, self._permutation(words, line))
        return words.add(words.mul(line, self.pitch), words.mul(chunk, CHUNK))

    def element(self, words: Words, line: Word, element: Word) -> Word:
        """The offset of an element."""
        per_chunk = CHUNK // self.bytes
        inside = words.mul(words.rem(element, per_chunk), self.bytes)
        return words.add(self.chunk(words, line, words.div(element, per_chunk)), inside)

    def _permutation(self, words: Words, line: Word) -> Word:
        count = self.length * self.bytes // CHUNK
        if self.by_pairs:
            return words.mul(words.rem(words.div(line, 2), 4), 2) if count >= 8 else 0
        if self.by_words:
            return words.mul(words.rem(line, 4), 2) if count >= 8 else 0
        if count >= 8:
            return words.rem(line, 8)
        return words.rem(words.div(line, 8 // count), count)
