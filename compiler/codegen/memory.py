"""Loads and stores: one element, neighbouring elements as a vector, or lanes from anywhere.

What a guard or a mask forbids is not touched: a uniform guard turns the address to a cell of zeros,
a guard that differs from lane to lane becomes a mask.
"""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.codegen import streaming
from bessemer.compiler.codegen.arithmetic import like, select
from bessemer.compiler.codegen.conversions import from_memory, memory_kind, to_memory
from bessemer.compiler.codegen.indices import Indices
from bessemer.compiler.codegen.lanes import extract, shuffle, splat
from bessemer.compiler.codegen.state import ZEROS, ZEROS_BYTES, KernelState
from bessemer.compiler.codegen.values import Pointer, Value, literal, suffix
from bessemer.compiler.codegen.writer import Writer
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.types import boolean

MOST_INTERLEAVED = 4
"""Up to this stride, whole vectors are loaded and shuffled."""
MOST_LOOKED_UP = 16
"""The same where one instruction takes lanes from any places of two vectors."""


@dataclass(frozen=True)
class Access:
    """Elements of a buffer: `stride` from lane to lane (None: not linear), under a guard."""

    buffer: Buffer
    offset: Size
    stride: Size | None
    guard: Value | None

    @property
    def bytes(self) -> int:
        return self.buffer.dtype.bytes


def load(
    state: KernelState, indices: Indices, buffer: Buffer, offset: Size, guard: Value | None
) -> Value:
    """The elements at an offset; zero where the guard is false. A scalar where it is uniform."""
    access = Access(buffer, offset, indices.stride(offset), guard)
    varying_guard = guard is not None and guard.lanes > 1
    if access.stride == 0:
        raw = _load_one(state, indices, access)
        value = from_memory(state, raw, buffer.dtype)
        if not varying_guard or guard is None:
            return value
        return select(state.writer, guard, value, like(value, 0))
    return from_memory(state, _load_lanes(state, indices, access), buffer.dtype)


def _load_one(state: KernelState, indices: Indices, access: Access) -> Value:
    guard = access.guard
    if guard is not None and guard.lanes > 1:
        guard = any_lane(state.writer, guard)
    pointer = indices.address(access.buffer, access.offset)
    return _plain(state, access, _guarded(state.writer, pointer, guard), 1)


def _load_lanes(state: KernelState, indices: Indices, access: Access) -> Value:
    w, guard = state.writer, access.guard
    mask = state.mask
    uniform = guard
    if guard is not None and guard.lanes > 1:
        mask = guard if mask is None else w.operate("and", boolean, guard, mask)
        uniform = None
    stride = access.stride
    if stride == 1 or (mask is None and isinstance(stride, int) and _is_small(state, stride)):
        pointer = indices.address(access.buffer, access.offset)
        if stride == 1:
            return _contiguous(state, access, _guarded(w, pointer, uniform), mask)
        if isinstance(stride, int):
            return _strided(state, access, pointer, stride, uniform)
    return _gather(state, indices, access, uniform, mask)


def _is_small(state: KernelState, stride: int) -> bool:
    most = MOST_LOOKED_UP if state.target.has_lookup else MOST_INTERLEAVED
    return stride == -1 or 1 < stride <= most


def _guarded(w: Writer, pointer: Pointer, guard: Value | None) -> Pointer:
    if guard is None:
        return pointer
    level = max(guard.level, pointer.level)
    operation = f"select {guard.typed}, ptr {w.at(pointer, level)}, ptr @{ZEROS}"
    return Pointer(w.compute(operation, boolean, 1, level).text, level)


def _plain(
    state: KernelState, access: Access, pointer: Pointer, lanes: int, alignment: int = 0
) -> Value:
    """A load of neighbours."""
    w = state.writer
    kind = memory_kind(access.buffer.dtype)
    if lanes * access.bytes > ZEROS_BYTES:
        raise InternalError(f"a load of {lanes} elements of {access.buffer.name} at once")
    result = Value("", kind, lanes)
    return w.load(
        f"load {result.type}, ptr {{}}, align {alignment or access.bytes}",
        access.buffer.name,
        kind,
        lanes,
        pointer,
    )


def _contiguous(state: KernelState, access: Access, pointer: Pointer, mask: Value | None) -> Value:
    if mask is None:
        alignment = state.alignment(access.buffer, access.offset, state.width)
        return _plain(state, access, pointer, state.width, alignment)
    w, kind = state.writer, memory_kind(access.buffer.dtype)
    zeros = literal(0, kind, state.width)
    name = f"llvm.masked.load.{suffix(kind, state.width)}.p0"
    w.declarations.add(f"declare {zeros.type} @{name}(ptr, {mask.type}, {zeros.type})")
    operation = (
        f"call {zeros.type} @{name}(ptr align {access.bytes} {{}}, {mask.typed}, {zeros.typed})"
    )
    return w.load(operation, access.buffer.name, kind, state.width, pointer, mask.level)


def _strided(
    state: KernelState, access: Access, pointer: Pointer, stride: int, guard: Value | None
) -> Value:
    """Every `stride`-th element: as many vectors as that takes, shuffled. None is read in vain."""
    w, width = state.writer, state.width
    if stride == -1:
        first = pointer.moved(-(width - 1) * access.bytes)
        vector = _plain(state, access, _guarded(w, first, guard), width)
        return shuffle(w, vector, None, range(width - 1, -1, -1))
    ahead = _remainder(state, access, stride)
    if ahead is None:
        last = (width - 1) * stride + 1 - width
        starts = [min(k * width, last) for k in range(stride)]
    else:
        starts = [k * width - ahead for k in range(stride)]
    places = [_guarded(w, pointer.moved(start * access.bytes), guard) for start in starts]
    vectors = [_plain(state, access, place, width) for place in places]
    result = vectors[0]
    for k, (vector, start) in enumerate(zip(vectors, starts)):
        # Lanes that lie in this vector come from it, the others stay.
        origins = [lane * stride - start for lane in range(width)]
        order = [p + width if 0 <= p < width else lane for lane, p in enumerate(origins)]
        if k == 0:
            order = [p if 0 <= p < width else 0 for p in origins]
        result = shuffle(w, vector if k == 0 else result, None if k == 0 else vector, order)
    return result


def _remainder(state: KernelState, access: Access, stride: int) -> int | None:
    """Where the first element stands among `stride` neighbours, if that is known and all of them
    are there: loads that begin with them are the same for each one's turn."""
    size = dims.product(access.buffer.shape)
    rest = dims.mod(state.size(access.offset), stride)
    whole = isinstance(size, int) and size % stride == 0
    return rest if whole and isinstance(rest, int) else None


def _gather(
    state: KernelState, indices: Indices, access: Access, uniform: Value | None, mask: Value | None
) -> Value:
    w, width, kind = state.writer, state.width, memory_kind(access.buffer.dtype)
    pointers = indices.addresses(access.buffer, access.offset)
    if uniform is not None:
        guard = splat(w, uniform, width)
        mask = guard if mask is None else w.operate("and", boolean, guard, mask)
    if mask is None:
        mask = literal(True, boolean, width)
    zeros = literal(0, kind, width)
    vector = f"<{width} x ptr>"
    name = f"llvm.masked.gather.{suffix(kind, width)}.v{width}p0"
    w.declarations.add(f"declare {zeros.type} @{name}({vector}, {mask.type}, {zeros.type})")
    place = f"{vector} align {access.bytes} {{}}"
    operation = f"call {zeros.type} @{name}({place}, {mask.typed}, {zeros.typed})"
    lanes = Pointer(pointers.text, pointers.level)
    return w.load(operation, access.buffer.name, kind, width, lanes, mask.level)


def any_lane(w: Writer, mask: Value) -> Value:
    """Whether any lane of a mask is set."""
    if mask.lanes == 1:
        return mask
    return w.call(f"llvm.vector.reduce.or.{suffix(boolean, mask.lanes)}", boolean, 1, mask)


def store(
    state: KernelState,
    indices: Indices,
    buffer: Buffer,
    offset: Size,
    value: Value,
    guard: Value | None,
) -> None:
    """Stores to an offset; lanes that the guard or the loop's mask forbids store nothing.

    A uniform guard is the caller's business. Lanes that store to one place do so in order.
    """
    w = state.writer
    access = Access(buffer, offset, indices.stride(offset), guard)
    raw = to_memory(state, value, buffer.dtype)
    mask = state.mask
    if guard is not None:
        mask = guard if mask is None else w.operate("and", boolean, guard, mask)
    w.forget(buffer.name)
    if state.vectors is None or (access.stride == 0 and raw.lanes == 1 and guard is None):
        pointer = indices.address(buffer, offset)
        w.line(f"store {raw.typed}, ptr {w.at(pointer)}, align {access.bytes}")
        return
    raw = splat(w, raw, state.width)
    if access.stride == 1:
        if mask is None and streaming.passes_by(state, buffer, offset):
            streaming.store(w, indices.address(buffer, offset), raw)
            return
        alignment = state.alignment(buffer, offset, raw.lanes)
        _store_neighbours(w, access, indices.address(buffer, offset), raw, mask, alignment)
    elif access.stride == 0 and mask is None:
        pointer = indices.address(buffer, offset)
        last = extract(w, raw, state.width - 1)
        w.line(f"store {last.typed}, ptr {w.at(pointer)}, align {access.bytes}")
    else:
        _scatter(w, access, indices.addresses(buffer, offset), raw, mask)


def _store_neighbours(
    w: Writer, access: Access, pointer: Pointer, raw: Value, mask: Value | None, alignment: int
) -> None:
    if mask is None:
        w.line(f"store {raw.typed}, ptr {w.at(pointer)}, align {alignment}")
        return
    name = f"llvm.masked.store.{suffix(raw.kind, raw.lanes)}.p0"
    w.declarations.add(f"declare void @{name}({raw.type}, ptr, {mask.type})")
    w.line(
        f"call void @{name}({raw.typed}, ptr align {access.bytes} {w.at(pointer)}, {mask.typed})"
    )


def _scatter(w: Writer, access: Access, pointers: Value, raw: Value, mask: Value | None) -> None:
    chosen = mask if mask is not None else literal(True, boolean, raw.lanes)
    vector = f"<{raw.lanes} x ptr>"
    name = f"llvm.masked.scatter.{suffix(raw.kind, raw.lanes)}.v{raw.lanes}p0"
    w.declarations.add(f"declare void @{name}({raw.type}, {vector}, {chosen.type})")
    w.line(
        f"call void @{name}({raw.typed}, {vector} align {access.bytes} {pointers.text}, "
        f"{chosen.typed})"
    )
