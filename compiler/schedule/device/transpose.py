"""Transposes on a GPU through a tile in shared memory, so that both loads and stores are along
rows.

    out[i*m + j] = f(x[j*n + i])          becomes, for tiles of 32 x 32,

    tile : f32[32, 33]
    vector t in 0..1024:  tile[t//32, t%32] = x[(j0 + t//32)*n + i0 + t%32]
    vector t in 0..1024:  out[(i0 + t//32)*m + j0 + t%32] = f(tile[t%32, t//32])

The 33rd column puts the elements of one column of the tile into different banks.
"""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.ir import dims, expr, walk_expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.device import ThreadMapping
from bessemer.compiler.ir.dims import Atom, Size, Symbol
from bessemer.compiler.ir.expr import Expression, Load, less
from bessemer.compiler.ir.guard import guarded
from bessemer.compiler.ir.loops import Block
from bessemer.compiler.ir.ravel import unravel
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of

SIDE = 32
THREADS = 256
NEAR = 4
"""Loads whose neighbours are at most this many elements apart are not transposed: they share cache
lines."""
SHORTEST = 16
"""Elements of the shortest axis that is worth a tile."""
FEWEST = 1 << 12
"""Elements of an array that is worth tiles: four of them."""


@dataclass(frozen=True, eq=False)
class _Transpose:
    """The axis that loads run along, the axis that stores run along, all others from the outermost
    on, and the loads that go through the tile."""

    piece: Piece
    loads: Symbol
    stores: Symbol
    others: tuple[Symbol, ...]
    transposed: tuple[Load, ...]


def lower_device_transpose(piece: Piece) -> tuple[Block, ThreadMapping] | None:
    """The loops of a piece whose axes have been merged; None if plain loops are as good."""
    work = _find(piece)
    if work is None:
        return None
    builder = KernelBuilder()
    rows, columns = (dims.ceildiv(extent_of(s), SIDE) for s in (work.loads, work.stores))
    outer = dims.product(map(extent_of, work.others))
    with builder.loop(outer * rows * columns, "parallel") as index:
        first = (
            dims.mod(index, columns) * SIDE,
            dims.mod(dims.floordiv(index, columns), rows) * SIDE,
        )
        item = dims.floordiv(index, rows * columns)
        outer_index = unravel(item, [extent_of(symbol) for symbol in work.others])
        values: dict[Atom, Size] = dict(zip(work.others, outer_index, strict=True))
        _tile(builder, work, values, *first)
    return builder.block(), ThreadMapping(THREADS, THREADS)


def _tile(
    builder: KernelBuilder, work: _Transpose, values: dict[Atom, Size], column: Size, row: Size
) -> None:
    """Adds one tile. It begins at `column` along the stores' axis and at `row` along the loads'
    axis; `values` are the other indices."""
    arrays = {load: builder.allocate(load.dtype, (SIDE, SIDE + 1)) for load in work.transposed}
    with builder.loop(SIDE * SIDE, "vector", 1) as place:
        across, along = dims.floordiv(place, SIDE), dims.mod(place, SIDE)
        here = values | {work.stores: column + across, work.loads: row + along}
        for load, array in arrays.items():
            value = guarded(_inside(work, here), walk_expr.substitute(load, here), 0)
            builder.store(array, (across, along), value)
    tiles: dict[Expression, Expression] = {}
    with builder.loop(SIDE * SIDE, "vector", 1) as place:
        across, along = dims.floordiv(place, SIDE), dims.mod(place, SIDE)
        here = values | {work.loads: row + across, work.stores: column + along}
        for load, array in arrays.items():
            tiles[load] = expr.load(array, (along, across))
        inside = _inside(work, here)
        element = walk_expr.substitute(walk_expr.transform(work.piece.value, tiles.get), here)
        offset = dims.substitute(work.piece.offset, here)
        guard = None if isinstance(inside, expr.Constant) else inside
        builder.store(work.piece.target, (offset,), guarded(inside, element, 0), guard)


def _inside(work: _Transpose, here: dict[Atom, Size]) -> Expression:
    axes = (work.loads, work.stores)
    one, other = (less(here[axis], extent_of(axis)) for axis in axes)
    return one & other


def _find(piece: Piece) -> _Transpose | None:
    if len(piece.symbols) < 2 or walk_expr.reductions_of(piece.value):
        return None
    stores = [s for s in piece.symbols if dims.coefficient_of(piece.offset, s) == 1]
    if len(stores) != 1:
        return None
    (along,) = stores
    loads = [load for load in walk_expr.loads_of(piece.value) if load.guard is None]
    for symbol in piece.symbols:
        transposed = tuple(load for load in loads if _is_transposed(load, symbol, along))
        if symbol is not along and transposed and _are_long(piece, symbol, along):
            others = tuple(s for s in piece.symbols if s not in (symbol, along))
            return _Transpose(piece, symbol, along, others, transposed)
    return None


def _is_transposed(load: Load, symbol: Symbol, along: Symbol) -> bool:
    """Whether consecutive indices of `symbol` are neighbours in memory, and consecutive indices of
    `along` are far apart."""
    (offset,) = load.indices
    if walk_expr.index_expressions(offset) or dims.coefficient_of(offset, symbol) != 1:
        return False
    step = dims.coefficient_of(offset, along)
    return step is not None and not (isinstance(step, int) and abs(step) <= NEAR)


def _are_long(piece: Piece, *axes: Symbol) -> bool:
    extents = [extent_of(axis) for axis in axes]
    elements = dims.product(map(extent_of, piece.symbols))
    long = all(isinstance(extent, int) and extent >= SHORTEST for extent in extents)
    return long and not (isinstance(elements, int) and elements < FEWEST)
