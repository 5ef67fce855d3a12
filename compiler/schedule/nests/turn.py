"""Loop nests that turn axes around: they read along one axis of memory and write along another.

    out[j, i] = f(in[i, j])

Either the loads or the stores of a plain nest would jump from line to line. Here a square of
elements, as wide as a vector, is computed along the loads, turned in the first-level cache, and
stored along the stores. To turn a square of 2^n rows means to rotate the bits of its elements'
indices by n; a load of every fourth element rotates them by two.

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
from bessemer.compiler.ir.expr import Buffer, Load, Reduce, less
from bessemer.compiler.schedule.costs import operations
from bessemer.compiler.schedule.dependence import all_nodes
from bessemer.compiler.schedule.nests.merge_axes import Piece, merge_axes
from bessemer.compiler.schedule.nests.nests import NEAR, Lanes, Nest

SMALLEST = 4
"""Rows and columns of a square; a vector has as many, or one of the axes."""
FEWEST = 1 << 12
"""Elements for which it is worth the code."""
_PAIR, _ALONG = 2, "along"


@dataclass(frozen=True, eq=False)
class _Turn:
    """The axis that loads run along, the one that stores run along, and the others, outer first;
    `together` neighbours along the loads are stored side by side."""

    piece: Piece
    loads: Symbol
    stores: Symbol
    others: tuple[Symbol, ...]
    lanes: int
    together: int = 1


def lower_turned(piece: Piece, lanes: Lanes) -> Nest | None:
    """The loops, or None where a plain nest does as well. The piece's loads must be flat."""
    turn = _find(merge_axes(piece), lanes)
    if turn is None:
        return None
    builder = KernelBuilder()
    length = _extent(turn.stores)
    blocks = dims.ceildiv(length, turn.lanes)
    outer = dims.product(map(_extent, turn.others))
    with builder.loop(outer * blocks, "parallel") as item:
        values: dict[Atom, Size] = {}
        rest: Size = dims.floordiv(item, blocks)
        for symbol in reversed(turn.others[1:]):
            values[symbol] = dims.mod(rest, _extent(symbol))
            rest = dims.floordiv(rest, _extent(symbol))
        if turn.others:
            values[turn.others[0]] = rest
        _band(builder, turn, values, dims.mod(item, blocks) * turn.lanes)
    return Nest(builder.block(), operations(turn.piece.value) * _extent(turn.loads) * turn.lanes)


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
        if near is None or (isinstance(near, int) and 0 < near <= NEAR) or far not in (0, 1):
            return None
        if far == 0 and near != 0:
            return None
    if all(_step(load.indices[0], stores) == 0 for load in loads):
        return None
    width = min(
        lanes(dtype) for dtype in {load.buffer.dtype for load in loads} | {piece.target.dtype}
    )
    extents = (_extent(along), _extent(stores))
    shortest = min(size for size in (*extents, width) if isinstance(size, int))
    # Smaller squares would overlap by too much; the last rotation of pairs takes 8 rows.
    smallest = SMALLEST if together == 1 else max(width, 2 * SMALLEST)
    if shortest < smallest or shortest & (shortest - 1):
        return None
    whole = dims.product(map(_extent, piece.symbols))
    if isinstance(whole, int) and whole < FEWEST:
        return None
    others = tuple(s for s in piece.symbols if s is not stores and s is not along)
    return _Turn(piece, along, stores, others, shortest, together)


def _step(offset: Size, symbol: Symbol) -> Size | None:
    return dims.coefficient_of(offset, symbol)


def _extent(symbol: Symbol) -> Size:
    assert symbol.extent is not None
    return symbol.extent


def _band(builder: KernelBuilder, turn: _Turn, values: Mapping[Atom, Size], begin: Size) -> None:
    """As many neighbours along the stores as a vector has, all along the loads."""
    lanes = turn.lanes
    along, across = _extent(turn.loads), _extent(turn.stores)
    if isinstance(across, int):
        # The last square may compute some elements again.
        _squares(builder, turn, values, dims.minimum(begin, across - lanes))
        return
    with builder.when(less(begin + (lanes - 1), across)):
        _squares(builder, turn, values, begin)
    with builder.otherwise():
        _plain(builder, turn, values, (begin, across - begin), (0, along))


def _squares(builder: KernelBuilder, turn: _Turn, values: Mapping[Atom, Size], begin: Size) -> None:
    lanes, along = turn.lanes, _extent(turn.loads)
    squares = [builder.allocate(turn.piece.target.dtype, (lanes * lanes,)) for _ in range(2)]
    if isinstance(along, int):
        with builder.loop(dims.ceildiv(along, lanes)) as number:
            step = lanes // turn.together
            first = dims.minimum(number * step, along // turn.together - step) * turn.together
            _square(builder, turn, values, (begin, first), squares)
        return
    whole = dims.floordiv(along, lanes)
    with builder.loop(whole) as number:
        _square(builder, turn, values, (begin, number * lanes), squares)
    _plain(builder, turn, values, (begin, lanes), (whole * lanes, along - whole * lanes))


def _square(
    builder: KernelBuilder,
    turn: _Turn,
    values: Mapping[Atom, Size],
    begin: tuple[Size, Size],
    squares: list[Buffer],
) -> None:
    """Computes a square and turns it; `begin` is its first place along stores and loads."""
    piece, lanes = turn.piece, turn.lanes
    source, target = squares
    with builder.loop(lanes) as row, builder.loop(lanes, "vector", lanes) as column:
        here = {**values, turn.stores: begin[0] + row, turn.loads: begin[1] + column}
        builder.store(source, (row * lanes + column,), walk_expr.substitute(piece.value, here))
    bits = lanes.bit_length() - 1
    shifts = [2] * (bits // 2) + [1] * (bits % 2)
    for shift in shifts[:-1]:
        step, group = 1 << shift, lanes >> shift
        with (
            builder.loop(group) as low,
            builder.loop(step, "unroll") as high,
            builder.loop(lanes, "vector", lanes) as lane,
        ):
            value = source[(low * lanes + lane) * step + high]
            builder.store(target, ((high * group + low) * lanes + lane,), value)
        source, target = target, source
    _store_turned(builder, turn, values, begin, source, 1 << shifts[-1])


def _store_turned(
    builder: KernelBuilder,
    turn: _Turn,
    values: Mapping[Atom, Size],
    begin: tuple[Size, Size],
    source: Buffer,
    step: int,
) -> None:
    """The last rotation of a square, by a load of every element a `step` apart."""
    piece, lanes = turn.piece, turn.lanes
    group = lanes // step
    with (
        builder.loop(group // turn.together) as first,
        builder.loop(step, "unroll") as high,
        builder.loop(lanes, "vector", lanes) as lane,
    ):
        for number in range(turn.together):
            low = first * turn.together + number
            value = source[(low * lanes + lane) * step + high]
            along = begin[1] + high * group + low
            here = {**values, turn.stores: begin[0] + lane, turn.loads: along}
            builder.store(piece.target, (dims.substitute(piece.offset, here),), value)


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
