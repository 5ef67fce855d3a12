"""Makes vectors from scalars, takes parts of vectors, and puts their lanes into another order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bessemer.compiler.codegen.values import Value, literal, scalar_text, suffix, vector_text
from bessemer.compiler.codegen.writer import Writer
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.types import DType, boolean


def splat(w: Writer, value: Value, lanes: int) -> Value:
    """The scalar in every lane. A vector with that number of lanes is returned unchanged."""
    if value.lanes == lanes:
        return value
    if value.lanes != 1:
        raise InternalError(f"a vector of {value.lanes} lanes where {lanes} were expected")
    if value.number is not None:
        text = f"splat ({scalar_text(value.kind)} {value.text})"
        return Value(text, value.kind, lanes, 0, value.number)
    vector = vector_text(scalar_text(value.kind), lanes)
    first = w.compute(
        f"insertelement {vector} poison, {value.typed}, i64 0", value.kind, lanes, value.level
    )
    operation = f"shufflevector {first.typed}, {vector} poison, <{lanes} x i32> zeroinitializer"
    return w.compute(operation, value.kind, lanes, value.level)


def same_lanes(w: Writer, left: Value, right: Value) -> tuple[Value, Value]:
    """Two values, a scalar of them splat to the other's lanes."""
    lanes = max(left.lanes, right.lanes)
    return splat(w, left, lanes), splat(w, right, lanes)


def steps(kind: DType, lanes: int, stride: int = 1, start: int = 0) -> Value:
    """The constant vector start, start + stride, ..."""
    if lanes == 1:
        return literal(start, kind)
    scalar = scalar_text(kind)
    numbers = ", ".join(f"{scalar} {start + stride * k}" for k in range(lanes))
    return Value(f"<{numbers}>", kind, lanes)


def extract(w: Writer, value: Value, lane: int) -> Value:
    """One lane of a vector, as a scalar."""
    if value.lanes == 1:
        return value
    return w.compute(f"extractelement {value.typed}, i64 {lane}", value.kind, 1, value.level)


def first_of(lanes: int, count: int = 1) -> Value:
    """The mask of the first lane, or of the first `count` lanes."""
    flags = ", ".join(f"i1 {'true' if lane < count else 'false'}" for lane in range(lanes))
    return Value(f"<{flags}>", boolean, lanes)


def shuffle(w: Writer, left: Value, right: Value | None, order: Sequence[int]) -> Value:
    """The lanes of two vectors, numbered through, in a new order. -1 stands for any lane."""
    second = right.typed if right is not None else f"{left.type} poison"
    mask = ", ".join(f"i32 {lane}" if lane >= 0 else "i32 poison" for lane in order)
    operation = f"shufflevector {left.typed}, {second}, <{len(order)} x i32> <{mask}>"
    level = max(left.level, right.level if right is not None else 0)
    return w.compute(operation, left.kind, len(order), level)


def part(w: Writer, value: Value, start: int, count: int) -> Value:
    """Consecutive lanes."""
    if count == value.lanes:
        return value
    if count == 1:
        return extract(w, value, start)
    if value.number is not None:
        return value._replace(lanes=count)
    return shuffle(w, value, None, range(start, start + count))


def widened(w: Writer, value: Value, lanes: int) -> Value:
    """The value in the first lanes of a vector of at least `lanes` lanes; the other lanes are
    undefined."""
    if value.lanes >= lanes:
        return value
    if value.number is not None:
        return splat(w, value, lanes) if value.lanes == 1 else value._replace(lanes=lanes)
    if value.lanes > 1:
        return shuffle(w, value, None, [*range(value.lanes), *[-1] * (lanes - value.lanes)])
    vector = vector_text(scalar_text(value.kind), lanes)
    operation = f"insertelement {vector} poison, {value.typed}, i64 0"
    return w.compute(operation, value.kind, lanes, value.level)


def join(w: Writer, parts: Sequence[Value]) -> Value:
    """Vectors of the same width, one after the other. Their number is a power of two."""
    while len(parts) > 1:
        width = parts[0].lanes
        parts = [
            shuffle(w, low, high, range(2 * width)) for low, high in zip(parts[::2], parts[1::2])
        ]
    return parts[0]


def reduce_lanes(
    w: Writer, value: Value, lanes: int, combine: Callable[[Value, Value], Value]
) -> Value:
    """Combines lanes k, k + lanes, k + 2 lanes, ... until `lanes` lanes are left, by halves."""
    while value.lanes > lanes:
        half = value.lanes // 2
        value = combine(part(w, value, 0, half), part(w, value, half, half))
    return value


def any_lane(w: Writer, mask: Value) -> Value:
    """Whether any lane of a mask is set."""
    if mask.lanes == 1:
        return mask
    return w.call(f"llvm.vector.reduce.or.{suffix(boolean, mask.lanes)}", boolean, 1, mask)
