"""Writes the last kernel of a weight gradient by Winograd's method (winograd_gradient.py): G' m
G."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, load
from bessemer.compiler.schedule.contraction.contraction import Epilogue
from bessemer.compiler.schedule.convolution.winograd_gradient_plan import POINTS, Images, Items
from bessemer.compiler.schedule.convolution.winograd_taps import WEIGHTS, Matrix, both_sides


def add_up(
    images: Images, items: Items, m: tuple[Buffer, Buffer], epilogue: Epilogue
) -> loops.Block:
    """The kernel that adds up the sums of all parts of the images, transforms them, and applies the
    epilogue. `m` is the buffer of the sums, as a flat one and as one with the axes [item, point,
    channel, column]."""
    memory, layout = m
    width = items.panels * items.panel
    builder = KernelBuilder()
    with builder.loop(images.channels, "parallel") as channel:
        block, row = dims.floordiv(channel, items.channels), dims.mod(channel, items.channels)
        with builder.loop(items.column_items) as columns:
            begin = columns * width
            slot = (block * items.column_items + columns) * items.parts
            inside = dims.minimum(width, images.columns - begin)
            with builder.loop(inside, "vector", lanes=0) as column:
                sums = []
                for point in range(POINTS):
                    places = [(slot + part, point, row, column) for part in range(items.parts)]
                    first, *others = (load(memory, (layout.offset(at),)) for at in places)
                    total: Expression = first
                    for term in others:
                        total = total + term
                    sums.append(total)
                store_weights(builder, sums, (channel, begin + column), epilogue)
    return builder.block()


def store_weights(
    builder: KernelBuilder,
    sums: Sequence[Expression],
    at: tuple[Size, Size],
    epilogue: Epilogue,
) -> None:
    """Stores the nine weights of one channel and one column."""
    square = [sums[4 * row : 4 * row + 4] for row in range(4)]
    matrix = transposed(WEIGHTS)
    values = both_sides(builder, (matrix, matrix), square)
    channel, column = at
    for y, x in product(range(3), range(3)):
        for store in epilogue((y, x, channel), column, values[y][x]):
            builder.append(store)


def transposed(matrix: Matrix) -> Matrix:
    """The transpose of the matrix."""
    return tuple(zip(*matrix, strict=True))
