"""The order in which kernels pack a right operand when the model runs: by blocks of the depth, for
all panels.

    for block in depth / 16
      for panel in panels
        for k in 16:   packed[panel, 16 * block + k, :] = b[16 * block + k, panel's columns]

Reading one row of memory after the other would read memory in order, but consecutive stores would
be a panel apart. Such addresses share few sets of the caches, and every line would be fetched again
before it is complete. (1024 x 1024 f32 by a C loop on Zen 5: 260 us row by row, 100 in this order.)
Threads share the depth, as they do in the kernel that computes the rows.
"""

from __future__ import annotations

from dataclasses import replace

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Atom, Size, Symbol, atom
from bessemer.compiler.ir.expr import index_value
from bessemer.compiler.ir.ravel import unravel
from bessemer.compiler.ir.walk_expr import loads_of, substitute
from bessemer.compiler.schedule.costs import operations
from bessemer.compiler.schedule.lowering.pixel_runs import is_run
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of
from bessemer.compiler.schedule.nests.nest import Nest
from bessemer.compiler.schedule.nests.nests import write_nest
from bessemer.compiler.schedule.nests.rows import Lanes

_STEPS = range(16, 3, -1)
"""The number of steps in a block is the first of these that divides the depth."""


def blocked_packing(piece: Piece) -> Piece:
    """The piece with its loops in that order. Its symbols are matrix, panel, k, c, and further
    ones.

    The depth is not cut into blocks if `b` does not run along the columns in memory, nor if it
    consists of windows: these overlap, so that a panel reads few lines.
    """
    matrix, panel, step, *rest = piece.symbols
    if _has_windows(piece):
        return piece
    length = _length(piece)
    if length is None:
        return replace(piece, symbols=(matrix, step, panel, *rest))
    block, within = Symbol("block", extent_of(step) // length), Symbol(step.name, length)
    values: dict[Atom, Size] = {step: atom(block) * length + atom(within)}
    return Piece(
        piece.target,
        dims.substitute(piece.offset, values),
        substitute(piece.value, values),
        (matrix, block, panel, within, *rest),
    )


def blocked_packing_of_free_depth(piece: Piece, lanes: Lanes) -> Nest | None:
    """The same loop order for a symbolic depth, whose last block may be shorter; None for other
    depths, and if `b` does not run along the columns."""
    matrix, panel, step, *rest = piece.symbols
    depth, length = extent_of(step), _STEPS[0]
    if isinstance(depth, int) or not _runs_along_columns(piece):
        return None
    extents: tuple[Size, ...] = (dims.ceildiv(depth, length), extent_of(panel))
    if extent_of(matrix) != 1:
        extents = (extent_of(matrix), *extents)
    builder = KernelBuilder()

    def named(size: Size) -> Size:
        return size if isinstance(size, int) else builder.define(index_value(size), "x").index

    with builder.loop(dims.product(extents), "parallel") as item:
        *number, block, here = unravel(item, extents, named)
        first = block * length
        within = Symbol(step.name, named(dims.minimum(length, depth - first)))
        values: dict[Atom, Size] = {panel: here, step: first + atom(within)}
        values |= {matrix: number[0] if number else 0}
        offset, value = dims.substitute(piece.offset, values), substitute(piece.value, values)
        write_nest(builder, Piece(piece.target, offset, value, (within, *rest)), lanes)
    return Nest(builder.block(), operations(piece.value, tuple(rest)) * length)


def _length(piece: Piece) -> int | None:
    """The number of steps in a block; None where rows of memory do not run along the columns."""
    extent = extent_of(piece.symbols[2])
    if not isinstance(extent, int) or not _runs_along_columns(piece):
        return None
    return next((steps for steps in _STEPS if extent % steps == 0), None)


def _has_windows(piece: Piece) -> bool:
    """Whether a row of a panel is a run in memory, but rows are not at one distance: they are what
    the taps of a window see."""
    _, _, step, column, *_ = piece.symbols
    loads = loads_of(piece.value)
    steps = [dims.coefficient_of(load.indices[0], step) for load in loads]
    return None in steps and all(is_run(load, column) for load in loads)


def _runs_along_columns(piece: Piece) -> bool:
    """Whether a row of a panel is contiguous in memory, or a repeated element."""
    _, _, step, column, *_ = piece.symbols
    offsets = [load.indices[0] for load in loads_of(piece.value)]
    return all(
        dims.coefficient_of(offset, column) in (0, 1)
        and dims.coefficient_of(offset, step) is not None
        for offset in offsets
    )
