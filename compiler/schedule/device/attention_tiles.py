"""Which rows and keys a block of an attention takes on a GPU: a model of the device decides.

A block goes over all keys, some at a time; the more rows it has, the less often keys and values are
read, but the fewer blocks there are.
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
"""By an element's bytes: scores and results that a warp has registers for, of each row."""
_FEWEST_WARPS = {2: 2, 4: 4}
"""Fewer would have to copy more at a time than they have registers for."""
_SHARED = {False: 99 << 10, True: 227 << 10}
"""What a block has on the smallest GPU that runs the level's code."""
_POWERS = 16
"""Powers of two that a processor computes in a cycle."""
_STEP_CYCLES = 400
"""Of a tile of keys: the largest score, barriers, and what else does not overlap."""


@dataclass(frozen=True)
class AttentionSizes:
    """What there is to do; `depth` and `columns` as they are padded."""

    batch: int
    rows: int
    keys: int
    depth: int
    columns: int
    dtype: DType


def attention_tiles(sizes: AttentionSizes, target: DeviceTarget) -> list[Tile]:
    """The tiles that may be fastest, in the model's order; those with many keys, which take nearly
    all registers, only for the tuner."""

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
    """Of queries, and of stages of keys and values."""
    line = sizes.dtype.bytes
    keys = tile.depth * (sizes.depth + sizes.columns) * line
    return tile.rows * sizes.depth * line + tile.stages * keys


def cycles(sizes: AttentionSizes, tile: Tile, target: DeviceTarget) -> float:
    """What the model expects an attention to take."""
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
    """Of a thread, as the assembler is known to take them."""
    return 40 + tile.depth * 9 // 10 + tile.columns * 11 // 20


def choose_attention_tile(
    node: Node, signature: str, sizes: AttentionSizes, target: DeviceTarget, choices: Choices
) -> Tile:
    """The tile that the model expects to be fastest, or the one that a tuner has found to be."""
    tiles = attention_tiles(sizes, target)
    options = [{"tile_rows": tile.rows, "keys": tile.depth} for tile in tiles]
    return tiles[choices.one_of(node, signature, options)]
