"""Writes loads: of one element, of neighbouring elements as a vector, or of a vector's lanes from
anywhere.

Elements that a guard or a mask excludes are not read. A guard that is the same for all lanes
replaces the address by that of a cell of zeros; a guard that differs from lane to lane becomes a
mask.
"""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.codegen.arithmetic import like, select
from bessemer.compiler.codegen.kernels.clustered_byte_gathers import gather_clustered_bytes
from bessemer.compiler.codegen.kernels.clustered_gathers import (
    can_be_clustered,
    gather_clustered,
    reach_of,
)
from bessemer.compiler.codegen.kernels.conversions import from_memory, memory_kind
from bessemer.compiler.codegen.kernels.indices import Indices
from bessemer.compiler.codegen.kernels.state import ZEROS, ZEROS_BYTES, KernelState
from bessemer.compiler.codegen.lanes import any_lane, first_of, shuffle, splat
from bessemer.compiler.codegen.values import Pointer, Value, literal, suffix
from bessemer.compiler.codegen.writer import Writer
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Max, Min, Mod, Size, atom
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.types import boolean, f32
from bessemer.compiler.ir.walk_expr import index_expressions

MOST_INTERLEAVED = 4
"""Up to this stride, whole vectors are loaded and shuffled."""
MOST_PERMUTED = 16
"""The same if one instruction selects lanes from any places of two vectors."""
_FAR = 64 << 10
"""Memory this many bytes before a buffer may not be mapped."""


@dataclass(frozen=True)
class Access:
    """The elements of a buffer that a load reads: `stride` is the distance from lane to lane (None:
    not linear). `common` is the part of the guard that is the same for all lanes."""

    buffer: Buffer
    offset: Size
    stride: Size | None
    guard: Value | None
    common: Value | None = None

    @property
    def bytes(self) -> int:
        return self.buffer.dtype.bytes


def lies_far_in_front(buffer: Buffer, offset: Size) -> bool:
    """Whether elements that a guard excludes may be pages before the buffer. A processor takes
    hundreds of cycles for a masked load of memory that does not exist.

    Places nearer to the buffer, as those of an image's padding, mostly do exist; there a selected
    address would cost more than it saves.
    """
    start = offset if isinstance(offset, int) else offset.terms.get((), 0)
    return -start * buffer.dtype.bytes > _FAR


def load(
    indices: Indices,
    buffer: Buffer,
    offset: Size,
    guard: Value | None,
    common: Value | None = None,
) -> Value:
    """The elements at an offset, and zero where the guard is false. A scalar if all lanes read the
    same element.

    `common` is a condition that is the same for all lanes and is true where any lane's guard is.
    Where it is false, the address is replaced.
    """
    state, access = indices.state, Access(buffer, offset, indices.stride(offset), guard, common)
    varying_guard = guard is not None and guard.lanes > 1
    if access.stride == 0:
        raw = _load_one(indices, access)
        value = from_memory(state, raw, buffer.dtype)
        if not varying_guard or guard is None:
            return value
        return select(state.writer, guard, value, like(value, 0))
    return from_memory(state, _load_lanes(indices, access), buffer.dtype)


def _load_one(indices: Indices, access: Access) -> Value:
    state, guard = indices.state, access.guard
    if guard is not None and guard.lanes > 1:
        guard = any_lane(state.writer, guard)
    pointer = indices.address(access.buffer, access.offset)
    return _plain(state, access, _guarded(state.writer, pointer, guard), 1)


def _load_lanes(indices: Indices, access: Access) -> Value:
    state, guard = indices.state, access.guard
    w = state.writer
    mask = state.mask
    uniform = guard
    if guard is not None and guard.lanes > 1:
        mask = guard if mask is None else w.operate("and", boolean, guard, mask)
        uniform = access.common
    stride = access.stride
    if stride == 1 or (mask is None and isinstance(stride, int) and _is_small(state, stride)):
        if stride == 1:
            pointer = indices.address(access.buffer, access.offset)
            return _contiguous(state, access, _guarded(w, pointer, uniform), mask)
        if isinstance(stride, int):
            return _strided(indices, access, stride, uniform)
    is_short = isinstance(stride, int) and 1 < stride <= MOST_INTERLEAVED
    if mask is not None and is_short and state.target.has_masks:
        assert isinstance(stride, int)
        return _strided_under(indices, access, stride, uniform, mask)
    found = _repeated(indices, access, uniform, mask)
    if found is None and guard is None:
        found = _near(indices, access)
    return found or _gather(indices, access, uniform, mask)


def _near(indices: Indices, access: Access) -> Value | None:
    """Elements of a row at indices that data gives, each limited to an axis; None if there are no
    such indices."""
    state, kind = indices.state, memory_kind(access.buffer.dtype)
    is_byte = kind.bytes == 1 and state.target.has_byte_lookup
    varying = indices.varying(access.offset)
    is_limited = isinstance(dims.as_atom(varying), (Min, Max))
    if not (is_byte or kind is f32) or not is_limited or not index_expressions(varying):
        return None
    places = indices.vector(varying)
    if not can_be_clustered(state, places):
        return None
    row, reach = indices.address(access.buffer, access.offset - varying), reach_of(state, places)
    if is_byte:
        return gather_clustered_bytes(state, access.buffer.name, kind, row, reach)
    return gather_clustered(state, access.buffer.name, row, reach)


def _repeated(
    indices: Indices, access: Access, guard: Value | None, mask: Value | None
) -> Value | None:
    """A few neighbours that are repeated over the lanes, or of which each is for several lanes;
    None for other accesses."""
    state = indices.state
    w, width = state.writer, state.width
    known = indices.distances(access.offset)
    if known is not None and mask is not None:
        found = _known_under(indices, access, known, guard, mask)
        if found is not None:
            return found
    elif known is not None and _is_picked(state, known):
        low = min(known)
        at = indices.address(access.buffer, access.offset).moved((low - known[0]) * access.bytes)
        return _neighbours(state, access, at, [k - low for k in known], guard)
    groups = indices.steps_of_groups(access.offset)
    if groups is not None and groups[1] > 1 and mask in (None, state.mask):
        places = [k // groups[0] * groups[1] for k in range(width)]
        if _is_picked(state, places):
            at = indices.address(access.buffer, access.offset)
            if mask is None:
                return _neighbours(state, access, at, places, guard)
            if state.target.has_masks:
                return _picked_under(state, access, at, places, guard, mask)
    pattern = indices.pattern(access.offset)
    if pattern is None or not isinstance(pattern.denominator, int):
        return None
    short, repeats = pattern.denominator, isinstance(pattern, Mod)
    # The remainder is 0 in the first lane.
    first = access.offset - atom(pattern) if repeats else access.offset
    places = [k % short if repeats else k // short for k in range(width)]
    pointer = _guarded(w, indices.address(access.buffer, first), guard)
    if mask is not None:
        return _shared_under(state, access, pointer, mask, places)
    few = _plain(state, access, pointer, short if repeats else width // short)
    if few.lanes == 1:
        return splat(w, few, width)
    return shuffle(w, few, None, places)


def _shared_under(
    state: KernelState, access: Access, pointer: Pointer, mask: Value, places: list[int]
) -> Value | None:
    """Neighbours that are each for several lanes (`places`), under a mask. An element is read if
    one of its lanes may read it; others may not exist."""
    if not state.target.has_masks:
        return None
    w, width = state.writer, state.width
    none = literal(0, boolean, width)
    is_guarded = mask != state.mask
    sharing = [[k for k in range(width) if places[k] == place] for place in range(width)]
    read: Value | None = None
    # In a loop's own mask, the first one of the lanes that share an element decides. A guard may
    # exclude that lane only, so all of them have to be looked at.
    for turn in range(len(sharing[0]) if is_guarded else 1):
        lanes = [shared[turn] if shared else width for shared in sharing]
        here = shuffle(w, mask, none, lanes)
        read = here if read is None else w.operate("or", boolean, read, here)
    vector = _contiguous(state, access, pointer, read)
    found = shuffle(w, vector, None, places)
    return select(w, mask, found, like(found, 0)) if is_guarded else found


def _is_small(state: KernelState, stride: int) -> bool:
    return stride == -1 or 1 < stride <= _most_vectors(state)


def _is_picked(state: KernelState, distances: list[int]) -> bool:
    """Whether elements at these distances from the first come from few vectors of neighbours."""
    span = max(distances) - min(distances) + 1
    if span < state.width:
        return state.target.has_masks
    return span <= state.width * _most_vectors(state)


def _most_vectors(state: KernelState) -> int:
    return MOST_PERMUTED if state.target.has_lookup else MOST_INTERLEAVED


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


def _strided(indices: Indices, access: Access, stride: int, guard: Value | None) -> Value:
    """Every `stride`-th element, from as many vectors as they lie in, by shuffles."""
    state = indices.state
    w, width = state.writer, state.width
    pointer = indices.address(access.buffer, access.offset)
    if stride == -1:
        first = pointer.moved(-(width - 1) * access.bytes)
        vector = _plain(state, access, _guarded(w, first, guard), width)
        return shuffle(w, vector, None, range(width - 1, -1, -1))
    ahead = _remainder(state, access, stride)
    places = [(ahead or 0) + lane * stride for lane in range(width)]
    count = places[-1] + 1 if ahead is None else width * stride
    begin = pointer.moved(-(ahead or 0) * access.bytes)
    return _picked(state, access, begin, places, count, guard)


def _strided_under(
    indices: Indices, access: Access, stride: int, guard: Value | None, mask: Value
) -> Value:
    """The same under a mask: lanes that it excludes are not read, and are 0."""
    begin = indices.address(access.buffer, access.offset)
    places = [lane * stride for lane in range(indices.state.width)]
    return _picked_under(indices.state, access, begin, places, guard, mask)


def _known_under(
    indices: Indices, access: Access, distances: list[int], guard: Value | None, mask: Value
) -> Value | None:
    """Elements at known distances from the first, under a mask. None if several lanes read the same
    element, or the elements lie in too many vectors."""
    state, low = indices.state, min(distances)
    places = [distance - low for distance in distances]
    vectors = {place // state.width for place in places}
    if len(set(places)) < len(places) or len(vectors) > MOST_INTERLEAVED:
        return None
    if not state.target.has_masks:
        return None
    begin = indices.address(access.buffer, access.offset)
    begin = begin.moved((low - distances[0]) * access.bytes)
    return _picked_under(state, access, begin, places, guard, mask)


def _picked_under(
    state: KernelState,
    access: Access,
    begin: Pointer,
    places: list[int],
    guard: Value | None,
    mask: Value,
) -> Value:
    """The elements at these places for the lanes that a mask allows. Other lanes are 0 where no
    two places are the same; else the mask must be of the first lanes only."""
    w, width = state.writer, state.width
    none = literal(0, boolean, width)
    lane_of = {place: lane for lane, place in reversed(list(enumerate(places)))}
    result: Value | None = None
    for first in sorted({place // width * width for place in places}):
        lanes = [lane_of.get(place, width) for place in range(first, first + width)]
        here = shuffle(w, mask, none, lanes)
        at = _guarded(w, begin.moved(first * access.bytes), guard)
        vector = _contiguous(state, access, at, here)
        origins = [place - first for place in places]
        order = [p + width if 0 <= p < width else lane for lane, p in enumerate(origins)]
        result = shuffle(w, result or vector, vector, order)
    assert result is not None
    return result


def _neighbours(
    state: KernelState,
    access: Access,
    pointer: Pointer,
    places: list[int],
    guard: Value | None,
) -> Value:
    """The elements at these places from a pointer on. Memory behind the last one may not exist, so
    it is not read."""
    w, width, count = state.writer, state.width, max(places) + 1
    if count > width:
        return _picked(state, access, pointer, places, count, guard)
    vector = _contiguous(state, access, _guarded(w, pointer, guard), first_of(width, count))
    return shuffle(w, vector, None, places)


def _picked(
    state: KernelState,
    access: Access,
    pointer: Pointer,
    places: list[int],
    count: int,
    guard: Value | None,
) -> Value:
    """Some of the `count` elements (at least a vector) from a pointer on, by loads of whole
    vectors."""
    w, width = state.writer, state.width
    last = count - width
    result: Value | None = None
    for number in sorted({place // width for place in places}):
        start = min(number * width, last)
        at = _guarded(w, pointer.moved(start * access.bytes), guard)
        vector = _plain(state, access, at, width)
        # Lanes whose elements are in this vector come from it; the others keep their values.
        origins = [place - start for place in places]
        if result is None:
            result = shuffle(w, vector, None, [p if 0 <= p < width else 0 for p in origins])
        else:
            order = [p + width if 0 <= p < width else lane for lane, p in enumerate(origins)]
            result = shuffle(w, result, vector, order)
    assert result is not None
    return result


def _remainder(state: KernelState, access: Access, stride: int) -> int | None:
    """The position of the first element among `stride` neighbours, if it is known and all of these
    exist; else None. Loads that begin with the first neighbour can be shared by the accesses to the
    others."""
    size = dims.product(access.buffer.shape)
    rest = dims.mod(state.size(access.offset), stride)
    whole = isinstance(size, int) and size % stride == 0
    return rest if whole and isinstance(rest, int) else None


def _gather(indices: Indices, access: Access, uniform: Value | None, mask: Value | None) -> Value:
    w, width, kind = indices.writer, indices.state.width, memory_kind(access.buffer.dtype)
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
