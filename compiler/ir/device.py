"""How a kernel of the loop language lies on a GPU's threads."""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.program import Launch

WARP = 32
"""Threads that run in step and can read each other's registers."""


@dataclass(frozen=True)
class ThreadMapping:
    """Blocks of `threads` threads, of which each `group` works on one iteration of the parallel
    loop: 1 (every thread has its own), a warp, or the whole block. Both are powers of two, but for
    groups that are whole blocks. `blocks` is the most that a grid has, 0 where there is one for
    every iteration: blocks of a smaller grid go on to further iterations themselves.

    The threads of a group share the iterations of vector loops; everything else they all compute
    alike, and one of them stores it.
    """

    threads: int = 128
    group: int = 1
    blocks: int = 0

    @property
    def iterations(self) -> int:
        """Iterations of the parallel loop that a block works on."""
        return self.threads // self.group


@dataclass(frozen=True, eq=False)
class DeviceLaunch(Launch):
    """A launch on a GPU."""

    mapping: ThreadMapping = ThreadMapping()

    @property
    def grid(self) -> Size:
        """The number of blocks, in terms of the program's symbols; 0 where there is no work."""
        return grid_of(self.kernel, self.mapping, self.sizes)


def grid_of(kernel: Kernel, mapping: ThreadMapping, sizes: tuple[Size, ...]) -> Size:
    """The number of blocks of a kernel whose symbols have these sizes."""
    values = dict(zip(kernel.symbols, sizes, strict=True))
    blocks = dims.ceildiv(dims.rename(kernel.parallel_extent, values), mapping.iterations)
    return dims.minimum(blocks, mapping.blocks) if mapping.blocks else blocks
