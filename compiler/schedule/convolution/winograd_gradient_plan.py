"""Finds the contractions that are gradients of 3x3 weights, and cuts their work into items.

lowering/winograd_gradient.py writes their kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.types import f32
from bessemer.compiler.schedule.contraction.contraction import Contraction, DepthAxis, RowAxis
from bessemer.compiler.schedule.contraction.tiles import panel_vectors
from bessemer.compiler.targets.machine import Target

POINTS = 16
"""Products of a tile."""
CHANNELS, COLUMNS = 64, 64
"""The size of an item: its 16 matrices of sums take a quarter of a second-level cache."""
BLOCK = 50
"""Tiles that are transformed at once. Each of the two transforms takes as much memory as the
sums."""
SHARES, FEWEST_ITEMS = 16, 8
"""The most shares that threads divide among them, each with memory of its own; and the fewest
items."""
_FEWEST = 32
"""The transforms pay from this many channels, columns and tiles on."""


@dataclass(frozen=True)
class Images:
    """The images of a weight gradient: x [count, rows + 2, width + 2, channels], with these strides
    along the first three axes, and dy [count, rows, width, columns].

    The sums go over the pixels image by image or, if `is_image_last`, over all images of each
    pixel.
    """

    count: int
    rows: int
    width: int
    channels: int
    columns: int
    strides: tuple[int, int, int]
    is_image_last: bool = False

    def step(self, image: Size, row: Size, place: Size) -> Size:
        """The step of the sums at a pixel of an image."""
        if self.is_image_last:
            return (row * self.width + place) * self.count + image
        return (image * self.rows + row) * self.width + place

    @property
    def down(self) -> int:
        """Tiles from the top of an image to its bottom."""
        return ceil(self.rows / 2)

    @property
    def across(self) -> int:
        """Tiles from left to right."""
        return ceil(self.width / 2)

    @property
    def tiles(self) -> int:
        """Tiles of all images."""
        return self.count * self.down * self.across


def images_of(work: Contraction) -> Images | None:
    """The images, if the contraction sums over images and its rows are 3 x 3 taps of each channel;
    else None."""
    if work.dtype is not f32 or work.a.dtype is not f32:
        return None
    axes: list[RowAxis | DepthAxis] = [*work.rows, *work.depth]
    pairs = [(axis.extent, axis.a_stride) for axis in axes]
    known = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
    is_plain = len(known) == 6 and all(axis.b_stride == 0 for axis in work.rows)
    if not is_plain or not isinstance(work.columns, int):
        return None
    (rows, down), (columns, across), (channels, step), *sums = known
    if (rows, columns, step) != (3, 3, 1):
        return None
    for is_last, order in ((False, sums), (True, [sums[2], *sums[:2]])):
        (count, image), (height, below), (width, beside) = order
        if (below, beside) == (down, across) and min(height, width) > 1:
            strides = (image, below, beside)
            return Images(count, height, width, channels, work.columns, strides, is_last)
    return None


@dataclass(frozen=True)
class Items:
    """How the work is cut into items. An item computes `channels` channels (whole vectors) and
    `panels` panels of columns, for one part of the images' tiles.

    A part has `part` tiles, of which `block` are transformed at a time. The channels are cut into
    `channel_items`, the columns into `column_items`, and the tiles into `parts`.
    """

    channels: int
    panel: int
    panels: int
    part: int
    block: int
    channel_items: int
    column_items: int
    parts: int

    @property
    def blocks(self) -> int:
        """The number of blocks in an item."""
        return ceil(self.part / self.block)

    @property
    def count(self) -> int:
        """The number of items."""
        return self.channel_items * self.column_items * self.parts

    @property
    def per_share(self) -> int:
        """The number of items in a share."""
        return ceil(self.count / SHARES)

    @property
    def shares(self) -> int:
        """The number of iterations of the parallel loop."""
        return ceil(self.count / self.per_share)

    @property
    def operations(self) -> int:
        """Scalar operations of a share."""
        sums = 16 * self.channels * self.panels * self.panel
        return 2 * self.per_share * sums * self.blocks * self.block


def plan_items(images: Images, target: Target) -> Items | None:
    """The items; None where the transforms take as much time as the products save."""
    if min(images.channels, images.columns, images.tiles) < _FEWEST:
        return None
    lanes = target.lanes(f32)
    vectors = panel_vectors(images.columns, lanes, target.vector_registers)
    channel_items, column_items = ceil(images.channels / CHANNELS), ceil(images.columns / COLUMNS)
    channels = ceil(ceil(images.channels / channel_items) / lanes) * lanes
    panel = vectors * lanes
    panels = ceil(images.columns / panel)
    panels = ceil(panels / column_items)
    parts = min(ceil(FEWEST_ITEMS / (channel_items * column_items)), ceil(images.tiles / BLOCK))
    part = ceil(images.tiles / parts)
    return Items(
        channels=channels,
        panel=panel,
        panels=panels,
        part=part,
        block=_block(part),
        channel_items=ceil(images.channels / channels),
        column_items=ceil(images.columns / (panels * panel)),
        parts=parts,
    )


def _block(part: int) -> int:
    """The number of tiles in a block: a divisor of `part`, if there is a large enough one."""
    for block in range(min(BLOCK, part), BLOCK * 5 // 8, -1):
        if part % block == 0:
            return block
    return ceil(part / ceil(part / BLOCK))
