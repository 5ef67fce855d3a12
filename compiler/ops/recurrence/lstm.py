"""lstm: a long short-term memory over sequences (Hochreiter & Schmidhuber, 1997), as ONNX has it.

With the gates in the order i, o, f, g (input, output, forget, cell), H columns each:

    i, o, f, g = columns of gates_x[t] + h @ recurrent       (i, f += peephole * c)
    c = f(f) * c + f(i) * g(g)
    h = f(o) * h(c)                                           (o += peephole * c, the new one)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, convert
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType, bf16, f16, f64
from bessemer.compiler.ops.check import require
from bessemer.compiler.ops.precise import widened
from bessemer.compiler.ops.recurrence.activations import Gate, require_gates
from bessemer.compiler.ops.recurrence.gradients_recurrent import lstm_gradient
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

_DEFAULT = DEFAULTS["lstm"]


def _infer(
    gates_x: TensorType,
    recurrent: TensorType,
    h0: TensorType,
    c0: TensorType,
    *optional: TensorType,
    activations: tuple[str, ...] = _DEFAULT,
    alphas: tuple[float, ...] = (),
    betas: tuple[float, ...] = (),
    reverse: bool = False,
    clip: float = 0.0,
    input_forget: bool = False,
    has_lengths: bool = False,
    has_peepholes: bool = False,
    keeps_steps: bool = False,
) -> tuple[TensorType, ...]:
    """(gates_x [T, B, 4H], recurrent [H, 4H], h0 [B, H], c0 [B, H] [, lengths i32|i64 [B]]
    [, peepholes [3H] for i, o, f]) -> (y [T, B, H], h [B, H], c [B, H]).

    gates_x is the input times its weights, with both biases added. `reverse` runs each sequence
    from its own end. `clip` bounds what goes into the gates; 0 does not. `input_forget`: the
    forget gate is 1 - the input gate. `keeps_steps`, for gradients, gives all gates [T, B, 4H] too,
    and h and c before each step, 0 behind a sequence's end.
    """
    require(
        len(optional) == has_lengths + has_peepholes,
        f"lstm has {4 + len(optional)} inputs; has_lengths and has_peepholes say otherwise.",
    )
    lengths = optional[0] if has_lengths else None
    require_cell("lstm", 4, (gates_x, recurrent, h0, c0), lengths)
    require_gates("lstm", 3, activations, alphas, betas)
    if has_peepholes:
        wanted = gates_x.with_shape((3 * recurrent.shape[0],))
        require(
            optional[-1] == wanted, f"lstm wants peepholes {wanted} here, but got {optional[-1]}."
        )
    steps, batch = gates_x.shape[:2]
    y = gates_x.with_shape((steps, batch, recurrent.shape[0]))
    return (y, h0, c0, gates_x, y, y) if keeps_steps else (y, h0, c0)


def _reference(
    gates_x: Array,
    recurrent: Array,
    h0: Array,
    c0: Array,
    *optional: Array,
    **attributes: Any,
) -> tuple[Array, ...]:
    node = attributes_of(_DEFAULT, attributes)
    gate, cell_gate, hidden_gate = node.gates()
    width = recurrent.shape[0]
    peepholes = widened(optional[-1]) if node.has_peepholes else np.zeros(3 * width)
    p_i, p_o, p_f = np.split(peepholes, 3)
    weights = widened(recurrent)

    def step(row: Array, states: tuple[Array, ...]) -> tuple[Array, ...]:
        h, c = states
        i, o, f, g = np.split(row + h @ weights, 4)
        opened = gate.reference(i + p_i * c)
        kept = 1 - opened if node.input_forget else gate.reference(f + p_f * c)
        content = cell_gate.reference(g)
        new_c = kept * c + opened * content
        shown = gate.reference(o + p_o * new_c)
        new = shown * _unclipped(hidden_gate).reference(new_c), new_c
        kept_step = (np.concatenate([opened, shown, kept, content]), h, c)
        return (*new, *kept_step) if node.keeps_steps else new

    states = (widened(h0), widened(c0))
    widths = (4 * width, width, width) if node.keeps_steps else ()
    lengths = node.lengths(optional)
    results = run_steps(widened(gates_x), lengths, node.reverse, states, step, widths)
    return tuple(result.astype(gates_x.dtype) for result in results)


def _unclipped(gate: Gate) -> Gate:
    """The cell's state goes into its activation as it is."""
    return Gate(gate.activation, gate.alpha, gate.beta, 0.0)


@dataclass(frozen=True, eq=False)
class _Column:
    """What follows from the product's sums, for one column: `c` is the cell's state, `steps` are
    what is kept for gradients, if anything."""

    builder: KernelBuilder
    node: RecurrenceAttributes
    c: Buffer
    peepholes: Buffer | None
    steps: Sequence[Buffer]

    def open(self, number: int, total: Expression) -> Expression:
        """A gate from its sum. Peepholes let a gate see the state: it waits for `finish`."""
        gate, cell_gate, _ = self.node.gates()
        if number == 3:
            return cell_gate.rule(total)
        return total if self.node.has_peepholes else gate.rule(total)

    def finish(self, place: Place, sums: Sequence[Expression], state: Expression) -> Expression:
        """The new state h; stores the new c."""
        i, o, f, g = sums
        row, column, define = place.row, place.column, self.builder.define
        before = define(convert(self.c[row, column], working_dtype(self.c.dtype)), "c").value
        taken = define(self._opened(i, 0, before, column), "i").value
        kept = 1 - taken if self.node.input_forget else self._opened(f, 2, before, column)
        kept = define(kept, "f").value
        after = define(kept * before + taken * g, "c").value
        self.builder.store(self.c, (row, column), after)
        shown = define(self._opened(o, 1, after, column), "o").value
        if self.node.keeps_steps:
            self._keep(place, (taken, shown, kept, g), state, before)
        hidden_gate = self.node.gates()[2]
        return shown * _unclipped(hidden_gate).rule(after)

    def _opened(self, total: Expression, number: int, c: Expression, column: Size) -> Expression:
        if self.peepholes is None:
            return total
        at = number * self.c.shape[1] + column
        peephole = convert(self.peepholes[at], working_dtype(self.c.dtype))
        return self.node.gates()[0].rule(total + peephole * c)

    def _keep(
        self, place: Place, gates: Sequence[Expression], h: Expression, c: Expression
    ) -> None:
        at = (place.time, place.row)
        for number, value in enumerate(gates):
            column = number * self.c.shape[1] + place.column
            self.builder.store(self.steps[0], (*at, column), value)
        self.builder.store(self.steps[1], (*at, place.column), h)
        self.builder.store(self.steps[2], (*at, place.column), c)


def cell(
    builder: KernelBuilder,
    inputs: Sequence[Buffer],
    outputs: Sequence[Buffer],
    **attributes: Any,
) -> Cell:
    """The recurrence as its kernels are written from."""
    gates_x, recurrent, h0, c0, *optional = inputs
    y, h, c, *steps = outputs
    node = attributes_of(_DEFAULT, attributes)
    peepholes = optional[-1] if node.has_peepholes else None
    column = _Column(builder, node, c, peepholes, steps)
    from_x = from_input(gates_x, c.shape[1], working_dtype(c.dtype))
    product = Product((0, 1, 2, 3), column.finish, from_x, open=column.open)
    return Cell(
        recurrent, h0, y, h, gates_x, (product,), ((c0, c),), node.lengths(optional),
        node.reverse, ended=tuple(steps),
        replaces=(gates_x, steps[0]) if node.keeps_steps else None,
    )  # fmt: skip


def _examples() -> tuple[Example, ...]:
    def shapes(steps: int, batch: int, width: int) -> tuple[tuple[int, ...], ...]:
        state = (batch, width)
        return (steps, batch, 4 * width), (width, 4 * width), state, state

    def halves(dtype: np.dtype[np.generic]) -> tuple[Array, ...]:
        rng = np.random.default_rng(1)
        return tuple(rng.standard_normal(shape).astype(dtype) * 0.5 for shape in shapes(3, 2, 3))

    lengths = np.array([2, 0, 5], np.int32)
    full = np.array([1, 1])
    odd = ("hardsigmoid", "softsign", "scaledtanh")
    return (
        Example(shapes(1, 1, 3)),
        Example(shapes(5, 1, 3), {"reverse": True}),
        Example(shapes(5, 3, 17)),
        Example(shapes(2, 6, 5)),
        Example((*shapes(5, 3, 3), lengths), {"has_lengths": True}),
        Example((*shapes(5, 3, 3), lengths), {"has_lengths": True, "reverse": True}),
        Example((*shapes(4, 2, 3), (9,)), {"has_peepholes": True}),
        Example(
            (*shapes(1, 2, 3), full, (9,)),
            {"has_lengths": True, "has_peepholes": True, "input_forget": True, "clip": 0.7},
        ),
        Example(
            shapes(3, 2, 3), {"activations": odd, "alphas": (0.3, 0, 1.2), "betas": (0.4, 0, 0.9)}
        ),
        Example(halves(f64.numpy), {"clip": 0.5}, tolerance=1e-12),
        Example(halves(f16.numpy), tolerance=4e-3),
        Example(halves(bf16.numpy), tolerance=3e-2),
        Example(
            (*shapes(4, 3, 3), np.array([1, 0, 4]), (9,)),
            {"has_lengths": True, "has_peepholes": True, "keeps_steps": True},
        ),
    )


register(
    Operator(
        "lstm",
        _infer,
        _reference,
        statements=statements_of(cell),
        gradient=lstm_gradient,
        examples=_examples(),
    )
)
