"""cumulative: running sums and products along an axis."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import product
from bessemer.compiler.ir.expr import Buffer, convert, neutral
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import FLOATS, INTEGERS, Array, TensorType, bf16, f16, f32
from bessemer.compiler.ops.check import require, require_axis, require_dtype
from bessemer.compiler.ops.movement.gradients_move import cumulative_gradient
from bessemer.compiler.ops.precise import rounded_once
from bessemer.compiler.ops.rows import FEWEST_BEHIND, each_row, rows_side_by_side

SIDE_BY_SIDE = 8
"""Vectors of neighbouring rows that are added up at once: whole blocks of memory."""


def _infer(
    x: TensorType,
    *,
    axis: int,
    reduction: str = "add",
    exclusive: bool = False,
    reverse: bool = False,
) -> TensorType:
    """`exclusive` leaves the element itself out; `reverse` runs from the end."""
    require_axis("cumulative", axis, x)
    require_dtype("cumulative", x, (*FLOATS, *INTEGERS))
    require(
        reduction in ("add", "mul"), f"cumulative knows add and mul, not reduction {reduction!r}."
    )
    return x


@rounded_once
def _reference(
    x: Array,
    *,
    axis: int,
    reduction: str = "add",
    exclusive: bool = False,
    reverse: bool = False,
) -> Array:
    function = np.cumsum if reduction == "add" else np.cumprod
    rows = np.flip(x, axis) if reverse else x
    if exclusive:
        first = np.full_like(np.take(rows, [], axis=axis), 0)
        first = np.full((*x.shape[:axis], 1, *x.shape[axis + 1 :]), reduction == "mul", x.dtype)
        last = np.delete(rows, -1, axis) if x.shape[axis] else rows
        rows = np.concatenate([first, last], axis) if x.shape[axis] else rows
    result = np.asarray(function(rows, axis=axis, dtype=x.dtype))
    return np.flip(result, axis) if reverse else result


def _statements(
    builder: KernelBuilder,
    inputs: list[Buffer],
    outputs: list[Buffer],
    *,
    axis: int,
    reduction: str = "add",
    exclusive: bool = False,
    reverse: bool = False,
) -> None:
    (x,) = inputs
    (out,) = outputs
    # Half-precision sums are kept in f32, and rounded where they are written.
    working = f32 if x.dtype in (f16, bf16) else x.dtype
    size, behind = x.shape[axis], product(x.shape[axis + 1 :])
    are_neighbours = not isinstance(behind, int) or behind >= FEWEST_BEHIND
    rows = (
        rows_side_by_side(builder, x.shape, axis, SIDE_BY_SIDE)
        if are_neighbours
        else each_row(builder, x.shape, axis)
    )
    with rows as row:
        running = builder.define(neutral(reduction, working), "running")
        with builder.loop(size) as i:
            place = row(size - 1 - i if reverse else i)
            if exclusive:
                builder.store(out, place, running.value)
            running.set(expr.binary(reduction, running.value, convert(x[place], working)))
            if not exclusive:
                builder.store(out, place, running.value)


register(
    Operator(
        "cumulative",
        _infer,
        _reference,
        statements=_statements,
        gradient=cumulative_gradient,
        examples=(
            Example(((3, 7),), {"axis": 1}),
            Example(((3, 7),), {"axis": 0, "reverse": True}),
            Example(((2, 5, 3),), {"axis": 1, "exclusive": True}),
            Example(((2, 5),), {"axis": 1, "exclusive": True, "reverse": True, "reduction": "mul"}),
            Example(((5, 2, 1, 3),), {"axis": 0, "reduction": "mul"}),
            Example((np.arange(-3, 5, dtype=np.int32),), {"axis": 0, "reduction": "add"}),
            Example((np.full((9,), 7, np.uint8),), {"axis": 0, "reduction": "mul"}),
            Example((np.linspace(0, 1, 11).astype(f16.numpy),), {"axis": 0}, tolerance=2e-3),
            Example((np.linspace(0, 1, 7).astype(bf16.numpy),), {"axis": 0}, tolerance=2e-2),
            Example(((2, 0),), {"axis": 1, "exclusive": True}),
        ),
    )
)
