"""The operands of a matrix unit's products: packed right operands, and float32 numbers in three
parts.

A float32 number is the exact sum of three bf16 numbers, each the nearest to what is left:

    x = p0 + p1 + p2,   |p1| <= 2^-8 |x|,   |p2| <= 2^-16 |x|

So a product of float32 numbers is nine products of parts, of which the six largest are enough. For
infinities and NaN, the first part holds them and the others are 0. Parts below 1e-38 vanish,
because the matrix unit takes denormals for 0; so magnitudes below 1e-30 lose accuracy.

The right operand lies in the order in which the tiles are loaded: for each panel of 16 or 32
columns, for each step of the depth and each part, there are tiles of 16 columns, in which
neighbouring elements of a column fill groups of four bytes (g elements):

    packed[matrix, panel, step, part, tile, k // g, c, k % g] = part of b[matrix, k, column]

The depth consists of runs of contiguous elements of the left operand. The last step of a run ends
where the run does, so it may overlap the step before; there its right operand is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import (
    Buffer,
    Expression,
    binary,
    constant,
    convert,
    index_value,
    less,
    select,
    unary,
)
from bessemer.compiler.ir.guard import guarded
from bessemer.compiler.ir.loops import Block
from bessemer.compiler.ir.types import Array, DType, bf16, boolean, f32, i8, i32, u8
from bessemer.compiler.schedule.nests.nests import flat

ROW_BYTES = 64
COLUMNS = 16
TILE_BYTES = 1024
# The largest finite bf16; float32 numbers above it would be rounded to infinity.
_LARGEST = float.fromhex("0x1.fep127")
_LARGEST_F32 = float.fromhex("0x1.fffffep127")


@dataclass(frozen=True)
class TileForm:
    """How tiles multiply: the element types of the left and right tiles, the number of parts of a
    number, and the products (part of a, part of b) in order."""

    left: DType
    right: DType
    parts: int = 1
    products: tuple[tuple[int, int], ...] = ((0, 0),)

    @property
    def sum(self) -> DType:
        """The type of the sums."""
        return f32 if self.left is bf16 else i32

    @property
    def group(self) -> int:
        """The number of elements in four bytes."""
        return 4 // self.left.bytes

    @property
    def depth(self) -> int:
        """The products that one step adds to each sum: the elements in a row of a tile."""
        return ROW_BYTES // self.left.bytes

    @property
    def tile(self) -> int:
        """The number of elements in a tile of 16 rows."""
        return TILE_BYTES // self.left.bytes


HALF = TileForm(bf16, bf16)
SPLIT = TileForm(bf16, bf16, 3, ((2, 0), (1, 0), (1, 1), (0, 1), (0, 0), (0, 2)))
"""Small products first; from one to the next only one side changes."""
BYTES = tuple(TileForm(left, right) for left in (i8, u8) for right in (i8, u8))


@dataclass(frozen=True)
class Runs:
    """The depth: `count` runs of `length` elements each. A step takes `depth` elements."""

    count: int
    length: int
    depth: int

    @property
    def whole(self) -> int:
        """The number of steps in a run that do not overlap."""
        return self.length // self.depth

    @property
    def steps(self) -> int:
        return -(-self.length // self.depth)

    @property
    def rest(self) -> int:
        """The number of elements that only the last, overlapping step of a run has; 0 if there is
        none."""
        return self.length % self.depth


def split_array(x: Array) -> Array:
    """The three parts of float32 numbers, as a new first axis."""
    rest = x.astype(np.float32)
    finite = np.isfinite(rest)
    parts: list[Array] = []
    with np.errstate(all="ignore"):
        for _ in range(SPLIT.parts):
            part = np.where(finite, np.clip(rest, -_LARGEST, _LARGEST), rest)
            parts.append(part.astype(bf16.numpy))
            rest = np.where(finite, rest - parts[-1].astype(np.float32), np.float32(0))
    return np.stack(parts)


def split_parts(x: Expression) -> list[Expression]:
    """The three parts of a float32 value, as bf16."""
    finite = unary("abs", x) <= _LARGEST_F32
    clipped = binary("min", binary("max", x, -_LARGEST), _LARGEST)
    first = convert(select(finite, clipped, x), bf16)
    rest = select(finite, x - convert(first, f32), 0.0)
    second = convert(rest, bf16)
    return [first, second, convert(rest - convert(second, f32), bf16)]


def packed_shape(
    form: TileForm, runs: Runs, matrices: Size, columns: Size, panel: int
) -> tuple[Size, ...]:
    """The shape of the packed right operand."""
    return (
        matrices,
        dims.ceildiv(columns, panel),
        runs.count * runs.steps,
        form.parts,
        panel // COLUMNS,
        form.depth // form.group,
        COLUMNS,
        form.group,
    )


def pack(b: Array, form: TileForm, runs: Runs, panel: int) -> Array:
    """Packs [..., depth, columns], whose leading axes are the matrices, in order. The result is a
    view."""
    columns = b.shape[-1]
    matrices = b.reshape(-1, runs.count, runs.length, columns)
    panels = -(-columns // panel)
    parts = split_array(matrices) if form.parts == 3 else matrices.astype(form.right.numpy)[None]
    padded = np.zeros(
        (form.parts, len(matrices), runs.count, runs.steps * form.depth, panels * panel),
        form.right.numpy,
    )
    whole = runs.whole * form.depth
    padded[:, :, :, :whole, :columns] = parts[:, :, :, :whole]
    if runs.rest:
        padded[:, :, :, -runs.rest :, :columns] = parts[:, :, :, whole:]
    shape = (form.parts, len(matrices), runs.count * runs.steps)
    tiles = padded.reshape(
        *shape, form.depth // form.group, form.group, panels, panel // COLUMNS, COLUMNS
    )
    return tiles.transpose(1, 5, 2, 0, 6, 3, 7, 4)


def pack_body(
    element: Callable[[Size, Size, Size], Expression],
    form: TileForm,
    runs: Runs,
    out: Buffer,
    columns: Size,
    lanes: int,
) -> tuple[Block, Size]:
    """The body of a kernel that packs when the model runs, and the operations of an item. `out` has
    the shape that `packed_shape` gives.

    `element(matrix, k, column)` gives the elements of `b`.
    """
    builder = KernelBuilder()
    matrices, panels, steps, parts, tiles, rows, *_ = out.shape
    assert isinstance(tiles, int) and isinstance(rows, int)
    with builder.loop(dims.product((matrices, panels, steps)), "parallel") as item:
        step = dims.mod(item, steps)
        panel = dims.mod(dims.floordiv(item, steps), panels)
        matrix = dims.floordiv(item, dims.product((panels, steps)))
        with (
            builder.loop(tiles) as tile,
            builder.loop(rows) as row,
            builder.loop(COLUMNS, "vector", lanes) as c,
        ):
            column = (panel * tiles + tile) * COLUMNS + c
            chosen: list[Sequence[Expression]] = []
            for within in range(form.group):
                k, is_new = _place(runs, step, row * form.group + within)
                value = element(0 if matrices == 1 else matrix, k, column)
                value = guarded(is_new & less(column, columns), value, 0)
                number = builder.define(value).value
                chosen.append(split_parts(number) if parts == 3 else [convert(number, form.right)])
            # Stores of neighbours follow each other: they become one.
            for part in range(form.parts):
                for within in range(form.group):
                    at = (matrix, panel, step, part, tile, row, c, within)
                    builder.store(flat(out), (out.offset(at),), chosen[within][part])
    return builder.block(), 16 * form.tile * tiles


def _place(runs: Runs, step: Size, within: Size) -> tuple[Size, Expression]:
    """The place in the depth of element `within` of a step, and whether no earlier step has that
    element."""
    run, at = dims.floordiv(step, runs.steps), dims.mod(step, runs.steps)
    k = at * runs.depth + within
    is_new: Expression = constant(True, boolean)
    if runs.rest:
        is_last = dims.floordiv(at, runs.whole)
        k = k - is_last * (runs.depth - runs.rest)
        done = is_last * (runs.whole * runs.depth)
        is_new = binary("ge", index_value(k), index_value(done))
    return run * runs.length + k, is_new
