"""The taps of a window that some row of a tile sees inside of the image: the others see zeros.

outputs 0..11 of a row of an image padded by 2, tap t at i - 2 + t:    taps 0..4
the same of the image's first row, of taps down it:                    taps 2..4
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size


@dataclass(frozen=True)
class Image:
    """An axis of an image as its windows see it: tap t of the output at index i of row axis `row`
    is at i * stride + t * dilation - low, and there are zeros unless that is in 0..size."""

    row: int
    stride: int
    dilation: int
    low: Size
    size: Size


def valid_taps(
    image: Image | None, taps: Size, rows: Sequence[tuple[Size, ...]]
) -> tuple[Size, Size]:
    """The taps that are multiplied for a tile of rows with these indices, as (first, count): all
    `taps` if there is no image."""
    if image is None:
        return 0, taps
    start = rows[0][image.row]
    steps = [row[image.row] - start for row in rows]
    known = [step for step in steps if isinstance(step, int)]
    if len(known) < len(steps):
        return 0, taps
    first, last = (image.low - (start + step) * image.stride for step in (min(known), max(known)))
    before = dims.ceildiv(dims.maximum(0, last), image.dilation)
    behind = dims.ceildiv(dims.maximum(0, image.size + first), image.dilation)
    return before, dims.maximum(0, dims.minimum(taps, behind) - before)
