"""Tiles of a product's rows, as high as the machine's registers allow."""

from __future__ import annotations

from collections.abc import Iterator

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size

FEW_REGISTERS_ROWS = 3
"""Rows of a tile where there are 16 vector registers."""


def row_tiles(builder: KernelBuilder, total: Size, most: int) -> Iterator[tuple[Size, int]]:
    """Opens loops over tiles of rows: as many as there are of the highest, then lower ones."""
    heights = sorted({most, *(height for height in (4, 1) if height < most)}, reverse=True)
    before: Size = 0
    for height in heights:
        count = (total - before) // height
        if count != 0:
            with builder.loop(count) as tile:
                yield before + tile * height, height
        before = before + count * height
