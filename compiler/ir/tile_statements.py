"""The statements of the loop language on the eight tiles of a matrix unit, each of up to 16 rows of
64 bytes."""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.types import DType, bf16, f32, i32


@dataclass(frozen=True, eq=False)
class TileSetup:
    """Says how many rows (1 to 16) each of the matrix unit's eight tiles has; clears them all.

    Once in a kernel, in front of all other statements on tiles. A row is 64 bytes.
    """

    rows: tuple[Size, ...]


@dataclass(frozen=True, eq=False)
class TileZero:
    """Sets a tile to 0."""

    tile: int


@dataclass(frozen=True, eq=False)
class TileLoad:
    """Row r of the tile = 64 bytes of the buffer, from element `offset + r * stride` on."""

    tile: int
    buffer: Buffer
    offset: Size
    stride: Size


@dataclass(frozen=True, eq=False)
class TileStore:
    """64 bytes of the buffer, from element `offset + r * stride` on = row r of the tile."""

    tile: int
    buffer: Buffer
    offset: Size
    stride: Size


@dataclass(frozen=True, eq=False)
class TileMac:
    """sum[r, c] += sum over k of a[r, k] * b[k // g, c * g + k % g], g elements to four bytes.

    `left` and `right` are the element types of the tiles a and b: both bf16 (then sums are f32), or
    i8 or u8 each (i32, which wraps). a and sum have the same rows, b has 16, and no tile is named
    twice. In what order products of bf16 are added and rounded is the machine's business; it takes
    denormals for 0 and makes none.
    """

    sum: int
    a: int
    b: int
    left: DType
    right: DType

    @property
    def dtype(self) -> DType:
        """The type of the sums."""
        return f32 if self.left is bf16 else i32
