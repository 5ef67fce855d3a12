"""Writes several stores to neighbouring places in a vector loop as stores of whole vectors.

    vector c:  out[n*c] = a[c];  out[n*c + 1] = b[c]

Each store alone would write its lanes to places that are apart. Interleaved lane by lane, the
values are a transposed square: a[0], b[0], a[1], b[1], ... If n is their number, this is a single
store. Neighbours may also be two lanes wide each.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from bessemer.compiler.codegen.kernels import streaming
from bessemer.compiler.codegen.kernels.conversions import to_memory
from bessemer.compiler.codegen.kernels.expressions import evaluate, indices
from bessemer.compiler.codegen.kernels.state import KernelState
from bessemer.compiler.codegen.lanes import part, splat
from bessemer.compiler.codegen.transpose_registers import COUNTS, transpose_registers
from bessemer.compiler.codegen.values import Value
from bessemer.compiler.ir import loops
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression
from bessemer.compiler.ir.loops import Block
from bessemer.compiler.ir.walk_expr import loads_of


def emit(state: KernelState, block: Block, begin: int) -> int:
    """Writes the stores of a block from position `begin` on that can be interleaved; returns their
    number."""
    if state.vectors is None or state.mask is not None or state.special is not None:
        return 0
    for count in COUNTS:
        stores = [s for s in block[begin : begin + count] if isinstance(s, loops.Store)]
        if len(stores) < count or any(s.buffer.name != stores[0].buffer.name for s in stores):
            continue
        together = _lanes_together(state, stores)
        if not together or not _are_independent(stores):
            continue
        places = _places(state, stores[0], count, together)
        in_order = places is not None and _is_one(places, count * together)
        if places is not None and (count != 3 or (in_order and together == 1)):
            _emit(state, stores, together, places)
            return count
    return 0


def _are_independent(stores: Sequence[loops.Store]) -> bool:
    """Whether the stores have no guards, and none of them reads what another stores."""
    if any(store.guard is not None for store in stores):
        return False
    return not any(_reads(store.value, stores[0].buffer) for store in stores)


def _lanes_together(state: KernelState, stores: Sequence[loops.Store]) -> int:
    """The number of lanes of a store that lie side by side, if the next store's lanes follow them;
    else 0."""
    offsets = [s.buffer.offset(s.indices) for s in stores]
    step = state.size(offsets[1] - offsets[0])
    if not isinstance(step, int) or step not in (1, 2) or state.width < 2 * step:
        return 0
    if any(state.size(offset - offsets[0]) != k * step for k, offset in enumerate(offsets)):
        return 0
    return step


def _places(state: KernelState, store: loops.Store, count: int, together: int) -> list[Size] | None:
    """The distances from the first lane's place to the places at which rows of neighbours begin;
    None if rows would overlap."""
    index, offset = indices(state), state.size(store.buffer.offset(store.indices))
    stride = index.stride(offset) if together == 1 else None
    if stride is not None:
        if isinstance(stride, int) and stride < count:
            return None
        return [lane * stride for lane in range(state.width)]
    distances = index.distances(offset)
    if distances is None:
        return None
    starts = distances[::together]
    whole = [start + k for start in starts for k in range(together)]
    are_disjoint = all(after - before >= count * together for before, after in pairwise(starts))
    return list(starts) if whole == distances and are_disjoint else None


def _reads(root: Expression, buffer: Buffer) -> bool:
    return any(n.buffer.name == buffer.name for n in loads_of(root))


def _emit(
    state: KernelState, stores: Sequence[loops.Store], together: int, places: Sequence[Size]
) -> None:
    w, buffer = state.writer, stores[0].buffer
    values: list[Value] = []
    for store in stores:
        raw = to_memory(state, evaluate(state, store.value), buffer.dtype)
        values.append(splat(w, raw, state.width))
    row = len(stores) * together
    in_order = _is_one(places, row)
    transposed = transpose_registers(w, values, together, in_order)
    w.forget(buffer.name)
    offset = state.size(buffer.offset(stores[0].indices))
    pieces: list[tuple[Size, Value]] = []
    for columns, value in transposed:
        if in_order:
            pieces.append((len(pieces) * value.lanes, value))
            continue
        parts = (part(w, value, number * row, row) for number in range(len(columns)))
        pieces += zip((places[column] for column in columns), parts)
    for place, value in pieces:
        pointer = indices(state).address(buffer, offset + place)
        if streaming.is_streamed(state, buffer, offset + place, value.lanes):
            streaming.store(w, pointer, value)
        else:
            w.line(f"store {value.typed}, ptr {w.at(pointer)}, align {buffer.dtype.bytes}")


def _is_one(places: Sequence[Size], row: int) -> bool:
    """Whether the rows of neighbours follow each other, so that they are one store."""
    return all(place == number * row for number, place in enumerate(places))
