"""Decompositions of lstm, gru, rnn and their gradients into loops of simpler nodes; see
decomposed_loop.py.

Each function gives the outputs of the operator of that name, from its inputs and attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.expr import Expression
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite.composite import broadcast_to, cast, in_f32, scalar_like
from bessemer.compiler.ops.recurrence.decomposed_loop import Sequences, over_steps, pointwise
from bessemer.compiler.ops.recurrence.recurrence_rules import (
    DEFAULTS,
    RecurrenceAttributes,
    attributes_of,
)

_Step = tuple[Sequence[Value], Sequence[Value]]


def decomposed_rnn(
    b: GraphBuilder, inputs: Sequence[Value], attributes: Mapping[str, Any]
) -> tuple[Value, ...]:
    """(y, h [, h before each step])"""
    node = attributes_of(DEFAULTS["rnn"], attributes)
    (gate,) = node.gates()

    def step(
        b: GraphBuilder, rows: Sequence[Value], states: Sequence[Value], seen: Sequence[Value]
    ) -> _Step:
        (h,) = states
        total = b.apply("add", rows[0], b.apply("matmul", h, seen[0]))
        (new,) = pointwise(b, lambda x: [gate.rule(x)], total)
        return [new], [new, h]

    x, weights, h0 = (in_f32(b, value) for value in inputs[:3])
    order = _order(node, x, inputs[3:])
    (h,), (y, before) = over_steps(b, order, [x], [h0], [weights], step)
    return _as(b, inputs[0], y, h, *([before] if node.keeps_steps else []))


def decomposed_rnn_gradient(
    b: GraphBuilder, inputs: Sequence[Value], attributes: Mapping[str, Any]
) -> tuple[Value, ...]:
    """(dgates_x, what came past all gates)"""
    node = attributes_of(DEFAULTS["rnn"], attributes)
    (gate,) = node.gates(inputs[3].type.dtype)

    def step(
        b: GraphBuilder, rows: Sequence[Value], states: Sequence[Value], seen: Sequence[Value]
    ) -> _Step:
        total = b.apply("add", rows[0], states[0])
        (found,) = pointwise(b, lambda dh, y: [dh * gate.slope(y)], total, rows[1])
        return [b.apply("matmul", found, seen[0]), scalar_like(b, states[1], 0)], [found]

    dy, weights, dh, y = (in_f32(b, value) for value in inputs[:4])
    order = _order(node, dy, inputs[4:], is_back=True)
    (_, direct), (found,) = over_steps(b, order, [dy, y], [dh, dh], [weights], step)
    return _as(b, inputs[0], found, direct)


def decomposed_lstm(
    b: GraphBuilder, inputs: Sequence[Value], attributes: Mapping[str, Any]
) -> tuple[Value, ...]:
    """(y, h, c [, gates, h and c before each step])"""
    node = attributes_of(DEFAULTS["lstm"], attributes)
    gate, cell_gate, hidden_gate = node.gates()
    hidden_gate = replace(hidden_gate, clip=0.0)

    def cell(*given: Expression) -> Sequence[Expression]:
        i, o, f, g, before, p_i, p_o, p_f = given
        taken = gate.rule(i + p_i * before)
        kept = 1 - taken if node.input_forget else gate.rule(f + p_f * before)
        content = cell_gate.rule(g)
        after = kept * before + taken * content
        shown = gate.rule(o + p_o * after)
        return shown * hidden_gate.rule(after), after, taken, shown, kept, content

    def step(
        b: GraphBuilder, rows: Sequence[Value], states: Sequence[Value], seen: Sequence[Value]
    ) -> _Step:
        h, c = states
        total = b.apply("add", rows[0], b.apply("matmul", h, seen[0]))
        new, after, *opened = pointwise(
            b, cell, *_split(b, total, h), c, *_peepholes(b, node, seen[1:], h)
        )
        return [new, after], [new, b.apply("concat", *opened, axis=1), h, c]

    x, weights, h0, c0 = (in_f32(b, value) for value in inputs[:4])
    captured = [weights, *(in_f32(b, value) for value in inputs[4 + node.has_lengths :])]
    order = _order(node, x, inputs[4:])
    (h, c), (y, *kept) = over_steps(b, order, [x], [h0, c0], captured, step)
    return _as(b, inputs[0], y, h, c, *(kept if node.keeps_steps else []))


def decomposed_lstm_gradient(
    b: GraphBuilder, inputs: Sequence[Value], attributes: Mapping[str, Any]
) -> tuple[Value, ...]:
    """(dgates_x, what came past all gates, c0's cotangent [, totals])"""
    node = attributes_of(DEFAULTS["lstm"], attributes)
    gate, cell_gate, _ = node.gates(inputs[4].type.dtype)
    hidden_gate = replace(node, clip=0.0).gates()[2]

    def cell(*given: Expression) -> Sequence[Expression]:
        i, o, f, g, before, dh, dc, p_i, p_o, p_f = given
        shown = hidden_gate.rule(f * before + i * g)
        do = dh * shown * gate.slope(o)
        dc = dc + dh * o * hidden_gate.slope(shown) + do * p_o
        di = dc * (g - before if node.input_forget else g) * gate.slope(i)
        df = dc * 0 if node.input_forget else dc * before * gate.slope(f)
        return dc * f + di * p_i + df * p_f, di, do, df, dc * i * cell_gate.slope(g)

    def step(
        b: GraphBuilder, rows: Sequence[Value], states: Sequence[Value], seen: Sequence[Value]
    ) -> _Step:
        dy, opened, before = rows
        dh = b.apply("add", dy, states[0])
        dc, *gates = pointwise(
            b, cell, *_split(b, opened, dh), before, dh, states[1],
            *_peepholes(b, node, seen[1:], dh),
        )  # fmt: skip
        found = b.apply("concat", *gates, axis=1)
        return [b.apply("matmul", found, seen[0]), dc, scalar_like(b, dh, 0)], [found]

    dy, weights, dh, dc, opened, before = (in_f32(b, value) for value in inputs[:6])
    captured = [weights, *(in_f32(b, value) for value in inputs[6 + node.has_lengths :])]
    order = _order(node, dy, inputs[6:], is_back=True)
    rows = [dy, opened, before]
    (_, dc0, direct), (found,) = over_steps(b, order, rows, [dh, dc, dh], captured, step)
    totals = [b.apply("reduce_sum", found, axes=(0, 1))] if node.has_totals else []
    return _as(b, inputs[0], found, direct, dc0, *totals)


def decomposed_gru(
    b: GraphBuilder, inputs: Sequence[Value], attributes: Mapping[str, Any]
) -> tuple[Value, ...]:
    """(y, h [, gates and h before each step])"""
    node = attributes_of(DEFAULTS["gru"], attributes)
    gate, new_gate = node.gates()
    linear = node.linear_before_reset

    def cell(n: Expression, z: Expression, h: Expression) -> Sequence[Expression]:
        new = new_gate.rule(n)
        return (1 - z) * new + z * h, new

    def step(
        b: GraphBuilder, rows: Sequence[Value], states: Sequence[Value], seen: Sequence[Value]
    ) -> _Step:
        (h,) = states
        x_z, x_r, x_n = _split(b, rows[0], h)
        w_z, w_r, w_n = _split(b, seen[0], h)
        z, r = (
            pointwise(b, lambda x: [gate.rule(x)], b.apply("add", x, b.apply("matmul", h, w)))[0]
            for x, w in ((x_z, w_z), (x_r, w_r))
        )
        if linear:
            bias = broadcast_to(b, seen[1], h.type.shape)
            unreset = b.apply("add", b.apply("matmul", h, w_n), bias)
            recurrent = b.apply("mul", r, unreset)
        else:
            recurrent = b.apply("matmul", b.apply("mul", r, h), w_n)
        new, n = pointwise(b, cell, b.apply("add", x_n, recurrent), z, h)
        opened = b.apply("concat", z, r, n, *([unreset] if linear else []), axis=1)
        return [new], [new, opened, h]

    x, weights, h0 = (in_f32(b, value) for value in inputs[:3])
    captured = [weights, *(in_f32(b, value) for value in inputs[3 + node.has_lengths :])]
    order = _order(node, x, inputs[3:])
    (h,), (y, *kept) = over_steps(b, order, [x], [h0], captured, step)
    return _as(b, inputs[0], y, h, *(kept if node.keeps_steps else []))


def decomposed_gru_gradient(
    b: GraphBuilder, inputs: Sequence[Value], attributes: Mapping[str, Any]
) -> tuple[Value, ...]:
    """(dgates_x, what came past the weights)"""
    node = attributes_of(DEFAULTS["gru"], attributes)
    gate, new_gate = node.gates(inputs[3].type.dtype)

    def begin(dh: Expression, z: Expression, n: Expression, h: Expression) -> Sequence[Expression]:
        return dh * (h - n) * gate.slope(z), dh * (1 - z) * new_gate.slope(n), dh * z

    def step(
        b: GraphBuilder, rows: Sequence[Value], states: Sequence[Value], seen: Sequence[Value]
    ) -> _Step:
        dy, opened, before = rows
        dh = b.apply("add", dy, states[0])
        z, r, n, *unreset = _split(b, opened, dh)
        dz, dn, direct = pointwise(b, begin, dh, z, n, before)
        w_z, w_r, w_n = _split(b, seen[0], dh, axis=0)
        if node.linear_before_reset:
            reset = b.apply("mul", dn, unreset[0])
            through = b.apply("matmul", b.apply("mul", dn, r), w_n)
        else:
            inner = b.apply("matmul", dn, w_n)
            reset = b.apply("mul", inner, before)
            direct = b.apply("add", direct, b.apply("mul", inner, r))
            through = scalar_like(b, dh, 0)
        (dr,) = pointwise(b, lambda x, r: [x * gate.slope(r)], reset, r)
        for part in (b.apply("matmul", dz, w_z), b.apply("matmul", dr, w_r), direct):
            through = b.apply("add", through, part)
        return [through, direct], [b.apply("concat", dz, dr, dn, axis=1)]

    dy, weights, dh, opened, before = (in_f32(b, value) for value in inputs[:5])
    order = _order(node, dy, inputs[5:], is_back=True)
    rows = [dy, opened, before]
    (_, direct), (found,) = over_steps(b, order, rows, [dh, dh], [weights], step)
    return _as(b, inputs[0], found, direct)


def _order(
    node: RecurrenceAttributes, rows: Value, optional: Sequence[Value], is_back: bool = False
) -> Sequences:
    return Sequences(rows.type.shape[0], node.lengths(optional), node.reverse != is_back)


def _split(b: GraphBuilder, x: Value, state: Value, axis: int = 1) -> list[Value]:
    """x in parts as wide as a state [B, H], along an axis."""
    width = state.type.shape[1]
    assert isinstance(width, int)
    whole = x.type.shape[axis]
    assert isinstance(whole, int)
    shape = tuple(width if a == axis else size for a, size in enumerate(x.type.shape))
    return [
        b.apply(
            "slice", x, shape=shape, steps=(1, 1),
            starts=tuple(first if a == axis else 0 for a in range(2)),
        )
        for first in range(0, whole, width)
    ]  # fmt: skip


def _peepholes(
    b: GraphBuilder, node: RecurrenceAttributes, peepholes: Sequence[Value], state: Value
) -> list[Value]:
    """Those of i, o and f for every element of a state; 0 where a cell has none."""
    if not node.has_peepholes:
        return [scalar_like(b, state, 0)] * 3
    (vector,) = peepholes
    rows = b.apply("reshape", vector, shape=(1, *vector.type.shape))
    return [broadcast_to(b, part, state.type.shape) for part in _split(b, rows, state)]


def _as(b: GraphBuilder, like: Value, *values: Value) -> tuple[Value, ...]:
    return tuple(cast(b, value, like.type.dtype) for value in values)
