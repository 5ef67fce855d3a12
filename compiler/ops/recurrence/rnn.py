"""rnn: the plain recurrent network over sequences, h = f(gates_x[t] + h @ recurrent)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.expr import Buffer, Expression
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType, f16
from bessemer.compiler.ops.check import require
from bessemer.compiler.ops.precise import widened
from bessemer.compiler.ops.recurrence.activations import require_gates
from bessemer.compiler.ops.recurrence.gradients_recurrent import rnn_gradient
from bessemer.compiler.ops.recurrence.recurrence import require_cell, run_steps
from bessemer.compiler.ops.recurrence.recurrence_cell import (
    Cell,
    Place,
    Product,
    from_input,
    working_dtype,
)
from bessemer.compiler.ops.recurrence.recurrence_rules import DEFAULTS, attributes_of, statements_of

_DEFAULT = DEFAULTS["rnn"]


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
    has_lengths: bool = False,
    keeps_steps: bool = False,
) -> tuple[TensorType, ...]:
    """(gates_x [T, B, H], recurrent [H, H], h0 [B, H] [, lengths i32|i64 [B]])
    -> (y [T, B, H], h [B, H]). The attributes are as of lstm;
    `keeps_steps` gives h before each step too.
    """
    require(
        len(optional) == has_lengths,
        f"rnn has {3 + len(optional)} inputs; has_lengths says otherwise.",
    )
    require_cell("rnn", 1, (gates_x, recurrent, h0), optional[0] if has_lengths else None)
    require_gates("rnn", 1, activations, alphas, betas)
    return (gates_x, h0, gates_x) if keeps_steps else (gates_x, h0)


def _reference(
    gates_x: Array,
    recurrent: Array,
    h0: Array,
    *optional: Array,
    **attributes: Any,
) -> tuple[Array, ...]:
    node = attributes_of(_DEFAULT, attributes)
    (gate,) = node.gates()
    weights = widened(recurrent)

    def step(row: Array, states: tuple[Array, ...]) -> tuple[Array, ...]:
        (h,) = states
        new = gate.reference(row + h @ weights)
        return (new, h) if node.keeps_steps else (new,)

    lengths = node.lengths(optional)
    widths = h0.shape[1:] if node.keeps_steps else ()
    results = run_steps(widened(gates_x), lengths, node.reverse, (widened(h0),), step, widths)
    return tuple(result.astype(gates_x.dtype) for result in results)


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
    (gate,) = node.gates()

    def finish(place: Place, sums: Sequence[Expression], state: Expression) -> Expression:
        if node.keeps_steps:
            builder.store(steps[0], (place.time, place.row, place.column), state)
        return sums[0]

    from_x = from_input(gates_x, h.shape[1], working_dtype(h.dtype))
    product = Product((0,), finish, from_x, open=lambda _, total: gate.rule(total))
    return Cell(
        recurrent, h0, y, h, gates_x, (product,), (), node.lengths(optional), node.reverse,
        ended=tuple(steps), replaces=(gates_x, y),
    )  # fmt: skip


def _shapes(steps: int, batch: int, width: int) -> tuple[tuple[int, ...], ...]:
    return (steps, batch, width), (width, width), (batch, width)


_LENGTHS = np.array([2, 5, 0], np.int32)
_HALVES = tuple(
    np.random.default_rng(k).standard_normal(shape).astype(f16.numpy)
    for k, shape in enumerate(_shapes(3, 2, 3))
)

register(
    Operator(
        "rnn",
        _infer,
        _reference,
        statements=statements_of(cell),
        gradient=rnn_gradient,
        examples=(
            Example(_shapes(1, 1, 3)),
            Example(_shapes(5, 3, 17), {"reverse": True}),
            Example(_shapes(2, 8, 5), {"activations": ("relu",), "clip": 1.5}),
            Example(_shapes(3, 1, 2), {"activations": ("thresholdedrelu",), "alphas": (0.5,)}),
            Example((*_shapes(5, 3, 3), _LENGTHS), {"has_lengths": True}),
            Example((*_shapes(5, 3, 3), _LENGTHS), {"has_lengths": True, "reverse": True}),
            Example(_HALVES, tolerance=4e-3),
            Example((*_shapes(5, 3, 3), _LENGTHS), {"has_lengths": True, "keeps_steps": True}),
        ),
    )
)
