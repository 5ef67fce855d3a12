"""Writes casts between element types, and the conversion of elements between memory and
registers."""

from __future__ import annotations

from bessemer.compiler.codegen.arithmetic import compare, like, select
from bessemer.compiler.codegen.kernels.calls import convert_float
from bessemer.compiler.codegen.kernels.state import KernelState
from bessemer.compiler.codegen.values import Value, register_type, type_text
from bessemer.compiler.codegen.writer import Writer
from bessemer.compiler.ir.types import DType, boolean, f32, f64, i8, i16, i32, i64


def cast(state: KernelState, value: Value, source: DType, target: DType) -> Value:
    """A value of element type `source` as one of `target`, rounded to it where it is a float."""
    w = state.writer
    if source == target:
        return value
    if target is boolean:
        return compare(w, "une" if source.is_float else "ne", value, like(value, 0))
    if target.is_float:
        return _to_float(state, value, source, target)
    if source.is_float:
        return _saturated(w, value, target)
    return resized(w, value, target)


def reinterpreted(state: KernelState, value: Value, source: DType, target: DType) -> Value:
    """The bits of a value of element type `source` as a value of `target`, which is as wide."""
    w, kind = state.writer, register_type(target)
    if source.is_float and source.bits == 16:
        value = _narrowed(state, value, source)
    elif source.is_float:
        value = _converted(w, "bitcast", value, i64 if source is f64 else i32)
    if target.is_float and target.bits == 16:
        return _widened(state, resized(w, value, i16), target)
    return _converted(w, "bitcast", value, kind) if kind.is_float else resized(w, value, kind)


def rounded(state: KernelState, value: Value, target: DType) -> Value:
    """A float in a register, rounded to a 16-bit type but still a wide float."""
    return _widened(state, _narrowed(state, value, target), target)


def _narrowed(state: KernelState, value: Value, target: DType) -> Value:
    """A float as 16 bits (i16). One that was made from 16 bits gets these back unchanged."""
    known = state.narrow.get((value.text, target))
    return known or convert_float(state, value, value.kind, target)


def _widened(state: KernelState, narrow: Value, source: DType) -> Value:
    value = convert_float(state, narrow, source, f32)
    state.narrow[value.text, source] = narrow
    return value


def _to_float(state: KernelState, value: Value, source: DType, target: DType) -> Value:
    w, kind = state.writer, register_type(target)
    if not source.is_float:
        word = "sitofp" if source.kind == "i" else "uitofp"
        value = _converted(w, word, value, kind)
    elif target.bits == 16:
        return rounded(state, value, target)
    elif value.kind != kind:
        value = _converted(w, "fpext" if kind is f64 else "fptrunc", value, kind)
    return rounded(state, value, target) if target.bits == 16 else value


def _saturated(w: Writer, value: Value, target: DType) -> Value:
    """A float truncated to an integer; values too large become the largest integer, NaN becomes 0.

    LLVM's own saturating conversions process vectors element by element.
    """
    low, high = int(target.lowest), int(target.highest)
    if target.bits < 32:
        number = value
        if low != 0:  # NaN is not above 0 either
            number = select(w, compare(w, "ord", value, value), value, like(value, 0.0))
        number = select(w, compare(w, "ogt", number, like(value, low)), number, like(value, low))
        number = select(w, compare(w, "olt", number, like(value, high)), number, like(value, high))
        return resized(w, _converted(w, "fptosi", number, i32), target)
    signed = target.kind == "i"
    cut = _converted(w, "fptosi" if signed else "fptoui", value, target)
    # Out of range the instruction's result is undefined, but then it is not selected.
    above = compare(w, "oge", value, like(value, float(high + 1)))
    inside = compare(w, "oge" if signed else "ogt", value, like(value, low if signed else -1))
    limited = select(w, above, like(cut, high), select(w, inside, cut, like(cut, low)))
    if not signed:
        return limited
    return select(w, compare(w, "uno", value, value), like(cut, 0), limited)


def resized(w: Writer, value: Value, target: DType) -> Value:
    """Integers and bools with another width: truncated, or extended according to the source's
    sign."""
    before = 1 if value.kind is boolean else value.kind.bits
    if before == target.bits:
        return Value(value.text, target, value.lanes, value.level, value.number)
    word = "trunc" if before > target.bits else "sext" if value.kind.kind == "i" else "zext"
    return _converted(w, word, value, target)


def _converted(w: Writer, word: str, value: Value, kind: DType) -> Value:
    operation = f"{word} {value.typed} to {type_text(kind, value.lanes)}"
    return w.compute(operation, kind, value.lanes, value.level)


def memory_kind(dtype: DType) -> DType:
    """The type of a loaded value: 16-bit floats are loaded as integers, bools as bytes."""
    if dtype.is_float and dtype.bits == 16:
        return i16
    return i8 if dtype is boolean else register_type(dtype)


def from_memory(state: KernelState, value: Value, dtype: DType) -> Value:
    """Converts a loaded value to its form in registers."""
    if dtype is boolean:
        return compare(state.writer, "ne", value, like(value, 0))
    return _widened(state, value, dtype) if dtype.bits == 16 and dtype.is_float else value


def to_memory(state: KernelState, value: Value, dtype: DType) -> Value:
    """Converts a value to its form in memory."""
    if dtype is boolean:
        return _converted(state.writer, "zext", value, i8)
    return _narrowed(state, value, dtype) if dtype.bits == 16 and dtype.is_float else value
