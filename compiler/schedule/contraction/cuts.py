"""Cuts an axis into tiles, and divides work into parts whose sizes differ by one at most."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size


@dataclass(frozen=True)
class Cut:
    """How one axis is cut into tiles, in steps of the axis.

    A static extent is cut evenly: `tall` tiles of `height` steps, the others one step less.
    A dynamic one is cut into tiles of `height`, and a last one that is smaller.
    """

    count: Size
    height: int
    tall: Size
    rest: Size = 0


def cut_evenly(extent: Size, height: int) -> Cut:
    """Cuts an axis into tiles of at most `height` steps."""
    if isinstance(extent, int):
        count = max(1, ceil(extent / height))
        tallest = ceil(extent / count)
        return Cut(count, tallest, extent - count * (tallest - 1))
    full = dims.floordiv(extent, height)
    return Cut(dims.ceildiv(extent, height), height, full, dims.mod(extent, height))


def dealt(count: Size, parts: Size, place: Size) -> tuple[Size, Size]:
    """The first of `count` things in the part at a place, and how many it has: as many as any other
    part, or one more."""
    first = dims.floordiv(count * place, parts)
    return first, dims.floordiv(count * (place + 1), parts) - first
