"""What lstm, gru and rnn share: which types fit, and the way through time of their references.

The input's part of the gates is one large product, made before and outside. What is left runs step
after step, each sequence of the batch for itself; recurrence_kernel.py writes that for machines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bessemer.compiler.ir.types import FLOATS, Array, TensorType, bf16, i32, i64
from bessemer.compiler.ops.check import listed, require, require_dtype


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
    same_dtype = all(type.dtype == gates_x.dtype for type in types if type is not recurrent)
    same_dtype = same_dtype and recurrent.dtype in (gates_x.dtype, bf16)
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


def run_steps(
    gates_x: Array,
    lengths: Array | None,
    reverse: bool,
    states: Sequence[Array],
    step: Callable[[Array, tuple[Array, ...]], tuple[Array, ...]],
    kept: Sequence[int],
) -> tuple[Array, ...]:
    """The reference of all cells: (y, *states after the last step, *what is kept), each sequence by
    itself.

    step(gates of one step and row, states) gives the new states, the first of which is the output,
    and then what is kept of every step, with so many columns each.
    """
    steps, batch = gates_x.shape[:2]
    final = [state.copy() for state in states]
    y = np.zeros((steps, batch, states[0].shape[1]), gates_x.dtype)
    found = [np.zeros((steps, batch, columns), gates_x.dtype) for columns in kept]
    for row in range(batch):
        length = steps if lengths is None else int(lengths[row])
        order = range(length - 1, -1, -1) if reverse else range(length)
        for time in order:
            new = step(gates_x[time, row], tuple(state[row].copy() for state in final))
            for state, value in zip(final, new):
                state[row] = value
            y[time, row] = new[0]
            for array, value in zip(found, new[len(final) :], strict=True):
                array[time, row] = value
    return y, *final, *found
