"""Loop nests that turn axes around: they read along one axis of memory and write along another.

    out[j, i] = f(in[i, j])

Either the loads or the stores of a plain nest would jump from line to line. Here a square of
elements, as wide as a vector, is computed along the loads, turned in the first-level cache, and
stored along the stores. To turn a square of 2^n rows means to rotate the bits of its elements'
indices by n; a load of every fourth element rotates them by two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bessemer.compiler.ir import dims, walk_expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Atom, Size, Symbol
from bessemer.compiler.ir.expr import Buffer, Load, Reduce, less
from bessemer.compiler.schedule.costs import operations
from bessemer.compiler.schedule.dependence import all_nodes
from bessemer.compiler.schedule.nests.merge_axes import Piece, merge_axes
from bessemer.compiler.schedule.nests.nests import Lanes, Nest

NEAR = 4
"""Elements that lie no further apart than this are loaded as vectors and shuffled anyway."""
FEWEST = 1 << 12
"""Elements for which it is worth the code."""


@dataclass(frozen=True, eq=False)
class _Turn:
    """The axis that loads run along, the one that stores run along, and the others, outer first."""

    piece: Piece
    loads: Symbol
    stores: Symbol
    others: tuple[Symbol, ...]
    lanes: int


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
    nodes = all_nodes(piece.value)
    loads = [node for node in nodes if isinstance(node, Load)]
    if not loads or any(isinstance(node, Reduce) for node in nodes):
        return None
    stores = next((s for s in piece.symbols if _step(piece.offset, s) == 1), None)
    if stores is None:
        return None
    votes = {
        symbol: sum(_step(load.indices[0], symbol) == 1 for load in loads)
        for symbol in piece.symbols
        if symbol is not stores
    }
    along = max(votes, key=lambda symbol: votes[symbol], default=None)
    if along is None or not votes[along]:
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
    extents = [_extent(along), _extent(stores)]
    if width < 4 or any(isinstance(size, int) and size < width for size in extents):
        return None
    whole = dims.product(map(_extent, piece.symbols))
    if isinstance(whole, int) and whole < FEWEST:
        return None
    others = tuple(s for s in piece.symbols if s is not stores and s is not along)
    return _Turn(piece, along, stores, others, width)


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
            first = dims.minimum(number * lanes, along - lanes)
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
    for number, shift in enumerate(shifts):
        step, group = 1 << shift, lanes >> shift
        with (
            builder.loop(group) as low,
            builder.loop(step, "unroll") as high,
            builder.loop(lanes, "vector", lanes) as lane,
        ):
            along: Size = high * group + low
            value = source[(low * lanes + lane) * step + high]
            here = {**values, turn.stores: begin[0] + lane, turn.loads: begin[1] + along}
            if number < len(shifts) - 1:
                builder.store(target, (along * lanes + lane,), value)
            else:
                builder.store(piece.target, (dims.substitute(piece.offset, here),), value)
        source, target = target, source


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
