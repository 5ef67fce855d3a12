"""Conversion between element types, and the choice between two values."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import Expression, Index, convert
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import (
    Array,
    DType,
    TensorType,
    bf16,
    boolean,
    f16,
    f32,
    f64,
    i8,
    i16,
    i32,
    i64,
    u8,
    u16,
    u32,
)
from bessemer.compiler.ops.check import require, require_one_shape, require_one_type
from bessemer.compiler.ops.example_arrays import SPECIAL, booleans, integers, ramp
from bessemer.compiler.ops.gradients_pointwise import cast_gradient, select_gradient
from bessemer.compiler.ops.precise import is_float


def _cast_infer(x: TensorType, *, dtype: DType) -> TensorType:
    return x.with_dtype(dtype)


def saturating_cast(x: Array, dtype: DType) -> Array:
    """Floats to integers truncate and saturate, NaN gives 0; integers wrap; to bool is `!= 0`."""
    with np.errstate(all="ignore"):
        if dtype is boolean:
            return np.asarray(x != np.zeros((), x.dtype))
        if not (is_float(x) and dtype.is_integer):
            return x.astype(dtype.numpy)
        wide = np.trunc(np.nan_to_num(x.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf))
        limits = np.iinfo(dtype.numpy)
        # The limits of 64 bits are no float64: compare with the next power of two instead.
        result = np.where(np.abs(wide) < 2.0**63, wide, 0).astype(np.int64)
        if dtype.bits == 64 and dtype.kind == "u":
            result = np.clip(wide, 0, 2.0**64 - 2048).astype(dtype.numpy)
        result = np.where(wide <= float(limits.min), limits.min, result.astype(dtype.numpy))
        return np.where(wide >= float(limits.max), limits.max, result).astype(dtype.numpy)


def _cast_element(x: Operand, *, index: Index, dtype: DType) -> Expression:
    if dtype is boolean and x.dtype is not boolean:
        return expr.binary("ne", x[index], 0)
    return convert(x[index], dtype)


_EDGES = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 0.9, -0.9, 2.5, -2.5, 127.6, 128.0, -128.9, -129.0, 255.5,
     256.0, 65536.0, 2.0**31, -(2.0**31), 2.0**32, 2.0**63, -(2.0**63), 2.0**64, 1e30, -1e30],
    np.float32,
)  # fmt: skip

register(
    Operator(
        "cast",
        _cast_infer,
        saturating_cast,
        _cast_element,
        gradient=cast_gradient,
        examples=(
            *(Example((_EDGES,), {"dtype": d}) for d in (i8, u8, i16, u16, i32, u32, i64, boolean)),
            Example((SPECIAL,), {"dtype": f16}),
            Example((SPECIAL,), {"dtype": bf16}),
            Example((ramp((3, 4), f64, -1e9, 1e9),), {"dtype": f32}),
            Example((ramp((3, 4), bf16),), {"dtype": f32}),
            Example((ramp((3, 4), f16, -300, 300),), {"dtype": u8}),
            Example((integers((2, 7), i32, -3000, 5000),), {"dtype": i8}),
            Example((integers((2, 7), i32, -3000, 5000),), {"dtype": u16}),
            Example((integers((2, 7), i64),), {"dtype": f32}),
            Example((integers((5,), u8),), {"dtype": boolean}),
            Example((booleans((2, 3)),), {"dtype": f32}),
            Example((booleans(()),), {"dtype": i64}),
            Example(((0, 3),), {"dtype": i32}),
        ),
    )
)


def _select_infer(condition: TensorType, then: TensorType, otherwise: TensorType) -> TensorType:
    require(
        condition.dtype is boolean,
        f"select wants a bool condition, but it is {condition}. Compare it with a number first.",
    )
    require_one_type("select", (then, otherwise))
    require_one_shape("select", (condition, then, otherwise))
    return then


def _select_reference(condition: Array, then: Array, otherwise: Array) -> Array:
    return np.where(condition, then, otherwise)


def _select_element(
    condition: Operand, then: Operand, otherwise: Operand, *, index: Index
) -> Expression:
    return expr.select(condition[index], then[index], otherwise[index])


register(
    Operator(
        "select",
        _select_infer,
        _select_reference,
        _select_element,
        gradient=select_gradient,
        examples=(
            Example((booleans((3, 5)), ramp((3, 5), f32), ramp((3, 5), f32, 9, 2))),
            Example((booleans((13,)), SPECIAL, SPECIAL[::-1].copy())),
            Example((booleans((2, 3)), integers((2, 3), i64), integers((2, 3), i64, 10, 20))),
            Example((booleans((6,)), booleans((6,), 2), booleans((6,), 4))),
            Example((np.array(True), ramp((), bf16), ramp((), bf16, 1, 2))),
            Example((booleans((0,)), ramp((0,), f16), ramp((0,), f16))),
        ),
    )
)
