"""Connectionist temporal classification (Graves et al., 2006) as a composition.

Between and around its L labels a sequence may show blanks, and every symbol for several steps. With
S = 2 L + 1 symbols, blank, first label, blank, ..., one loop goes through the steps:

    alpha[s] = log_sum_exp(alpha[s], alpha[s - 1], alpha[s - 2]) + log probability of symbol s

where s - 2 counts only if s is a label other than the one before. Loops know their gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import TensorType, boolean, i64
from bessemer.compiler.ops.composite.composite import (
    binary,
    broadcast_to,
    cast,
    reshape,
    scalar_like,
    transpose,
)

_NEVER = -1e30
"""The logarithm of no probability; finite, so that differences of it are numbers."""


def ctc(
    b: GraphBuilder, scores: Value, labels: Value, steps: Value, lengths: Value, blank: int
) -> Value:
    """-log of each sequence's probability [N], infinite where it has too few steps.

    scores: log probabilities [N, T, C]; labels: integers [N, L]; steps and lengths: how many steps
    and labels of each sequence count, integers [N].
    """
    batch = labels.type.shape[0]
    symbols = _with_blanks(b, cast(b, labels, i64), blank)
    size = symbols.type.shape[1]
    places = broadcast_to(
        b, reshape(b, symbols, (batch, 1, size)), (batch, scores.type.shape[1], size)
    )
    emitted = transpose(b, b.apply("gather_elements", scores, places, axis=2), [1, 0, 2])
    at = b.apply("iota", shape=(batch, size), axis=1, dtype=i64)
    never = b.apply("full", shape=(batch, size), value=_NEVER, dtype=scores.type.dtype)
    is_first = b.apply("eq", at, scalar_like(b, at, 0))
    start = b.apply("select", is_first, scalar_like(b, never, 0), never)
    captures = [emitted, _may_skip(b, symbols, blank), cast(b, steps, i64)]
    trips = b.scalar_size(scores.type.shape[1])
    (last,) = b.apply_many(
        "loop", trips, b.constant(np.array(True)), start, *captures,
        regions=(_step(b, start, captures),), carried=1, has_trips=True, has_condition=False,
        scans=0, count="",
    )  # fmt: skip
    ends = binary(b, "mul", reshape(b, cast(b, lengths, i64), (batch, 1)), 2)
    ends = broadcast_to(b, ends, (batch, size))
    back = b.apply("sub", ends, at)
    one_before = b.apply("eq", back, scalar_like(b, at, 1))
    is_end = b.apply("or", b.apply("eq", back, scalar_like(b, at, 0)), one_before)
    total = _log_sum(b, b.apply("select", is_end, last, never))
    possible = b.apply("gt", total, scalar_like(b, total, _NEVER / 2))
    endless = scalar_like(b, total, float("inf"))
    return b.apply("select", possible, b.apply("neg", total), endless)


def _with_blanks(b: GraphBuilder, labels: Value, blank: int) -> Value:
    """[N, L] -> [N, 2 L + 1]"""
    batch, count = labels.type.shape
    column = reshape(b, labels, (batch, count, 1))
    pairs = b.apply("concat", scalar_like(b, column, blank), column, axis=2)
    pairs = reshape(b, pairs, (batch, 2 * count))
    last = b.apply("full", shape=(batch, 1), value=blank, dtype=i64)
    return b.apply("concat", pairs, last, axis=1)


def _behind(b: GraphBuilder, x: Value, places: int, value: float) -> Value:
    """x moved to the right, with a value where nothing comes from."""
    low, high = (0, places), (0, -places)
    return b.apply("pad", x, low=low, high=high, mode="constant", value=value)


def _may_skip(b: GraphBuilder, symbols: Value, blank: int) -> Value:
    is_label = b.apply("ne", symbols, scalar_like(b, symbols, blank))
    other = b.apply("ne", symbols, _behind(b, symbols, 2, blank))
    return b.apply("and", is_label, other)


def _step(b: GraphBuilder, start: Value, captures: Sequence[Value]) -> Graph:
    inner = GraphBuilder("step", b)
    time = inner.input("time", TensorType(i64, ()))
    going = inner.input("going", TensorType(boolean, ()))
    alpha = inner.input("alpha", start.type)
    emitted, may_skip, steps = (inner.input("", value.type) for value in captures)
    never = scalar_like(inner, alpha, _NEVER)
    skipped = inner.apply("select", may_skip, _behind(inner, alpha, 2, _NEVER), never)
    ways = (alpha, _behind(inner, alpha, 1, _NEVER), skipped)
    shape: tuple[Size, ...] = (*alpha.type.shape, 1)
    joined = inner.apply("concat", *(reshape(inner, way, shape) for way in ways), axis=2)
    now = inner.apply("gather", emitted, time, axis=0)
    moved = inner.apply("add", _log_sum(inner, joined), now)
    goes_on = inner.apply("lt", broadcast_to(inner, time, steps.type.shape), steps)
    goes_on = reshape(inner, goes_on, (*steps.type.shape, 1))
    goes_on = broadcast_to(inner, goes_on, alpha.type.shape)
    return inner.finish([going, inner.apply("select", goes_on, moved, alpha)])


def _log_sum(b: GraphBuilder, x: Value) -> Value:
    """log(sum(exp(x))) over the last axis."""
    axes = (x.type.rank - 1,)
    most = b.apply("reduce_max", x, axes=axes)
    spread = broadcast_to(b, reshape(b, most, (*most.type.shape, 1)), x.type.shape)
    total = b.apply("reduce_sum", b.apply("exp", b.apply("sub", x, spread)), axes=axes)
    return b.apply("add", b.apply("log", total), most)
