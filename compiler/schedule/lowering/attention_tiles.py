"""The two products of an attention on a matrix unit: one of bf16 numbers each, sums are float32.

Keys and values are packed as for the vector unit, in panels as wide as two tiles, whose tiles' rows
are then as far apart as a panel's. Weights and values go on with zeros to whole steps of 32 keys.
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
"""Rows and keys. With fewer, tiles are mostly empty."""


def is_on_tiles(attention: Attention, query: Source, target: Target) -> bool:
    """Whether both products are the matrix unit's: sizes are known and not small."""
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
    """The depth with the zeros behind it."""
    return dims.ceildiv(depth, HALF.depth) * HALF.depth


def write_zeros(
    builder: KernelBuilder, weights: Buffer, base: Size, keys: Size, target: Target
) -> None:
    """Writes the zeros behind a row of weights."""
    with builder.loop(whole_steps(keys) - keys, "vector", target.lanes(f32)) as key:
        builder.store(weights, (base + keys + key,), 0)


def write_product(
    builder: KernelBuilder, contraction: Contraction, is_first: bool, target: Target
) -> None:
    """Writes one of the products; the first one sets the tiles up for both."""
    tiling = plan_tiles(contraction, HALF, target, is_interleaved=True)
    assert tiling is not None
    write_on_tiles(builder, contraction, tiling, target, sets_up=is_first)
