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

from collections.abc import Sequence

from bessemer.compiler.ir import dims, walk_expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Atom, FloorDiv, Size, Symbol, atom
from bessemer.compiler.ir.expr import Load
from bessemer.compiler.ir.ravel import unravel
from bessemer.compiler.schedule.costs import operations
from bessemer.compiler.schedule.nests.merge_axes import Piece, merge_axes
from bessemer.compiler.schedule.nests.nest import NEAREST, Nest
from bessemer.compiler.schedule.nests.part_axes import part_axes
from bessemer.compiler.schedule.nests.rows import Lanes
from bessemer.compiler.schedule.nests.transpose_bands import (
    MOST_ROWS,
    SMALLEST,
    Band,
    Transpose,
    size_of,
)
from bessemer.compiler.targets.machine import CACHE_LINE, conflicts_in_cache

LARGEST = 256
"""Elements of a square: what registers hold."""
SHORT = (2, 3)
"""Axes shorter than a square that are transposed nevertheless, the whole axis at once."""
MOST_REPEATS = 4
"""Of an element, by neighbours along the loads."""
FEWEST = 1 << 9
"""Elements for which it is worth the code."""
BESIDE = 4
"""Squares side by side along the stores that come before the next ones along the loads, where
stores conflict in the cache: only lines behind others are fetched in time."""
NEAR_BYTES = 1 << 10
"""From one store to that of a neighbour along the loads: at most so far, few sets are no danger.
(Of free sizes, 96x80x128 floats to 128x96x80: 589 us without, 188 with squares side by side; with
stores 512 bytes apart 97 and 150.)"""
FEWEST_ITEMS, SHARE = 16, 8
"""Where the other axes give fewer items than that, about so many squares in a row are one."""
_FEW_LINES = 2
"""Of a row of stores: of longer rows most lines are whole."""
_WHOLE_LINE = 4
"""Bytes of elements of which MOST_ROWS fill a line."""
_PAIR, _ALONG = 2, "along"


def lower_transpose(piece: Piece, lanes: Lanes) -> Nest | None:
    """The loops, or None if a plain nest is as good. The piece's loads must be flat."""
    work = _find(merge_axes(piece), lanes)
    if work is None:
        return None
    builder = KernelBuilder()
    blocks = dims.ceildiv(size_of(work.stores), work.height)
    bands = dims.product(map(size_of, work.others)) * blocks
    if _shares_lines(work):
        shares = dims.ceildiv(size_of(work.loads), work.columns)
        with builder.loop(shares * bands, "parallel") as item:
            share, band = dims.floordiv(item, bands), dims.mod(item, bands)
            _write_band(builder, work, band, share, shares)
        return Nest(builder.block(), operations(work.piece.value) * work.columns * work.height)
    shares = _shares(work, dims.product(map(size_of, work.others)))
    with builder.loop(shares * bands, "parallel") as item:
        around, within = dims.floordiv(item, shares * blocks), dims.mod(item, shares * blocks)
        share, block = dims.floordiv(within, blocks), dims.mod(within, blocks)
        _write_band(builder, work, around * blocks + block, share, shares)
    length = SHARE * work.columns if shares != 1 else size_of(work.loads)
    return Nest(builder.block(), operations(work.piece.value) * length * work.height)


def write_transpose(builder: KernelBuilder, piece: Piece, lanes: Lanes) -> bool:
    """Adds the same loops to a kernel, as serial ones; returns whether there are any."""
    work = _find(merge_axes(piece), lanes)
    if work is None:
        return False
    blocks = dims.ceildiv(size_of(work.stores), work.height)
    with builder.loop(dims.product(map(size_of, work.others)) * blocks) as block:
        _write_band(builder, work, block, 0, 1)
    return True


def _write_band(
    builder: KernelBuilder, work: Transpose, block: Size, share: Size, shares: Size
) -> None:
    """Writes a share of a band. `block` is the band's number among those of all indices of the
    others."""
    blocks = dims.ceildiv(size_of(work.stores), work.height)
    others = unravel(dims.floordiv(block, blocks), [size_of(s) for s in work.others])
    values: dict[Atom, Size] = dict(zip(work.others, others, strict=True))
    Band(builder, work, values, share, shares).write(dims.mod(block, blocks) * work.height)


def _shares_lines(work: Transpose) -> bool:
    """Whether the stores of a band are parts of lines that the bands of another axis complete. Then
    squares in all of these bands follow one another, before the next ones along the loads, so that
    a line is still in the cache when its other parts are stored. (Gradients of 256 to 512 channels
    and 3x3 taps in ONNX's order: 0.18 to 0.41 of the time, of 2x2 taps 0.1 to 0.3.)

    Bands that store whole lines need not wait for others, and two threads would meet in the lines
    that overlapping squares store twice. (Packs of 512x512x3x3 weights in ONNX's order, with a
    small product of them: 0.9 -> 0.65 ms, on two threads 1.47 -> 0.32.)"""
    row = size_of(work.stores)
    if not isinstance(row, int) or not isinstance(size_of(work.loads), int):
        return False
    stored = row * work.piece.target.dtype.bytes
    if stored % CACHE_LINE == 0 or stored > _FEW_LINES * CACHE_LINE:
        return False
    return any(_step(work.piece.offset, other) == row for other in work.others)


def _shares(work: Transpose, items: Size) -> Size:
    """Into how many parts the axis of the loads is divided, if it is the longer one. Threads then
    write one piece of memory each: where they write to the same pages, line by line, what is
    fetched ahead takes lines from the other one. (256x768 on two cores of one cache: 31 -> 23 us.
    Where the axis of the stores is longer, theirs are long pieces, too.)"""
    along, across = size_of(work.loads), size_of(work.stores)
    if not all(isinstance(size, int) for size in (along, across, items)):
        return 1
    if dims.number(items) >= FEWEST_ITEMS or dims.number(along) <= dims.number(across):
        return 1
    return dims.ceildiv(along, SHARE * work.columns)


def _find(piece: Piece, lanes: Lanes) -> Transpose | None:
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
            along = Symbol(_ALONG, size_of(symbol) * _PAIR)
            at: dict[Atom, Size] = {
                symbol: dims.floordiv(atom(along), _PAIR),
                pair: dims.mod(atom(along), _PAIR),
            }
            symbols = (along if s is symbol else s for s in piece.symbols if s is not pair)
            offset = dims.substitute(piece.offset, at)
            value = walk_expr.substitute(piece.value, at)
            return Piece(piece.target, offset, value, tuple(symbols))
    return None


def _with_axes(piece: Piece, together: int, lanes: Lanes) -> Transpose | None:
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
    rows, columns = _sides(size_of(stores), size_of(along), width, together)
    if rows < 2 or columns < SMALLEST * together:
        return None
    whole = dims.product(map(size_of, piece.symbols))
    if isinstance(whole, int) and whole < FEWEST:
        return None
    repeats = max(_repeats(load.indices[0], along) for load in loads)
    if repeats > 1 and (together > 1 or repeats > min(columns, MOST_REPEATS)):
        return None
    length = size_of(along)
    if dims.divide_exactly(length, repeats) is None:
        return None  # the last square could not begin at a multiple
    others = tuple(s for s in piece.symbols if s is not stores and s is not along)
    beside = _beside(piece, along)
    return Transpose(piece, along, stores, others, rows, columns, together, beside, repeats)


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
