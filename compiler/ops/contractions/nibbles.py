"""How weights of four or eight bits lie in memory for products, and how they become floats.

Columns lie in panels of 32. Of four bits, byte j of a panel's row holds column j in its low half
and column 16 + j in its high half, so that a vector of bytes is two vectors of columns. Weights are
units above the middle (8 or 128), in blocks along the depth; a block of a column has a scale, and
maybe a shift:

    weight = (unit - middle + shift) * scale
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bessemer.compiler.ir import loops
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import (
    Buffer,
    Expression,
    binary,
    bits,
    constant,
    convert,
    less,
    load,
)
from bessemer.compiler.ir.types import Array, f32, u32

HALF = 16
PANEL = 2 * HALF
"""Columns of a panel."""
TOGETHER = 4
"""The number of panels is a multiple of this: that many have their sums side by side."""
AHEAD = 8 << 10
"""How many bytes before they are multiplied with a single row weights are prefetched: two pages, as
the processor prefetches by itself only to the end of a page."""
LINE = 64
"""Bytes of a cache line."""
_EXPONENT = 0x4B000000
"""The bits of 2^23 as a float: with a small unit added, they are those of 2^23 + unit."""


def pack_units(units: Array, width: int) -> Array:
    """u8 [columns, depth], each below 2 ** width -> [panels, depth, 16 or 32], the middle (which
    stands for 0) in the columns that fill the last panels."""
    columns, depth = units.shape
    panels = -(-columns // (PANEL * TOGETHER)) * TOGETHER
    padded = np.full((panels * PANEL, depth), 1 << (width - 1), np.uint8)
    padded[:columns] = units
    split = padded.reshape(panels, PANEL, depth).transpose(0, 2, 1)
    if width == 8:
        return np.ascontiguousarray(split)
    return np.ascontiguousarray(split[..., :HALF] | (split[..., HALF:] << 4))


def unpack_units(packed: Array, columns: int, width: int) -> Array:
    """The inverse of `pack_units`."""
    if width == 4:
        packed = np.concatenate((packed & 15, packed >> 4), axis=-1)
    return packed.transpose(0, 2, 1).reshape(-1, packed.shape[1])[:columns]


def pack_blocks(values: Array) -> Array:
    """[columns, blocks] -> [panels, blocks, 32]: scales or shifts, 0 in the columns that fill."""
    columns, blocks = values.shape
    panels = -(-columns // (PANEL * TOGETHER)) * TOGETHER
    padded = np.zeros((panels * PANEL, blocks), values.dtype)
    padded[:columns] = values
    return np.ascontiguousarray(padded.reshape(panels, PANEL, blocks).transpose(0, 2, 1))


def unpack_blocks(packed: Array, columns: int) -> Array:
    """The inverse of `pack_blocks`."""
    return packed.transpose(0, 2, 1).reshape(-1, packed.shape[1])[:columns]


def column_store(
    out: Buffer, at: tuple[Size, Size], value: Expression, *, add: bool
) -> loops.Store:
    """Stores a sum in a row and column of the output, or adds it to what is there.

    The columns that fill the last panels are not in the output.
    """
    columns = out.shape[1]
    assert isinstance(columns, int)
    fits = columns % (PANEL * TOGETHER) == 0
    guard = None if fits else less(at[1], columns)
    if add:
        value = load(out, at, guard) + value
    return loops.Store(out, at, value, guard)


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of a product, with a scale and maybe a shift for each block of the depth."""

    packed: Buffer
    scales: Buffer
    shifts: Buffer | None
    block: int

    @property
    def panels(self) -> int:
        """A multiple of TOGETHER."""
        panels = self.packed.shape[0]
        assert isinstance(panels, int)
        return panels

    @property
    def depth(self) -> int:
        """How many weights a column has."""
        depth = self.packed.shape[1]
        assert isinstance(depth, int)
        return depth

    def decoded(self, panel: Size, k: Size, j: Size) -> tuple[Expression, ...]:
        """Columns j and 16 + j of a panel at a place of the depth, as f32."""
        weights = []
        for half, unit in enumerate(units_at(self.packed, panel, k, j)):
            at = (panel, k // self.block, half * HALF + j)
            moved = unit if self.shifts is None else unit + convert(self.shifts[at], f32)
            weights.append(moved * convert(self.scales[at], f32))
        return tuple(weights)


def units_at(
    packed: Buffer, panel: Size, depth: Size, j: Size, in_row: bool = False
) -> tuple[Expression, Expression]:
    """Columns j and 16 + j of a panel's row as f32, without the middle. With a single row, decoding
    takes most of the time, and four bits are written as a difference that a machine may look up
    (codegen/kernels/nibble_tables.py); with more rows, lookups would wait for multiplications."""
    if packed.shape[-1] == PANEL:
        words = [convert(packed[panel, depth, at], u32) for at in (j, j + HALF)]
        return _unit(words[0], 128), _unit(words[1], 128)
    word = convert(packed[panel, depth, j], u32)
    low, high = word & 15, binary("shr", word, 4)
    if in_row:
        return convert(low, f32) - 8.0, convert(high, f32) - 8.0
    return _unit(low, 8), _unit(high, 8)


def _unit(word: Expression, middle: int) -> Expression:
    return bits(word | _EXPONENT, f32) - constant(float((1 << 23) + middle), f32)
