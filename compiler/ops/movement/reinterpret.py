"""reinterpret: the same bits as elements of another type that is as wide."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import Expression, Index, bits
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import (
    Array,
    DType,
    TensorType,
    bf16,
    boolean,
    f8e4m3fn,
    f16,
    f32,
    f64,
    i16,
    i32,
    i64,
    u4,
    u8,
    u16,
    u32,
)
from bessemer.compiler.ops.check import require
from bessemer.compiler.ops.example_arrays import integers, ramp


def _infer(x: TensorType, *, dtype: DType) -> TensorType:
    require(
        x.dtype.bits == dtype.bits and boolean not in (x.dtype, dtype),
        f"reinterpret wants a type of the same width (and no bool), but it is to make {dtype} of "
        f"{x}. Cast it instead.",
    )
    return x.with_dtype(dtype)


def _reference(x: Array, *, dtype: DType) -> Array:
    return np.ascontiguousarray(x).reshape(x.shape).view(dtype.numpy)


def _element(x: Operand, *, index: Index, dtype: DType) -> Expression:
    return bits(x[index], dtype)


_WORDS = np.array([[0, 1 << 23, -1 << 31], [0x3F800001, 0x7F800000, -12345678]], np.int32)

register(
    Operator(
        "reinterpret",
        _infer,
        _reference,
        _element,
        gradient=None,
        examples=(
            Example((_WORDS,), {"dtype": f32}),
            Example((ramp((3, 5), f32),), {"dtype": i32}),
            Example((ramp((3, 5), f32),), {"dtype": u32}),
            Example((ramp((7,), f64),), {"dtype": i64}),
            Example((integers((4, 2), i64, 1, 90) << 52,), {"dtype": f64}),
            Example((ramp((19,), f16),), {"dtype": i16}),
            Example((ramp((19,), bf16),), {"dtype": u16}),
            Example((integers((9,), u16, 0, 30000),), {"dtype": f16}),
            Example((integers((9,), u16, 256, 30000),), {"dtype": bf16}),
            Example((ramp((9,), f16),), {"dtype": bf16}),
            Example((integers((), u8),), {"dtype": f8e4m3fn}),
            Example((integers((3, 0), u8),), {"dtype": u4}),
            Example((np.arange(33).astype(u4.numpy),), {"dtype": u8}),
        ),
    )
)
