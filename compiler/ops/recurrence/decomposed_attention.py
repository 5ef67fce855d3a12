"""Decomposition of linear_attention into a loop of products and pointwise nodes, which have
gradients; see decomposed_loop.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.differential import Cotangents, Differential
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite.composite import broadcast_to, reshape, transpose
from bessemer.compiler.ops.recurrence.decomposed_loop import Sequences, over_steps


def linear_attention_gradient(d: Differential) -> Cotangents:
    """(query, key, value, state [, decay] [, beta])"""
    return d.through(decomposed_linear_attention)


def decomposed_linear_attention(
    b: GraphBuilder, inputs: Sequence[Value], attributes: Mapping[str, Any]
) -> tuple[Value, ...]:
    """(y, state)"""
    query, _, value, state = inputs[:4]
    batch, steps, heads, width = value.type.shape
    most = max(dims.number(query.type.shape[2]), dims.number(heads))
    has_decay, has_beta = (attributes.get(name, False) for name in ("has_decay", "has_beta"))

    def step(
        b: GraphBuilder, rows: Sequence[Value], states: Sequence[Value], _: Sequence[Value]
    ) -> tuple[Sequence[Value], Sequence[Value]]:
        (kept,) = states
        depth = kept.type.shape[2]
        asked, key = _of_heads(b, rows[0], most), _of_heads(b, rows[1], heads)
        if has_decay:
            decay = reshape(b, rows[3], (*rows[3].type.shape, 1))
            kept = b.apply("mul", broadcast_to(b, decay, kept.type.shape), kept)
        change = reshape(b, rows[2], (batch, heads, 1, width))
        if has_beta:
            recalled = b.apply("matmul", reshape(b, key, (batch, heads, 1, depth)), kept)
            rate = reshape(b, rows[-1], (*rows[-1].type.shape, 1, 1))
            rate = broadcast_to(b, rate, change.type.shape)
            change = b.apply("mul", rate, b.apply("sub", change, recalled))
        column = broadcast_to(b, reshape(b, key, (batch, heads, depth, 1)), kept.type.shape)
        added = b.apply("mul", column, broadcast_to(b, change, kept.type.shape))
        kept = b.apply("add", kept, added)
        asked = reshape(b, asked, (batch, heads, most // dims.number(heads), depth))
        return [kept], [reshape(b, b.apply("matmul", asked, kept), (batch, most * width))]

    rows = [_steps_first(b, x) for x in (*inputs[:3], *inputs[4:])]
    order = Sequences(steps, None, backwards=False)
    (last,), (found,) = over_steps(b, order, rows, [state], [], step)
    y = reshape(b, found, (steps, batch, most, width))
    return transpose(b, y, [1, 0, 2, 3]), last


def _steps_first(b: GraphBuilder, x: Value) -> Value:
    return transpose(b, x, [1, 0, *range(2, x.type.rank)])


def _of_heads(b: GraphBuilder, x: Value, heads: Size) -> Value:
    """x [B, N, K] as [B, heads, K], each of N as often in a row as it takes."""
    batch, count, depth = x.type.shape
    times = dims.number(heads) // dims.number(count)
    wide = broadcast_to(b, reshape(b, x, (batch, count, 1, depth)), (batch, count, times, depth))
    return reshape(b, wide, (batch, heads, depth))
