"""Loop nests that transpose: they read along one axis of memory and write along another.

    out[j, i] = f(in[i, j])

Either the loads or the stores of a plain nest would jump from line to line. Here one iteration
computes a square of elements, by vectors along the loads, one row after the other. The stores are
transposed in registers (codegen/kernels/interleaved_stores.py) and then are of neighbours, too.

    out[i, j, k] = f(in[j, 2 * i + k])        k in 0..2

is transposed in the same way, but pairs of neighbours in a row stay together; this is the layout of
right operands for instructions that multiply pairs. And so is

    out[j, i] = f(in[i, j // 2])

an image that is enlarged while its channels move to the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import and_

from bessemer.compiler.ir import dims, walk_expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Atom, FloorDiv, Size, Symbol, atom
from bessemer.compiler.ir.expr import Load, less
from bessemer.compiler.ir.ravel import unravel
from bessemer.compiler.schedule.contraction.cuts import dealt
from bessemer.compiler.schedule.costs import operations
from bessemer.compiler.schedule.nests.merge_axes import Piece, merge_axes
from bessemer.compiler.schedule.nests.nests import NEAREST, Lanes, Nest
from bessemer.compiler.schedule.nests.part_axes import part_axes
from bessemer.compiler.targets.machine import conflicts_in_cache

SMALLEST = 4
"""Rows and columns of a square, at least, unless all rows there are go together."""
MOST_ROWS = 16
LARGEST = 256
"""Elements of a square: what registers hold."""
SHORT = (2, 3)
"""Axes shorter than a square that are transposed nevertheless, the whole axis at once."""
MOST_REPEATS = 4
"""Of an element, by neighbours along the loads."""
FEWEST = 1 << 9
"""Elements for which it is worth the code."""
MOST_OPERATIONS = 4 * MOST_ROWS
"""Arithmetic of a square that is written row by row; more is a loop over rows."""
BESIDE = 4
"""Squares side by side along the stores that come before the next ones along the loads, where
stores conflict in the cache: only lines behind others are fetched in time."""
NEAR_BYTES = 1 << 10
"""From one store to that of a neighbour along the loads: at most so far, few sets are no danger.
(Of free sizes, 96x80x128 floats to 128x96x80: 589 us without, 188 with squares side by side; with
stores 512 bytes apart 97 and 150.)"""
FEWEST_ITEMS, SHARE = 16, 8
"""Where the other axes give fewer items than that, about so many squares in a row are one."""
_WHOLE_LINE = 4
"""Bytes of elements of which MOST_ROWS fill a line."""
_PAIR, _ALONG = 2, "along"


@dataclass(frozen=True, eq=False)
class _Transpose:
    """A piece whose loads run along one axis of memory and whose stores run along another.

    `others` are the remaining axes, outer first. `together` neighbours along the loads are stored
    side by side. Squares have `rows` elements along the stores by `columns` along the loads, and a
    band has `beside` of them. At most `repeats` neighbours load the same element.
    """

    piece: Piece
    loads: Symbol
    stores: Symbol
    others: tuple[Symbol, ...]
    rows: int
    columns: int
    together: int
    beside: Size
    repeats: int

    @property
    def height(self) -> Size:
        """The height of a band, in elements along the stores."""
        return self.rows * self.beside


def lower_transpose(piece: Piece, lanes: Lanes) -> Nest | None:
    """The loops, or None if a plain nest is as good. The piece's loads must be flat."""
    work = _find(merge_axes(piece), lanes)
    if work is None:
        return None
    builder = KernelBuilder()
    blocks = dims.ceildiv(_extent(work.stores), work.height)
    outer = dims.product(map(_extent, work.others))
    shares = _shares(work, outer)
    with builder.loop(outer * shares * blocks, "parallel") as item:
        around, within = dims.floordiv(item, shares * blocks), dims.mod(item, shares * blocks)
        share, block = dims.floordiv(within, blocks), dims.mod(within, blocks)
        _write_band(builder, work, around * blocks + block, share, shares)
    length = SHARE * work.columns if shares != 1 else _extent(work.loads)
    return Nest(builder.block(), operations(work.piece.value) * length * work.height)


def write_transpose(builder: KernelBuilder, piece: Piece, lanes: Lanes) -> bool:
    """Adds the same loops to a kernel, as serial ones; returns whether there are any."""
    work = _find(merge_axes(piece), lanes)
    if work is None:
        return False
    blocks = dims.ceildiv(_extent(work.stores), work.height)
    with builder.loop(dims.product(map(_extent, work.others)) * blocks) as block:
        _write_band(builder, work, block, 0, 1)
    return True


def _write_band(
    builder: KernelBuilder, work: _Transpose, block: Size, share: Size, shares: Size
) -> None:
    """Writes a share of a band. `block` is the band's number among those of all indices of the
    others."""
    blocks = dims.ceildiv(_extent(work.stores), work.height)
    others = unravel(dims.floordiv(block, blocks), [_extent(s) for s in work.others])
    values: dict[Atom, Size] = dict(zip(work.others, others, strict=True))
    _Band(builder, work, values, share, shares).write(dims.mod(block, blocks) * work.height)


def _shares(work: _Transpose, items: Size) -> Size:
    """Into how many parts the axis of the loads is divided, if it is the longer one. Threads then
    write one piece of memory each: where they write to the same pages, line by line, what is
    fetched ahead takes lines from the other one. (256x768 on two cores of one cache: 31 -> 23 us.
    Where the axis of the stores is longer, theirs are long pieces, too.)"""
    along, across = _extent(work.loads), _extent(work.stores)
    if not all(isinstance(size, int) for size in (along, across, items)):
        return 1
    if dims.number(items) >= FEWEST_ITEMS or dims.number(along) <= dims.number(across):
        return 1
    return dims.ceildiv(along, SHARE * work.columns)


def _find(piece: Piece, lanes: Lanes) -> _Transpose | None:
    joined = _with_pairs_joined(piece)
    if joined is not None:
        return _with_axes(joined, _PAIR, lanes)
    return _with_axes(piece, 1, lanes) or _with_axes(part_axes(piece), 1, lanes)


def _with_pairs_joined(piece: Piece) -> Piece | None:
    """The piece with one axis in place of the two that pairs of neighbours lie along: the outer one
    steps from pair to pair, the inner one inside a pair."""
    pair = next((s for s in piece.symbols if _step(piece.offset, s) == 1), None)
    loads = walk_expr.loads_of(piece.value)
    if pair is None or pair.extent != _PAIR:
        return None
    for symbol in piece.symbols:
        if not isinstance(_step(piece.offset, symbol), int):
            continue  # the places of a row's pairs must be known to be transposed in registers
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


def _with_axes(piece: Piece, together: int, lanes: Lanes) -> _Transpose | None:
    loads = walk_expr.loads_of(piece.value)
    if walk_expr.reductions_of(piece.value):
        return None
    stores = next((s for s in piece.symbols if _step(piece.offset, s) == together), None)
    along = None if stores is None else _axis_of_loads(piece, loads, stores)
    if stores is None or along is None or (together > 1 and along.name != _ALONG):
        return None
    if not all(_lies_across(load, stores, along) for load in loads):
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
    repeats = max(_repeats(load.indices[0], along) for load in loads)
    if repeats > 1 and (together > 1 or repeats > min(columns, MOST_REPEATS)):
        return None
    length = _extent(along)
    if dims.divide_exactly(length, repeats) is None:
        return None  # the last square could not begin at a multiple
    others = tuple(s for s in piece.symbols if s is not stores and s is not along)
    beside = _beside(piece, along)
    return _Transpose(piece, along, stores, others, rows, columns, together, beside, repeats)


def _small(work: _Transpose) -> _Transpose | None:
    """The same band in the smallest squares, for axes that are shorter than the others'; None where
    they are the smallest."""
    rows, columns = min(work.rows, SMALLEST), min(work.columns, SMALLEST * work.together)
    if (rows, columns) == (work.rows, work.columns):
        return None
    return replace(work, rows=rows, columns=columns, beside=dims.floordiv(work.height, rows))


def _axis_of_loads(piece: Piece, loads: Sequence[Load], stores: Symbol) -> Symbol | None:
    """The axis along which most loads that jump along the stores read neighbours."""
    jumping = [load for load in loads if _jumps(load, stores)]
    votes = {
        symbol: sum(_along(load.indices[0], symbol) == 1 for load in jumping)
        for symbol in piece.symbols
        if symbol is not stores
    }
    best = max(votes, key=lambda symbol: votes[symbol], default=None)
    return best if best is not None and votes[best] else None


def _lies_across(load: Load, stores: Symbol, along: Symbol) -> bool:
    """Whether a load reads neighbours along its own axis, or one element for all of it."""
    near, far = _step(load.indices[0], stores), _along(load.indices[0], along)
    if near is None or far not in (0, 1):
        return False
    if far == 1:
        return not (isinstance(near, int) and 0 < near <= NEAREST)
    # A row that is looked up lies along the stores already.
    return near == 0 or not walk_expr.index_expressions(load.indices[0])


def _beside(piece: Piece, loads: Symbol) -> Size:
    """How many squares are side by side: BESIDE where the stores of neighbours along the loads meet
    in few sets of the cache; and where only the run knows, more the farther apart they are, or as
    many if a square's rows do not fill a line."""
    step = _step(piece.offset, loads) or 0
    # A turned axis is stored from its end on.
    distance = dims.maximum(step, -step) * piece.target.dtype.bytes
    if isinstance(distance, int):
        return BESIDE if conflicts_in_cache(distance) else 1
    if piece.target.dtype.bytes < _WHOLE_LINE:
        return BESIDE
    return dims.minimum(dims.floordiv(distance, NEAR_BYTES) + 1, BESIDE)


def _jumps(load: Load, stores: Symbol) -> bool:
    """Whether a load's neighbours along the stores lie apart; one number for all does not."""
    near = _step(load.indices[0], stores)
    return not isinstance(near, int) or not 0 <= near <= NEAREST


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
    return 1 << max(0, smaller.bit_length() - 1)


def _step(offset: Size, symbol: Symbol) -> Size | None:
    return dims.coefficient_of(offset, symbol)


def _along(offset: Size, symbol: Symbol) -> Size | None:
    """The step where the same element is not read several times; else from one to the next."""
    repeated = _repeated(offset, symbol)
    return _step(offset, symbol) if repeated is None else 1


def _repeats(offset: Size, symbol: Symbol) -> int:
    """How many neighbours along an axis read the same element."""
    repeated = _repeated(offset, symbol)
    match None if repeated is None else dims.as_atom(repeated):
        case FloorDiv(_, int(times)):
            return times
        case _:
            return 1


def _repeated(offset: Size, symbol: Symbol) -> Size | None:
    """The index of the axis divided by a power of two, if nothing else depends on it."""
    if isinstance(offset, int) or _step(offset, symbol) is not None:
        return None
    for factor in {factor for monomial in offset.terms for factor, _ in monomial}:
        match factor:
            case FloorDiv(a, int(times)) if a == atom(symbol) and times.bit_count() == 1:
                if symbol not in dims.atoms(offset - atom(factor)):
                    return atom(factor)
    return None


def _extent(symbol: Symbol) -> Size:
    assert symbol.extent is not None
    return symbol.extent


@dataclass(frozen=True, eq=False)
class _Band:
    """Writes a band of squares: some rows along the stores, and the `share`-th of `shares` parts of
    the axis that loads run along. `values` are the indices of the other axes."""

    builder: KernelBuilder
    work: _Transpose
    values: Mapping[Atom, Size]
    share: Size
    shares: Size

    def write(self, begin: Size) -> None:
        """The band whose rows begin at this place along the stores."""
        work = self.work
        sides = ((work.rows, _extent(work.stores)), (work.columns, _extent(work.loads)))
        unsure = [less(side - 1, size) for side, size in sides if not isinstance(size, int)]
        if not unsure:
            self._squares(begin)
            return
        with self.builder.when(reduce(and_, unsure)):
            self._squares(begin)
        with self.builder.otherwise():
            small = _small(work)
            if small is None:
                self._elements(begin)
            else:
                replace(self, work=small).write(begin)

    def _squares(self, begin: Size) -> None:
        """In the last square along an axis some elements may be computed again."""
        columns, extent = self.work.columns, _extent(self.work.loads)
        begins, many = dealt(dims.ceildiv(extent, columns), self.shares, self.share)
        whole = max(self.work.together, self.work.repeats)
        with self.builder.loop(many) as step:
            first: Size = (begins + step) * columns
            if not isinstance(extent, int) or extent % columns:
                # Whole neighbours stay together, as a multiple of them shows.
                last = dims.floordiv(extent - columns, whole)
                first = dims.minimum(dims.floordiv(first, whole), last) * whole
            if not isinstance(extent, int) and whole == 1:
                first = self.builder.local(first)
            self._beside(begin, first)

    def _beside(self, row_begin: Size, column_begin: Size) -> None:
        """The squares of a band that begin at this place along the loads."""
        rows, extent = self.work.rows, _extent(self.work.stores)
        if self.work.beside == 1:
            self._square(self._whole(row_begin), column_begin)
            return
        left = dims.ceildiv(extent - row_begin, rows)
        with self.builder.loop(dims.minimum(left, self.work.beside)) as number:
            self._square(self._whole(row_begin + number * rows), column_begin)

    def _whole(self, begin: Size) -> Size:
        """Where a square begins, so that it ends inside."""
        rows, extent = self.work.rows, _extent(self.work.stores)
        if isinstance(extent, int):
            return dims.minimum(begin, extent - rows) if extent % rows else begin
        return self.builder.local(dims.minimum(begin, extent - rows))

    def _square(self, row_begin: Size, column_begin: Size) -> None:
        """Computes and stores a square: where it begins along the stores and along the loads."""
        builder, piece = self.builder, self.work.piece
        rows, columns = self.work.rows, self.work.columns
        square, arithmetic = None, operations(piece.value)
        if not isinstance(arithmetic, int) or arithmetic * rows > MOST_OPERATIONS:
            square = builder.allocate(piece.target.dtype, (rows * columns,))
            with builder.loop(rows) as row, builder.loop(columns, "vector", columns) as column:
                here = self._indices(row_begin + row, column_begin + column)
                value = walk_expr.substitute(piece.value, here)
                builder.store(square, (row * columns + column,), value)
        with builder.loop(columns, "vector", columns) as column:
            for number in range(rows):
                here = self._indices(row_begin + number, column_begin + column)
                value = (
                    square[number * columns + column]
                    if square is not None
                    else walk_expr.substitute(piece.value, here)
                )
                builder.store(piece.target, (dims.substitute(piece.offset, here),), value)

    def _elements(self, begin: Size) -> None:
        """The band's elements one by one."""
        piece, extent = self.work.piece, _extent(self.work.stores)
        rows = dims.minimum(self.work.height, extent - begin)
        with self.builder.loop(rows) as row, self.builder.loop(_extent(self.work.loads)) as column:
            here = self._indices(begin + row, column)
            offset = dims.substitute(piece.offset, here)
            self.builder.store(piece.target, (offset,), walk_expr.substitute(piece.value, here))

    def _indices(self, row: Size, column: Size) -> dict[Atom, Size]:
        """The indices of an element by its places along the stores and along the loads."""
        return {**self.values, self.work.stores: row, self.work.loads: column}
