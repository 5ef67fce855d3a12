"""Writes vector loops that a group of threads shares. Each thread computes vectors of neighbours, a
whole group apart:

    vector i in 0..E by V       thread t of W computes t*V .. t*V+V-1, then those W*V further, ...
                                fewer than V remaining ones are computed one by one

A local that is accumulated has a partial result for every lane of every thread. They are combined
at the end, always in the same order; then all threads have the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bessemer.compiler.codegen.arithmetic import binary, compare
from bessemer.compiler.codegen.kernels.alignment import largest_divisor
from bessemer.compiler.codegen.kernels.control_flow import Range, branch, counted_loop
from bessemer.compiler.codegen.kernels.effects import varying_locals, written_buffers
from bessemer.compiler.codegen.kernels.expressions import indices
from bessemer.compiler.codegen.kernels.state import Vectors, number
from bessemer.compiler.codegen.kernels.vector_loops import reductions_of
from bessemer.compiler.codegen.lanes import reduce_lanes
from bessemer.compiler.codegen.ptx.device_state import DeviceState
from bessemer.compiler.codegen.ptx.exchange import reduced_by_group
from bessemer.compiler.codegen.ptx.local_arrays import UNROLLED
from bessemer.compiler.codegen.values import Value, literal
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.functions import REDUCTIONS
from bessemer.compiler.ir.loops import Block, For
from bessemer.compiler.ir.types import i64


@dataclass
class _GroupLoop:
    """One vector loop of a group. `reductions` and `kept` are locals that branches must join."""

    state: DeviceState
    loop: For
    reductions: dict[str, str]
    kept: Sequence[str]
    emit_block: Callable[[DeviceState, Block], None]

    def vectors(self, extent: Size, lanes: int) -> None:
        """Writes the loop over whole vectors, which is unrolled if there are few."""
        state, w = self.state, self.state.writer
        step = state.mapping.group * lanes
        first = w.operate("mul", i64, state.rank, number(lanes))
        most = dims.upper_bound(extent)
        whole = self._multiple(extent, lanes)
        if isinstance(most, int) and -(-most // step) <= UNROLLED:
            for slot in range(-(-most // step)):
                begin = w.operate("add", i64, first, number(slot * step)) if slot else first
                sure = isinstance(extent, int) and (slot + 1) * step <= extent
                self._vector(lanes, slot, begin, None if sure else whole)
            return
        names = (*self.reductions, *self.kept)
        writes = written_buffers(self.loop.body)
        over = Range(first, whole, step)
        counted_loop(state, over, names, writes, lambda i: self._body(lanes, None, i))

    def rest(self, extent: Size, lanes: int) -> None:
        """Writes the fewer than `lanes` iterations at the end."""
        state, w = self.state, self.state.writer
        begin = w.operate("add", i64, self._multiple(extent, lanes), state.rank)
        self._vector(1, None, begin, indices(state).scalar(extent))

    def _multiple(self, extent: Size, lanes: int) -> Value:
        if isinstance(extent, int):
            return number(extent & -lanes)
        value = indices(self.state).scalar(extent)
        if largest_divisor(extent, {}) % lanes == 0:
            return value
        return self.state.writer.operate("and", i64, value, number(-lanes))

    def _vector(self, lanes: int, slot: int | None, begin: Value, end: Value | None) -> None:
        """Writes one vector at index `begin`, under the condition that `begin` is less than `end`,
        if that is given."""
        state = self.state
        if end is None:
            self._body(lanes, slot, begin)
            return
        inside = compare(state.writer, "slt", begin, end)
        names = (*self.reductions, *self.kept)
        writes = written_buffers(self.loop.body)
        branch(state, inside, names, (((lambda: self._body(lanes, slot, begin)), writes),))

    def _body(self, lanes: int, slot: int | None, index: Value) -> None:
        state = self.state
        before, state.slot = state.slot, slot
        first = index.number if isinstance(index.number, int) else index
        vectors = Vectors(self.loop.index, lanes, None, frozenset(self.reductions))
        with state.vector_context(vectors, first):
            self.emit_block(state, self.loop.body)
        state.slot = before


def emit_group_loop(
    state: DeviceState,
    loop: For,
    carried: Iterable[str],
    kept: Sequence[str],
    emit_block: Callable[[DeviceState, Block], None],
) -> None:
    """Writes a vector loop for a group of threads.

    `carried` are the outer locals that its body accumulates, `kept` the registers of local arrays
    that it changes.
    """
    w, lanes = state.writer, max(1, loop.lanes)
    extent = state.size(loop.extent)
    varying, state.varying = state.varying, varying_locals(loop.body, loop.index)
    writer = _GroupLoop(state, loop, reductions_of(loop.body, list(carried)), kept, emit_block)
    initial = {name: state.locals[name] for name in writer.reductions}
    for name, reduction in writer.reductions.items():
        kind = initial[name].kind
        state.locals[name] = literal(REDUCTIONS[reduction](kind), kind, lanes)
    writer.vectors(extent, lanes)
    for name, reduction in writer.reductions.items():
        state.locals[name] = _narrowed(state, name, reduction)
    if largest_divisor(extent, {}) % lanes:
        writer.rest(extent, lanes)
    partial = {name: state.locals[name] for name in writer.reductions}
    totals = reduced_by_group(state, partial, writer.reductions)
    for name, reduction in writer.reductions.items():
        state.locals[name] = binary(w, reduction, initial[name], totals[name])
    state.varying = varying


def _narrowed(state: DeviceState, local: str, name: str) -> Value:
    w = state.writer
    return reduce_lanes(w, state.locals[local], 1, lambda a, b: binary(w, name, a, b))
