"""Chooses the tiles of a contraction on a GPU, by a model of the device.

A tile takes as long as its products or as reading its operands from the second-level cache,
whichever is longer, and some time to begin and to store the sums. Tiles run in waves of as many as
the processors hold. If there are fewer tiles than processors, the depth may be split; a second
kernel adds up the parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Node
from bessemer.compiler.ir.loops import Contract
from bessemer.compiler.ir.operands import LEVELS, Level, Tile
from bessemer.compiler.ir.tensor_boxes import BOX_BYTES, boxes_of, depth_steps
from bessemer.compiler.ir.types import DType, bf16, f16, f32, f64
from bessemer.compiler.schedule.device.contraction_parts import PARTS
from bessemer.compiler.schedule.lowering.choices import Choices
from bessemer.compiler.targets.nvptx import DeviceTarget

MOST_CANDIDATES = 12
UNKNOWN = 1024
"""What a size that is not known is taken for."""
BEGIN_CYCLES = 1500
"""From a tile's beginning to its first product, and from the last to the end of its stores."""
NEXT_CYCLES = 500
"""The same of a further tile, whose first operands come while the one before is stored."""
SPLIT_CYCLES = 6000
"""A further kernel, and what it reads."""
CACHE_BYTES = 48
"""What a processor reads from the second-level cache in a cycle."""
LEAST_SPLIT = 8
"""Steps of the depth that a part has at least."""
MEMORY_BYTES = 16
"""What a processor reads from memory, or writes, in a cycle, when all do."""
INSTRUCTIONS = 128
"""Instructions of single threads that a processor executes in a cycle."""
SPLIT_INSTRUCTIONS = 6
"""Instructions that split a float32 number into parts."""
PART_PRODUCTS = 6
"""Products of parts that make one product of float32 numbers."""
_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
_PRODUCTS: dict[tuple[Level, int], tuple[int, int]] = {
    ("wgmma", 16): (2048, 2048),
    ("wgmma", 32): (1024, 1024),
    ("mma", 16): (1024, 1200),
    ("mma", 32): (512, 600),
    ("simt", 64): (32, 64),
    ("simt", 32): (64, 128),
    ("simt", 16): (64, 128),
    ("simt", 8): (64, 128),
}
"""By level and bits of an element: products that a processor computes in a cycle, for sm_75 and
sm_80, and for sm_90."""


@dataclass(frozen=True)
class Choice:
    """A tile, the number of parts that the depth is cut into, and the cycles that the model
    expects."""

    tile: Tile
    split: int
    cycles: float


@dataclass(frozen=True)
class Extents:
    """The sizes of a contraction in elements; those that are not known at compile time are
    guessed."""

    rows: int
    columns: int
    depth: int
    batch: int


def extents_of(contract: Contract) -> Extents:
    """The sizes of a contraction, as the model takes them."""
    return Extents(
        guess(contract.row.extent or 0),
        guess(contract.column.extent or 0),
        guess(contract.left.depth_extent),
        guess(dims.product(axis.extent for axis in contract.left.batch)),
    )


def guess(size: Size) -> int:
    """A size as the model takes it: UNKNOWN for each symbol in it."""
    if isinstance(size, int):
        return size
    upper = dims.substitute(size, dict.fromkeys(dims.atoms(size), UNKNOWN))
    return upper if isinstance(upper, int) else UNKNOWN


def levels(contract: Contract, target: DeviceTarget) -> tuple[Level, ...]:
    """The kinds of products that can compute a contraction, the fastest first: wgmma, mma, simt."""
    types = {contract.left.buffer.dtype, contract.right.buffer.dtype}
    in_parts = contract.left.parts != 0
    exact = contract.products == "exact"
    by_matrix = types in ({bf16}, {f16}) or (types == {f32} and not exact)
    fits = contract.products != "bf16x3" or in_parts
    found: list[Level] = []
    if by_matrix and target.has_wgmma and fits and _fits_boxes(contract):
        found.append("wgmma")
    if by_matrix and target.has_mma and not in_parts:
        found.append("mma")
    if exact:
        found.append("simt")
    return tuple(found)


def _fits_boxes(contract: Contract) -> bool:
    box = BOX_BYTES // contract.left.buffer.dtype.bytes
    cut = replace(contract, tile=replace(contract.tile, depth=box))
    operands = (contract.left, contract.right)
    return depth_steps(cut) is not None and all(boxes_of(o) is not None for o in operands)


_WGMMA = (
    (128, 256, 4, 2),
    (256, 128, 4, 2),
    (128, 128, 6, 2),
    (128, 64, 6, 2),
    (64, 256, 2, 1),
    (64, 128, 4, 1),
    (64, 64, 5, 1),
    (64, 32, 6, 1),
)
"""Rows, columns, stages and warpgroups of wgmma tiles."""
_WGMMA_SPLIT = (
    (128, 128, 2, 2),
    (128, 64, 2, 2),
    (64, 128, 2, 1),
    (64, 64, 3, 1),
    (64, 32, 4, 1),
)
"""The same for operands in parts, whose stages are three times as large."""


def candidates(level: Level, dtype: DType, target: DeviceTarget, parts: int = 1) -> Iterator[Tile]:
    """The tiles of a level for operands of this type; `parts` is 3 if float32 operands are stored
    in parts."""
    match level:
        case "wgmma":
            box = BOX_BYTES // dtype.bytes
            for rows, columns, stages, groups in _WGMMA_SPLIT if parts > 1 else _WGMMA:
                yield Tile("wgmma", rows, columns, box, stages, (groups, 1))
        case "mma":
            depth = 64 // dtype.bytes
            for rows, columns, warps in (
                (128, 128, (2, 4)),
                (128, 64, (4, 2)),
                (64, 128, (2, 4)),
                (64, 64, (2, 2)),
                (32, 64, (1, 4)),
                (64, 32, (2, 2)),
                (32, 32, (2, 2)),
            ):
                yield Tile("mma", rows, columns, depth, 4, warps)
        case "simt":
            stages = 4 if target.has_async_copy else 2
            sizes = [(64, 64, (2, 2)), (32, 64, (1, 2)), (32, 32, (2, 1))]
            if dtype is not f64:
                sizes = [(128, 128, (4, 2)), (128, 64, (4, 2)), (64, 128, (2, 4)), *sizes]
            for rows, columns, warps in sizes:
                yield Tile("simt", rows, columns, 8, stages, warps)


def ranked(contracts: Sequence[Contract], target: DeviceTarget, may_split: bool) -> list[Choice]:
    """At most MOST_CANDIDATES tiles, those that the model expects to be fastest first; each with
    the best number of parts of the depth, which is 1 unless `may_split`.

    `contracts` describe the same sums, in the form that each level of products wants.
    """
    found: list[Choice] = []
    for contract in contracts:
        level = next(iter(levels(contract, target)), None)
        extents, dtype = extents_of(contract), contract.left.buffer.dtype
        for tile in candidates(level, dtype, target, _parts(contract)) if level else ():
            for n in _splits(contract, tile) if may_split else (1,):
                found.append(Choice(tile, n, cycles(extents, tile, n, contract, target)))
    return sorted(found, key=lambda choice: choice.cycles)[:MOST_CANDIDATES]


def choose(
    node: Node,
    contracts: Sequence[Contract],
    target: DeviceTarget,
    may_split: bool,
    choices: Choices,
) -> Choice:
    """The tile that the model expects to be fastest, or the one that a tuner has found to be."""
    found = ranked(contracts, target, may_split)
    options = [
        {
            "tile_rows": choice.tile.rows,
            "tile_columns": choice.tile.columns,
            "split": choice.split,
            "level": LEVELS.index(choice.tile.level),
        }
        for choice in found
    ]
    return found[choices.one_of(node, _signature(contracts), options)]


def _signature(contracts: Sequence[Contract]) -> str:
    """A text for everything except the device that the speed of a choice depends on."""
    contract = contracts[0]
    left, right = contract.left, contract.right
    axes = [
        " ".join(f"{axis.extent}:{axis.stride}" for axis in listed)
        for listed in (left.outer, left.depth, left.batch, right.outer, right.depth, right.batch)
    ]
    windows = " ".join(f"{w.step}:{w.dilation}:{w.low}:{w.extent}" for w in left.windows)
    types = f"{contract.dtype}={left.buffer.dtype}*{right.buffer.dtype} {contract.products}"
    return f"contraction {types} {' / '.join(axes)} windows {windows or 'none'}"


def _splits(contract: Contract, tile: Tile) -> tuple[int, ...]:
    """The numbers of parts into which the depth can be cut: no part cuts a tile's depth, nor a box
    of TMA."""
    depth = contract.left.depth_extent
    if not isinstance(depth, int):
        return (1,)
    inner = contract.left.depth[-1].extent
    is_whole = isinstance(inner, int) and inner % tile.depth == 0
    if tile.level == "wgmma" and len(contract.left.depth) > 1 and not is_whole:
        return (1,)
    steps = ceil(depth / tile.depth)
    return tuple(n for n in _SPLITS if n == 1 or steps // n >= LEAST_SPLIT)


def part_of_depth(part: Size, choice: Choice, contract: Contract) -> tuple[Size, Size]:
    """The begin and the end of a part of the depth."""
    depth = contract.left.depth_extent
    if choice.split == 1:
        return 0, depth
    assert isinstance(depth, int)
    steps = -(-depth // choice.tile.depth)
    length = -(-steps // choice.split) * choice.tile.depth
    return part * length, dims.minimum(part * length + length, depth)


def cycles(
    extents: Extents, tile: Tile, split: int, contract: Contract, target: DeviceTarget
) -> float:
    """The cycles that the model expects a contraction to take on the whole device."""
    dtype, parts = contract.left.buffer.dtype, _parts(contract)
    tiles = ceil(extents.rows / tile.rows) * ceil(extents.columns / tile.columns)
    tiles *= extents.batch * split
    steps = ceil(ceil(extents.depth / tile.depth) / split)
    in_thirds = contract.products == "bf16x3"
    rate = products_per_cycle(tile.level, bf16 if in_thirds else dtype, target)
    products = tile.rows * tile.columns * tile.depth * (PART_PRODUCTS if in_thirds else 1)
    moved = (tile.rows + tile.columns) * tile.depth * dtype.bytes * parts
    per_processor = ceil(tiles / target.processors)
    at_once = min(_resident(tile, dtype, target, parts, in_thirds), per_processor)
    step = max(products / rate * _crowding(tile), moved / CACHE_BYTES)
    if in_thirds and parts == 1:
        numbers = tile.rows * tile.warps[1] + tile.columns * tile.warps[0]
        step += numbers * tile.depth * SPLIT_INSTRUCTIONS / INSTRUCTIONS
    # Tiles that share a processor share its products too, but not the waiting.
    stored = tile.rows * min(tile.columns, extents.columns) * 4 / CACHE_BYTES
    busy = per_processor * (steps * step + stored)
    again = NEXT_CYCLES if tile.level == "wgmma" else BEGIN_CYCLES
    waiting = BEGIN_CYCLES + (ceil(per_processor / at_once) - 1) * again
    before = _splitting(contract, target) if parts > 1 else 0.0
    return busy + waiting + (SPLIT_CYCLES if split > 1 else 0) + before


def _parts(contract: Contract) -> int:
    """The number of parts in which the operands' buffers hold each number."""
    return PARTS if contract.left.parts != 0 else 1


def _splitting(contract: Contract, target: DeviceTarget) -> float:
    """The cycles of a kernel that splits the left operand: it reads 4 bytes of each number and
    writes 6."""
    count = guess(contract.left.parts)
    return SPLIT_CYCLES / 2 + count * 10 / (target.processors * MEMORY_BYTES)


def products_per_cycle(level: Level, dtype: DType, target: DeviceTarget) -> int:
    """Products that one processor computes in a cycle."""
    rates = _PRODUCTS.get((level, dtype.bits), (32, 64))
    return rates[1] if target.sm >= 90 else rates[0]


def _crowding(tile: Tile) -> float:
    """The factor by which reading from shared memory slows products: the smaller a warp's part of
    the tile, the more often each operand is read."""
    if tile.level == "wgmma":
        return 1 + 8 * (1 / 64 + 1 / tile.columns)
    return 1 + 4 * (tile.warps[0] / tile.rows + tile.warps[1] / tile.columns)


def _resident(tile: Tile, dtype: DType, target: DeviceTarget, parts: int, in_thirds: bool) -> int:
    """The number of blocks that a processor holds at once."""
    shared = (tile.rows + tile.columns) * tile.depth * dtype.bytes * tile.stages * parts
    warps = tile.warps[0] * tile.warps[1]
    threads = (tile.warps[0] + 1) * 128 if tile.level == "wgmma" else warps * 32
    sums = tile.rows * tile.columns // (threads if tile.level != "wgmma" else threads - 128)
    registers = threads * min(255, sums + (140 if in_thirds else 80))
    return max(1, min(target.shared_bytes // shared, target.registers // registers))
