"""byte_lstm: lstm with recurrent weights of i8 and the state rounded to u8 in every step.

What ONNX Runtime's DynamicQuantizeLSTM computes. All rows of a step share scale and zero point (in
ONNX Runtime those that one of its threads has).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, DType, TensorType, f32, f64, i8
from bessemer.compiler.ops.check import require
from bessemer.compiler.ops.recurrence import lstm
from bessemer.compiler.ops.recurrence.activations import require_gates
from bessemer.compiler.ops.recurrence.recurrence import require_cell
from bessemer.compiler.ops.recurrence.recurrence_cell import Cell
from bessemer.compiler.ops.recurrence.recurrence_rules import DEFAULTS, attributes_of, statements_of

_DEFAULT = DEFAULTS["lstm"]


def _infer(
    gates_x: TensorType,
    recurrent: TensorType,
    scales: TensorType,
    h0: TensorType,
    c0: TensorType,
    *,
    activations: tuple[str, ...] = _DEFAULT,
    alphas: tuple[float, ...] = (),
    betas: tuple[float, ...] = (),
    reverse: bool = False,
    clip: float = 0.0,
    input_forget: bool = False,
) -> tuple[TensorType, TensorType, TensorType]:
    """(gates_x f32 or f64 [T, B, 4H], recurrent i8 [H, 4H], scales [4H], h0 [B, H], c0 [B, H])
    -> (y [T, B, H], h [B, H], c [B, H]). The rest is as of lstm.
    """
    require(recurrent.dtype == i8, f"byte_lstm wants weights of i8, but got {recurrent}.")
    require(
        gates_x.dtype in (f32, f64) and scales == gates_x.with_shape(recurrent.shape[1:]),
        f"byte_lstm wants f32 or f64 and a scale for each column of {recurrent}, but got "
        f"{gates_x} and {scales}.",
    )
    weights = gates_x.with_shape(recurrent.shape)
    require_cell("byte_lstm", 4, (gates_x, weights, h0, c0), None)
    require_gates("byte_lstm", 3, activations, alphas, betas)
    steps, batch = gates_x.shape[:2]
    return gates_x.with_shape((steps, batch, recurrent.shape[0])), h0, c0


def _reference(
    gates_x: Array,
    recurrent: Array,
    scales: Array,
    h0: Array,
    c0: Array,
    **attributes: Any,
) -> tuple[Array, ...]:
    node = attributes_of(_DEFAULT, attributes)
    gate, cell_gate, _ = node.gates()
    hidden_gate = replace(node, clip=0.0).gates()[2]
    steps = len(gates_x)
    h, c = h0, c0.astype(np.float64)
    y = np.zeros((*gates_x.shape[:2], h0.shape[1]), gates_x.dtype)
    for time in range(steps - 1, -1, -1) if node.reverse else range(steps):
        units, scale = _rounded(h)
        sums = units @ recurrent.astype(np.int64)
        i, o, f, g = np.split(gates_x[time] + sums * (scale * scales.astype(np.float64)), 4, axis=1)
        opened = gate.reference(i)
        kept = 1 - opened if node.input_forget else gate.reference(f)
        c = kept * c + opened * cell_gate.reference(g)
        h = (gate.reference(o) * hidden_gate.reference(c)).astype(gates_x.dtype)
        y[time] = h
    return y, h, c.astype(gates_x.dtype)


def _rounded(h: Array) -> tuple[Array, np.floating[Any]]:
    """The state in units, and what a unit stands for."""
    low, high = np.minimum(h.min(initial=0), 0), np.maximum(h.max(initial=0), 0)
    distance = high - low
    scale = distance / h.dtype.type(255) if distance else h.dtype.type(1)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return (np.clip(np.rint(h / scale) + zero, 0, 255) - zero).astype(np.int64), scale


def cell(
    builder: KernelBuilder, inputs: Sequence[Buffer], outputs: Sequence[Buffer], **attributes: Any
) -> Cell:
    """The recurrence as its kernels are written from."""
    gates_x, recurrent, scales, h0, c0 = inputs
    plain = lstm.cell(builder, (gates_x, recurrent, h0, c0), outputs, **attributes)
    return replace(plain, scales=scales)


def _example(steps: int, batch: int, width: int, dtype: DType = f32, **attributes: Any) -> Example:
    rng = np.random.default_rng(width)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype.numpy)

    weights = rng.integers(-127, 128, (width, 4 * width), np.int8)
    scales = (np.abs(normal(4 * width)) + 0.1) / 400
    states = normal(batch, width), normal(batch, width)
    arrays = (normal(steps, batch, 4 * width), weights, scales.astype(dtype.numpy), *states)
    # Where a rounding falls on the other side, a unit of the state changes.
    return Example(arrays, attributes, tolerance=2e-3)


register(
    Operator(
        "byte_lstm",
        _infer,
        _reference,
        statements=statements_of(cell),
        gradient=None,
        examples=(
            _example(1, 1, 4),
            _example(5, 1, 17, reverse=True),
            _example(3, 3, 6, clip=0.7, input_forget=True),
            _example(3, 2, 9, f64),
            _example(4, 2, 5, activations=("hardsigmoid", "softsign", "tanh")),
        ),
    )
)
