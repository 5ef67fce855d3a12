"""Accesses to a block's dynamic shared memory, and layouts of tiles in it.

The memory is one array whose size is given at the launch. Offsets are in bytes from its start.
"""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.codegen.ptx.words import Word, Words
from bessemer.compiler.codegen.values import Value, type_text
from bessemer.compiler.codegen.writer import Writer
from bessemer.compiler.ir.types import DType, boolean

SHARED = "shared"
CHUNK = 16
"""Bytes of the largest access, and of one row that ldmatrix loads."""


def place(w: Writer, offset: Word, displacement: int = 0) -> str:
    """The typed address at an offset. The displacement in bytes becomes part of the instruction."""
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
    """Loads neighbouring elements. `align` is in bytes; 0 means that all of them are aligned as
    one, to at most 16."""
    alignment = align or min(CHUNK, kind.bytes * lanes)
    at = place(w, offset, displacement)
    return w.here(f"load {type_text(kind, lanes)}, {at}, align {alignment}", kind, lanes)


def store(w: Writer, offset: Word, value: Value, displacement: int = 0) -> None:
    """Stores neighbouring elements, which are aligned as one, to at most 16 bytes."""
    alignment = min(CHUNK, value.kind.bytes * value.lanes)
    w.line(f"store {value.typed}, {place(w, offset, displacement)}, align {alignment}")


def block_barrier(w: Writer) -> None:
    """Waits for all threads of the block. What each has written before is visible after it."""
    w.declarations.add("declare void @llvm.nvvm.barrier.cta.sync.aligned.all(i32)")
    w.line("call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)")


def warp_barrier(w: Writer) -> None:
    """Waits for all threads of the warp. What each has written before is visible after it."""
    w.declarations.add("declare void @llvm.nvvm.bar.warp.sync(i32)")
    w.line("call void @llvm.nvvm.bar.warp.sync(i32 -1)")


@dataclass(frozen=True)
class Layout:
    """The layout of a tile: `lines` of `length` elements of `bytes` bytes.

    The 16-byte chunks of a swizzled line are permuted, so that the same chunk of neighbouring lines
    lies in different banks. With `by_words`, this holds for accesses of single words of four lines,
    with `by_pairs` for every other line of eight. A line that is not swizzled is followed by
    `padding` bytes.
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
