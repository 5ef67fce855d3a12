"""gru_gradient: the backward pass through the steps of a gru.

With dh what comes from y[t] and from the step after, and what the forward pass kept of each step:

    dz, dn = dh * (h_before - n) * z', dh * (1 - z) * n'
    dr = dn * (h_before @ recurrent + bias) * r'                     if linear_before_reset
    dh = dh * z + (dz, dr, dn * r) @ weights
    dr = (dn @ weights of n) * h_before * r'                         if not
    dh = dh * z + (dn @ weights of n) * r + (dz, dr) @ weights of z and r
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.expr import Buffer, Expression, constant, convert
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType, dtype_of, f64
from bessemer.compiler.ops.precise import widened
from bessemer.compiler.ops.recurrence.activations import Gate, require_gates
from bessemer.compiler.ops.recurrence.decomposed_cells import decomposed_gru_gradient
from bessemer.compiler.ops.recurrence.recurrence_backwards import require_backwards, run_back
from bessemer.compiler.ops.recurrence.recurrence_cell import (
    Cell,
    Place,
    Product,
    from_input,
    working_dtype,
)
from bessemer.compiler.ops.recurrence.recurrence_rules import DEFAULTS, attributes_of, statements_of

_DEFAULT = DEFAULTS["gru"]


def _infer(
    dy: TensorType, weights: TensorType, dh: TensorType, opened: TensorType, before: TensorType,
    *lengths: TensorType, activations: tuple[str, ...] = _DEFAULT, alphas: tuple[float, ...] = (),
    betas: tuple[float, ...] = (), reverse: bool = False,
    clip: float = 0.0, linear_before_reset: bool = False, has_lengths: bool = False,
) -> tuple[TensorType, ...]:  # fmt: skip
    """(dy [T, B, H], recurrent weights transposed [3H, H], dh [B, H], gates [T, B, 3H or 4H], h
    before each step [T, B, H] [, lengths]) -> (dgates_x [T, B, 3H], the part of h0's cotangent that
    did not come through weights of the first step's gates). The attributes are those of the gru.
    """
    kept = ((opened, 4 if linear_before_reset else 3), (before, 1))
    require_backwards("gru_gradient", 3, (dy, weights, dh), kept, lengths)
    require_gates("gru_gradient", 2, activations, alphas, betas)
    return dy.with_shape((*dy.shape[:2], 3 * dy.shape[2])), dh


def _reference(
    dy: Array, weights: Array, dh: Array, opened: Array, before: Array, *lengths: Array,
    **attributes: Any,
) -> tuple[Array, ...]:  # fmt: skip
    node = attributes_of(_DEFAULT, attributes)
    gate, new_gate = node.gates(dtype_of(opened))
    width = dy.shape[2]
    wide, kept, old = widened(weights), widened(opened), widened(before)

    def step(time: int, row: int, dh: Array, _: Sequence[Array]) -> tuple[Array, ...]:
        z, r, n, *unreset = np.split(kept[time, row], 4 if node.linear_before_reset else 3)
        dz = dh * (old[time, row] - n) * gate.slope_reference(z)
        dn = dh * (1 - z) * new_gate.slope_reference(n)
        if node.linear_before_reset:
            dr = dn * unreset[0] * gate.slope_reference(r)
            direct = dh * z
            through = np.concatenate([dz, dr, dn * r]) @ wide
        else:
            inner = dn @ wide[2 * width :]
            dr = inner * old[time, row] * gate.slope_reference(r)
            direct = dh * z + inner * r
            through = np.concatenate([dz, dr]) @ wide[: 2 * width]
        return np.concatenate([dz, dr, dn]), direct + through, direct

    states = (widened(dh), widened(dh))
    found, _, direct = run_back(
        widened(dy), node.lengths(lengths), node.reverse, states, 3 * width, step
    )
    return found.astype(dy.dtype), direct.astype(dy.dtype)


class _Gates:
    """What both orders of reset and product share."""

    def __init__(
        self, builder: KernelBuilder, inputs: Sequence[Buffer], outputs: Sequence[Buffer],
        opening: Gate, new: Gate, depth: int,
    ) -> None:  # fmt: skip
        self.builder, self.opening, self.new = builder, opening, new
        self.dy, _, _, self.opened, self.before, *_ = inputs
        self.found, direct = outputs
        self.working, self.width = working_dtype(self.dy.dtype), direct.shape[1]
        self.double_buffer = builder.scratch(self.working, (2, depth, *direct.shape))

    def gate(self, place: Place, number: int) -> Expression:
        column = number * self.width + place.column
        value = convert(self.opened[place.time, place.row, column], self.working)
        return self.builder.define(value, "gate").value

    def old(self, place: Place) -> Expression:
        value = convert(self.before[place.time, place.row, place.column], self.working)
        return self.builder.define(value, "before").value

    def store(self, place: Place, number: int, value: Expression) -> None:
        column = number * self.width + place.column
        self.builder.store(self.found, (place.time, place.row, column), value)

    def keep(self, place: Place, number: int, value: Expression) -> None:
        index = ((place.step + 1) % 2, number, place.row, place.column)
        self.builder.store(self.double_buffer, index, value)

    def begin(self, place: Place, dh: Expression) -> tuple[Expression, Expression]:
        """Settles dz; gives (dh * z, dn)."""
        z, n = self.gate(place, 0), self.gate(place, 2)
        dz = self.builder.define(dh * (self.old(place) - n) * self.opening.slope(z), "dz").value
        self.store(place, 0, dz)
        self.keep(place, 0, dz)
        dn = self.builder.define(dh * (1 - z) * self.new.slope(n), "dn").value
        self.store(place, 2, dn)
        return self.builder.define(dh * z, "past").value, dn

    def reset(self, place: Place, r: Expression, seen: Expression) -> None:
        dr = self.builder.define(seen * self.opening.slope(r), "dr").value
        self.store(place, 1, dr)
        self.keep(place, 1, dr)


def cell(
    builder: KernelBuilder, inputs: Sequence[Buffer], outputs: Sequence[Buffer], **attributes: Any
) -> Cell:
    """The backward pass as a cell, from which its kernels are written: its state is what comes past
    the gates."""
    dy, weights, dh, _, _, *lengths = inputs
    found, direct = outputs
    node = attributes_of(_DEFAULT, attributes)
    gate, new_gate = node.gates(inputs[3].dtype)
    depth = 3 if node.linear_before_reset else 2
    gates = _Gates(builder, inputs, outputs, gate, new_gate, depth)
    from_dy = from_input(dy, gates.width, gates.working)
    products = _linear(gates, from_dy) if node.linear_before_reset else _in_two(gates, from_dy)
    return Cell(
        weights, dh, None, direct, dy, products, (), node.lengths(lengths), not node.reverse,
        cleared=(gates.double_buffer,), ended=(found,), read=(gates.opened, gates.before),
        replaces=(gates.opened, gates.found),
    )  # fmt: skip


def _linear(gates: _Gates, from_dy: Any) -> tuple[Product, ...]:
    def finish(place: Place, sums: Sequence[Expression], state: Expression) -> Expression:
        dh = gates.builder.define(sums[0] + state, "dh").value
        past, dn = gates.begin(place, dh)
        r = gates.gate(place, 1)
        gates.reset(place, r, dn * gates.gate(place, 3))
        gates.keep(place, 2, dn * r)
        return past

    return (Product((0,), finish, from_dy, gates.double_buffer),)


def _in_two(gates: _Gates, from_dy: Any) -> tuple[Product, ...]:
    """The reset gate's cotangent needs a product of its own."""
    shape = (gates.double_buffer.shape[2], gates.width)
    kept, new = (gates.builder.scratch(gates.working, shape) for _ in range(2))

    def begin(place: Place, sums: Sequence[Expression], state: Expression) -> None:
        past, dn = gates.begin(place, gates.builder.define(sums[0] + state, "dh").value)
        gates.builder.store(kept, (place.row, place.column), past)
        gates.builder.store(new, (place.row, place.column), dn)

    def finish(place: Place, sums: Sequence[Expression], _: Expression) -> Expression:
        r = gates.gate(place, 1)
        gates.reset(place, r, sums[0] * gates.old(place))
        return kept[place.row, place.column] + sums[0] * r

    def nothing(place: Place, number: int) -> Expression:
        return constant(0, gates.working)

    rows = gates.width
    assert isinstance(rows, int)
    return (
        Product((0,), begin, from_dy, gates.double_buffer),
        Product((0,), finish, nothing, new, first=2 * rows),
    )


def _shapes(steps: int, batch: int, width: int, gates: int = 3) -> tuple[tuple[int, ...], ...]:
    sequence, state = (steps, batch, width), (batch, width)
    return sequence, (3 * width, width), state, (steps, batch, gates * width), sequence


_ARRAYS = tuple(
    np.random.default_rng(k).standard_normal(shape).astype(f64.numpy)
    for k, shape in enumerate(_shapes(3, 2, 3))
)
_LENGTHS = np.array([2, 0, 5], np.int32)
_LINEAR = {"linear_before_reset": True}

register(
    Operator(
        "gru_gradient",
        _infer,
        _reference,
        statements=statements_of(cell),
        gradient=lambda d: d.through(decomposed_gru_gradient),
        examples=(
            Example(_shapes(1, 1, 3)),
            Example(_shapes(4, 3, 17, 4), _LINEAR, 1e-4),
            Example((*_shapes(5, 3, 3), _LENGTHS), {"has_lengths": True, "reverse": True}),
            Example((*_shapes(5, 3, 3, 4), _LENGTHS), {**_LINEAR, "has_lengths": True}),
            Example(_shapes(3, 2, 5), {"reverse": True}),
            Example(_shapes(3, 2, 5), {"clip": 0.6}),
            Example(_ARRAYS, {}, 1e-12),
        ),
    )
)
