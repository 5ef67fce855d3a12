"""matmul_rounded: activations as bytes by weights of four or eight bits, scaled in blocks.

Sums of products of integers are exact within a block of the depth; then they are scaled and added
up (round_blocks.py makes the bytes). The instruction multiplies signed by unsigned bytes, so
weights are units w + middle:

    x . w = x_scale * w_scale * (sum of q * unit - middle * sum of q)

Columns lie in wide panels of 128, four of 32; four neighbours along the depth lie together. Of four
bits, byte 4 * c + k of a panel's step holds column c's unit in its low half and column 16 + c's in
its high half. Those units are spread to bytes, once for all tiles of rows, a block of the depth
at a time that stays in the first-level cache. A tile of several rows has the columns of one panel,
a single row those of a wide one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bessemer.compiler.ir import loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size, Symbol, atom
from bessemer.compiler.ir.expr import (
    Buffer,
    Expression,
    binary,
    constant,
    convert,
    fragment_element,
    less,
)
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType, bf16, f16, f32, i8, i32, u8
from bessemer.compiler.ops.check import require
from bessemer.compiler.ops.contractions.nibbles import (
    PANEL,
    TOGETHER,
    column_store,
    pack_blocks,
    unpack_blocks,
)
from bessemer.compiler.ops.contractions.row_tiles import FEW_REGISTERS_ROWS, row_tiles

GROUP = 4
"""Neighbours along the depth that are multiplied at once."""
_BLOCK_BYTES = 1 << 14
"""Of units, spread at once."""
_NIBBLES, _BYTES = PANEL * GROUP // 2, PANEL * GROUP


def pack_rounded(units: Array, width: int) -> Array:
    """u8 units [columns, depth] -> [wide panels, depth / 4, 4, 64 or 128]."""
    columns, depth = units.shape
    wide = -(-columns // (PANEL * TOGETHER))
    padded = np.zeros((wide * TOGETHER * PANEL, depth), np.uint8)
    padded[:columns] = units
    grouped = padded.reshape(wide, TOGETHER, PANEL, depth // GROUP, GROUP).transpose(0, 3, 1, 2, 4)
    packed = np.ascontiguousarray(grouped).reshape(wide, depth // GROUP, TOGETHER, _BYTES)
    return packed if width == 8 else packed[..., :_NIBBLES] | (packed[..., _NIBBLES:] << 4)


def _infer(
    steps: TensorType, x_scales: TensorType, x_sums: TensorType, weights: TensorType,
    scales: TensorType, *shifts: TensorType, columns: int, block: int, middle: int,
) -> TensorType:  # fmt: skip
    """(i8 [rows, depth], f32 [rows, blocks] twice, u8 [wide panels, depth / 4, 4, 64 or 128],
    scales [panels, blocks, 32], and maybe u8 [wide panels, blocks, 4, 128], which is added to units
    of four bits) -> f32 [rows, columns]."""
    rows, depth = steps.shape
    wide, groups, places, width = weights.static_shape
    require(
        steps.dtype is i8 and weights.dtype is u8 and block % GROUP == 0
        and depth == groups * GROUP and depth % block == 0 and places == TOGETHER
        and width in (_NIBBLES, _BYTES) and wide * TOGETHER * PANEL >= columns,
        f"matmul_rounded: {steps} and weights {weights} for {columns} columns do not fit.",
    )  # fmt: skip
    blocks = groups * GROUP // block
    shift = TensorType(u8, (wide, blocks, TOGETHER, _BYTES))
    require(
        x_scales == x_sums == TensorType(f32, (rows, blocks))
        and scales.shape == (wide * TOGETHER, blocks, PANEL) and scales.dtype in (f32, f16, bf16)
        and shifts in ((), (shift,)) and (not shifts or width == _NIBBLES),
        f"matmul_rounded of {steps} and {weights} has {x_scales}, {x_sums}, {scales}, {shifts}.",
    )  # fmt: skip
    return TensorType(f32, (rows, columns))


def _reference(
    steps: Array, x_scales: Array, x_sums: Array, weights: Array, scales: Array, *shifts: Array,
    columns: int, block: int, middle: int,
) -> Array:  # fmt: skip
    wide, groups, _, width = weights.shape
    units = weights
    if width == _NIBBLES:
        units = np.concatenate((weights & 15, weights >> 4), axis=-1)
    for shift in shifts:
        units = units + np.repeat(shift, block // GROUP, axis=1)
    grouped = units.reshape(wide, groups, TOGETHER, PANEL, GROUP).transpose(0, 2, 3, 1, 4)
    by_column = grouped.reshape(wide * TOGETHER * PANEL, -1)[:columns].astype(np.float64)
    column_scales = unpack_blocks(scales, columns).astype(np.float64)
    x = steps.astype(np.float64) * np.repeat(x_scales, block, axis=1)
    result = x @ (by_column * np.repeat(column_scales, block, axis=1)).T
    result -= middle * (x_sums.astype(np.float64) @ column_scales.T)
    rounded: Array = result.astype(np.float32)
    return rounded


def _statements(
    builder: KernelBuilder,
    inputs: list[Buffer],
    outputs: list[Buffer],
    *,
    columns: int,
    block: int,
    middle: int,
    rows: int = FEW_REGISTERS_ROWS,
) -> None:
    """`rows` is the height of a tile."""
    steps, x_scales, x_sums, weights, scales, *shifts = inputs
    product = _Product(
        builder, steps, x_scales, x_sums, weights, scales, shifts[0] if shifts else None,
        outputs[0], block, middle,
    )  # fmt: skip
    wide, count = weights.shape[0], steps.shape[0]
    with builder.loop(wide, "parallel") as number:
        if isinstance(count, int):
            product.write(number, rows if count >= FEW_REGISTERS_ROWS else 1)
            return
        with builder.when(less(FEW_REGISTERS_ROWS - 1, count)):
            product.write(number, rows)
        with builder.otherwise():
            product.write(number, 1)


@dataclass(frozen=True, eq=False)
class _Product:
    """Writes the tiles of a product."""

    builder: KernelBuilder
    steps: Buffer
    x_scales: Buffer
    x_sums: Buffer
    weights: Buffer
    scales: Buffer
    shifts: Buffer | None
    out: Buffer
    block: int
    middle: int

    def write(self, number: Size, most: int) -> None:
        """A wide panel's columns of all rows, in tiles of at most so many rows."""
        if most == 1:
            self._write_panels(number, 0, TOGETHER, most)
            return
        with self.builder.loop(TOGETHER) as place:
            self._write_panels(number, place, 1, most)

    def _write_panels(self, number: Size, place: Size, panels: int, most: int) -> None:
        blocks = self.scales.shape[1]
        assert isinstance(blocks, int)
        some = min(max(_BLOCK_BYTES // (self.block * PANEL * panels), 1), blocks)
        whole, rest = divmod(blocks, some)
        builder = self.builder
        kept = builder.allocate(u8, (some * self.block // GROUP, panels, _BYTES))
        factors = builder.allocate(f32, (some, panels * PANEL))
        depth_block = _DepthBlock(self, number, place, panels, kept, factors)
        depth_block.write(0, some, most, is_first=True)
        if whole > 1:
            with builder.loop(whole - 1) as part:
                depth_block.write((part + 1) * some, some, most)
        if rest:
            depth_block.write(whole * some, rest, most)


@dataclass(frozen=True, eq=False)
class _DepthBlock:
    """Writes the products of a block of the depth, for some panels of a wide one from `place`
    on; `kept` and `factors` are for its units and scales."""

    product: _Product
    number: Size
    place: Size
    panels: int
    kept: Buffer
    factors: Buffer

    def write(self, first: Size, count: int, most: int, is_first: bool = False) -> None:
        """Adds `count` blocks to the output, or stores their sums."""
        builder, columns = self.product.builder, self.panels * PANEL
        self._spread(first, count)
        for row, height in row_tiles(builder, self.product.steps.shape[0], most):
            totals = builder.allocate(f32, (height, columns))
            with builder.loop(height) as k, builder.loop(columns, "vector", lanes=0) as j:
                builder.store(totals, (k, j), 0.0)
            with builder.loop(count) as number:
                self._add_block(first + number, number, row, totals)
            with builder.loop(height) as k, builder.loop(columns, "vector", lanes=0) as j:
                self._store(row + k, j, totals[k, j], is_first)

    def _spread(self, first: Size, count: int) -> None:
        product, builder = self.product, self.product.builder
        with (
            builder.loop(count) as block,
            builder.loop(self.panels) as k,
            builder.loop(PANEL, "vector", lanes=0) as j,
        ):
            panel = self.number * TOGETHER + self.place + k
            scale = convert(product.scales[panel, first + block, j], f32)
            builder.store(self.factors, (block, k * PANEL + j), scale)
        if product.weights.shape[-1] == _BYTES:
            return
        groups = product.block // GROUP
        with (
            builder.loop(count) as block,
            builder.loop(groups) as step,
            builder.loop(self.panels) as k,
            builder.loop(_NIBBLES, "vector", lanes=0) as j,
        ):
            at = (self.number, (first + block) * groups + step, self.place + k, j)
            both = product.weights[at]
            for half, unit in enumerate((both & 15, binary("shr", both, 4))):
                byte = half * _NIBBLES + j
                if product.shifts is not None:
                    unit = unit + product.shifts[self.number, first + block, self.place + k, byte]
                builder.store(self.kept, (block * groups + step, k, byte), unit)

    def _add_block(self, block: Size, number: Size, row: Size, totals: Buffer) -> None:
        """Adds the products of a block to a tile's totals."""
        product, builder = self.product, self.product.builder
        groups, (height, columns) = product.block // GROUP, totals.shape
        assert isinstance(height, int) and isinstance(columns, int)
        name = builder.fresh("sums")
        builder.append(loops.Fragment(name, height, columns, i32))
        builder.append(loops.FragmentFill(name, builder.index(columns), constant(0, i32), columns))
        every = tuple(range(height))
        with builder.loop(groups) as step:
            depth = block * product.block + step * GROUP
            a_offsets = tuple(product.steps.offset((row + k, depth)) for k in every)
            units, at = self.kept, self.kept.offset((number * groups + step, 0, 0))
            if product.weights.shape[-1] == _BYTES:
                units = product.weights
                at = units.offset((self.number, block * groups + step, self.place, 0))
            builder.append(
                loops.FragmentMac(name, every, product.steps, a_offsets, units, at, GROUP)
            )
        column = builder.index(columns)
        stores = tuple((self._scaled(name, k, column, row, block, number, totals),) for k in every)
        builder.append(loops.FragmentStore(name, column, columns, stores))

    def _scaled(
        self, name: str, k: int, column: Symbol, row: Size, block: Size, number: Size,
        totals: Buffer,
    ) -> loops.Store:  # fmt: skip
        product, j = self.product, atom(column)
        sum_ = convert(fragment_element(name, k, i32), f32)
        moved = product.x_sums[row + k, block] * float(-product.middle)
        value = (sum_ * product.x_scales[row + k, block] + moved) * self.factors[number, j]
        return loops.Store(totals, (k, j), totals[k, j] + value)

    def _store(self, row: Size, j: Size, value: Expression, is_first: bool) -> None:
        product = self.product
        column = (self.number * TOGETHER + self.place) * PANEL + j
        store = column_store(product.out, (row, column), value, add=not is_first)
        product.builder.append(store)


def _example(
    rows: int, depth: int, columns: int, block: int, width: int = 4, has_shifts: bool = False
) -> Example:
    rng = np.random.default_rng(depth)
    wide, blocks = -(-columns // (PANEL * TOGETHER)), depth // block
    packed = pack_rounded(rng.integers(0, 1 << width, (columns, depth), np.uint8), width)
    steps = rng.integers(-127, 128, (rows, depth), np.int8)
    x_scales, x_sums = rng.uniform(0.1, 0.2, (2, rows, blocks)).astype(np.float32)
    scales = pack_blocks(rng.uniform(0.05, 0.2, (columns, blocks)).astype(np.float32))
    arrays = [steps, x_scales, x_sums, packed, scales]
    if has_shifts:
        arrays.append(rng.integers(0, 16, (wide, blocks, TOGETHER, _BYTES), np.uint8))
    return Example(tuple(arrays), {"columns": columns, "block": block, "middle": 8}, 1e-4)


register(
    Operator(
        "matmul_rounded",
        _infer,
        _reference,
        statements=_statements,
        gradient=None,
        examples=(
            _example(1, 288, 32, 32),
            _example(5, 96, 150, 16, has_shifts=True),
            _example(4, 544, 128, 32),
            _example(2, 64, 40, 16, width=8),
            _example(0, 16, 8, 16),
        ),
    )
)
