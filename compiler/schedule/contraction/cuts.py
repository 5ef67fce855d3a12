"""Cuts an axis into tiles, and divides work into parts whose sizes differ by at most one."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size


@dataclass(frozen=True)
class Cut:
    """How one axis is cut into `count` tiles, whose heights are in steps of the axis.

    If the extent is known, the tiles are about equally high: `tall` tiles have `height` steps, the
    others one step less, and `rest` is 0. If the extent is symbolic, `tall` tiles have `height`
    steps, and one more tile takes the remainder, `rest`, if there is one.
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
    """Deals `count` things evenly to `parts` parts. Returns the number of the first thing in
    part number `place`, and how many things it has; these numbers differ by at most one among
    the parts."""
    first = dims.floordiv(count * place, parts)
    return first, dims.floordiv(count * (place + 1), parts) - first


def panel_of(item: Size, panels: Size, is_narrow: bool) -> Size:
    """The panel of an item. `is_narrow`: the last panel is narrower than the others. It comes first
    of an odd number, of which the first of two threads gets one more."""
    if isinstance(panels, int) and is_narrow and panels % 2:
        item = item + panels - 1
    return dims.mod(item, panels)
