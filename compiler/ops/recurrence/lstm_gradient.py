"""lstm_gradient: the way back through the steps of an lstm.

With dh what comes from y[t] and from the step after, and what the forward pass kept of each step:

    dc = dc + dh * o * h'(c)                     (+ the peephole of o)
    di, do, df, dg = dc * g * i', dh * h(c) * o', dc * c_before * f', dc * i * g'
    dc = dc * f                                  (+ the peepholes of i and f)
    dh = (di, do, df, dg) @ weights
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.expr import Buffer, Expression, constant, convert
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType, dtype_of, f16, f32, f64
from bessemer.compiler.ops.check import require, require_dtype
from bessemer.compiler.ops.precise import widened
from bessemer.compiler.ops.recurrence.activations import require_gates
from bessemer.compiler.ops.recurrence.decomposed_cells import decomposed_lstm_gradient
from bessemer.compiler.ops.recurrence.recurrence_backwards import require_backwards, run_back
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

_DEFAULT = DEFAULTS["lstm"]


def _infer(
    dy: TensorType, weights: TensorType, dh: TensorType, dc: TensorType, opened: TensorType,
    content: TensorType, *optional: TensorType, activations: tuple[str, ...] = _DEFAULT,
    alphas: tuple[float, ...] = (), betas: tuple[float, ...] = (), reverse: bool = False,
    clip: float = 0.0,
    input_forget: bool = False, has_lengths: bool = False, has_peepholes: bool = False,
    has_totals: bool = False,
) -> tuple[TensorType, ...]:  # fmt: skip
    """(dy [T, B, H], recurrent weights transposed [4H, H], dh, dc [B, H], gates [T, B, 4H], c
    before each step [T, B, H] [, lengths] [, peepholes]) -> (dgates_x [T, B, 4H], the part of h0's
    cotangent that came past all gates, c0's cotangent). The attributes are those of the lstm.
    `has_totals`, of f32 and f64, gives the sums of dgates_x over steps and batch, too.
    """
    require(
        len(optional) == has_lengths + has_peepholes,
        f"lstm_gradient has {6 + len(optional)} inputs; its attributes say otherwise.",
    )
    kept = ((opened, 4), (content, 1))
    lengths = optional[:has_lengths]
    require_backwards("lstm_gradient", 4, (dy, weights, dh, dc), kept, lengths)
    require_gates("lstm_gradient", 3, activations, alphas, betas)
    if not has_totals:
        return opened, dh, dc
    require_dtype("lstm_gradient's totals", opened, (f32, f64))
    return opened, dh, dc, opened.with_shape(opened.shape[2:])


def _reference(
    dy: Array, weights: Array, dh: Array, dc: Array, opened: Array, content: Array,
    *optional: Array, **attributes: Any,
) -> tuple[Array, ...]:  # fmt: skip
    node = attributes_of(_DEFAULT, attributes)
    gate, cell_gate, _ = node.gates(dtype_of(opened))
    hidden_gate = replace(node, clip=0.0).gates()[2]
    width = dy.shape[2]
    wide, opened, content = widened(weights), widened(opened), widened(content)
    peepholes = widened(optional[-1]) if node.has_peepholes else np.zeros(3 * width)
    p_i, p_o, p_f = np.split(peepholes, 3)

    def step(time: int, row: int, dh: Array, states: Sequence[Array]) -> tuple[Array, ...]:
        i, o, f, g = np.split(opened[time, row], 4)
        before = content[time, row]
        shown = hidden_gate.reference(f * before + i * g)
        do = dh * shown * gate.slope_reference(o)
        dc = states[0] + dh * o * hidden_gate.slope_reference(shown) + do * p_o
        di = dc * (g - before if node.input_forget else g) * gate.slope_reference(i)
        df = dc * before * gate.slope_reference(f) * (not node.input_forget)
        found = np.concatenate([di, do, df, dc * i * cell_gate.slope_reference(g)])
        return found, found @ wide, dc * f + di * p_i + df * p_f, np.zeros_like(dh)

    states = (widened(dh), widened(dc), widened(dh))
    lengths = node.lengths(optional)
    found, _, dc0, direct = run_back(widened(dy), lengths, node.reverse, states, 4 * width, step)
    totals = [found.sum((0, 1), np.float64)] if node.has_totals else []
    return tuple(array.astype(dy.dtype) for array in (found, direct, dc0, *totals))


class _WayBack:
    """The gates and the content of one element of a step, whose cotangents it settles.

    `double_buffer` [2, 4, B, H] has the gates' cotangents, by which the step before multiplies.
    """

    def __init__(
        self, builder: KernelBuilder, inputs: Sequence[Buffer], outputs: Sequence[Buffer],
        node: RecurrenceAttributes,
    ) -> None:  # fmt: skip
        self.builder, self.node = builder, node
        self.dy, _, _, _, self.opened, self.content, *self.optional = inputs
        self.found, direct, self.dc0, *_ = outputs
        self.working, self.width = working_dtype(self.dy.dtype), direct.shape[1]
        self.gate, self.cell_gate, _ = node.gates(self.opened.dtype)
        self.hidden_gate = replace(node, clip=0.0).gates()[2]
        self.double_buffer = builder.scratch(self.working, (2, 4, *direct.shape))

    def kept(self, buffer: Buffer, place: Place, number: int, name: str) -> Expression:
        """What the forward pass has kept for the element: of gate `number`, or of its content."""
        value = buffer[place.time, place.row, number * self.width + place.column]
        return self.builder.define(convert(value, self.working), name).value

    def peephole(self, number: int, place: Place) -> Expression:
        if not self.node.has_peepholes:
            return constant(0, self.working)
        return convert(self.optional[-1][number * self.width + place.column], self.working)

    def finish(self, place: Place, sums: Sequence[Expression], state: Expression) -> Expression:
        """Settles an element of a step from h's cotangent, which is sums + state."""
        define, gate = self.builder.define, self.gate
        i, o, f, g = (self.kept(self.opened, place, number, "gate") for number in range(4))
        before = self.kept(self.content, place, 0, "c")
        shown = define(self.hidden_gate.rule(f * before + i * g), "shown").value
        dh = define(sums[0] + state, "dh").value
        do = define(dh * shown * gate.slope(o), "do").value
        later = convert(self.dc0[place.row, place.column], self.working)
        total = later + dh * o * self.hidden_gate.slope(shown)
        dc = define(total + do * self.peephole(1, place), "dc").value
        content_part = g - before if self.node.input_forget else g
        di = define(dc * content_part * gate.slope(i), "di").value
        df = constant(0, self.working)
        if not self.node.input_forget:
            df = dc * before * gate.slope(f)
        df = define(df, "df").value
        self.store(place, (di, do, df, dc * i * self.cell_gate.slope(g)))
        dc = dc * f + di * self.peephole(0, place) + df * self.peephole(2, place)
        self.builder.store(self.dc0, (place.row, place.column), dc)
        return constant(0, self.working)

    def store(self, place: Place, gates: Sequence[Expression]) -> None:
        """Stores the gates' cotangents."""
        for number, value in enumerate(gates):
            stored = self.builder.define(value, "gate").value
            index = ((place.step + 1) % 2, number, place.row, place.column)
            self.builder.store(self.double_buffer, index, stored)
            column = number * self.width + place.column
            self.builder.store(self.found, (place.time, place.row, column), stored)


def cell(
    builder: KernelBuilder, inputs: Sequence[Buffer], outputs: Sequence[Buffer], **attributes: Any
) -> Cell:
    """The way back as its kernels are written from: the state is what comes past the gates."""
    dy, weights, dh, dc, opened, content, *optional = inputs
    found, direct, dc0, *totals = outputs
    node = attributes_of(_DEFAULT, attributes)
    back = _WayBack(builder, inputs, outputs, node)
    sums = from_input(dy, back.width, back.working)
    product = Product((0,), back.finish, sums, back.double_buffer)
    return Cell(
        weights, dh, None, direct, dy, (product,), ((dc, dc0),),
        node.lengths(optional), not node.reverse,
        cleared=(back.double_buffer,), ended=(found,),
        read=(opened, content), replaces=(opened, found),
        totals=(back.double_buffer, totals[0]) if node.has_totals else None,
    )  # fmt: skip


def _shapes(steps: int, batch: int, width: int) -> tuple[tuple[int, ...], ...]:
    sequence, state = (steps, batch, width), (batch, width)
    return sequence, (4 * width, width), state, state, (steps, batch, 4 * width), sequence


def _arrays(dtype: np.dtype[np.generic]) -> tuple[Array, ...]:
    rng = np.random.default_rng(1)
    return tuple(0.5 * rng.standard_normal(shape).astype(dtype) for shape in _shapes(3, 2, 3))


_LENGTHS = np.array([2, 0, 5], np.int32)
_LONG = {"has_lengths": True}

register(
    Operator(
        "lstm_gradient",
        _infer,
        _reference,
        statements=statements_of(cell),
        gradient=lambda d: d.through(decomposed_lstm_gradient),
        examples=(
            Example(_shapes(1, 1, 3)),
            Example(_shapes(4, 3, 17), {"reverse": True}, 1e-4),
            Example((*_shapes(5, 3, 3), _LENGTHS), _LONG),
            Example((*_shapes(5, 3, 3), _LENGTHS, (9,)), {**_LONG, "has_peepholes": True}),
            Example((*_shapes(5, 3, 3), _LENGTHS), {**_LONG, "reverse": True}),
            Example(_shapes(3, 2, 5), {"clip": 0.6}),
            Example(_shapes(4, 9, 5), {"has_totals": True}),
            Example((*_shapes(5, 3, 3), _LENGTHS), {**_LONG, "has_totals": True}),
            Example((*_shapes(3, 2, 5), (15,)), {"has_peepholes": True, "input_forget": True}),
            Example(_arrays(f64.numpy), {}, 1e-12),
            Example(_arrays(f16.numpy), {}, 2e-2),
        ),
    )
)
