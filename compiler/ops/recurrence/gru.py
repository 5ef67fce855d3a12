"""gru: a gated recurrent unit over sequences (Cho et al., 2014), as ONNX has it.

With the gates in the order z, r, n (update, reset, new), H columns each:

    z, r = f(columns of gates_x[t] + h @ recurrent)
    n = g(gates_x[t] + (r * h) @ recurrent)                          if not linear_before_reset
    n = g(gates_x[t] + r * (h @ recurrent + bias))                   if so
    h = (1 - z) * n + z * h
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.expr import Buffer, Expression, convert
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, DType, TensorType, bf16, f16, f64
from bessemer.compiler.ops.check import require
from bessemer.compiler.ops.precise import widened
from bessemer.compiler.ops.recurrence.activations import require_gates
from bessemer.compiler.ops.recurrence.gradients_recurrent import gru_gradient
from bessemer.compiler.ops.recurrence.recurrence import require_cell, run_steps
from bessemer.compiler.ops.recurrence.recurrence_cell import (
    Cell,
    Place,
    Product,
    from_input,
    working_dtype,
)
from bessemer.compiler.ops.recurrence.recurrence_rules import (
    DEFAULTS,
    RecurrenceAttributes,
    attributes_of,
    statements_of,
)

_DEFAULT = DEFAULTS["gru"]


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
    keeps_steps: bool = False,
) -> tuple[TensorType, ...]:
    """(gates_x [T, B, 3H], recurrent [H, 3H], h0 [B, H] [, lengths i32|i64 [B]]
    [, bias [H], with linear_before_reset]) -> (y [T, B, H], h [B, H]).

    gates_x is the input times its weights, with both biases added; but with linear_before_reset
    the recurrent bias of n is not in it and comes as `bias`. The rest is as of lstm; but what
    `keeps_steps` gives is z, r, n, with linear_before_reset h @ recurrent + bias of n, and h.
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
    y = gates_x.with_shape((*gates_x.shape[:2], recurrent.shape[0]))
    count = 4 if linear_before_reset else 3
    gates_kept = y.with_shape((*y.shape[:2], count * recurrent.shape[0]))
    return (y, h0, gates_kept, y) if keeps_steps else (y, h0)


def _reference(
    gates_x: Array,
    recurrent: Array,
    h0: Array,
    *optional: Array,
    **attributes: Any,
) -> tuple[Array, ...]:
    node = attributes_of(_DEFAULT, attributes)
    gate, new_gate = node.gates()
    width = recurrent.shape[0]
    weights = widened(recurrent)
    new_weights = weights[:, 2 * width :]

    def step(row: Array, states: tuple[Array, ...]) -> tuple[Array, ...]:
        (h,) = states
        z, r = np.split(gate.reference(row[: 2 * width] + h @ weights[:, : 2 * width]), 2)
        if node.linear_before_reset:
            unreset = h @ new_weights + widened(optional[-1])
            recurrent_part = r * unreset
        else:
            recurrent_part = (r * h) @ new_weights
        n = new_gate.reference(row[2 * width :] + recurrent_part)
        new = (1 - z) * n + z * h
        kept = [z, r, n, unreset] if node.linear_before_reset else [z, r, n]
        return (new, np.concatenate(kept), h) if node.keeps_steps else (new,)

    lengths = node.lengths(optional)
    columns = (4 if node.linear_before_reset else 3) * width
    widths = (columns, width) if node.keeps_steps else ()
    results = run_steps(widened(gates_x), lengths, node.reverse, (widened(h0),), step, widths)
    return tuple(result.astype(gates_x.dtype) for result in results)


@dataclass(frozen=True, eq=False)
class _Column:
    """What follows from the products' sums, for one column: `bias` is that of n, if it is apart;
    `steps` are what is kept for gradients, if anything."""

    builder: KernelBuilder
    node: RecurrenceAttributes
    h: Buffer
    start: Callable[[Place, int], Expression]
    bias: Buffer | None
    steps: Sequence[Buffer]

    @property
    def working(self) -> DType:
        return working_dtype(self.h.dtype)

    def open(self, number: int, total: Expression) -> Expression:
        """A gate from its sum. With linear_before_reset, that of n waits for the reset gate."""
        gate, new_gate = self.node.gates()
        if number < 2:
            return gate.rule(total)
        return total if self.node.linear_before_reset else new_gate.rule(total)

    def start_or_bias(self, place: Place, number: int) -> Expression:
        """What a sum starts with, with linear_before_reset."""
        if number < 2 or self.bias is None:
            return self.start(place, number)
        return convert(self.bias[place.column], self.working)

    def keep(self, place: Place, number: int, value: Expression) -> None:
        if self.node.keeps_steps:
            column = number * self.h.shape[1] + place.column
            self.builder.store(self.steps[0], (place.time, place.row, column), value)

    def mixed(self, place: Place, z: Expression, n: Expression, state: Expression) -> Expression:
        """The new state."""
        new = self.builder.define(n, "n").value
        share = self.builder.define(z, "z").value
        self.keep(place, 0, share)
        self.keep(place, 2, new)
        if self.node.keeps_steps:
            self.builder.store(self.steps[1], (place.time, place.row, place.column), state)
        return (1 - share) * new + share * state


def cell(
    builder: KernelBuilder,
    inputs: Sequence[Buffer],
    outputs: Sequence[Buffer],
    **attributes: Any,
) -> Cell:
    """The recurrence as its kernels are written from."""
    gates_x, recurrent, h0, *optional = inputs
    y, h, *steps = outputs
    node = attributes_of(_DEFAULT, attributes)
    start = from_input(gates_x, h.shape[1], working_dtype(h.dtype))
    bias = optional[-1] if node.linear_before_reset else None
    column = _Column(builder, node, h, start, bias, steps)
    products = _linear(column) if node.linear_before_reset else _in_two(column)
    return Cell(
        recurrent, h0, y, h, gates_x, products, (), node.lengths(optional), node.reverse,
        ended=tuple(steps), replaces=(gates_x, steps[0]) if node.keeps_steps else None,
    )  # fmt: skip


def _linear(column: _Column) -> tuple[Product, ...]:
    _, new_gate = column.node.gates()

    def finish(place: Place, sums: Sequence[Expression], state: Expression) -> Expression:
        z, r, n = sums
        column.keep(place, 1, r)
        column.keep(place, 3, n)
        return column.mixed(place, z, new_gate.rule(column.start(place, 2) + r * n), state)

    return (Product((0, 1, 2), finish, column.start_or_bias, open=column.open),)


def _in_two(column: _Column) -> tuple[Product, ...]:
    """The gate n is of a product of its own, with the state that the reset gate has been at."""
    builder = column.builder
    kept = builder.scratch(column.working, column.h.shape)
    reset = builder.scratch(column.working, column.h.shape)

    def open_gates(place: Place, sums: Sequence[Expression], state: Expression) -> None:
        z, r = sums
        builder.store(kept, (place.row, place.column), z)
        column.keep(place, 1, r)
        builder.store(reset, (place.row, place.column), r * state)

    def finish(place: Place, sums: Sequence[Expression], state: Expression) -> Expression:
        (n,) = sums
        return column.mixed(place, kept[place.row, place.column], n, state)

    return (
        Product((0, 1), open_gates, column.start, open=column.open),
        Product((2,), finish, column.start, reset, open=column.open),
    )


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
        Example(
            (*shapes(4, 3, 3), np.array([1, 0, 4])), {"has_lengths": True, "keeps_steps": True}
        ),
        Example((*shapes(3, 2, 3), (3,)), {**linear, "keeps_steps": True}),
    )


register(
    Operator(
        "gru",
        _infer,
        _reference,
        statements=statements_of(cell),
        gradient=gru_gradient,
        examples=_examples(),
    )
)
