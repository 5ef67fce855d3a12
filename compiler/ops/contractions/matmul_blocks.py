"""matmul_blocks: a matrix product with weights of four or eight bits that have scales in blocks.

x [rows, depth] times a [depth, columns] matrix that is never there: weights become floats in
registers. See nibbles.py for their layout. With one row what counts is how few bytes are read, with
many rows how often the decoded weights are used:

    for four panels of columns, or two of narrow matrices, in parallel
      for a tile of rows, for a vector of columns
        for a block of the depth: its scales
          for the block's depth: decode the weights, multiply, add to the tile's sums

Where there is more than one tile of rows, weights are decoded once for all of them
(decoded_tiles.py). High tiles leave time for the weights of four panels to come from the
second-level cache, so that the four share what is copied of x; for low ones those of one panel stay
in the first-level cache.

`rounds` allows activations to be rounded to 8 bits by blocks
(passes/quantization/round_activations.py); with `pairs`, activations and weights are rounded to
bfloat16 where there are some rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bessemer.compiler.ir import loops
from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, constant, convert, less
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, DType, TensorType, bf16, f16, f32, i8, u8
from bessemer.compiler.ops.check import require
from bessemer.compiler.ops.contractions.decoded_tiles import DecodedTiles
from bessemer.compiler.ops.contractions.gradients_blocks import matmul_blocks_gradient
from bessemer.compiler.ops.contractions.nibbles import (
    AHEAD,
    HALF,
    LINE,
    PANEL,
    TOGETHER,
    Weights,
    column_store,
    pack_blocks,
    pack_units,
    units_at,
    unpack_blocks,
    unpack_units,
)
from bessemer.compiler.ops.contractions.row_tiles import FEW_REGISTERS_ROWS, row_tiles

FEW_ROWS_OF_PAIRS = 4
"""Up to so many rows, to round decoded weights and lay them out in pairs takes longer than their
products."""
FEW_GROUPS = 8
"""Threads that share fewer groups of panels than this end at different times."""


def _infer(
    x: TensorType, weights: TensorType, scales: TensorType, *shifts: TensorType, columns: int,
    block: int, rounds: bool = False, pairs: bool = False,
) -> TensorType:  # fmt: skip
    """(x f32 [rows, depth], weights u8 [panels, depth, 16 or 32], scales [panels, blocks, 32] and
    maybe shifts like them) -> f32 [rows, columns]."""
    require(
        x.dtype is f32 and x.rank == 2 and weights.dtype is u8 and weights.rank == 3,
        f"matmul_blocks wants an f32 matrix and packed weights, but got {x} and {weights}.",
    )
    panels, depth, width = weights.static_shape
    require(
        x.shape[1] == depth and width in (HALF, PANEL) and panels % TOGETHER == 0
        and panels * PANEL >= columns,
        f"matmul_blocks: {x} and weights {weights} for {columns} columns do not fit.",
    )  # fmt: skip
    blocks = (panels, -(-depth // block), PANEL)
    for one, allowed in ((scales, (f32, f16, bf16)), *((shift, (i8, f32)) for shift in shifts)):
        require(
            one.shape == blocks and one.dtype in allowed,
            f"matmul_blocks wants scales and shifts of shape {blocks}, but got {one}.",
        )
    return TensorType(f32, (x.shape[0], columns))


def _reference(
    x: Array, weights: Array, scales: Array, *shifts: Array, columns: int, block: int,
    rounds: bool = False, pairs: bool = False,
) -> Array:  # fmt: skip
    width = 4 if weights.shape[-1] == HALF else 8
    units = unpack_units(weights, columns, width).astype(np.float64) - (1 << (width - 1))
    for shift in shifts:
        units += _along_depth(shift, columns, block, units.shape[1])
    wide = units * _along_depth(scales, columns, block, units.shape[1])
    return (x.astype(np.float64) @ wide.T).astype(x.dtype)


def _along_depth(packed: Array, columns: int, block: int, depth: int) -> Array:
    values = unpack_blocks(packed, columns).astype(np.float64)
    return np.repeat(values, block, axis=1)[:, :depth]


def _statements(
    builder: KernelBuilder,
    inputs: list[Buffer],
    outputs: list[Buffer],
    *,
    columns: int,
    block: int,
    rounds: bool = False,
    pairs: bool = False,
    rows: int = FEW_REGISTERS_ROWS,
    width: int = HALF,
) -> None:
    """`rows` is the height of a tile, `width` its number of columns where there are many rows."""
    x, packed, scales, *shifts = inputs
    weights = Weights(packed, scales, shifts[0] if shifts else None, block)
    product = _Product(builder, x, weights, outputs[0])
    count, few = x.shape[0], min(rows, FEW_ROWS_OF_PAIRS) if pairs else rows
    with builder.loop(weights.panels // product.together, "parallel") as group:
        panel = group * product.together
        if isinstance(count, int) and count > few:
            product.write_many(panel, rows, width, bf16 if pairs else f32)
        elif isinstance(count, int):
            product.write_few(panel, few)
        else:
            with builder.when(less(few, count)):
                product.write_many(panel, rows, width, bf16 if pairs else f32)
            with builder.otherwise():
                product.write_few(panel, few)


@dataclass(frozen=True, eq=False)
class _Product:
    """Writes the tiles of a product."""

    builder: KernelBuilder
    x: Buffer
    weights: Weights
    out: Buffer

    @property
    def together(self) -> int:
        """How many panels one thread takes at a time: fewer where threads would have to wait."""
        return TOGETHER if self.weights.panels >= FEW_GROUPS * TOGETHER else TOGETHER // 2

    def write_few(self, panel: Size, most: int) -> None:
        """As many rows as a tile has, or fewer: weights are decoded where they are used."""
        for first, height in row_tiles(self.builder, self.x.shape[0], most):
            if height == 1:
                self.write_row(panel, first)
                continue
            with self.builder.loop(self.together) as place:
                self.write_tile(panel + place, first, height)

    def write_many(self, panel: Size, rows: int, width: int, dtype: DType) -> None:
        """More rows: weights are decoded before."""
        together = self.together if rows > FEW_REGISTERS_ROWS else 1
        tiles = DecodedTiles(
            self.builder, self.x, self.weights, self.out, dtype, rows, width, together
        )
        with self.builder.loop(self.together // together) as part:
            tiles.write(panel + part * together)

    def write_row(self, panel: Size, row: Size) -> None:
        """One row, a few panels: the sums of a block are scaled as a whole."""
        builder = self.builder
        panels = [panel + i for i in range(self.together)]
        with builder.loop(HALF, "vector", lanes=0) as j:
            totals = [self._zeros(2) for _ in panels]
            for block, first, depth in self._blocks():
                sums = [self._zeros(2) for _ in panels]
                (plain,) = self._zeros(1)
                for begin, some in self._lines(panels, first, depth):
                    for k in range(some):
                        factor = builder.define(self.x[row, begin + k], "x").value
                        for place, pair in zip(panels, sums, strict=True):
                            units = units_at(self.weights.packed, place, begin + k, j, in_row=True)
                            for total, unit in zip(pair, units, strict=True):
                                total.accumulate("add", factor * unit)
                        if self.weights.shifts is not None:
                            plain.accumulate("add", factor)
                for place, pair, wholes in zip(panels, sums, totals, strict=True):
                    for half, (total, whole) in enumerate(zip(pair, wholes, strict=True)):
                        at = (place, block, half * HALF + j)
                        value = total.value
                        if self.weights.shifts is not None:
                            value = value + convert(self.weights.shifts[at], f32) * plain.value
                        whole.accumulate("add", convert(self.weights.scales[at], f32) * value)
            for place, wholes in zip(panels, totals, strict=True):
                self._store(row, place, j, wholes)

    def _lines(self, panels: Sequence[Size], first: Size, depth: int) -> Iterator[tuple[Size, int]]:
        """Opens a loop over the cache lines of a block's weights, then one over what is left: the
        first place of the depth, and how many. Lines further on are prefetched."""
        packed = self.weights.packed
        width = packed.shape[2]
        assert isinstance(width, int)
        together = LINE // width
        whole, rest = divmod(depth, together)
        if whole:
            with self.builder.loop(whole) as line:
                at = first + line * together
                for panel in panels:
                    soon = packed.offset((panel, at, 0)) + AHEAD
                    self.builder.append(loops.Prefetch(packed, soon))
                yield at, together
        if rest:
            with self.builder.loop(rest) as k:
                yield first + whole * together + k, 1

    def write_tile(self, panel: Size, first_row: Size, height: int) -> None:
        """Several rows of a panel: the weights are scaled."""
        builder = self.builder
        with builder.loop(HALF, "vector", lanes=0) as j:
            sums = [self._zeros(2) for _ in range(height)]
            for block, first, depth in self._blocks():
                places = [(panel, block, half * HALF + j) for half in range(2)]
                scales = [self._defined(self.weights.scales, at) for at in places]
                shifts = [self._defined(self.weights.shifts, at) for at in places]
                with builder.loop(depth) as k:
                    weights = []
                    units = units_at(self.weights.packed, panel, first + k, j)
                    for unit, scale, shift in zip(units, scales, shifts, strict=True):
                        assert scale is not None
                        moved = unit if shift is None else unit + shift
                        weights.append(builder.define(moved * scale, "w").value)
                    for row, pair in enumerate(sums):
                        factor = builder.define(self.x[first_row + row, first + k], "x").value
                        for total, weight in zip(pair, weights, strict=True):
                            total.accumulate("add", factor * weight)
            for row, pair in enumerate(sums):
                self._store(first_row + row, panel, j, pair)

    def _zeros(self, count: int) -> list[Local]:
        return [self.builder.define(constant(0.0, f32), "sum") for _ in range(count)]

    def _defined(self, buffer: Buffer | None, at: tuple[Size, ...]) -> Expression | None:
        if buffer is None:
            return None
        return self.builder.define(convert(buffer[at], f32), "scale").value

    def _blocks(self) -> Iterator[tuple[Size, Size, int]]:
        """Opens a loop over the whole blocks, then what is left: number, first depth, depth."""
        block_depth = self.weights.block
        whole, rest = divmod(self.weights.depth, block_depth)
        if whole:
            with self.builder.loop(whole) as block:
                yield block, block * block_depth, block_depth
        if rest:
            yield whole, whole * block_depth, rest

    def _store(self, row: Size, panel: Size, j: Size, sums: Sequence[Local]) -> None:
        for half, total in enumerate(sums):
            column = panel * PANEL + half * HALF + j
            self.builder.append(column_store(self.out, (row, column), total.value, add=False))


def _example(
    rows: int,
    depth: int,
    columns: int,
    block: int,
    width: int = 4,
    shift: str = "",
    half: bool = False,
    pairs: bool = False,
) -> Example:
    rng = np.random.default_rng(depth)
    blocks = -(-depth // block)
    units = rng.integers(0, 1 << width, (columns, depth), np.uint8)
    scales = rng.uniform(0.05, 0.2, (columns, blocks)).astype(np.float16 if half else np.float32)
    arrays = [rng.standard_normal((rows, depth)).astype(np.float32), pack_units(units, width)]
    arrays.append(pack_blocks(scales))
    if shift:
        arrays.append(pack_blocks(rng.integers(-7, 9, (columns, blocks)).astype(shift)))
    attributes: dict[str, object] = {"columns": columns, "block": block}
    if pairs:  # of numbers that bfloat16 holds
        attributes["pairs"] = True
        arrays[0] = np.rint(arrays[0] * 16)
        arrays[2] = np.full_like(arrays[2], 0.125)
    return Example(tuple(arrays), attributes, 1e-4)


register(
    Operator(
        "matmul_blocks",
        _infer,
        _reference,
        statements=_statements,
        gradient=matmul_blocks_gradient,
        examples=(
            _example(1, 64, 32, 32),
            _example(1, 40, 150, 16, shift="int8"),
            _example(5, 48, 33, 32, shift="float32"),
            _example(4, 32, 16, 16, half=True),
            _example(3, 17, 40, 16, width=8, shift="int8"),
            _example(5, 259, 40, 16, width=8, shift="int8", pairs=True),
            _example(0, 16, 8, 16),
        ),
    )
)
