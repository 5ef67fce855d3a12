"""Describes the operands of a `Contract` statement: two buffers seen as matrices, whose rows,
columns and depth may each be several axes.

An element of an operand is named by batch indices, an outer index (a row of the left operand, a
column of the right one) and a depth index. Outer and depth index count through axes, the last one
fastest, and every axis has its own stride in the buffer: so a convolution's window is a row of a
matrix that is nowhere in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer

Level = Literal["simt", "mma", "wgmma"]
LEVELS: tuple[Level, ...] = get_args(Level)
Products = Literal["exact", "tf32", "bf16x3"]
PRODUCTS: tuple[Products, ...] = get_args(Products)


@dataclass(frozen=True)
class Axis:
    """`extent` elements, `stride` elements apart."""

    extent: Size
    stride: Size


@dataclass(frozen=True)
class Window:
    """The border of an input along one of its axes.

    Outer axis number `outer` and depth axis number `depth` together walk along it: the position is
    `index[outer] * step + index[depth] * dilation - low`. Where that is not in 0 .. extent-1, the
    operand is 0 and nothing is read.
    """

    outer: int
    depth: int
    step: int
    dilation: int
    low: int
    extent: Size


@dataclass(frozen=True)
class Operand:
    """A buffer as matrices: element (batch, outer, depth) lies at

        base + sum of every index along an axis * that axis's stride

    elements from the buffer's start, and is 0 outside of the windows. `batch` has an axis for each
    of the statement's batch indices. Where `parts` is not 0, an element is the sum of three bf16
    numbers that lie so far apart, the largest one there: it stands for a float32 number.
    """

    buffer: Buffer
    base: Size
    outer: tuple[Axis, ...]
    depth: tuple[Axis, ...]
    batch: tuple[Axis, ...] = ()
    windows: tuple[Window, ...] = ()
    parts: Size = 0

    @property
    def outer_extent(self) -> Size:
        """The rows of a left operand, the columns of a right one."""
        return dims.product(axis.extent for axis in self.outer)

    @property
    def depth_extent(self) -> Size:
        """The number of products in a sum."""
        return dims.product(axis.extent for axis in self.depth)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """All index arithmetic in it."""
        axes = (*self.outer, *self.depth, *self.batch)
        inside = (size for axis in axes for size in (axis.extent, axis.stride))
        return (self.base, self.parts, *inside, *(window.extent for window in self.windows))


@dataclass(frozen=True)
class Tile:
    """How a block of a GPU's threads computes its tile; no part of a statement's meaning but
    `rows` and `columns`.

    `level` says by what instructions: fused multiply-adds of single threads, mma.sync of warps, or
    wgmma of warpgroups, which another warp feeds. `depth` elements of the sums are in shared memory
    at a time, `stages` times. `warps` divide the tile: so many along its rows, so many along its
    columns (for wgmma warpgroups, along the rows).
    """

    level: Level
    rows: int
    columns: int
    depth: int
    stages: int = 1
    warps: tuple[int, int] = (1, 1)


def unravel(index: int, extents: Sequence[int]) -> list[int]:
    """The indices along axes, the last one fastest."""
    found: list[int] = []
    for extent in reversed(extents[1:]):
        found.insert(0, index % extent)
        index //= extent
    return [index, *found] if extents else []
