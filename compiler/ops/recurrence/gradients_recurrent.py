"""Gradients of lstm, gru and rnn.

Only what passes from step to step runs step by step, backwards (lstm_gradient and so on). It gives
the cotangents of all gates; those of the weights are then one product over all steps. What the
forward pass had in between is kept by the node itself. Both nodes are differentiated again as the
loops of decomposed_cells.py.
"""

from __future__ import annotations

from typing import Any

from bessemer.compiler.ir.differential import Cotangents, Differential
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import i64
from bessemer.compiler.ops.composite.composite import (
    binary,
    broadcast_to,
    cast,
    reshape,
    scalar_like,
)
from bessemer.compiler.ops.composite.composite import transpose as transposed
from bessemer.compiler.ops.recurrence.activations import require_slopes
from bessemer.compiler.ops.recurrence.decomposed_cells import (
    decomposed_gru,
    decomposed_lstm,
    decomposed_rnn,
)
from bessemer.compiler.ops.recurrence.recurrence_rules import DEFAULTS


def _kept(d: Differential, operator: str, own: int) -> tuple[Value, ...]:
    """What the node gives behind its own outputs: all steps, for its gradient."""
    names = d.attributes.get("activations", DEFAULTS[operator])
    require_slopes(operator, names, d.attributes.get("alphas", ()))
    return d.outputs[own:] or d.keep(keeps_steps=True)


def _given(d: Differential, own: int) -> list[Value]:
    """The cotangents of the node's own outputs, zeros where nothing depends on one."""
    return [
        scalar_like(d.builder, output, 0) if cotangent is None else cotangent
        for output, cotangent in list(zip(d.outputs, d.cotangents, strict=True))[:own]
    ]


def _settings(d: Differential, *more: str) -> dict[str, Any]:
    names = ("activations", "alphas", "betas", "reverse", "clip", "has_lengths", *more)
    return {name: d[name] for name in names if name in d.attributes}


def _columns(d: Differential, x: Value, first: Size, count: Size) -> Value:
    """Columns first * H .. (first + count) * H of the last axis."""
    width = d.y.type.shape[-1]
    starts = (*(0,) * (x.type.rank - 1), first * width)
    shape = (*x.type.shape[:-1], count * width)
    return d.apply("slice", x, starts=starts, shape=shape, steps=(1,) * x.type.rank)


def _over_steps(d: Differential, x: Value, y: Value) -> Value:
    """x^T y, over all steps and sequences."""
    steps, batch = x.type.shape[:2]
    x, y = (reshape(d.builder, v, (steps * batch, v.type.shape[-1])) for v in (x, y))
    return d.apply("matmul", transposed(d.builder, x, [1, 0]), y)


def _at_first_step(d: Differential, x: Value) -> Value:
    """x [T, B, K] at the step that read the first state, as [B, K]."""
    steps = x.type.shape[0]
    backwards = d.attributes.get("reverse", False)
    if backwards and d.attributes.get("has_lengths", False):
        lengths = next(value for value in d.inputs if not value.type.dtype.is_float)
        last = binary(d.builder, "sub", cast(d.builder, lengths, i64), 1)
        times = d.apply("iota", shape=x.type.shape[:2], axis=0, dtype=i64)
        is_last = d.apply("eq", times, broadcast_to(d.builder, last, times.type.shape))
        is_last = reshape(d.builder, is_last, (*times.type.shape, 1))
        is_last = broadcast_to(d.builder, is_last, x.type.shape)
        chosen = d.apply("select", is_last, x, scalar_like(d.builder, x, 0))
        return d.apply("reduce_sum", chosen, axes=(0,))
    starts = (steps - 1 if backwards else 0, 0, 0)
    row = d.apply("slice", x, starts=starts, shape=(1, *x.type.shape[1:]), steps=(1, 1, 1))
    return reshape(d.builder, row, x.type.shape[1:])


def _first_state(d: Differential, direct: Value, gates: Value, weights: Value) -> Value:
    """h0's cotangent: what came past the gates, and what came through them."""
    if gates.type.shape[0] == 0:
        return direct
    return d.apply("add", direct, d.apply("matmul", _at_first_step(d, gates), weights))


def rnn_gradient(d: Differential) -> Cotangents:
    """(gates_x, recurrent, h0 [, lengths])"""
    if any(d.cotangents[2:]):
        return d.through(decomposed_rnn)
    (before,) = _kept(d, "rnn", 2)
    dy, dh = _given(d, 2)
    lengths = d.inputs[3:]
    weights = transposed(d.builder, d.inputs[1], [1, 0])
    gates, direct = d.builder.apply_many(
        "rnn_gradient", dy, weights, dh, d.y, *lengths, **_settings(d)
    )
    dh0 = _first_state(d, direct, gates, weights)
    return gates, _over_steps(d, before, gates), dh0, *(None for _ in lengths)


def lstm_gradient(d: Differential) -> Cotangents:
    """(gates_x, recurrent, h0, c0 [, lengths] [, peepholes])"""
    if any(d.cotangents[3:]):
        return d.through(decomposed_lstm)
    opened, before, content = _kept(d, "lstm", 3)
    dy, dh, dc = _given(d, 3)
    weights = transposed(d.builder, d.inputs[1], [1, 0])
    gates, direct, dc0 = d.builder.apply_many(
        "lstm_gradient", dy, weights, dh, dc, opened, content, *d.inputs[4:],
        **_settings(d, "input_forget", "has_peepholes"),
    )  # fmt: skip
    dh0 = _first_state(d, direct, gates, weights)
    optional: list[Value | None] = [None] * d.attributes.get("has_lengths", False)
    if d.attributes.get("has_peepholes", False):
        optional.append(_peepholes(d, opened, content, gates))
    return gates, _over_steps(d, before, gates), dh0, dc0, *optional


def _peepholes(d: Differential, opened: Value, content: Value, gates: Value) -> Value:
    """Those of i and f saw the state before, that of o the one after."""
    taken, kept, new = (_columns(d, opened, number, 1) for number in (0, 2, 3))
    parts = (d.apply("mul", kept, content), d.apply("mul", taken, new))
    seen = (content, d.apply("add", *parts), content)
    found = [
        d.apply("reduce_sum", d.apply("mul", _columns(d, gates, k, 1), state), axes=(0, 1))
        for k, state in enumerate(seen)
    ]
    return d.apply("concat", *found, axis=0)


def gru_gradient(d: Differential) -> Cotangents:
    """(gates_x, recurrent, h0 [, lengths] [, bias])"""
    if any(d.cotangents[2:]):
        return d.through(decomposed_gru)
    opened, before = _kept(d, "gru", 2)
    dy, dh = _given(d, 2)
    linear = d.attributes.get("linear_before_reset", False)
    lengths = d.inputs[3 : 3 + d.attributes.get("has_lengths", False)]
    weights = transposed(d.builder, d.inputs[1], [1, 0])
    gates, direct = d.builder.apply_many(
        "gru_gradient", dy, weights, dh, opened, before, *lengths,
        **_settings(d, "linear_before_reset"),
    )  # fmt: skip
    both, new = _columns(d, gates, 0, 2), _columns(d, gates, 2, 1)
    reset = _columns(d, opened, 1, 1)
    none = (None for _ in lengths)
    if linear:
        unreset = d.apply("mul", new, reset)
        inner = d.apply("concat", both, unreset, axis=2)
        dh0 = _first_state(d, direct, inner, weights)
        bias = d.apply("reduce_sum", unreset, axes=(0, 1))
        return gates, _over_steps(d, before, inner), dh0, *none, bias
    width = d.y.type.shape[-1]
    upper = d.apply("slice", weights, starts=(0, 0), shape=(2 * width, width), steps=(1, 1))
    parts = (
        _over_steps(d, before, both),
        _over_steps(d, d.apply("mul", reset, before), new),
    )
    dh0 = _first_state(d, direct, both, upper)
    return gates, d.apply("concat", *parts, axis=1), dh0, *none
