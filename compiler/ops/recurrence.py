"""What lstm, gru and rnn share: the way through time, and the product with recurrent weights.

The input's part of the gates is one large product, made before and outside. What is left runs step
after step, each sequence of the batch for itself; `h` (and `c`), the outputs for the last state,
hold the state on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, convert, index_value
from bessemer.compiler.ir.types import FLOATS, Array, DType, TensorType, bf16, f16, f32, i32, i64
from bessemer.compiler.ops.check import listed, require, require_dtype

MOST_ROWS = 4
"""Sequences that go through time together, so that a weight is loaded once for all of them."""
MOST_SUMS = 8
"""Vectors of sums at once: enough to keep two multiply-add units busy, and few enough for AVX2."""


def require_cell(
    operator: str, gate_count: int, types: Sequence[TensorType], lengths: TensorType | None
) -> None:
    """Raises CompileError unless gates, recurrent weights and states fit.

    `types`: gates_x [T, B, count*H], recurrent [H, count*H], then states [B, H].
    """
    gates_x, recurrent, *states = types
    require_dtype(operator, gates_x, FLOATS)
    shapes_fit = gates_x.rank == 3 and recurrent.rank == 2
    if shapes_fit:
        batch, width = gates_x.shape[1:]
        hidden = recurrent.shape[0]
        shapes_fit = recurrent.shape[1] == width == gate_count * hidden
        shapes_fit = shapes_fit and all(state.shape == (batch, hidden) for state in states)
    same_dtype = all(type.dtype == gates_x.dtype for type in types)
    require(
        shapes_fit and same_dtype,
        f"{operator} wants gates [T, B, {gate_count}*H], recurrent weights [H, {gate_count}*H] and "
        f"states [B, H] of one element type, but got {listed(types)}.",
    )
    if lengths is not None:
        require_dtype(f"{operator}'s lengths", lengths, (i32, i64))
        require(
            lengths.shape == gates_x.shape[1:2],
            f"{operator} wants a length for each of the batch in {gates_x}, but got {lengths}.",
        )


def working_dtype(dtype: DType) -> DType:
    """What gates are computed in."""
    return f32 if dtype in (f16, bf16) else dtype


@contextmanager
def each_block(builder: KernelBuilder, batch: Size, single: bool) -> Iterator[list[Size]]:
    """A parallel loop over the batch; gives the rows that one iteration is for."""
    count = 1
    if isinstance(batch, int) and batch and not single:
        count = next(n for n in range(MOST_ROWS, 0, -1) if batch % n == 0)
    with builder.loop(batch // count, "parallel") as block:
        yield [block * count + i for i in range(count)]


@contextmanager
def each_step(
    builder: KernelBuilder,
    y: Buffer,
    rows: Sequence[Size],
    lengths: Buffer | None,
    reverse: bool,
) -> Iterator[Size]:
    """A loop over time; gives the position in the sequence. With lengths there is one row.

    What is behind a sequence's end stays out of the state and is 0 in y.
    """
    steps = y.shape[0]
    if lengths is None:
        with builder.loop(steps) as step:
            yield steps - 1 - step if reverse else step
        return
    (row,) = rows
    length = builder.define(convert(lengths[row], i64), "length")
    wrong = (length.value < 0) | (length.value > index_value(steps))
    builder.fail_if(wrong, "a sequence is longer than the input, or its length is negative")
    bounded = expr.binary("min", expr.binary("max", length.value, 0), index_value(steps))
    length.set(bounded)
    with builder.loop(length.index) as step:
        yield length.index - 1 - step if reverse else step
    with (
        builder.loop(steps - length.index) as rest,
        builder.loop(y.shape[2], "vector", lanes=0) as j,
    ):
        builder.store(y, (length.index + rest, row, j), 0)


def copy_rows(builder: KernelBuilder, source: Buffer, target: Buffer, rows: Sequence[Size]) -> None:
    """target[row] = source[row]."""
    with builder.loop(source.shape[1], "vector", lanes=0) as j:
        for row in rows:
            builder.store(target, (row, j), source[row, j])


def at_step(gates_x: Buffer, time: Size) -> Callable[[Size, Size], Expression]:
    """The input's part of the gates at one step, by row and column: where `multiply` starts."""
    return lambda row, j: gates_x[time, row, j]


def multiply(
    builder: KernelBuilder,
    rows: Sequence[Size],
    state: Buffer,
    weights: Buffer,
    target: Buffer,
    columns: tuple[Size, Size],
    start: Callable[[Size, Size], Expression],
) -> None:
    """target[row, j] = start(row, j) + sum of state[row, k] * weights[k, j], for columns[0] up to
    but without columns[1]. The target has the type that is computed in."""
    first, end = columns
    working = target.dtype
    interleave = MOST_SUMS // len(rows)
    with builder.loop(end - first, "vector", lanes=0, interleave=interleave) as number:
        j = first + number
        sums = [builder.define(convert(start(row, j), working), "sum") for row in rows]
        with builder.loop(weights.shape[0]) as k:
            weight = builder.define(convert(weights[k, j], working), "weight")
            for row, total in zip(rows, sums, strict=True):
                total.accumulate("add", convert(state[row, k], working) * weight.value)
        for row, total in zip(rows, sums, strict=True):
            builder.store(target, (row, j), total.value)


def run_steps(
    gates_x: Array,
    lengths: Array | None,
    reverse: bool,
    states: Sequence[Array],
    step: Callable[[Array, tuple[Array, ...]], tuple[Array, ...]],
) -> tuple[Array, ...]:
    """The reference of all cells: (y, *states after the last step), each sequence by itself.

    step(gates of one step and row, states) gives the new states; the first is the output.
    """
    steps, batch = gates_x.shape[:2]
    final = [state.copy() for state in states]
    y = np.zeros((steps, batch, states[0].shape[1]), gates_x.dtype)
    for row in range(batch):
        length = steps if lengths is None else int(lengths[row])
        order = range(length - 1, -1, -1) if reverse else range(length)
        for time in order:
            new = step(gates_x[time, row], tuple(state[row] for state in final))
            for state, value in zip(final, new, strict=True):
                state[row] = value
            y[time, row] = new[0]
    return y, *final
