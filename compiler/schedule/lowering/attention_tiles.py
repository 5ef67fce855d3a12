"""Writes the two products of an attention for a matrix unit. Both multiply bf16 numbers and have
float32 sums.

Keys and values are packed as for the vector unit, in panels two tiles wide; so the rows of a tile
are as far apart as those of a panel. Zeros follow the weights and the values, up to a multiple of
32 keys.
"""

from __future__ import annotations

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.types import bf16, f32
from bessemer.compiler.schedule.contraction.contraction import Contraction
from bessemer.compiler.schedule.grouping.attention import Attention
from bessemer.compiler.schedule.grouping.views import Source
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles import write_on_tiles
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_packing import HALF
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_plan import ROWS, plan_tiles
from bessemer.compiler.targets.machine import Target

HEIGHT = 2 * ROWS
"""The most rows that are multiplied together."""
_FEWEST = 32
"""The least number of rows and of keys; with fewer, tiles are mostly empty."""


def is_on_tiles(attention: Attention, query: Source, target: Target) -> bool:
    """Whether the matrix unit computes both products: all sizes are known, and none is small."""
    operands = (*attention.scores.inputs, *attention.product.inputs)
    *_, rows, keys = attention.product.inputs[0].type.shape
    columns, depth = attention.product.output.type.shape[-1], operands[0].type.shape[-1]
    sizes = (rows, keys, columns, depth)
    if not target.has_tiles or any(value.type.dtype is not bf16 for value in operands):
        return False
    if not all(isinstance(size, int) and size >= ROWS for size in sizes):
        return False
    is_large = min(dims.number(rows), dims.number(keys)) >= _FEWEST
    return is_large and whole_steps(depth) == depth and query.strides[-1] == 1


def whole_steps(depth: Size) -> Size:
    """The depth, rounded up to whole steps of the matrix unit."""
    return dims.ceildiv(depth, HALF.depth) * HALF.depth


def write_zeros(
    builder: KernelBuilder, weights: Buffer, base: Size, keys: Size, target: Target
) -> None:
    """Writes the zeros that follow a row of weights."""
    with builder.loop(whole_steps(keys) - keys, "vector", target.lanes(f32)) as key:
        builder.store(weights, (base + keys + key,), 0)


def write_product(
    builder: KernelBuilder, contraction: Contraction, is_first: bool, target: Target
) -> None:
    """Writes one of the products. The first one sets up the matrix unit's tiles for both."""
    tiling = plan_tiles(contraction, HALF, target, is_interleaved=True)
    assert tiling is not None
    write_on_tiles(builder, contraction, tiling, target, sets_up=is_first)
