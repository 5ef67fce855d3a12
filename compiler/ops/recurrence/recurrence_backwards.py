"""What lstm_gradient, gru_gradient and rnn_gradient share: types, and the reference's backward
pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bessemer.compiler.ir.types import FLOATS, Array, TensorType, i32, i64
from bessemer.compiler.ops.check import listed, require, require_dtype


def require_backwards(
    operator: str, depth: int, types: Sequence[TensorType], kept: Sequence[tuple[TensorType, int]],
    lengths: Sequence[TensorType],
) -> None:  # fmt: skip
    """Raises CompileError unless cotangents, weights and what was kept fit.

    `types`: dy [T, B, H], weights [depth * H, H], then cotangents of states [B, H]. `kept` are
    tensors [T, B, n * H], with their n.
    """
    dy, weights, *states = types
    require_dtype(operator, dy, FLOATS)
    fits = dy.rank == 3 and weights.rank == 2
    if fits:
        hidden = dy.shape[2]
        fits = weights.shape == (depth * hidden, hidden)
        fits = fits and all(state.shape == dy.shape[1:] for state in states)
        fits = fits and all(type.shape == (*dy.shape[:2], count * hidden) for type, count in kept)
    every = [*types, *(type for type, _ in kept)]
    fits = fits and all(type.dtype == dy.dtype for type in every)
    require(
        fits,
        f"{operator} wants a cotangent [T, B, H], weights [{depth}*H, H], cotangents of states "
        f"[B, H], and what was kept of the steps, but got {listed(every)}.",
    )
    for type in lengths:
        require_dtype(f"{operator}'s lengths", type, (i32, i64))
        require(
            type.shape == dy.shape[1:2],
            f"{operator} wants a length for each of the batch in {dy}, but got {type}.",
        )


def run_back(
    dy: Array,
    lengths: Array | None,
    reverse: bool,
    states: Sequence[Array],
    columns: int,
    step: Callable[[int, int, Array, Sequence[Array]], tuple[Array, ...]],
) -> tuple[Array, ...]:
    """The reference of all cells: (the gates' cotangents, *the states' ones before all steps).

    step(time, row, h's cotangent so far, the other states' ones) gives the cotangents of the gates
    [columns], and those of the states before.
    """
    steps, batch = dy.shape[:2]
    final = [state.copy() for state in states]
    gates = np.zeros((steps, batch, columns), dy.dtype)
    for row in range(batch):
        length = steps if lengths is None else int(lengths[row])
        for time in range(length) if reverse else range(length - 1, -1, -1):
            dh = final[0][row] + dy[time, row]
            others = [state[row].copy() for state in final[1:]]
            gates[time, row], *new = step(time, row, dh, others)
            for state, value in zip(final, new, strict=True):
                state[row] = value
    return gates, *final
