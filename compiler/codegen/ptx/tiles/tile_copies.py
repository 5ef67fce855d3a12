"""Copies tiles of a contraction's operand from global to shared memory.

A thread moves the same chunks of every tile. Whatever depends on their outer indices (rows, corners
of windows, addresses) is computed once; only the depth changes from tile to tile. A chunk is as
many neighbours, at most 16 bytes, as are surely contiguous. Elements beyond the operand, or in a
convolution's padding, are 0.

On machines with asynchronous copies, these move chunks of 4, 8 and 16 bytes. All other chunks are
loaded by `fetch` and stored by `deposit`, with other work in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from bessemer.compiler.codegen.kernels.control_flow import branch
from bessemer.compiler.codegen.ptx import shared_memory
from bessemer.compiler.codegen.ptx.emitter import Emitter
from bessemer.compiler.codegen.ptx.shared_memory import CHUNK, Layout
from bessemer.compiler.codegen.ptx.words import Truth, Word, wide
from bessemer.compiler.codegen.values import Value, type_text
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.operands import Axis, Operand
from bessemer.compiler.ir.types import DType, boolean, i8, i16, i32

Direction = Literal["depth", "outer"]
"""The direction in which an operand is contiguous: along the depth, or along rows (columns)."""
_WORDS: dict[int, tuple[DType, int]] = {16: (i32, 4), 8: (i32, 2), 4: (i32, 1), 2: (i16, 1)}
_ASYNC = {16: "cg.shared.global.16", 8: "ca.shared.global.8", 4: "ca.shared.global.4"}


def direction_of(operand: Operand) -> Direction:
    """The direction in which the operand is contiguous; the depth if there is none."""
    outer, depth = _inner(operand.outer), _inner(operand.depth)
    is_outer = outer is not None and outer.stride == 1
    return "outer" if is_outer and not (depth is not None and depth.stride == 1) else "depth"


def chunk_elements(operand: Operand, aligned: tuple[Size, ...]) -> int:
    """The number of neighbours that may be copied at once. `aligned` are positions at which tiles
    begin."""
    direction = direction_of(operand)
    along, across = operand.outer, operand.depth
    if direction == "depth":
        along, across = across, along
    inner = _inner(along)
    if inner is None or inner.stride != 1:
        return 1
    position = next(i for i in reversed(range(len(along))) if along[i] is inner)
    for window in operand.windows:
        if (window.depth if direction == "depth" else window.outer) == position:
            return 1
    others = [a.stride for a in (*along, *across, *operand.batch) if a is not inner]
    sizes = (inner.extent, operand.base, *others, *aligned)
    count = max(1, CHUNK // operand.buffer.dtype.bytes)
    while count > 1 and not all(_is_multiple(size, count) for size in sizes):
        count //= 2
    return count


def _inner(axes: tuple[Axis, ...]) -> Axis | None:
    """The innermost axis that has more than one element; None if there is none."""
    return next((axis for axis in reversed(axes) if axis.extent != 1), None)


def _is_multiple(size: Size, of: int) -> bool:
    if isinstance(size, int):
        return size % of == 0
    return dims.divide_exactly(size, of) is not None


@dataclass(frozen=True)
class Chunk:
    """What one thread copies of every tile.

    `place` is its offset in the tile's shared memory, `depth` its position along the tile's depth.
    `address` is the address of its element at depth 0; `exists` says whether its outer index is
    inside. `corners` are its positions along the windows' axes, with the padding subtracted.
    """

    place: Word
    depth: Word
    address: Value
    exists: Truth
    corners: tuple[Word, ...]
    inside: Truth


@dataclass(frozen=True)
class TileCopy(Emitter):
    """The copies of one operand by a block's threads.

    Tiles have `outer` x `depth` elements. The first outer index is `begin`, of `extent` in all; the
    batch indices are `batch`. The sums end at depth `depth_end`.
    """

    operand: Operand
    layout: Layout
    outer: int
    depth: int
    elements: int
    thread: Value
    threads: int
    begin: Word
    extent: Word
    batch: tuple[Word, ...]
    depth_end: Word
    is_asynchronous: bool

    @property
    def bytes(self) -> int:
        return self.elements * self.operand.buffer.dtype.bytes

    @property
    def by_hardware(self) -> bool:
        """Whether the copies are asynchronous and need no registers."""
        return self.is_asynchronous and self.bytes in _ASYNC

    @cached_property
    def chunks(self) -> tuple[Chunk, ...]:
        """The chunks of this thread."""
        total = self.layout.lines * self.layout.length // self.elements
        count = -(-total // self.threads)
        return tuple(self._chunk(i, total) for i in range(count))

    def _chunk(self, number: int, total: int) -> Chunk:
        words = self.words
        per_line = self.layout.length // self.elements
        index = words.add(self.thread, number * self.threads)
        inside = True if (number + 1) * self.threads <= total else words.below(index, total)
        line, part = words.div(index, per_line), words.rem(index, per_line)
        along = words.mul(part, self.elements)
        depth, outer = (along, line) if direction_of(self.operand) == "depth" else (line, along)
        row = words.add(self.begin, outer)
        address, corners = self._outer(row)
        place = self.layout.element(words, line, along)
        return Chunk(place, depth, address, words.below(row, self.extent), corners, inside)

    def _outer(self, row: Word) -> tuple[Value, tuple[Word, ...]]:
        """The address of a row's first element, and the corners of its windows."""
        w, words, long = self.state.writer, self.words, wide(self.state.writer)
        at = self.unravel(row, self.operand.outer)
        offset = self.size(self.operand.base)
        pairs = zip((*at, *self.batch), (*self.operand.outer, *self.operand.batch), strict=True)
        for index, axis in pairs:
            step = long.mul(long.resized(index), self.size(axis.stride))
            offset = long.add(offset, step)
        corners = tuple(
            words.add(words.mul(at[window.outer], window.step), -window.low)
            for window in self.operand.windows
        )
        base = self.global_base()
        distance = long.value(long.mul(offset, self.operand.buffer.dtype.bytes))
        text = f"getelementptr i8, ptr addrspace(1) {base.text}, {distance.typed}"
        return w.compute(text, boolean, 1, max(base.level, distance.level)), corners

    def global_base(self) -> Value:
        """The operand's buffer as an address in global memory."""
        pointer = self.state.base(self.operand.buffer)
        text = f"addrspacecast ptr {self.state.writer.at(pointer)} to ptr addrspace(1)"
        return self.state.writer.compute(text, boolean, 1, pointer.level)

    # The way of one tile

    def fetch(self, begin: Word, stage: Word) -> list[Value | None]:
        """Starts the copy of the tile from depth `begin` on to the shared memory at `stage`.
        Returns what was loaded to registers, None for chunks that are copied asynchronously."""
        return [self._fetch(chunk, begin, stage) for chunk in self.chunks]

    def _fetch(self, chunk: Chunk, begin: Word, stage: Word) -> Value | None:
        w, words, long = self.state.writer, self.words, wide(self.state.writer)
        k = words.add(begin, chunk.depth)
        wanted = words.both(chunk.exists, words.below(k, self.depth_end))
        at = self.unravel(k, self.operand.depth)
        distance: Word = 0
        for index, axis in zip(at, self.operand.depth, strict=True):
            stride = self.size(axis.stride)
            distance = long.add(distance, long.mul(long.resized(index), stride))
        for corner, window in zip(chunk.corners, self.operand.windows, strict=True):
            position = words.add(corner, words.mul(at[window.depth], window.dilation))
            extent = words.resized(self.size(window.extent))
            wanted = words.both(wanted, words.below(position, extent))
        bytes_ = long.value(long.mul(distance, self.operand.buffer.dtype.bytes))
        text = f"getelementptr i8, ptr addrspace(1) {chunk.address.text}, {bytes_.typed}"
        source = w.compute(text, boolean, 1, max(chunk.address.level, bytes_.level))
        if self.by_hardware:
            self._copy(chunk, source, wanted, words.add(stage, chunk.place))
            return None
        return self._load(source, wanted)

    def _copy(self, chunk: Chunk, source: Value, wanted: Truth, target: Word) -> None:
        w, words = self.state.writer, self.words
        name = f"llvm.nvvm.cp.async.{_ASYNC[self.bytes]}"
        size = ""
        types = "ptr addrspace(3), ptr addrspace(1)"
        if wanted is not True:
            # Of a chunk that is not wanted nothing is read: all of it is filled with zeros.
            name += ".s"
            types += ", i32"
            size = f", {words.value(words.choose(wanted, self.bytes, 0)).typed}"
        w.declarations.add(f"declare void @{name}({types})")

        def copy() -> None:
            to = shared_memory.place(w, target)
            w.line(f"call void @{name}({to}, ptr addrspace(1) {source.text}{size})")

        self._if_inside(chunk, copy)

    def _load(self, source: Value, wanted: Truth) -> Value:
        w = self.state.writer
        kind, lanes = _WORDS.get(self.bytes, (i8, 1))
        type_ = type_text(kind, lanes)
        if not isinstance(wanted, bool):
            base = self.global_base()
            text = f"ptr addrspace(1) {source.text}, ptr addrspace(1) {base.text}"
            level = max(wanted.level, source.level)
            source = w.compute(f"select {wanted.typed}, {text}", boolean, 1, level)
        align = kind.bytes * lanes
        loaded = w.here(f"load {type_}, ptr addrspace(1) {source.text}, align {align}", kind, lanes)
        if wanted is True:
            return loaded
        condition = wanted.typed if isinstance(wanted, Value) else "i1 false"
        zero = f"{type_} zeroinitializer" if lanes > 1 else f"{type_} 0"
        return w.here(f"select {condition}, {loaded.typed}, {zero}", kind, lanes)

    def deposit(self, fetched: list[Value | None], stage: Word) -> None:
        """Stores what `fetch` has loaded."""
        for chunk, value in zip(self.chunks, fetched, strict=True):
            if value is not None:
                target = self.words.add(stage, chunk.place)

                def put(target: Word = target, value: Value = value) -> None:
                    shared_memory.store(self.state.writer, target, value)

                self._if_inside(chunk, put)

    def _if_inside(self, chunk: Chunk, body: Callable[[], None]) -> None:
        if chunk.inside is True:
            body()
        elif isinstance(chunk.inside, Value):
            branch(self.state, chunk.inside, (), ((body, frozenset()),))
