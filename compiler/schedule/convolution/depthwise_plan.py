"""Describes a depthwise convolution (one filter, or a few, per channel), and chooses its tiles.

depthwise.py writes the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from typing import TypeAlias

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression
from bessemer.compiler.ir.graph import Node
from bessemer.compiler.ir.types import f32, f64
from bessemer.compiler.schedule.contraction.cuts import cut_evenly
from bessemer.compiler.targets.machine import Target

Epilogue: TypeAlias = Callable[[tuple[Size, Size, Size], Size, Expression], tuple[loops.Store, ...]]

MOST_PRODUCTS = 256
"""The most products in the code of one tile; more only make the code longer."""
MOST_COLUMNS = 16
HELD = 9
"""The most weights that stay in registers."""
NARROW = (2, 4, 8)
"""The numbers of outputs of a group for which groups are computed in vectors of channels: with 16 a
matrix product is as fast."""
LANES = 16
"""Of a vector of the machines that compute groups in this way."""
MOST_INPUTS = 16
"""Inputs of such a group for each of its outputs: a vector of outputs then sees so many vectors of
inputs at most."""
_PICKED, _TURNED, _IN_TILES = 0.9, 0.4, 1 / 1.4
"""Cycles to load a vector of neighbours that seldom begins with a line and to take a group's inputs
out of it, to transpose a number, and to multiply one vector in a register tile one vector wide (all
fitted to 48 convolutions on Zen 5)."""
MOST_IN_A_ROW = 24
"""The most taps whose code is fully unrolled in a tile."""
MOST_SEGMENTS = 4
"""The most segments of a row of taps that are unrolled: as many as a window of 31 has."""
MANY_IN_A_ROW = 192
"""Taps in a row whose weights for all channels are far from a tile (128 channels on Zen 5: 256 taps
take 132 us if the tiles share the weights of a channel, else 158; 128 taps 82 and 83)."""
_LATENCY = 4
"""The latency of a multiply-add in cycles."""
_FAR = 3
"""Cycles of a load from the second-level cache (14x14x576 on Zen 5, which no tile's inputs of all
channels leave room for: 9.5 cycles for an output of 2x7, 12.6 of 4x2)."""


def is_by_channels(node: Node) -> bool:
    """Whether the depthwise kernel computes this convolution: it has one filter, or a few, for each
    channel of the input. That kernel converts narrower operands itself when it loads them."""
    kernel, groups = node.inputs[1].type.shape, node.attributes.get("groups", 1)
    return (
        node.operator.name == "conv"
        and kernel[-2] == 1
        and groups > 1
        and isinstance(kernel[-1], int)
        and len(kernel) in (3, 4, 5)
        and all(isinstance(size, int) for size in kernel[:-2])
        and node.output.type.dtype in (f32, f64)
    )


def has_narrow_groups(node: Node) -> bool:
    """Whether a convolution has groups of few outputs each, and vectors of the outputs of
    neighbouring groups times each of their inputs take fewer cycles than a register tile for every
    group, most lanes of which would be idle."""
    kernel, groups = node.inputs[1].type.shape, node.attributes.get("groups", 1)
    if groups == 1 or not all(isinstance(size, int) for size in kernel):
        return False
    *taps, group, outputs = map(dims.number, kernel)
    filters = outputs // groups
    return (
        node.operator.name == "conv"
        and filters in NARROW
        and 1 < group <= MOST_INPUTS * filters
        and len(taps) in (1, 2, 3)
        and node.output.type.dtype == node.inputs[1].type.dtype == f32
        and _narrow_cycles(node, group, filters) < taps[-1] * LANES / filters * _IN_TILES
    )


def _narrow_cycles(node: Node, group: int, filters: int) -> float:
    """Cycles for a vector of outputs, one of their group's inputs and a row of taps. The more taps
    see an input, the fewer inputs are loaded; all rows of taps share what is transposed."""
    *rows, columns = map(dims.number, node.inputs[1].type.shape[:-2])
    stride: int = node.attributes["strides"][-1]
    vectors = len({lane // filters * group // LANES for lane in range(LANES)})
    turned = LANES / filters / prod(rows) * _TURNED
    return min(columns, stride) * (vectors * _PICKED + turned) + columns / 2


@dataclass(frozen=True)
class Planes:
    """The parameters of a volume's convolution along its planes, each of which counts as an
    image."""

    taps: int
    stride: int
    dilation: int
    low: Size
    inputs: Size
    outputs: Size


@dataclass(frozen=True, eq=False)
class Depthwise:
    """One depthwise convolution.

    `x(n, row, column, channel)` is an element of the input. `weights` is [kernel rows, kernel
    columns, channels]. `outputs` is (images, rows, columns) of the result. `epilogue((n, row,
    column), channel, total)` gives the stores of one element. Windows begin `low` rows and columns
    before the input. `inputs` is the input's number of rows and columns, with None for an axis
    along which no window leaves the input.

    If there are `planes`, the input consists of volumes: `n` counts the planes of all of them, and
    `weights` have one more axis in front, of planes. Each of the input's channels has `filters`
    outputs. If `group` is more than 1, each `filters` outputs see as many channels of the input,
    the members of their group: `weights` is [kernel rows, kernel columns, group, channels].
    """

    x: Callable[[Size, Size, Size, Size], Expression]
    weights: Buffer
    strides: tuple[int, int]
    dilations: tuple[int, int]
    outputs: tuple[Size, Size, Size]
    channels: Size
    epilogue: Epilogue
    low: tuple[Size, Size] = (0, 0)
    inputs: tuple[Size | None, Size | None] = (None, None)
    planes: Planes | None = None
    group: int = 1
    filters: int = 1

    @property
    def kernel(self) -> tuple[int, int]:
        """The taps along rows and columns, which are always known."""
        *_, rows, columns, _ = self.weights.shape[: None if self.group == 1 else -1]
        assert isinstance(rows, int) and isinstance(columns, int)
        return rows, columns

    @property
    def holds_weights(self) -> bool:
        """Whether registers keep all weights of a tile, rather than only those of one row of
        inputs."""
        return self.kernel[0] * self.kernel[1] <= HELD

    @property
    def loops_over_taps(self) -> bool:
        """Whether a tile is one row of outputs, with a loop over its rows of taps. Straight code
        for all taps would be long, with few sums that wait for each other."""
        is_long = self.kernel[0] * self.kernel[1] > MOST_IN_A_ROW
        return is_long or self.planes is not None or self.group > 1

    def segments(self) -> tuple[int, int]:
        """The number of segments into which a row of taps is cut, and the most taps in one: as
        many as have their weights in registers at once."""
        count = ceil(self.kernel[1] / HELD)
        return count, ceil(self.kernel[1] / count)

    @property
    def loops_over_segments(self) -> bool:
        """Whether the segments of a row of taps are a loop, so that the code does not grow with a
        long window."""
        return self.loops_over_taps and self.segments()[0] > MOST_SEGMENTS

    @property
    def shares_weights(self) -> bool:
        """Whether the loop over the channels is outside of the tiles, which share its weights."""
        is_long = self.kernel[1] > MANY_IN_A_ROW and self.group == 1
        return self.loops_over_taps and (self.kernel[0] > 1 or is_long)

    def source(self, channel: Size, member: Size = 0) -> Size:
        """The input channel that an output channel sees as this member of its group."""
        return dims.floordiv(channel, self.filters) * self.group + member

    def reach(self, axis: int, count: int) -> int:
        """The number of inputs along an axis that `count` neighbouring outputs see."""
        taps = (self.kernel[axis] - 1) * self.dilations[axis] + 1
        return (count - 1) * self.strides[axis] + taps

    def place(self, axis: int, begin: Size, offset: Size) -> Size:
        """The input row or column that is `offset` behind the first one that output number `begin`
        sees."""
        return begin * self.strides[axis] + offset - self.low[axis]

    def tap(self, axis: int, offset: int, output: int) -> int:
        """The tap under which output number `output` of a tile sees the input that is `offset`
        behind the tile's first one, or -1 if it does not see it."""
        tap, rest = divmod(offset - output * self.strides[axis], self.dilations[axis])
        return -1 if rest else tap


@dataclass(frozen=True)
class TileSize:
    """The number of rows and columns of outputs in a tile. `all_planes`: each tile is computed for
    all planes of a volume before the next tile."""

    rows: int
    columns: int
    all_planes: bool = False


def possible_tiles(work: Depthwise, target: Target) -> Iterator[TileSize]:
    """The tiles whose sums and weights fit into the registers, and whose code is not too long."""
    registers = target.vector_registers
    if work.loops_over_taps:
        held = work.segments()[1] if registers >= 32 else 4
        all_planes = _fits_with_all_planes(work, target)
        for columns in range(1, min(MOST_COLUMNS, registers - held - 2) + 1):
            yield TileSize(1, columns, all_planes)
        return
    kernel_rows, kernel_columns = work.kernel
    for rows, columns in product(range(1, 5), range(1, 9)):
        sums = rows * columns
        weights = kernel_columns * (kernel_rows if work.holds_weights else min(rows, kernel_rows))
        if registers < 32:
            weights = 1  # few registers hold the sums only: products read weights from memory
        if sums > 1 and sums * kernel_rows * kernel_columns > MOST_PRODUCTS:
            continue
        if sums <= max(1, registers - weights - 2):
            yield TileSize(rows, columns)


def _fits_with_all_planes(work: Depthwise, target: Target) -> bool:
    """Whether most of the second-level cache has room for all that a row of outputs sees in all
    planes of a volume. Each input then comes into the first-level cache once, not for every plane
    of the window (3x3x3 on Zen 5, 13x20x20x108: 204 us -> 166, 13x5x5x432: 54 -> 27); of more,
    rows of planes are read one after the other (13x80x80x64: 4.2 ms -> 2.6)."""
    if work.planes is None:
        return False
    rows, columns = work.reach(0, 1), work.outputs[2] * work.strides[1]
    size = work.planes.inputs * rows * columns * work.source(work.channels)
    size = size * work.weights.dtype.bytes
    return isinstance(size, int) and size <= target.l2_bytes * 3 // 4


def plan_depthwise(work: Depthwise, target: Target) -> TileSize:
    """The tile that takes the fewest cycles for an output; of several the smallest, as larger ones
    only leave less in the first-level cache (28x28x256: 21 us by 4x2, 25 by 4x4), and the highest.
    """

    def cost(tile: TileSize) -> tuple[float, int, int]:
        cycles = _looped_cycles(work, tile) if work.loops_over_taps else _cycles(work, tile, target)
        return cycles * _uneven(work, tile), tile.rows * tile.columns, -tile.rows

    return min(possible_tiles(work, target), key=cost)


def _looped_cycles(work: Depthwise, tile: TileSize) -> float:
    """Cycles per output and row of taps. A cycle starts two loads and two products; each product of
    a sum starts four cycles after the one before."""
    count, taps = work.segments()
    inputs = work.reach(1, tile.columns) - work.reach(1, 1) + taps
    loads = count * work.group * (inputs + taps)
    of_a_sum = work.kernel[1] * work.group
    return max(tile.columns * of_a_sum / 2, loads / 2, _LATENCY * of_a_sum) / tile.columns


def _cycles(work: Depthwise, tile: TileSize, target: Target) -> float:
    """Cycles for an output whose taps are all in a row: of products, two of which start in one, of
    sums that wait for them, and of what comes from the second-level cache. That is all of a tile if
    the first-level cache has no room for all of its channels, else what no tile beside it had."""
    outputs = tile.rows * tile.columns
    loads = _loads(work, tile)
    if not isinstance(work.channels, int):
        return loads * _FAR
    bytes = loads * outputs * work.channels * work.weights.dtype.bytes
    is_near = bytes <= target.l1_bytes
    fetched = work.reach(0, tile.rows) * work.strides[1] / tile.rows if is_near else loads
    taps = work.kernel[0] * work.kernel[1]
    return max(taps / 2, _LATENCY * taps / outputs, loads / 2, fetched * _FAR)


def _loads(work: Depthwise, tile: TileSize) -> float:
    """Loads per output."""
    height, width = work.reach(0, tile.rows), work.reach(1, tile.columns)
    kernel_rows, kernel_columns = work.kernel
    weights = kernel_rows * kernel_columns
    if not work.holds_weights:
        weights *= min(tile.rows, kernel_rows)
    return (height * width + weights) / (tile.rows * tile.columns)


def _uneven(work: Depthwise, tile: TileSize) -> float:
    """The factor by which tiles of different sizes cost more, since each size has code of its
    own."""
    cost = 1.0
    for extent, size in zip(work.outputs[1:], (tile.rows, tile.columns)):
        if not isinstance(extent, int):
            cost *= 1.0 + 0.1 * (size > 1) * (not work.loops_over_taps)
            continue
        cut = cut_evenly(extent, size)
        if cut.tall != cut.count:
            cost *= 1.25
        if cut.height < size:
            cost *= 2.0  # the same tile is there under its own size
    return cost
