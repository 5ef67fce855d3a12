"""The interface between the loop over a contraction's depth and the products of a level (simt,
mma)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bessemer.compiler.codegen.ptx.emitter import Emitter
from bessemer.compiler.codegen.ptx.shared_memory import Layout
from bessemer.compiler.codegen.ptx.tiles.tile_copies import Direction
from bessemer.compiler.codegen.ptx.tiles.tile_epilogue import Slab
from bessemer.compiler.codegen.ptx.words import Word
from bessemer.compiler.codegen.values import Value
from bessemer.compiler.ir.loops import Contract


@dataclass(frozen=True)
class Threads:
    """The numbers of a thread: in its block, in its warp (`lane`), and where its warp's part of the
    tile begins."""

    thread: Value
    lane: Word
    warp_row: Word
    warp_column: Word


@dataclass(frozen=True)
class Pass:
    """A part of a warp's sums that is stored through the slab at once: row r of the slab is row
    `row + r * row_step` of the warp's part of the tile."""

    row: int
    row_step: int


class Products(Protocol):
    """Multiplies tiles in shared memory. The sums are locals of the kernel's state."""

    def layouts(self) -> tuple[Layout, Layout]:
        """The layouts that the left and the right tile must have."""

    def names(self) -> tuple[str, ...]:
        """The locals that hold the sums."""

    def clear(self) -> None:
        """Sets the sums to 0."""

    def multiply(self, left: Word, right: Word) -> None:
        """Adds the products of the tiles at these offsets in shared memory."""

    def slab(self) -> Slab:
        """The slab that a pass fills."""

    def passes(self) -> tuple[Pass, ...]:
        """All passes, which together store all sums."""

    def put(self, number: int, slab_at: Word) -> None:
        """Writes the sums of pass `number` to the warp's slab."""


@dataclass(frozen=True)
class Part(Emitter):
    """What the products of every level need: the state, the statement, the thread, and in which
    direction the operands are contiguous."""

    contract: Contract
    threads: Threads
    left: Direction
    right: Direction
