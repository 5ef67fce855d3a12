"""Looks bytes up in a table of 256 bytes that is in registers, where the machine can do that.

low  = permute(table[0:128],   x)        by the seven low bits
high = permute(table[128:256], x)
result = x < 128 ? low : high
"""

from __future__ import annotations

from collections.abc import Callable

from bessemer.compiler.codegen.arithmetic import compare, like, select
from bessemer.compiler.codegen.kernels.conversions import resized
from bessemer.compiler.codegen.kernels.state import KernelState
from bessemer.compiler.codegen.lanes import join, part, shuffle
from bessemer.compiler.codegen.values import Value, type_text
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.expr import Cast, Checked, Expression, Load, Select
from bessemer.compiler.ir.types import i8, u8

_LANES = 64
_PERMUTE = "llvm.x86.avx512.vpermi2var.qi.512"


def look_up(
    state: KernelState, evaluate: Callable[[Expression], Value], load: Load
) -> Value | None:
    """The elements of a table at indices that are bytes; None if the load is not of such a
    table."""
    index = _byte_index(load) if state.target.has_byte_lookup else None
    if index is None:
        return None
    x = evaluate(index)
    if x.lanes == 1:
        return None
    pieces = [
        _piece(state, load, part(state.writer, x, start, min(_LANES, x.lanes)))
        for start in range(0, x.lanes, _LANES)
    ]
    found = join(state.writer, pieces)
    if load.guard is None:
        return found
    # Any byte may be looked up: what the guard leaves out is read, and thrown away.
    return select(state.writer, evaluate(load.guard), found, like(found, 0))


def _byte_index(load: Load) -> Expression | None:
    """The byte that selects the element of a table of bytes; None for other loads."""
    buffer = load.buffer
    if buffer.shape != (256,) or buffer.dtype not in (u8, i8):
        return None
    found = dims.as_atom(load.indices[0])
    if not isinstance(found, Expression):
        return None
    if isinstance(found, Checked):
        found = found.operand
    if isinstance(found, Select) and found.condition is load.guard:
        found = found.then
    while isinstance(found, Cast) and not found.operand.dtype.is_float:
        found = found.operand
        if found.dtype is u8:
            return found
    return None


def _piece(state: KernelState, load: Load, x: Value) -> Value:
    """The elements at up to 64 indices."""
    w = state.writer
    wide = x if x.lanes == _LANES else _widened(state, x)
    halves = [_permuted(state, load, wide, half) for half in range(2)]
    low, high = (part(w, half, 0, x.lanes) for half in halves)
    signed = Value(x.text, i8, x.lanes, x.level)
    return resized(w, select(w, compare(w, "slt", signed, like(signed, 0)), high, low), load.dtype)


def _widened(state: KernelState, x: Value) -> Value:
    places = [*range(x.lanes), *([0] * (_LANES - x.lanes))]
    return shuffle(state.writer, x, None, places)


def _permuted(state: KernelState, load: Load, x: Value, half: int) -> Value:
    """The elements of one half of the table at the indices' seven low bits."""
    w, kind = state.writer, type_text(u8, _LANES)
    base = state.base(load.buffer)
    quarters = [
        w.load(f"load {kind}, ptr {{}}, align 1", load.buffer.name, u8, _LANES, base.moved(start))
        for start in (128 * half, 128 * half + _LANES)
    ]
    operands = (quarters[0], x, quarters[1])
    w.declarations.add(f"declare {kind} @{_PERMUTE}({kind}, {kind}, {kind})")
    listed = ", ".join(f"{kind} {operand.text}" for operand in operands)
    level = max(operand.level for operand in operands)
    return w.compute(f"call {kind} @{_PERMUTE}({listed})", u8, _LANES, level)
