"""How a contraction's left operand lies in memory: float32 numbers as three bfloat16 parts, others
as the one part that they are.

If all channels of a pixel (the columns of a row) are multiplied, they lie in blocks of 32 channels
(64 of bytes):

    parts[channel // 32, part, pixel, channel % 32]        0 beyond the last channel

A step of the depth then reads one cache line of each row, and the rows of a tile follow each other,
whatever the number of channels is. Otherwise they are in the order of the operand itself:

    parts[part, element]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, less
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.guard import guarded
from bessemer.compiler.ir.loops import Block
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import Array
from bessemer.compiler.schedule.contraction.contraction import Contraction, DepthAxis
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_packing import TileForm, split_parts

# Elements that one step of the parallel loop splits.
_CHUNK = 4096
_OPERATIONS = 12


@dataclass(frozen=True, eq=False)
class PartsLayout:
    """The layout of the parts of `elements` numbers, for tiles of this `form`. With `channels`, the
    number of channels of each pixel, it is by blocks of channels; 0 stands for the other layout."""

    elements: Size
    form: TileForm
    channels: int = 0

    @property
    def block(self) -> int:
        """Channels of a block."""
        return self.form.depth

    @property
    def is_whole(self) -> bool:
        """Whether the blocks are full, so that the layout adds no zeros."""
        return self.channels % self.block == 0

    @property
    def pixels(self) -> Size:
        return dims.floordiv(self.elements, self.channels)

    @property
    def places(self) -> Size:
        """The places for pixels in a block: an odd number if possible, so that the lines that a
        pixel has do not all lie in the same sets of a cache. (Zen 5, splitting 128 pixels of 384
        and of 768 channels: 21 -> 8 and 46 -> 14 us.)"""
        return self.pixels | 1 if isinstance(self.pixels, int) else self.pixels

    @property
    def blocks(self) -> int:
        """Blocks of channels."""
        return -(-self.channels // self.block)

    @property
    def shape(self) -> tuple[Size, ...]:
        """The shape of all parts together."""
        if not self.channels:
            return (self.form.parts, self.elements)
        return (self.blocks, self.form.parts, self.places, self.block)

    @property
    def part_stride(self) -> Size:
        """The number of elements from one part to the next."""
        return self.places * self.block if self.channels else self.elements

    def offset(self, element: Size) -> Size:
        """The offset of the first part of the number that was at offset `element`. The channels
        must be whole blocks."""
        if not self.channels:
            return element
        block = dims.floordiv(element, self.block)
        within, pixel = dims.mod(block, self.blocks), dims.floordiv(block, self.blocks)
        return (within * self.form.parts * self.places + pixel - block) * self.block + element

    def contraction(self, draft: Contraction) -> Contraction:
        """The draft, changed to read the first part of each number in place of the number."""
        if not self.channels:
            return draft
        rows = tuple(replace(axis, a_stride=self._blocked(axis.a_stride)) for axis in draft.rows)
        *outer, _ = draft.depth
        depth = (
            *(replace(axis, a_stride=self._blocked(axis.a_stride)) for axis in outer),
            DepthAxis(self.blocks, self.part_stride * self.form.parts),
            DepthAxis(self.block, 1),
        )
        return replace(draft, rows=rows, depth=depth)

    def _blocked(self, distance: Size) -> Size:
        return dims.floordiv(distance, self.channels) * self.block

    def base(self, base: Size) -> Size:
        """The same for the offset of a pixel's first channel, where channels need not be whole
        blocks."""
        return self._blocked(base) if self.channels else base

    def arrange(self, b: Array) -> Array:
        """A constant right operand [..., depth, columns], with zeros for the channels that the
        blocks add."""
        if not self.channels:
            return b
        *matrices, depth, columns = b.shape
        taps = b.reshape(*matrices, depth // self.channels, self.channels, columns)
        more = self.blocks * self.block - self.channels
        padded = np.pad(taps, [(0, 0)] * (taps.ndim - 2) + [(0, more), (0, 0)])
        return padded.reshape(*matrices, -1, columns)

    def element(
        self, element: Callable[[Size, Size, Size], Expression]
    ) -> Callable[[Size, Size, Size], Expression]:
        """The same for a right operand that is given by its elements."""
        if self.channels % self.block == 0:
            return element
        all_channels = self.blocks * self.block

        def padded(matrix: Size, k: Size, column: Size) -> Expression:
            tap, channel = dims.floordiv(k, all_channels), dims.mod(k, all_channels)
            value = element(matrix, tap * self.channels + channel, column)
            return guarded(less(channel, self.channels), value, 0)

        return padded

    def split_body(self, source: Buffer, parts: Buffer, lanes: int) -> tuple[Block, Size]:
        """The body of a kernel that splits the float32 numbers of a flat buffer, and the operations
        of an item."""
        builder = KernelBuilder()
        if not self.channels:
            with builder.loop(dims.ceildiv(self.elements, _CHUNK), "parallel") as chunk:
                first = chunk * _CHUNK
                count = dims.minimum(_CHUNK, self.elements - first)
                with builder.loop(count, "vector", lanes) as i:
                    for number, part in enumerate(split_parts(source[first + i])):
                        builder.store(parts, (number, first + i), part)
            return builder.block(), _OPERATIONS * _CHUNK
        run = max(1, _CHUNK // (self.blocks * self.block))
        with builder.loop(dims.ceildiv(self.pixels, run), "parallel") as chunk:
            first = chunk * run
            with builder.loop(dims.minimum(run, self.pixels - first)) as i:
                pixel = first + i
                with builder.loop(self.channels // self.block) as block:
                    self._split_block(builder, source, parts, (pixel, block, self.block), lanes)
                if rest := self.channels % self.block:
                    self._split_block(builder, source, parts, (pixel, self.blocks - 1, rest), lanes)
        return builder.block(), _OPERATIONS * run * self.blocks * self.block

    def _split_block(
        self,
        builder: KernelBuilder,
        source: Buffer,
        parts: Buffer,
        place: tuple[Size, Size, int],
        lanes: int,
    ) -> None:
        """Splits one block of channels of a pixel. `place` is (pixel, block, number of channels
        that exist)."""
        pixel, block, limit = place
        with builder.loop(self.block, "vector", lanes, self.block // lanes) as i:
            value = source[pixel * self.channels + block * self.block + i]
            value = guarded(less(i, limit), value, 0)
            for number, part in enumerate(split_parts(value)):
                builder.store(parts, (block, number, pixel, i), part)


@dataclass(frozen=True, eq=False)
class Split:
    """A launch that does nothing but split a value into parts."""

    launch: Launch
    value: Value
    parts: Value
    layout: PartsLayout


@dataclass(frozen=True, eq=False)
class BlockReader:
    """What a launch is that reads a value of one part in the order of its elements: `reading` makes
    the launch that does the same with the value in this layout by blocks."""

    value: Value
    layout: PartsLayout
    reading: Callable[[Value], Launch]


def parts_layout(
    draft: Contraction, shape: tuple[Size, ...], base: Size, form: TileForm
) -> PartsLayout:
    """The layout of the parts of a left operand of this shape, whose first row begins at offset
    `base`."""
    elements = dims.product(shape)
    plain = PartsLayout(elements, form)
    channels = shape[-1] if shape else 1
    if not isinstance(channels, int) or channels < 1 or not draft.depth:
        return plain
    *outer, inner = draft.depth
    if inner.a_stride != 1 or inner.extent != channels:
        return plain
    distances = [axis.a_stride for axis in draft.rows] + [axis.a_stride for axis in outer]
    if any(dims.mod(distance, channels) != 0 for distance in (*distances, base)):
        return plain
    return PartsLayout(elements, form, channels)
