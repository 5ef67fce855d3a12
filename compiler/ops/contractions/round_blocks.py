"""round_blocks: the rows of a matrix as signed bytes, with a scale for each block of a row.

    scale = largest |x| / 127,  q = round(x / scale),  x is about q * scale

The third output is scale * (sum of q), which products with unsigned weights need.
"""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.expr import Buffer, binary, constant, convert, select, unary
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import Array, TensorType, f32, i8
from bessemer.compiler.ops.check import require

_HIGHEST = 127.0
_LOWEST = 2.0**-119
"""Blocks of no larger numbers are zeros: their scale would be too small for a float32, or no number
could be divided by it."""


def _infer(x: TensorType, *, block: int) -> tuple[TensorType, TensorType, TensorType]:
    depth = x.shape[-1] if x.rank == 2 else None
    if x.dtype is not f32 or not isinstance(depth, int) or depth % block:
        require(False, f"round_blocks wants an f32 matrix of whole blocks of {block}, not {x}.")
        raise AssertionError
    numbers = TensorType(f32, (x.shape[0], depth // block))
    return x.with_dtype(i8), numbers, numbers


def _reference(x: Array, *, block: int) -> tuple[Array, Array, Array]:
    blocks = x.reshape(len(x), x.shape[1] // block, block)
    highest = np.abs(blocks).max(axis=2)
    factors = np.divide(
        np.float32(_HIGHEST), highest, where=highest > _LOWEST, out=np.zeros_like(highest)
    )
    steps = np.rint(blocks * factors[..., None])
    scales = highest * np.float32(1 / _HIGHEST)
    return steps.astype(np.int8).reshape(x.shape), scales, scales * steps.sum(axis=2)


def _statements(
    builder: KernelBuilder, inputs: list[Buffer], outputs: list[Buffer], *, block: int
) -> None:
    (x,), (steps, scales, sums) = inputs, outputs
    with builder.loop(x.shape[0], "parallel") as row, builder.loop(scales.shape[1]) as number:
        highest = builder.define(constant(0.0, f32), "highest")
        with builder.loop(block, "vector", lanes=0) as k:
            highest.accumulate("max", unary("abs", x[row, number * block + k]))
        is_zero = binary("le", highest.value, _LOWEST)
        factor = builder.define(select(is_zero, 0.0, _HIGHEST / highest.value), "factor")
        scale = builder.define(highest.value * (1 / _HIGHEST), "scale")
        total = builder.define(constant(0.0, f32), "total")
        with builder.loop(block, "vector", lanes=0) as k:
            at = (row, number * block + k)
            step = builder.define(unary("round", x[at] * factor.value), "step").value
            total.accumulate("add", step)
            builder.store(steps, at, convert(step, i8))
        builder.store(scales, (row, number), scale.value)
        builder.store(sums, (row, number), scale.value * total.value)


register(
    Operator(
        "round_blocks",
        _infer,
        _reference,
        statements=_statements,
        gradient=None,
        examples=(
            Example(((3, 64),), {"block": 32}),
            Example((np.zeros((2, 16), np.float32),), {"block": 16}),
            Example(((0, 256),), {"block": 128}),
        ),
    )
)
