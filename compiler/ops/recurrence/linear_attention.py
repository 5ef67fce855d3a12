"""linear_attention: attention whose memory is one matrix a head, instead of all keys and values.

    S = decay[t] * S                                      row by row, or all rows alike
    change = value[t], or beta[t] * (value[t] - key[t] @ S)     the delta rule
    S = S + key[t] (x) change                             an outer product
    y[t] = query[t] @ S

(Yang, Kautz and Hatamizadeh, Gated Delta Networks, ICLR 2025.) Columns of S never meet, so that
some of them go through all steps by themselves, near the core:

    for every head, for some columns
      for every step, for the columns as lanes
        recalled += decay * key[k] * S[k]                 for every row k
        S[k] = decay * S[k] + key[k] * change             and again
        y += query[k] * S[k]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, constant, less
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType, f32, f64
from bessemer.compiler.ops.check import listed, require, require_dtype
from bessemer.compiler.ops.recurrence.decomposed_attention import linear_attention_gradient

_BLOCK_BYTES = 1 << 14
"""Of a state's columns that one item takes through all steps: they stay in the first cache."""
_LEAST_COLUMNS = 16
_INTERLEAVE = 4
_PARTS = 4
"""Sums that a sum over rows is made of, so that they need not wait for each other."""


def _infer(
    query: TensorType,
    key: TensorType,
    value: TensorType,
    state: TensorType,
    *optional: TensorType,
    has_decay: bool = False,
    has_beta: bool = False,
) -> tuple[TensorType, TensorType]:
    """(query [B, T, Q, K], key [B, T, G, K], value [B, T, H, V], state [B, H, K, V]
    [, decay [B, T, H, K or 1]] [, beta [B, T, H or 1]]) -> (y [B, T, max(Q, H), V], state).

    Heads of queries share a state, or states a query and a key: of Q and H one is a multiple of the
    other, and H of G. `decay` is a factor; with `beta` it is the delta rule.
    """
    types = (query, key, value, state, *optional)
    require_dtype("linear_attention", query, (f32, f64))
    require(
        len(optional) == has_decay + has_beta and all(t.dtype == query.dtype for t in types),
        f"linear_attention wants as many inputs as it says, of one type, but got {listed(types)}.",
    )
    shapes = [type.shape for type in types]
    fits = [len(shape) for shape in shapes[:4]] == [4] * 4 and all(
        isinstance(size, int) for size in (*query.shape[2:], *key.shape[2:], *state.shape[1:])
    )
    if fits:
        (batch, steps, queries, depth), keys = query.shape, key.shape[2]
        heads, width = value.shape[2:]
        large, small = sorted(map(dims.number, (queries, heads)), reverse=True)
        fits = (
            large % max(small, 1) == 0
            and dims.number(heads) % max(dims.number(keys), 1) == 0
            and key.shape == (batch, steps, keys, depth)
            and value.shape[:2] == (batch, steps)
            and state.shape == (batch, heads, depth, width)
            and (not has_decay or shapes[4] in [(batch, steps, heads, n) for n in (depth, 1)])
            and (not has_beta or shapes[-1] in [(batch, steps, n) for n in (heads, 1)])
        )
    require(
        fits,
        "linear_attention wants queries, keys and values [B, T, heads, size], states "
        f"[B, heads, K, V] and gates [B, T, heads ...] that fit, but got {listed(types)}.",
    )
    most = max(dims.number(query.shape[2]), dims.number(value.shape[2]))
    return value.with_shape((*value.shape[:2], most, value.shape[3])), state


def _reference(
    query: Array,
    key: Array,
    value: Array,
    state: Array,
    *optional: Array,
    has_decay: bool = False,
    has_beta: bool = False,
) -> tuple[Array, Array]:
    given = [np.asarray(array, np.float64) for array in (query, key, value, state, *optional)]
    query, key, value, kept = given[:4]
    heads = value.shape[2]
    most = max(query.shape[2], heads)
    key, query = (np.repeat(x, n // x.shape[2], 2) for x, n in ((key, heads), (query, most)))
    y = np.zeros((*value.shape[:2], most, value.shape[3]))
    for t in range(query.shape[1]):
        if has_decay:
            kept = kept * given[4][:, t, :, :, None]
        change = value[:, t]
        if has_beta:
            recalled = np.einsum("bhk,bhkv->bhv", key[:, t], kept)
            change = given[-1][:, t, :, None] * (change - recalled)
        kept = kept + key[:, t, :, :, None] * change[:, :, None]
        y[:, t] = np.einsum("bhk,bhkv->bhv", query[:, t], np.repeat(kept, most // heads, 1))
    return y.astype(state.dtype), kept.astype(state.dtype)


@dataclass(frozen=True, eq=False)
class _Steps:
    """Some columns of a head on their way through all steps."""

    builder: KernelBuilder
    inputs: Sequence[Buffer]
    y: Buffer
    decay: Buffer | None
    beta: Buffer | None
    sample: Size
    head: Size
    first: Size
    count: Size

    def step(self, time: Size, source: _Columns, target: _Columns) -> None:
        """The state `source` becomes `target`, which may be the same memory."""
        builder, (query, key, value, _) = self.builder, self.inputs
        group = dims.number(self.y.shape[2]) // dims.number(value.shape[2])
        with builder.loop(self.count, "vector", 0, _INTERLEAVE) as lane:
            change = value[self.sample, time, self.head, self.first + lane]
            if self.beta is not None:
                rate = self.beta[self.sample, time, self.head if self.beta.shape[2] != 1 else 0]
                change = rate * (change - self._recalled(time, lane, source))
            written = builder.define(change, "change")

            def write(k: Size, sums: Sequence[Local]) -> None:
                kept = source.at(k, lane)
                new = builder.define(kept if self.decay is None else self._decay(time, k) * kept)
                new.accumulate("add", self._of_head(key, time, k) * written.value)
                target.store(builder, k, lane, new.value)
                for number, total in enumerate(sums):
                    total.accumulate(
                        "add", self._of_head(query, time, k, number, group) * new.value
                    )

            for number, total in enumerate(self._sums(group, write)):
                place = (self.sample, time, self.head * group + number, self.first + lane)
                builder.store(self.y, place, total)

    def _recalled(self, time: Size, lane: Size, source: _Columns) -> Expression:
        """What the state holds for the key: key @ (decay * state)."""
        alike = self.decay is None or self.decay.shape[3] == 1

        def recall(k: Size, sums: Sequence[Local]) -> None:
            factor = self._of_head(self.inputs[1], time, k)
            factor = factor if alike else factor * self._decay(time, k)
            sums[0].accumulate("add", factor * source.at(k, lane))

        (found,) = self._sums(1, recall)
        return found if self.decay is None or not alike else self._decay(time, 0) * found

    def _sums(
        self, count: int, add: Callable[[Size, Sequence[Local]], None]
    ) -> Sequence[Expression]:
        """`count` sums over a state's rows; every row's `add` adds to them."""
        depth, zero = dims.number(self.inputs[0].shape[3]), constant(0, self.y.dtype)
        parts = max(_PARTS // count, 1)
        parts = parts if depth % parts == 0 else 1
        sums = [[self.builder.define(zero, "sum") for _ in range(count)] for _ in range(parts)]
        with self.builder.loop(depth // parts) as rows:
            for part, some in enumerate(sums):
                add(rows * parts + part, some)
        while len(sums) > 1:
            sums, others = sums[::2], sums[1::2]
            for one, other in zip(sums, others):
                for total, more in zip(one, other):
                    total.accumulate("add", more.value)
        return [total.value for total in sums[0]]

    def _decay(self, time: Size, k: Size) -> Expression:
        assert self.decay is not None
        return self.decay[self.sample, time, self.head, k if self.decay.shape[3] != 1 else 0]

    def _of_head(
        self, x: Buffer, time: Size, k: Size, number: int = 0, group: int = 1
    ) -> Expression:
        """A query's or key's element: of one of the `group` heads that share this one's state, or
        of the head that this one shares."""
        heads = dims.number(self.inputs[2].shape[2])
        shared = max(heads // dims.number(x.shape[2]), 1)
        return x[self.sample, time, self.head // shared * group + number, k]


@dataclass(frozen=True, eq=False)
class _Columns:
    """Where some columns of a state lie: `place` comes before a row, `first` before a column."""

    buffer: Buffer
    place: tuple[Size, ...] = ()
    first: Size = 0

    def at(self, k: Size, lane: Size) -> Expression:
        return self.buffer[(*self.place, k, self.first + lane)]

    def store(self, builder: KernelBuilder, k: Size, lane: Size, value: Expression) -> None:
        builder.store(self.buffer, (*self.place, k, self.first + lane), value)


def _statements(
    builder: KernelBuilder,
    inputs: list[Buffer],
    outputs: list[Buffer],
    *,
    has_decay: bool = False,
    has_beta: bool = False,
) -> None:
    (batch, heads, depth, width), (y, state) = inputs[3].shape, outputs
    size = max(dims.number(depth), 1) * state.dtype.bytes
    block = max(_BLOCK_BYTES // size // _LEAST_COLUMNS * _LEAST_COLUMNS, _LEAST_COLUMNS)
    columns = min(dims.number(width), block)
    blocks = dims.ceildiv(width, columns)
    gates = inputs[4] if has_decay else None, inputs[-1] if has_beta else None
    with builder.loop(batch * heads * blocks, "parallel") as item:
        sample, head = item // (heads * blocks), item // blocks % heads
        first = item % blocks * columns
        is_even = dims.number(width) % columns == 0
        count = columns if is_even else dims.minimum(columns, width - first)
        before, after = (_Columns(x, (sample, head), first) for x in (inputs[3], state))
        steps = _Steps(builder, inputs[:4], y, *gates, sample, head, first, builder.local(count))
        _through_time(builder, steps, before, after, (dims.number(depth), columns))


def _through_time(
    builder: KernelBuilder,
    steps: _Steps,
    before: _Columns,
    after: _Columns,
    shape: tuple[int, int],
) -> None:
    """All steps; one alone, as when a decoder runs, goes from the old state to the new one."""
    length = steps.y.shape[1]
    with builder.when(less(length, 2)):
        with builder.when(less(0, length)):
            steps.step(0, before, after)
        with builder.otherwise():
            _copy(builder, steps.count, shape[0], before, after)
    with builder.otherwise():
        near = _Columns(builder.allocate(steps.y.dtype, shape))
        _copy(builder, steps.count, shape[0], before, near)
        with builder.loop(length) as time:
            steps.step(time, near, near)
        _copy(builder, steps.count, shape[0], near, after)


def _copy(
    builder: KernelBuilder, count: Size, depth: int, source: _Columns, target: _Columns
) -> None:
    with builder.loop(depth) as k, builder.loop(count, "vector", 0) as lane:
        target.store(builder, k, lane, source.at(k, lane))


def _example(
    batch: int,
    steps: int,
    heads: tuple[int, int, int],
    size: tuple[int, int],
    decay: int = 0,
    beta: int = 0,
) -> Example:
    """`heads` of queries, keys and values; `decay` and `beta` are their gates' last axes."""
    random = np.random.default_rng(steps)
    sizes = (size[0], size[0], size[1])
    arrays = [random.standard_normal((batch, steps, *of)) for of in zip(heads, sizes)]
    arrays[1] /= np.linalg.norm(arrays[1], axis=-1, keepdims=True)
    arrays.append(random.standard_normal((batch, heads[2], *size)))
    if decay:
        arrays.append(random.uniform(0.2, 1, (batch, steps, heads[2], decay)))
    if beta:
        arrays.append(random.uniform(0.2, 1, (batch, steps, beta)))
    return Example(
        tuple(array.astype(np.float32) for array in arrays),
        {"has_decay": bool(decay), "has_beta": bool(beta)},
    )


register(
    Operator(
        "linear_attention",
        _infer,
        _reference,
        statements=_statements,
        gradient=linear_attention_gradient,
        examples=(
            _example(1, 3, (2, 2, 2), (4, 5)),
            _example(2, 2, (4, 2, 2), (3, 8), decay=3),
            _example(1, 4, (1, 2, 4), (8, 35), decay=1, beta=4),
            _example(2, 1, (2, 2, 2), (4, 20), decay=4, beta=1),
            _example(1, 1, (1, 1, 1), (257, 17), beta=1),
            _example(1, 0, (1, 1, 1), (4, 3), beta=1),
        ),
    )
)
