"""What a level of products (multiply-adds, mma) gives the loop over a contraction's depth."""

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
    """Who a thread is: its number in the block, its lane, and where its warp's part of the tile
    begins."""

    thread: Value
    lane: Word
    warp_row: Word
    warp_column: Word


@dataclass(frozen=True)
class Pass:
    """A part of a warp's sums on their way to memory: the slab's row r is row
    `row + r * row_step` of the warp's part."""

    row: int
    row_step: int


class Products(Protocol):
    """Multiplies tiles in shared memory into sums, which are locals of the kernel's state."""

    def layouts(self) -> tuple[Layout, Layout]:
        """Where the left and the right tile's elements are wanted."""

    def names(self) -> tuple[str, ...]:
        """The locals that hold the sums."""

    def clear(self) -> None:
        """Sets the sums to 0."""

    def multiply(self, left: Word, right: Word) -> None:
        """Adds the products of the tiles at these offsets in shared memory."""

    def slab(self) -> Slab:
        """What a pass writes."""

    def passes(self) -> tuple[Pass, ...]:
        """All the ways to memory."""

    def put(self, number: int, slab_at: Word) -> None:
        """Writes the sums of a pass to the warp's slab."""


@dataclass(frozen=True)
class Part(Emitter):
    """What all levels need: the state, the statement, the thread, and how the operands lie."""

    contract: Contract
    threads: Threads
    left: Direction
    right: Direction
