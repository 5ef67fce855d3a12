"""The base class of everything that writes a part of a tiled kernel."""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.codegen.kernels.expressions import indices
from bessemer.compiler.codegen.kernels.state import KernelState
from bessemer.compiler.codegen.ptx.words import Word, Words
from bessemer.compiler.codegen.writer import Writer
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.operands import Axis


@dataclass(frozen=True)
class Emitter:
    """A part of the kernel whose state is given."""

    state: KernelState

    @property
    def writer(self) -> Writer:
        return self.state.writer

    @property
    def words(self) -> Words:
        """Arithmetic in 32 bits."""
        return Words(self.writer)

    def size(self, size: Size) -> Word:
        """The value of a size, in 64 bits."""
        return size_word(self.state, size)

    def unravel(self, index: Word, axes: tuple[Axis, ...]) -> list[Word]:
        """The index along each axis of the element with this row-major number."""
        words, found = self.words, list[Word]()
        for axis in reversed(axes[1:]):
            extent = words.resized(self.size(axis.extent))
            found.insert(0, words.rem(index, extent))
            index = words.div(index, extent)
        return [index, *found] if axes else []


def size_word(state: KernelState, size: Size) -> Word:
    """The value of a size, in 64 bits."""
    return size if isinstance(size, int) else indices(state).scalar(size)
