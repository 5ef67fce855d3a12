"""Writes vector loops: whole vectors first, then the remainder.

    for i = 0, W, 2W, ...     W = lanes x interleave values at once, while as many are left
    for i = ...               lanes values at once (only if interleave > 1)
    the rest                  the same body once more under a mask, if masks cost nothing; otherwise
                              one value at a time (a known rest: by halves, quarters, ...)

A local that is defined outside and accumulated inside has one partial result per lane. These are
combined at the end, always in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bessemer.compiler.codegen.arithmetic import binary, compare, number_extreme
from bessemer.compiler.codegen.kernels.control_flow import Range, branch, counted_loop
from bessemer.compiler.codegen.kernels.effects import varying_locals, written_buffers
from bessemer.compiler.codegen.kernels.expressions import first_lanes
from bessemer.compiler.codegen.kernels.state import KernelState, Vectors, number
from bessemer.compiler.codegen.lanes import reduce_lanes
from bessemer.compiler.codegen.values import Value, literal
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims, expr, functions, loops, walk_expr, walk_loops
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Expression
from bessemer.compiler.ir.functions import REDUCTIONS
from bessemer.compiler.ir.loops import Block, For
from bessemer.compiler.ir.types import i64

_MOST_LANES = 128
"""Of an iteration of an interleaved loop: of bytes two full registers, of f32 eight."""


@dataclass(frozen=True)
class _Loop:
    """A vector loop. `reductions` says how each carried local is combined, `skipping` which of them
    may ignore NaNs."""

    state: KernelState
    loop: For
    size: Size
    extent: Value
    reductions: dict[str, str]
    skipping: frozenset[str]
    emit_block: Callable[[KernelState, Block], None]

    def run(self, width: int, begin: Value, end: Value) -> None:
        """Iterations begin .. end-1 in steps of `width`, which divides their number."""
        over = Range(begin, end, width)
        writes = written_buffers(self.loop.body)
        counted_loop(self.state, over, self.reductions, writes, lambda i: self._body(width, i))

    def run_rest(self, width: int, begin: Value) -> None:
        """The remainder under a mask: iterations begin .. extent-1, fewer than `width`."""
        state = self.state
        if isinstance(self.extent.number, int) and isinstance(begin.number, int):
            self._body(width, begin, number(self.extent.number - begin.number))
            return
        left = state.writer.operate("sub", i64, self.extent, begin)
        some = compare(state.writer, "sgt", left, number(0))
        writes = written_buffers(self.loop.body)
        bodies = (((lambda: self._body(width, begin, left)), writes),)
        branch(state, some, self.reductions, bodies)

    def _body(self, width: int, index: Value, left: Value | None = None) -> None:
        state, symbol = self.state, self.loop.index
        first = index.number if isinstance(index.number, int) else index
        vectors = Vectors(symbol, width, None, frozenset(self.reductions))
        with state.vector_context(vectors, first):
            if left is not None:
                state.vectors = replace(vectors, mask=first_lanes(state, left))
            self.emit_block(state, self.loop.body)

    def narrow(self, width: int) -> None:
        """Combines partial results until there are `width` of each."""
        for local, name in self.reductions.items():
            self.state.locals[local] = self.combined(local, name, width)

    def combined(self, local: str, name: str, width: int) -> Value:
        w = self.state.writer
        value = self.state.locals[local]
        meet = number_extreme if local in self.skipping else binary
        return reduce_lanes(w, value, width, lambda a, b: meet(w, name, a, b))


def emit(
    state: KernelState,
    loop: For,
    size: Size,
    extent: Value,
    carried: Sequence[str],
    emit_block: Callable[[KernelState, Block], None],
) -> None:
    """Writes a vector loop of `size` iterations; `extent` is that number in a register. `carried`
    are the outer locals that its body accumulates."""
    lanes = loop.lanes or default_lanes(state, loop)
    if lanes & (lanes - 1) or loop.interleave & (loop.interleave - 1):
        raise InternalError(f"{lanes} lanes x {loop.interleave}: not powers of two")
    wide = min(lanes * loop.interleave, max(lanes, _MOST_LANES))
    most = dims.upper_bound(size)
    while isinstance(most, int) and wide > lanes and wide > most:
        wide //= 2
    varying, state.varying = state.varying, varying_locals(loop.body, loop.index)
    writer = _Loop(
        state,
        loop,
        size,
        extent,
        reductions_of(loop.body, carried),
        _skipping(loop.body),
        emit_block,
    )
    initial = {name: state.locals[name] for name in carried}
    for name, reduction in writer.reductions.items():
        neutral = REDUCTIONS[reduction](initial[name].kind)
        state.locals[name] = literal(neutral, initial[name].kind, wide)
    _stages(writer, wide, lanes)
    for name, reduction in writer.reductions.items():
        total = writer.combined(name, reduction, 1)
        meet = number_extreme if name in writer.skipping else binary
        state.locals[name] = meet(state.writer, reduction, initial[name], total)
    state.varying = varying


def _stages(writer: _Loop, wide: int, lanes: int) -> None:
    extent, known = writer.extent, writer.extent.number
    begin, most = number(0), dims.upper_bound(writer.size)
    if known is None and isinstance(most, int) and most <= lanes and writer.state.target.has_masks:
        writer.run_rest(lanes, begin)
        return
    for width in dict.fromkeys((wide, lanes)):
        writer.narrow(width)
        end = extent if _is_multiple(writer.size, width) else _multiple(writer.state, extent, width)
        writer.run(width, begin, end)
        begin = end
    if begin.text == extent.text:
        return
    if writer.state.target.has_masks:
        writer.run_rest(lanes, begin)
        return
    width = lanes // 2 if isinstance(known, int) else 1
    while width >= 1 and begin.text != extent.text:
        writer.narrow(width)
        end = _multiple(writer.state, extent, width)
        writer.run(width, begin, end)
        begin, width = end, width // 2


def _is_multiple(size: Size, width: int) -> bool:
    return dims.mod(size, width) == 0


def _multiple(state: KernelState, extent: Value, width: int) -> Value:
    """The extent rounded down to a multiple of a power of two."""
    if isinstance(extent.number, int):
        return number(extent.number & -width)
    return extent if width == 1 else state.writer.operate("and", i64, extent, number(-width))


def reductions_of(body: Block, carried: Sequence[str]) -> dict[str, str]:
    """How each local that a vector loop accumulates is combined."""
    found: dict[str, str] = {}
    for statement in walk_loops.walk(body):
        match statement:
            case loops.Accumulate(local, name) if local in carried:
                if found.setdefault(local, name) != name:
                    raise InternalError(f"{local} is accumulated by {name} and {found[local]}")
            case loops.Assign(local) if local in carried:
                raise InternalError(f"a vector loop assigns {local}, which is defined outside")
    return found


def _skipping(body: Block) -> frozenset[str]:
    """The locals whose maximum or minimum may ignore NaNs wherever the loop accumulates them."""
    found = [s for s in walk_loops.walk(body) if isinstance(s, loops.Accumulate)]
    strict = {s.local for s in found if not s.may_skip_nan}
    return frozenset(s.local for s in found if s.local not in strict)


def default_lanes(state: KernelState, loop: For) -> int:
    """The lanes of a register of the widest type that the body computes with."""
    bits = 8
    stack: list[Expression] = []
    for statement in walk_loops.walk(loop.body):
        stack += walk_loops.expressions(statement)
        if isinstance(statement, loops.Store):
            bits = max(bits, _computed_bits(statement.value))
    seen: set[Expression] = set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node, expr.Binary) and node.name in functions.COMPARISONS and _is_index(node):
            continue
        if not isinstance(node, (expr.IndexValue, expr.Constant)):
            bits = max(bits, _computed_bits(node))
        if not isinstance(node, expr.IndexValue):
            stack += walk_expr.children(node) if not isinstance(node, expr.Load) else ()
    return state.target.vector_bits // bits


def _computed_bits(node: Expression) -> int:
    return max(32, node.dtype.bits) if node.dtype.is_float else node.dtype.bits


def _is_index(node: expr.Binary) -> bool:
    return isinstance(node.left, (expr.IndexValue, expr.Constant)) and node.left.dtype is i64
