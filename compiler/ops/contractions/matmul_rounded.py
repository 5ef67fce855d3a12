"""matmul_rounded: activations as bytes by weights of four or eight bits, scaled in blocks.

Sums of products of integers are exact within a block of the depth; then they are scaled and added
up (round_blocks.py makes the bytes). The instruction multiplies signed by unsigned bytes, so
weights are units w + middle:

    x . w = x_scale * w_scale * (sum of q * unit - middle * sum of q)

Columns lie in wide panels of 128, four of 32; four neighbours along the depth lie together. Of four
bits, byte 4 * c + k of a panel's step holds column c's unit in its low half and column 16 + c's in
its high half. Those units are spread to bytes, once for all tiles of rows, a block of the depth
at a time that stays in the first-level cache. A tile of several rows has the columns of one panel.
One row or two have those of a wide one; there reading the weights is what takes time, and they are
spread where they are multiplied.
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
    AHEAD,
    LINE,
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
_FEW_ROWS = 2
"""For more rows, units that were spread are used again."""
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
        if not isinstance(count, int):
            with builder.when(less(_FEW_ROWS, count)):
                product.write_many(number, rows)
            with builder.otherwise():
                product.write_few(number)
        elif count > _FEW_ROWS:
            product.write_many(number, rows)
        else:
            product.write_few(number)


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

    def write_many(self, number: Size, most: int) -> None:
        """A wide panel's columns of all rows, panel by panel, in tiles of at most so many rows."""
        blocks, builder = self.scales.shape[1], self.builder
        assert isinstance(blocks, int)
        some = min(max(_BLOCK_BYTES // (self.block * PANEL), 1), blocks)
        whole, rest = divmod(blocks, some)
        with builder.loop(TOGETHER) as place:
            kept = builder.allocate(u8, (some * self.block // GROUP, _BYTES))
            factors = builder.allocate(f32, (some, PANEL))
            depth_block = _DepthBlock(self, number, place, kept, factors)
            depth_block.write(0, some, most, is_first=True)
            if whole > 1:
                with builder.loop(whole - 1) as part:
                    depth_block.write((part + 1) * some, some, most)
            if rest:
                depth_block.write(whole * some, rest, most)

    def write_few(self, number: Size) -> None:
        """A wide panel's columns of one row or two, a block after the other."""
        builder, columns = self.builder, TOGETHER * PANEL
        kept = builder.allocate(u8, (TOGETHER, _BYTES))
        for row, height in row_tiles(builder, self.steps.shape[0], _FEW_ROWS):
            totals = builder.allocate(f32, (height, columns))
            with builder.loop(height) as k, builder.loop(columns, "vector", lanes=0) as j:
                builder.store(totals, (k, j), 0.0)
            with builder.loop(self.scales.shape[1]) as block:
                self._add_block(number, block, row, kept, totals)
            with builder.loop(height) as k, builder.loop(columns, "vector", lanes=0) as j:
                at = (row + k, number * columns + j)
                builder.append(column_store(self.out, at, totals[k, j], add=False))

    def _add_block(
        self, number: Size, block: Size, row: Size, kept: Buffer, totals: Buffer
    ) -> None:
        """Adds the products of a block to the totals of some rows; `kept` is for a step's units.
        The steps that are read some time later are prefetched."""
        builder, height = self.builder, totals.shape[0]
        assert isinstance(height, int)
        panels = range(TOGETHER)
        sums = [self.fragment(height) for _ in panels]
        with builder.loop(self.block // GROUP) as step:
            place = block * (self.block // GROUP) + step
            soon = self.weights.offset((number, place, 0, 0)) + AHEAD
            for byte in range(0, TOGETHER * self.bytes, LINE):
                builder.append(loops.Prefetch(self.weights, soon + byte))
            for panel in panels:
                self.spread((number, place, panel), block, kept, panel)
            for panel, name in zip(panels, sums, strict=True):
                self.multiply(name, height, row, (number, place, panel), kept, panel)
        for panel, name in zip(panels, sums, strict=True):
            column = builder.index(PANEL)
            factor = convert(self.scales[number * TOGETHER + panel, block, atom(column)], f32)
            at = atom(column) + panel * PANEL
            self.add_scaled(name, height, (row, block), column, factor, totals, at)

    @property
    def bytes(self) -> int:
        """How many a panel's step takes."""
        width = self.weights.shape[3]
        assert isinstance(width, int)
        return width

    def fragment(self, height: int) -> str:
        """The name of sums of a panel's columns for some rows, which are 0."""
        name = self.builder.fresh("sums")
        self.builder.append(loops.Fragment(name, height, PANEL, i32))
        column = self.builder.index(PANEL)
        self.builder.append(loops.FragmentFill(name, column, constant(0, i32), PANEL))
        return name

    def spread(self, at: tuple[Size, Size, Size], block: Size, kept: Buffer, row: Size) -> None:
        """Stores a panel's units of a step in a row of `kept`, if they are not bytes already."""
        if self.bytes == _BYTES:
            return
        number, _, panel = at
        with self.builder.loop(_NIBBLES, "vector", lanes=0) as j:
            both = self.weights[(*at, j)]
            for half, unit in enumerate((both & 15, binary("shr", both, 4))):
                byte = half * _NIBBLES + j
                if self.shifts is not None:
                    unit = unit + self.shifts[number, block, panel, byte]
                self.builder.store(kept, (row, byte), unit)

    def multiply(
        self, name: str, height: int, row: Size, at: tuple[Size, Size, Size], kept: Buffer,
        kept_row: Size,
    ) -> None:  # fmt: skip
        """Adds the products of a step to the sums of some rows."""
        every, depth = tuple(range(height)), at[1] * GROUP
        places = tuple(self.steps.offset((row + k, depth)) for k in every)
        units, begin = kept, kept.offset((kept_row, 0))
        if self.bytes == _BYTES:
            units, begin = self.weights, self.weights.offset((*at, 0))
        mac = loops.FragmentMac(name, every, self.steps, places, units, begin, GROUP)
        self.builder.append(mac)

    def add_scaled(
        self, name: str, height: int, at: tuple[Size, Size], column: Symbol, factor: Expression,
        totals: Buffer, place: Size,
    ) -> None:  # fmt: skip
        """Adds a block's sums to the totals; `at` is the first row, and the block."""
        stores = []
        for k in range(height):
            here, total = (at[0] + k, at[1]), (k, place)
            sum_ = convert(fragment_element(name, k, i32), f32)
            moved = self.x_sums[here] * float(-self.middle)
            value = (sum_ * self.x_scales[here] + moved) * factor
            stores.append((loops.Store(totals, total, totals[total] + value),))
        self.builder.append(loops.FragmentStore(name, column, PANEL, tuple(stores)))


@dataclass(frozen=True, eq=False)
class _DepthBlock:
    """Writes the products of a block of the depth, for a panel of a wide one; `kept` and `factors`
    are for its units and scales."""

    product: _Product
    number: Size
    place: Size
    kept: Buffer
    factors: Buffer

    def write(self, first: Size, count: int, most: int, is_first: bool = False) -> None:
        """Adds `count` blocks to the output, or stores their sums."""
        product, builder = self.product, self.product.builder
        panel = self.number * TOGETHER + self.place
        self._spread(panel, first, count)
        for row, height in row_tiles(builder, product.steps.shape[0], most):
            totals = builder.allocate(f32, (height, PANEL))
            with builder.loop(height) as k, builder.loop(PANEL, "vector", lanes=0) as j:
                builder.store(totals, (k, j), 0.0)
            with builder.loop(count) as number:
                self._add_block(first, number, row, totals)
            with builder.loop(height) as k, builder.loop(PANEL, "vector", lanes=0) as j:
                at = (row + k, panel * PANEL + j)
                store = column_store(product.out, at, totals[k, j], add=not is_first)
                builder.append(store)

    def _spread(self, panel: Size, first: Size, count: int) -> None:
        product, builder = self.product, self.product.builder
        with builder.loop(count) as block, builder.loop(PANEL, "vector", lanes=0) as j:
            scale = convert(product.scales[panel, first + block, j], f32)
            builder.store(self.factors, (block, j), scale)
        groups = product.block // GROUP
        if product.bytes == _BYTES:
            return
        with builder.loop(count) as block, builder.loop(groups) as step:
            at = (self.number, (first + block) * groups + step, self.place)
            product.spread(at, first + block, self.kept, block * groups + step)

    def _add_block(self, first: Size, number: Size, row: Size, totals: Buffer) -> None:
        """Adds the products of a block, one of those that were spread, to a tile's totals."""
        product, builder = self.product, self.product.builder
        groups, height = product.block // GROUP, totals.shape[0]
        assert isinstance(height, int)
        name = product.fragment(height)
        with builder.loop(groups) as step:
            at = (self.number, (first + number) * groups + step, self.place)
            product.multiply(name, height, row, at, self.kept, number * groups + step)
        column = builder.index(PANEL)
        factor, j = self.factors[number, atom(column)], atom(column)
        product.add_scaled(name, height, (row, first + number), column, factor, totals, j)


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
            _example(1, 288, 32, 32, has_shifts=True),
            _example(5, 96, 150, 16, has_shifts=True),
            _example(4, 544, 128, 32),
            _example(2, 64, 40, 16, width=8),
            _example(0, 16, 8, 16),
        ),
    )
)
