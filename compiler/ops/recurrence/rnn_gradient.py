"""rnn_gradient: the backward pass through the steps of an rnn.

    dgate[t] = (dy[t] + dh) * f'(y[t])
    dh = dgate[t] @ weights

with the steps in the other order. See ops/recurrence/gradients_recurrent.py for what is made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.expr import Buffer, Expression, constant, convert
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType, dtype_of
from bessemer.compiler.ops.precise import widened
from bessemer.compiler.ops.recurrence.activations import require_gates
from bessemer.compiler.ops.recurrence.decomposed_cells import decomposed_rnn_gradient
from bessemer.compiler.ops.recurrence.recurrence_backwards import require_backwards, run_back
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
    dy: TensorType, weights: TensorType, dh: TensorType, y: TensorType, *lengths: TensorType,
    activations: tuple[str, ...] = _DEFAULT, alphas: tuple[float, ...] = (),
    betas: tuple[float, ...] = (), reverse: bool = False,
    clip: float = 0.0, has_lengths: bool = False,
) -> tuple[TensorType, ...]:  # fmt: skip
    """(dy [T, B, H], recurrent weights transposed [H, H], dh [B, H], y [T, B, H] [, lengths]) ->
    (dgates_x [T, B, H], the part of h0's cotangent that came past all gates [B, H]: dh where a
    sequence has no steps). The attributes are those of the rnn; what `reverse` says too.
    """
    require_backwards("rnn_gradient", 1, (dy, weights, dh), ((y, 1),), lengths)
    require_gates("rnn_gradient", 1, activations, alphas, betas)
    return dy, dh


def _reference(
    dy: Array, weights: Array, dh: Array, y: Array, *lengths: Array, **attributes: Any
) -> tuple[Array, ...]:
    node = attributes_of(_DEFAULT, attributes)
    (gate,) = node.gates(dtype_of(y))
    wide = widened(weights)

    def step(time: int, row: int, dh: Array, _: Sequence[Array]) -> tuple[Array, ...]:
        found = dh * gate.slope_reference(widened(y)[time, row])
        return found, found @ wide, np.zeros_like(dh)

    # What comes through the gates is told apart from what comes past them.
    states = (widened(dh), widened(dh))
    found, _, direct = run_back(
        widened(dy), node.lengths(lengths), node.reverse, states, dy.shape[2], step
    )
    return found.astype(dy.dtype), direct.astype(dy.dtype)


def cell(
    builder: KernelBuilder, inputs: Sequence[Buffer], outputs: Sequence[Buffer], **attributes: Any
) -> Cell:
    """The backward pass as a cell, from which its kernels are written: its state is what comes past
    the gates."""
    dy, weights, dh, y, *lengths = inputs
    found, direct = outputs
    working, width = working_dtype(dy.dtype), direct.shape[1]
    node = attributes_of(_DEFAULT, attributes)
    (gate,) = node.gates(y.dtype)
    double_buffer = builder.scratch(working, (2, 1, *direct.shape))

    def finish(place: Place, sums: Sequence[Expression], state: Expression) -> Expression:
        at = (place.time, place.row, place.column)
        value = (sums[0] + state) * gate.slope(convert(y[at], working))
        value = builder.define(value, "gate").value
        builder.store(double_buffer, ((place.step + 1) % 2, 0, place.row, place.column), value)
        builder.store(found, at, value)
        return constant(0, working)

    product = Product((0,), finish, from_input(dy, width, working), double_buffer)
    return Cell(
        weights, dh, None, direct, dy, (product,), (), node.lengths(lengths), not node.reverse,
        cleared=(double_buffer,), ended=(found,), read=(y,), replaces=(y, found),
    )  # fmt: skip


def _shapes(steps: int, batch: int, width: int) -> tuple[tuple[int, ...], ...]:
    sequence, state = (steps, batch, width), (batch, width)
    return sequence, (width, width), state, sequence


_LENGTHS = np.array([2, 5, 0], np.int32)

register(
    Operator(
        "rnn_gradient",
        _infer,
        _reference,
        statements=statements_of(cell),
        gradient=lambda d: d.through(decomposed_rnn_gradient),
        examples=(
            Example(_shapes(1, 1, 3)),
            Example(_shapes(4, 3, 17), {"reverse": True}, 1e-4),
            Example(_shapes(3, 2, 5), {"clip": 0.6}),
            Example((*_shapes(5, 3, 3), _LENGTHS), {"has_lengths": True}),
            Example((*_shapes(5, 3, 3), _LENGTHS), {"has_lengths": True, "reverse": True}),
            *(
                Example(_shapes(2, 2, 3), {"activations": (name,)})
                for name in ("relu", "leakyrelu", "elu", "softsign", "softplus", "hardsigmoid")
            ),
        ),
    )
)
