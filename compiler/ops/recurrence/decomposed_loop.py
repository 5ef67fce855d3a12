"""A recurrence as a loop of other operators: what its kernel computes, in nodes with gradients.

Recurrences have kernels for their gradients (lstm_gradient and so on), but there are none for the
gradients of these. Where a gradient is differentiated again, its node is decomposed: into a loop
over the steps, whose body has products and pointwise nodes. decomposed_cells.py has the bodies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.expr import (
    Binary,
    Buffer,
    Constant,
    Expression,
    Select,
    Unary,
    load,
)
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import TensorType, boolean, i64
from bessemer.compiler.ops.composite.composite import broadcast_to, reshape, scalar_like

Body = Callable[
    [GraphBuilder, Sequence[Value], Sequence[Value], Sequence[Value]],
    tuple[Sequence[Value], Sequence[Value]],
]
"""A step: of (builder, rows [B, *] of this step, states [B, *], captured values), the new states
and what the step gives [B, *]."""


@dataclass(frozen=True)
class Sequences:
    """Which steps there are, in which order. `lengths`: how many of them each sequence has."""

    steps: Size
    lengths: Value | None
    backwards: bool


def over_steps(
    b: GraphBuilder,
    sequences: Sequences,
    rows: Sequence[Value],
    states: Sequence[Value],
    captured: Sequence[Value],
    body: Body,
) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    """The states after all steps, and what the steps give, [T, B, *], 0 behind a sequence's end.

    `rows` are [T, B, *]. Behind its end a sequence's states stay what they are.
    """
    lengths = [] if sequences.lengths is None else [sequences.lengths]
    inner = GraphBuilder("steps", b)
    iteration = inner.input("iteration", TensorType(i64, ()))
    going = inner.input("condition", TensorType(boolean, ()))
    before, whole, seen, ends = (
        [inner.input("", value.type) for value in values]
        for values in (states, rows, captured, lengths)
    )
    time = iteration
    if sequences.backwards:
        time = inner.apply("sub", inner.scalar_size(sequences.steps - 1), iteration)
    now = [inner.apply("gather", value, time, axis=0) for value in whole]
    after, found = body(inner, now, before, seen)
    for end in ends:
        after = [_until(inner, time, end, *pair) for pair in zip(after, before, strict=True)]
        found = [_until(inner, time, end, v, scalar_like(inner, v, 0)) for v in found]
    count = b.fresh_symbol("steps")
    outputs = b.apply_many(
        "loop", b.scalar_size(sequences.steps), b.constant(np.array(True)),
        *states, *rows, *captured, *lengths,
        regions=(inner.finish([going, *after, *found]),), carried=len(states), has_trips=True,
        has_condition=False, scans=len(found), count=count,
    )  # fmt: skip
    stacked = (_in_order(b, sequences, value, count) for value in outputs[len(states) :])
    return outputs[: len(states)], tuple(stacked)


def _until(b: GraphBuilder, time: Value, lengths: Value, x: Value, otherwise: Value) -> Value:
    """x of the sequences that have this step."""
    place = b.apply("cast", time, dtype=lengths.type.dtype)
    is_there = b.apply("lt", broadcast_to(b, place, lengths.type.shape), lengths)
    is_there = reshape(b, is_there, (lengths.type.shape[0], 1))
    return b.apply("select", broadcast_to(b, is_there, x.type.shape), x, otherwise)


def _in_order(b: GraphBuilder, sequences: Sequences, stacked: Value, count: str) -> Value:
    """What a loop stacked, by time; the loop makes as many iterations as there are steps."""
    steps, inner = sequences.steps, stacked.type.shape[1:]
    first, step = (symbol(count) - 1, -1) if sequences.backwards else (0, 1)
    return b.apply(
        "slice", stacked, starts=(first, 0, 0), shape=(steps, *inner), steps=(step, 1, 1)
    )


def pointwise(
    b: GraphBuilder, rule: Callable[..., Sequence[Expression]], *values: Value
) -> tuple[Value, ...]:
    """The nodes of what a rule says of one element of each of these values, all of one type."""
    type = values[0].type
    names = [Buffer(f"value{number}", type.dtype, ()) for number in range(len(values))]
    known: dict[Expression, Value] = {
        load(name, ()): value for name, value in zip(names, values, strict=True)
    }
    return tuple(_node(b, type, known, found) for found in rule(*(load(n, ()) for n in names)))


def _node(
    b: GraphBuilder, type: TensorType, known: dict[Expression, Value], e: Expression
) -> Value:
    """The value of an expression; what is known is not written twice."""
    if e in known:
        return known[e]

    def part(inner: Expression) -> Value:
        return _node(b, type, known, inner)

    match e:
        case Constant():
            found = b.apply("full", shape=type.shape, value=e.value, dtype=e.dtype)
        case Unary(name=name):
            found = b.apply(name, part(e.operand))
        case Binary(name=name):
            found = b.apply(name, part(e.left), part(e.right))
        case Select():
            found = b.apply("select", part(e.condition), part(e.then), part(e.otherwise))
        case _:
            raise InternalError(f"a pointwise rule has {e.__class__.__name__}")
    known[e] = found
    return found
