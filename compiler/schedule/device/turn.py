"""Transposes on a GPU: through a tile in shared memory, so that reads and writes are both of rows.

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
from bessemer.compiler.ir.device import Mapping
from bessemer.compiler.ir.dims import Atom, Size, Symbol
from bessemer.compiler.ir.expr import Expression, Load, Reduce, less
from bessemer.compiler.ir.guard import guarded
from bessemer.compiler.ir.loops import Block
from bessemer.compiler.schedule.dependence import all_nodes
from bessemer.compiler.schedule.nests.merge_axes import Piece, extent_of

SIDE = 32
THREADS = 256
NEAR = 4
"""Neighbours that lie no further apart than this are read as they are: they share lines."""
SHORTEST = 16
"""Elements of an axis that are worth a tile."""
FEWEST = 1 << 12


@dataclass(frozen=True, eq=False)
class _Turn:
    """The axis that loads run along, the one that stores run along, and the others, outer first."""

    piece: Piece
    loads: Symbol
    stores: Symbol
    others: tuple[Symbol, ...]
    turned: tuple[Load, ...]


def lower_turned_piece(piece: Piece) -> tuple[Block, Mapping] | None:
    """The loops of a piece with merged axes, or None where plain ones do as well."""
    turn = _find(piece)
    if turn is None:
        return None
    builder = KernelBuilder()
    rows, columns = (dims.ceildiv(extent_of(s), SIDE) for s in (turn.loads, turn.stores))
    outer = dims.product(map(extent_of, turn.others))
    with builder.loop(outer * rows * columns, "parallel") as index:
        values: dict[Atom, Size] = {}
        first = (
            dims.mod(index, columns) * SIDE,
            dims.mod(dims.floordiv(index, columns), rows) * SIDE,
        )
        rest: Size = dims.floordiv(index, rows * columns)
        for symbol in reversed(turn.others[1:]):
            values[symbol] = dims.mod(rest, extent_of(symbol))
            rest = dims.floordiv(rest, extent_of(symbol))
        if turn.others:
            values[turn.others[0]] = rest
        _tile(builder, turn, values, *first)
    return builder.block(), Mapping(THREADS, THREADS)


def _tile(
    builder: KernelBuilder, turn: _Turn, values: dict[Atom, Size], column: Size, row: Size
) -> None:
    """One tile: `column` is where it begins along the stores' axis, `row` along the loads'."""
    arrays = {load: builder.allocate(load.dtype, (SIDE, SIDE + 1)) for load in turn.turned}
    with builder.loop(SIDE * SIDE, "vector", 1) as place:
        across, along = dims.floordiv(place, SIDE), dims.mod(place, SIDE)
        here = values | {turn.stores: column + across, turn.loads: row + along}
        for load, array in arrays.items():
            value = guarded(_inside(turn, here), walk_expr.substitute(load, here), 0)
            builder.store(array, (across, along), value)
    tiles: dict[Expression, Expression] = {}
    with builder.loop(SIDE * SIDE, "vector", 1) as place:
        across, along = dims.floordiv(place, SIDE), dims.mod(place, SIDE)
        here = values | {turn.loads: row + across, turn.stores: column + along}
        for load, array in arrays.items():
            tiles[load] = expr.load(array, (along, across))
        inside = _inside(turn, here)
        element = walk_expr.substitute(walk_expr.transform(turn.piece.value, tiles.get), here)
        offset = dims.substitute(turn.piece.offset, here)
        guard = None if isinstance(inside, expr.Constant) else inside
        builder.store(turn.piece.target, (offset,), guarded(inside, element, 0), guard)


def _inside(turn: _Turn, here: dict[Atom, Size]) -> Expression:
    axes = (turn.loads, turn.stores)
    one, other = (less(here[axis], extent_of(axis)) for axis in axes)
    return one & other


def _find(piece: Piece) -> _Turn | None:
    nodes = all_nodes(piece.value)
    if len(piece.symbols) < 2 or any(isinstance(node, Reduce) for node in nodes):
        return None
    stores = [s for s in piece.symbols if dims.coefficient_of(piece.offset, s) == 1]
    if len(stores) != 1:
        return None
    (along,) = stores
    loads = [node for node in nodes if isinstance(node, Load) and node.guard is None]
    for symbol in piece.symbols:
        turned = tuple(load for load in loads if _is_turned(load, symbol, along))
        if symbol is not along and turned and _are_long(piece, symbol, along):
            others = tuple(s for s in piece.symbols if s not in (symbol, along))
            return _Turn(piece, symbol, along, others, turned)
    return None


def _is_turned(load: Load, symbol: Symbol, along: Symbol) -> bool:
    """Whether neighbours along `symbol` are neighbours in memory, and those along the other are
    far apart."""
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
