"""Conversion between element types, and the choice between two values."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import Expression, Index, convert
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import (
    SMALL_FLOATS,
    SMALL_INTEGERS,
    Array,
    DType,
    TensorType,
    bf16,
    boolean,
    dtype_of,
    f4e2m1,
    f8e4m3fn,
    f8e4m3fnuz,
    f8e5m2,
    f8e5m2fnuz,
    f8e8m0,
    f16,
    f32,
    f64,
    i4,
    i8,
    i16,
    i32,
    i64,
    u2,
    u8,
    u16,
    u32,
)
from bessemer.compiler.ops.check import require, require_one_shape, require_one_type
from bessemer.compiler.ops.example_arrays import SPECIAL, booleans, integers, ramp
from bessemer.compiler.ops.narrow_types import decoded, encoded
from bessemer.compiler.ops.pointwise.gradients_pointwise import cast_gradient, select_gradient
from bessemer.compiler.ops.precise import is_float


def _cast_infer(x: TensorType, *, dtype: DType) -> TensorType:
    require(
        dtype is not f8e8m0 or x.dtype is f8e8m0,
        f"cast does not say how {x} is rounded to powers of two (f8e8m0). Use composite_small.",
    )
    return x.with_dtype(dtype)


def saturating_cast(x: Array, dtype: DType) -> Array:
    """Floats to integers truncate and saturate, NaN gives 0; integers wrap; to bool is `!= 0`.

    Small integers are low bits, of what a float truncates to. Small floats are rounded to nearest,
    and what is too large for them becomes infinity or NaN.
    """
    if x.dtype == dtype.numpy:
        return x
    if dtype_of(x).is_storage:
        x = x.astype(np.float32)
    if dtype in SMALL_INTEGERS:
        return saturating_cast(x, i32).astype(dtype.numpy)
    with np.errstate(all="ignore"):
        if dtype is boolean:
            return np.asarray(x != np.zeros((), x.dtype))
        if not (is_float(x) and dtype.is_integer):
            return x.astype(dtype.numpy)
        wide = np.trunc(np.nan_to_num(x.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf))
        limits = np.iinfo(dtype.numpy)
        # The limits of 64 bits are not in float64: compare with the next power of two instead.
        result = np.where(np.abs(wide) < 2.0**63, wide, 0).astype(np.int64)
        if dtype.bits == 64 and dtype.kind == "u":
            result = np.clip(wide, 0, 2.0**64 - 2048).astype(dtype.numpy)
        result = np.where(wide <= float(limits.min), limits.min, result.astype(dtype.numpy))
        return np.where(wide >= float(limits.max), limits.max, result).astype(dtype.numpy)


def _cast_element(x: Operand, *, index: Index, dtype: DType) -> Expression:
    if dtype is boolean and x.dtype is not boolean:
        return expr.binary("ne", decoded(x[index]) if x.dtype.is_storage else x[index], 0)
    if x.dtype == dtype:
        return x[index]
    value = decoded(x[index]) if x.dtype.is_storage else x[index]
    return encoded(value, dtype) if dtype.is_storage else convert(value, dtype)


_EDGES = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 0.9, -0.9, 2.5, -2.5, 127.6, 128.0, -128.9, -129.0, 255.5,
     256.0, 65536.0, 2.0**31, -(2.0**31), 2.0**32, 2.0**63, -(2.0**63), 2.0**64, 1e30, -1e30],
    np.float32,
)  # fmt: skip

# Every byte; and numbers around every number of a small float, ties and overflow among them.
_BYTES = np.arange(256, dtype=np.uint8)
_ROUNDED = np.concatenate(
    [
        _EDGES,
        np.outer([1, -1, 1.0625, 1.1875, -1.0625, 1.25, 1.5, 1.75, -1.9375, 1.0626, 1.0624],
                 2.0 ** np.arange(-20, 20)).reshape(-1).astype(np.float32),
    ]
)  # fmt: skip
_EXACT = 1e-37  # 2 ** -127 is a denormal f32
_ROUNDINGS = tuple(dtype for dtype in SMALL_FLOATS if dtype is not f8e8m0)

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
            *(
                Example(
                    (_BYTES[: 16 if d is f4e2m1 else 256].view(d.numpy),), {"dtype": f32}, _EXACT
                )
                for d in SMALL_FLOATS
            ),
            *(Example((_BYTES.astype(d.numpy),), {"dtype": f32}) for d in SMALL_INTEGERS),
            *(Example((_ROUNDED,), {"dtype": d}, _EXACT) for d in _ROUNDINGS),
            Example((_ROUNDED[24:].clip(-6e4, 6e4).astype(np.float16),), {"dtype": f8e4m3fn}),
            Example((_ROUNDED.astype(np.float64),), {"dtype": f8e5m2}, _EXACT),
            *(Example((integers((2, 9), i32, -20, 20),), {"dtype": d}) for d in SMALL_INTEGERS),
            Example((ramp((5, 5), f32, -12, 12),), {"dtype": i4}),
            Example((integers((9,), i64, -900, 900),), {"dtype": f8e4m3fnuz}),
            Example((integers((9,), u8, 0, 256).astype(i4.numpy),), {"dtype": f8e5m2fnuz}),
            Example((ramp((9,), f8e4m3fn),), {"dtype": i8}),
            Example((ramp((9,), f8e4m3fn),), {"dtype": f8e4m3fn}),
            Example((ramp((9,), f8e5m2),), {"dtype": f4e2m1}),
            Example((ramp((9,), f4e2m1),), {"dtype": f16}),
            Example((np.arange(5).astype(u2.numpy),), {"dtype": boolean}),
            Example((booleans((5,)),), {"dtype": u2}),
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
