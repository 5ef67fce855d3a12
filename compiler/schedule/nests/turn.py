"""Loop nests that turn axes around: they read along one axis of memory and write along another.

    out[j, i] = f(in[i, j])

Either the loads or the stores of a plain nest would jump from line to line. Here a square of
elements is computed by vectors along the loads, a row of it after the other in one iteration;
their stores, neighbours all, are woven in registers (codegen/kernels/interleaved_stores.py).

    out[i, j, k] = f(in[j, 2 * i + k])        k in 0..2

is turned in the same way, but that neighbours of a row stay neighbours: so lie the right operands
of instructions that multiply pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bessemer.compiler.ir import dims, walk_expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Atom, Size, Symbol, atom
from bessemer.compiler.ir.expr import Load, Reduce, less
from bessemer.compiler.schedule.costs import operations
from bessemer.compiler.schedule.dependence import all_nodes
from bessemer.compiler.schedule.nests.merge_axes import Piece, merge_axes
from bessemer.compiler.schedule.nests.nests import NEAR, Lanes, Nest

SMALLEST = 4
"""Rows and columns of a square, at least, unless all rows there are go together."""
MOST_ROWS = 16
LARGEST = 256
"""Elements of a square: what registers hold."""
SHORT = (2, 3)
"""Axes shorter than a square whose elements are woven nevertheless, all of them."""
FEWEST = 1 << 9
"""Elements for which it is worth the code."""
MOST_OPERATIONS = 4 * MOST_ROWS
"""Arithmetic of a square that is written row by row; more is a loop over rows."""
FEWEST_ITEMS, SHARE = 16, 64
"""Where the other axes give fewer items than that, so many squares in a row are one."""
_PAIR, _ALONG = 2, "along"


@dataclass(frozen=True, eq=False)
class _Turn:
    """The axis that loads run along, the one that stores run along, and the others, outer first;
    `together` neighbours along the loads are stored side by side. Squares are `rows` along the
    stores by `columns` along the loads."""

    piece: Piece
    loads: Symbol
    stores: Symbol
    others: tuple[Symbol, ...]
    rows: int
    columns: int
    together: int


def lower_turned(piece: Piece, lanes: Lanes) -> Nest | None:
    """The loops, or None where a plain nest does as well. The piece's loads must be flat."""
    turn = _find(merge_axes(piece), lanes)
    if turn is None:
        return None
    builder = KernelBuilder()
    blocks = dims.ceildiv(_extent(turn.stores), turn.rows)
    outer = dims.product(map(_extent, turn.others))
    shares = _shares(turn, outer * blocks)
    with builder.loop(outer * blocks * shares, "parallel") as item:
        values: dict[Atom, Size] = {}
        share = dims.mod(item, shares)
        block = dims.floordiv(item, shares)
        rest: Size = dims.floordiv(block, blocks)
        for symbol in reversed(turn.others[1:]):
            values[symbol] = dims.mod(rest, _extent(symbol))
            rest = dims.floordiv(rest, _extent(symbol))
        if turn.others:
            values[turn.others[0]] = rest
        _band(builder, turn, values, dims.mod(block, blocks) * turn.rows, (share, shares))
    length = SHARE * turn.columns if shares != 1 else _extent(turn.loads)
    return Nest(builder.block(), operations(turn.piece.value) * length * turn.rows)


def _shares(turn: _Turn, items: Size) -> Size:
    """Into how many items a band of squares is divided."""
    along = _extent(turn.loads)
    if not isinstance(along, int) or not isinstance(items, int) or items >= FEWEST_ITEMS:
        return 1
    return dims.ceildiv(along, SHARE * turn.columns)


def _find(piece: Piece, lanes: Lanes) -> _Turn | None:
    joined = _with_pairs_joined(piece)
    return _with_axes(joined or piece, _PAIR if joined else 1, lanes)


def _with_pairs_joined(piece: Piece) -> Piece | None:
    """The piece with one axis in place of the two that pairs of neighbours lie along: the outer one
    steps from pair to pair, the inner one inside a pair."""
    pair = next((s for s in piece.symbols if _step(piece.offset, s) == 1), None)
    loads = [node for node in all_nodes(piece.value) if isinstance(node, Load)]
    if pair is None or pair.extent != _PAIR:
        return None
    for symbol in piece.symbols:
        if not isinstance(_step(piece.offset, symbol), int):
            continue  # the places of a row's pairs must be known to be woven
        if symbol is not pair and any(_step(load.indices[0], symbol) == _PAIR for load in loads):
            along = Symbol(_ALONG, _extent(symbol) * _PAIR)
            at: dict[Atom, Size] = {
                symbol: dims.floordiv(atom(along), _PAIR),
                pair: dims.mod(atom(along), _PAIR),
            }
            symbols = (along if s is symbol else s for s in piece.symbols if s is not pair)
            offset = dims.substitute(piece.offset, at)
            value = walk_expr.substitute(piece.value, at)
            return Piece(piece.target, offset, value, tuple(symbols))
    return None


def _with_axes(piece: Piece, together: int, lanes: Lanes) -> _Turn | None:
    nodes = all_nodes(piece.value)
    loads = [node for node in nodes if isinstance(node, Load)]
    if not loads or any(isinstance(node, Reduce) for node in nodes):
        return None
    stores = next((s for s in piece.symbols if _step(piece.offset, s) == together), None)
    if stores is None:
        return None
    votes = {
        symbol: sum(_step(load.indices[0], symbol) == 1 for load in loads)
        for symbol in piece.symbols
        if symbol is not stores
    }
    along = max(votes, key=lambda symbol: votes[symbol], default=None)
    if along is None or not votes[along] or (together > 1 and along.name != _ALONG):
        return None
    for load in loads:
        near, far = _step(load.indices[0], stores), _step(load.indices[0], along)
        if near is None or far not in (0, 1):
            return None
        if far == 1 and isinstance(near, int) and 0 < near <= NEAR:
            return None
        if far == 0 and near != 0 and walk_expr.index_expressions(load.indices[0]):
            return None  # a row that is looked up lies along the stores already
    if all(_step(load.indices[0], stores) == 0 for load in loads):
        return None
    width = min(
        lanes(dtype) for dtype in {load.buffer.dtype for load in loads} | {piece.target.dtype}
    )
    rows, columns = _sides(_extent(stores), _extent(along), width, together)
    if rows < 2 or columns < SMALLEST * together:
        return None
    whole = dims.product(map(_extent, piece.symbols))
    if isinstance(whole, int) and whole < FEWEST:
        return None
    others = tuple(s for s in piece.symbols if s is not stores and s is not along)
    return _Turn(piece, along, stores, others, rows, columns, together)


def _sides(stores: Size, loads: Size, width: int, together: int) -> tuple[int, int]:
    """The rows and columns of a square; powers of two, or one of SHORT."""
    if stores in SHORT:
        assert isinstance(stores, int)
        rows = stores if together == 1 else 0
    else:
        rows = _power_within(stores, min(width, MOST_ROWS))
        rows = rows if rows >= SMALLEST else 0
    return rows, _power_within(loads, min(width, LARGEST // max(rows, 1)))


def _power_within(size: Size, most: int) -> int:
    smaller = min(size, most) if isinstance(size, int) else most
    return 1 << (smaller.bit_length() - 1)


def _step(offset: Size, symbol: Symbol) -> Size | None:
    return dims.coefficient_of(offset, symbol)


def _extent(symbol: Symbol) -> Size:
    assert symbol.extent is not None
    return symbol.extent


def _band(
    builder: KernelBuilder,
    turn: _Turn,
    values: Mapping[Atom, Size],
    begin: Size,
    share: tuple[Size, Size],
) -> None:
    """The rows of a square along the stores, and one of so many shares along the loads."""
    rows, along, across = turn.rows, _extent(turn.loads), _extent(turn.stores)
    if isinstance(across, int):
        # The last square may compute some elements again.
        first = begin if across % rows == 0 else dims.minimum(begin, across - rows)
        _squares(builder, turn, values, first, share)
        return
    with builder.when(less(begin + (rows - 1), across)):
        _squares(builder, turn, values, begin, share)
    with builder.otherwise():
        _plain(builder, turn, values, (begin, across - begin), (0, along))


def _squares(
    builder: KernelBuilder,
    turn: _Turn,
    values: Mapping[Atom, Size],
    begin: Size,
    share: tuple[Size, Size],
) -> None:
    columns, along, together = turn.columns, _extent(turn.loads), turn.together
    if isinstance(along, int):
        number, shares = share
        count = dims.ceildiv(along, columns)
        many = count if shares == 1 else dims.minimum(count - number * SHARE, SHARE)
        with builder.loop(many) as step:
            first: Size = (number * SHARE + step) * columns
            if along % columns:
                # Whole neighbours stay together, as a multiple of them shows.
                last = (along - columns) // together
                first = dims.minimum(dims.floordiv(first, together), last) * together
            _square(builder, turn, values, (begin, first))
        return
    whole = dims.floordiv(along, columns)
    with builder.loop(whole) as step:
        _square(builder, turn, values, (begin, step * columns))
    _plain(builder, turn, values, (begin, turn.rows), (whole * columns, along - whole * columns))


def _square(
    builder: KernelBuilder, turn: _Turn, values: Mapping[Atom, Size], begin: tuple[Size, Size]
) -> None:
    """Computes and stores a square; `begin` is its first place along stores and loads."""
    piece, rows, columns = turn.piece, turn.rows, turn.columns

    def here(row: Size, column: Size) -> dict[Atom, Size]:
        return {**values, turn.stores: begin[0] + row, turn.loads: begin[1] + column}

    square, work = None, operations(piece.value)
    if not isinstance(work, int) or work * rows > MOST_OPERATIONS:
        square = builder.allocate(piece.target.dtype, (rows * columns,))
        with builder.loop(rows) as row, builder.loop(columns, "vector", columns) as column:
            value = walk_expr.substitute(piece.value, here(row, column))
            builder.store(square, (row * columns + column,), value)
    with builder.loop(columns, "vector", columns) as column:
        for number in range(rows):
            at = here(number, column)
            value = (
                square[number * columns + column]
                if square is not None
                else walk_expr.substitute(piece.value, at)
            )
            builder.store(piece.target, (dims.substitute(piece.offset, at),), value)


def _plain(
    builder: KernelBuilder,
    turn: _Turn,
    values: Mapping[Atom, Size],
    stores: tuple[Size, Size],
    loads: tuple[Size, Size],
) -> None:
    """The elements in these ranges (first, count) one by one."""
    piece = turn.piece
    with builder.loop(stores[1]) as row, builder.loop(loads[1]) as column:
        here = {**values, turn.stores: stores[0] + row, turn.loads: loads[0] + column}
        offset = dims.substitute(piece.offset, here)
        builder.store(piece.target, (offset,), walk_expr.substitute(piece.value, here))
