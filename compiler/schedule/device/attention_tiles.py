"""Chooses how many rows and keys a block of attention works on at a time on a GPU, by a model of
the device.

A block goes over all keys, a tile at a time. The more rows it has, the less often keys and values
are read, but the fewer blocks there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from bessemer.compiler.ir.graph import Node
from bessemer.compiler.ir.operands import Tile
from bessemer.compiler.ir.types import DType, bf16, f32
from bessemer.compiler.schedule.device.contraction_tiles import (
    BEGIN_CYCLES,
    CACHE_BYTES,
    MOST_CANDIDATES,
    PART_PRODUCTS,
    products_per_cycle,
)
from bessemer.compiler.schedule.lowering.choices import Choices
from bessemer.compiler.targets.nvptx import DeviceTarget

ROWS_OF_WARP = 16
_WARPS = (4, 2, 8)
_KEYS = (64, 32, 128, 16)
_MOST_NUMBERS = {2: 192, 4: 144}
"""By the bytes of an element: how many scores and results of each row a warp has registers for."""
_FEWEST_WARPS = {2: 2, 4: 4}
"""By the bytes of an element: with fewer warps, each would copy more at a time than it has
registers for."""
_SHARED = {False: 99 << 10, True: 227 << 10}
"""Bytes of shared memory that a block may use on the smallest GPU that runs the level's code; the
key says whether the level has wgmma."""
_POWERS = 16
"""Exponentials that a processor computes in a cycle."""
_STEP_CYCLES = 400
"""Cycles that a tile of keys takes in addition: the largest score, barriers, and whatever does not
overlap."""


@dataclass(frozen=True)
class AttentionSizes:
    """The sizes of an attention, in elements. `depth` (of a query) and `columns` (of a value) are
    padded."""

    batch: int
    rows: int
    keys: int
    depth: int
    columns: int
    dtype: DType


def attention_tiles(sizes: AttentionSizes, target: DeviceTarget) -> list[Tile]:
    """At most MOST_CANDIDATES tiles that fit, those that the model expects to be fastest first.
    Tiles with many keys come last: they take nearly all registers, so only a tuner should choose
    them."""

    def order(tile: Tile) -> tuple[bool, float]:
        return tile.depth > _KEYS[0], cycles(sizes, tile, target)

    return sorted(_fitting(sizes, target), key=order)[:MOST_CANDIDATES]


def _fitting(sizes: AttentionSizes, target: DeviceTarget) -> Iterator[Tile]:
    line = sizes.dtype.bytes
    for warps in (count for count in _WARPS if count >= _FEWEST_WARPS[line]):
        for keys in _KEYS:
            if keys < 32 and line == 2:
                continue
            tile = Tile("mma", ROWS_OF_WARP * warps, sizes.columns, keys, 2, (warps, 1))
            fits = shared_bytes(sizes, tile) <= min(target.shared_bytes, _SHARED[target.has_wgmma])
            if fits and keys + sizes.columns <= _MOST_NUMBERS[line]:
                yield tile


def shared_bytes(sizes: AttentionSizes, tile: Tile) -> int:
    """The bytes of shared memory that a block needs, for its queries and for all stages of keys and
    values."""
    line = sizes.dtype.bytes
    keys = tile.depth * (sizes.depth + sizes.columns) * line
    return tile.rows * sizes.depth * line + tile.stages * keys


def cycles(sizes: AttentionSizes, tile: Tile, target: DeviceTarget) -> float:
    """The cycles that the model expects an attention to take on the whole device."""
    blocks = sizes.batch * ceil(sizes.rows / tile.rows)
    rate: float = products_per_cycle("mma", sizes.dtype, target)
    if sizes.dtype is f32:
        rate = products_per_cycle("mma", bf16, target) / PART_PRODUCTS
    steps = ceil(sizes.keys / tile.depth)
    products = tile.rows * tile.depth * (sizes.depth + sizes.columns) / rate
    powers = tile.rows * tile.depth / _POWERS
    moved = tile.depth * (sizes.depth + sizes.columns) * sizes.dtype.bytes / CACHE_BYTES
    at_once = max(1, target.shared_bytes // shared_bytes(sizes, tile))
    at_once = min(at_once, max(1, target.registers // (tile.warps[0] * 32 * _registers(tile))))
    per_processor = ceil(blocks / target.processors)
    waves = ceil(per_processor / at_once)
    step = max(products + powers, moved)
    return per_processor * steps * step + waves * (steps * _STEP_CYCLES + BEGIN_CYCLES)


def _registers(tile: Tile) -> int:
    """The registers that a thread takes: a fit to what the assembler reported for many tiles."""
    return 40 + tile.depth * 9 // 10 + tile.columns * 11 // 20


def choose_attention_tile(
    node: Node, signature: str, sizes: AttentionSizes, target: DeviceTarget, choices: Choices
) -> Tile:
    """The tile that the model expects to be fastest, or the one that a tuner has found to be. The
    tuner knows the attention by `signature`."""
    tiles = attention_tiles(sizes, target)
    options = [{"tile_rows": tile.rows, "keys": tile.depth} for tile in tiles]
    return tiles[choices.one_of(node, signature, options)]
