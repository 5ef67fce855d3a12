"""gru: a gated recurrent unit over sequences (Cho et al., 2014), as ONNX has it.

With the gates in the order z, r, n (update, reset, new), H columns each:

    z, r = f(columns of gates_x[t] + h @ recurrent)
    n = g(gates_x[t] + (r * h) @ recurrent)                          if not linear_before_reset
    n = g(gates_x[t] + r * (h @ recurrent + bias))                   if so
    h = (1 - z) * n + z * h
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, convert
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType, bf16, f16, f64
from bessemer.compiler.ops.activations import Gate, gates, require_gates
from bessemer.compiler.ops.check import require
from bessemer.compiler.ops.precise import widened
from bessemer.compiler.ops.recurrence import (
    at_step,
    copy_rows,
    each_block,
    each_step,
    multiply,
    require_cell,
    run_steps,
    working_dtype,
)

_DEFAULT = ("sigmoid", "tanh")


def _infer(
    gates_x: TensorType,
    recurrent: TensorType,
    h0: TensorType,
    *optional: TensorType,
    activations: tuple[str, ...] = _DEFAULT,
    alphas: tuple[float, ...] = (),
    betas: tuple[float, ...] = (),
    reverse: bool = False,
    clip: float = 0.0,
    linear_before_reset: bool = False,
    has_lengths: bool = False,
) -> tuple[TensorType, TensorType]:
    """(gates_x [T, B, 3H], recurrent [H, 3H], h0 [B, H] [, lengths i32|i64 [B]]
    [, bias [H], with linear_before_reset]) -> (y [T, B, H], h [B, H]).

    gates_x is the input times its weights, with both biases added; but with linear_before_reset
    the recurrent bias of n is not in it and comes as `bias`. The rest is as of lstm.
    """
    require(
        len(optional) == has_lengths + linear_before_reset,
        f"gru has {3 + len(optional)} inputs; has_lengths and linear_before_reset say otherwise.",
    )
    lengths = optional[0] if has_lengths else None
    require_cell("gru", 3, (gates_x, recurrent, h0), lengths)
    require_gates("gru", 2, activations, alphas, betas)
    if linear_before_reset:
        wanted = gates_x.with_shape((recurrent.shape[0],))
        require(optional[-1] == wanted, f"gru wants a bias {wanted} here, but got {optional[-1]}.")
    return gates_x.with_shape((*gates_x.shape[:2], recurrent.shape[0])), h0


def _reference(
    gates_x: Array,
    recurrent: Array,
    h0: Array,
    *optional: Array,
    activations: tuple[str, ...] = _DEFAULT,
    alphas: tuple[float, ...] = (),
    betas: tuple[float, ...] = (),
    reverse: bool = False,
    clip: float = 0.0,
    linear_before_reset: bool = False,
    has_lengths: bool = False,
) -> tuple[Array, ...]:
    gate, new_gate = gates(activations, alphas, betas, clip)
    width = recurrent.shape[0]
    weights = widened(recurrent)
    new_weights = weights[:, 2 * width :]

    def step(row: Array, states: tuple[Array, ...]) -> tuple[Array]:
        (h,) = states
        z, r = np.split(gate.reference(row[: 2 * width] + h @ weights[:, : 2 * width]), 2)
        if linear_before_reset:
            recurrent_part = r * (h @ new_weights + widened(optional[-1]))
        else:
            recurrent_part = (r * h) @ new_weights
        n = new_gate.reference(row[2 * width :] + recurrent_part)
        return ((1 - z) * n + z * h,)

    lengths = optional[0] if has_lengths else None
    results = run_steps(widened(gates_x), lengths, reverse, (widened(h0),), step)
    return tuple(result.astype(gates_x.dtype) for result in results)


def _statements(
    builder: KernelBuilder,
    inputs: list[Buffer],
    outputs: list[Buffer],
    *,
    activations: tuple[str, ...] = _DEFAULT,
    alphas: tuple[float, ...] = (),
    betas: tuple[float, ...] = (),
    reverse: bool = False,
    clip: float = 0.0,
    linear_before_reset: bool = False,
    has_lengths: bool = False,
) -> None:
    gates_x, recurrent, h0, *optional = inputs
    y, h = outputs
    batch, columns = gates_x.shape[1:]
    width = h.shape[1]
    working = working_dtype(gates_x.dtype)
    gate, new_gate = gates(activations, alphas, betas, clip)
    lengths = optional[0] if has_lengths else None
    sums = builder.scratch(working, (batch, columns))
    reset = _Reset(builder, gate, recurrent, h, sums, optional[-1] if linear_before_reset else None)
    with each_block(builder, batch, single=has_lengths) as rows:
        copy_rows(builder, h0, h, rows)
        with each_step(builder, y, rows, lengths, reverse) as time:
            start = at_step(gates_x, time)
            multiply(builder, rows, h, recurrent, sums, (0, 2 * width), start)
            reset.multiply(rows, start)
            with builder.loop(width, "vector", lanes=0) as j:
                for row in rows:
                    new = new_gate.rule(reset.total(row, j, start))
                    z = builder.define(gate.rule(sums[row, j]), "z")
                    kept = z.value * convert(h[row, j], working)
                    state = builder.define((1 - z.value) * new + kept, "h")
                    builder.store(h, (row, j), state.value)
                    builder.store(y, (time, row, j), state.value)


class _Reset:
    """The recurrent part of n, in the last third of the sums; before or after the reset gate."""

    def __init__(
        self,
        builder: KernelBuilder,
        gate: Gate,
        recurrent: Buffer,
        h: Buffer,
        sums: Buffer,
        bias: Buffer | None,
    ) -> None:
        self._builder = builder
        self._gate = gate
        self._recurrent = recurrent
        self._h = h
        self._sums = sums
        self._bias = bias
        self._width = h.shape[1]
        if bias is None:
            self._after_reset = builder.scratch(sums.dtype, h.shape)

    def multiply(self, rows: Sequence[Size], start: Callable[[Size, Size], Expression]) -> None:
        """Writes the product with the recurrent weights of n; `start` is the input's part."""
        bias, width = self._bias, self._width
        columns = (2 * width, 3 * width)
        if bias is not None:

            def bias_at(row: Size, j: Size) -> Expression:
                return bias[j - 2 * width]

            multiply(self._builder, rows, self._h, self._recurrent, self._sums, columns, bias_at)
            return
        with self._builder.loop(width, "vector", lanes=0) as j:
            for row in rows:
                state = convert(self._h[row, j], self._sums.dtype)
                self._builder.store(self._after_reset, (row, j), self._opened(row, j) * state)
        state_after, weights = self._after_reset, self._recurrent
        multiply(self._builder, rows, state_after, weights, self._sums, columns, start)

    def total(self, row: Size, j: Size, start: Callable[[Size, Size], Expression]) -> Expression:
        """What goes into the activation of n."""
        recurrent_part = self._sums[row, 2 * self._width + j]
        if self._bias is None:
            return recurrent_part
        x = convert(start(row, 2 * self._width + j), self._sums.dtype)
        return x + self._opened(row, j) * recurrent_part

    def _opened(self, row: Size, j: Size) -> Expression:
        return self._gate.rule(self._sums[row, self._width + j])


def _examples() -> tuple[Example, ...]:
    def shapes(steps: int, batch: int, width: int) -> tuple[tuple[int, ...], ...]:
        return (steps, batch, 3 * width), (width, 3 * width), (batch, width)

    def halves(dtype: np.dtype[np.generic]) -> tuple[Array, ...]:
        rng = np.random.default_rng(1)
        return tuple(rng.standard_normal(shape).astype(dtype) * 0.5 for shape in shapes(3, 2, 3))

    lengths = np.array([3, 5, 0])
    linear = {"linear_before_reset": True}
    return (
        Example(shapes(1, 1, 3)),
        Example((*shapes(5, 1, 3), (3,)), {**linear, "reverse": True}),
        Example(shapes(5, 3, 17)),
        Example((*shapes(2, 6, 5), (5,)), linear),
        Example((*shapes(5, 3, 3), lengths), {"has_lengths": True, "reverse": True}),
        Example((*shapes(5, 3, 3), lengths, (3,)), {**linear, "has_lengths": True, "clip": 0.4}),
        Example(
            shapes(3, 2, 3),
            {"activations": ("affine", "leakyrelu"), "alphas": (0.3, 0.1), "betas": (0.5, 0.0)},
        ),
        Example(shapes(3, 2, 3), {"activations": ("softplus", "elu"), "alphas": (0.0, 1.3)}),
        Example(halves(f64.numpy), tolerance=1e-12),
        Example(halves(f16.numpy), tolerance=4e-3),
        Example(halves(bf16.numpy), tolerance=3e-2),
    )


register(
    Operator("gru", _infer, _reference, statements=_statements, gradient=None, examples=_examples())
)
