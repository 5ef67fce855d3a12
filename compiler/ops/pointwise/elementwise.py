"""Pointwise operators: one element of the output from the elements at the same place of the inputs.

All inputs have one shape; broadcasting is a view made before (broadcast_to).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from bessemer.compiler.ir import expr, functions
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import Expression, Index
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.types import (
    FLOATS,
    INTEGERS,
    Array,
    DType,
    TensorType,
    bf16,
    boolean,
    dtype_of,
    f16,
    f32,
    f64,
    i8,
    i32,
    i64,
    u8,
)
from bessemer.compiler.ops.check import require, require_dtype, require_one_type
from bessemer.compiler.ops.example_arrays import SPECIAL, booleans, float_examples, integers, ramp
from bessemer.compiler.ops.pointwise.gradients_pointwise import (
    binary_gradient,
    leaky_relu_gradient,
    unary_gradient,
)
from bessemer.compiler.ops.precise import is_float, rounded_once

_NUMBERS = (*FLOATS, *INTEGERS)
_SIGNED = tuple(dtype for dtype in INTEGERS if dtype.kind == "i")

# Reference functions


def _erf(x: Array) -> Array:
    return np.array([math.erf(v) for v in x.ravel().tolist()], dtype=np.float64).reshape(x.shape)


def _not(x: Array) -> Array:
    if x.dtype == object:  # truths about sizes that the builder follows
        return np.array([not v for v in x.ravel()], dtype=object).reshape(x.shape)
    return np.invert(x)


_UNARY_REFERENCES: dict[str, Callable[[Array], Array]] = {
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "rsqrt": lambda x: np.asarray(1 / np.sqrt(x)),
    "sigmoid": lambda x: np.asarray(1 / (1 + np.exp(-x))),
    "erf": _erf,
    "round": np.rint,
    "neg": np.negative,
    "not": _not,
}
"""Where the function is not NumPy's function of the same name."""


def _trunc_div(x: Array, y: Array) -> Array:
    with np.errstate(all="ignore"):
        if is_float(x):
            # The quotient is rounded before it is cut, as the machine does.
            quotient = (x.astype(np.float64) / y.astype(np.float64)).astype(x.dtype)
            return np.trunc(quotient.astype(np.float64)).astype(x.dtype)
        quotient = np.floor_divide(x, y)
        down = (np.fmod(x, y) != 0) & ((x < 0) != (y < 0))
        return np.asarray(quotient + down.astype(x.dtype))


def _pow(x: Array, y: Array) -> Array:
    if x.dtype.kind not in "iu":
        return np.asarray(np.power(x, y))
    # 1 / x**-y, truncated, is only not zero for x = 1 and x = -1; x = 0 gives 0.
    negative = y < 0
    result = np.power(x, np.where(negative, 0, y).astype(x.dtype))
    sign = np.where(np.asarray(y) % 2 == 0, 1, x)
    return np.where(negative, np.where(np.abs(x) == 1, sign, 0), result).astype(x.dtype)


def _divide(x: Array, y: Array) -> Array:
    return np.asarray(np.divide(x, y) if x.dtype.kind == "f" else np.floor_divide(x, y))


_BINARY_REFERENCES: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": _divide,
    "mod": np.mod,
    "fmod": np.fmod,
    "pow": _pow,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "shl": np.left_shift,
    "shr": np.right_shift,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}

# Element types


def _unary_dtypes(name: str) -> tuple[DType, ...]:
    match name:
        case "neg" | "abs":
            return _NUMBERS
        case "not":
            return (boolean, *INTEGERS)
        case _:
            return FLOATS


def _binary_dtypes(name: str) -> tuple[DType, ...]:
    match name:
        case "and" | "or" | "xor":
            return (boolean, *INTEGERS)
        case "shl" | "shr":
            return INTEGERS
        case "eq" | "ne":
            return (boolean, *_NUMBERS)
        case _:
            return _NUMBERS


# Examples


def _unary_examples(name: str) -> tuple[Example, ...]:
    dtypes = _unary_dtypes(name)
    examples: tuple[Example, ...] = float_examples() if f32 in dtypes else ()
    if name in ("acosh", "log", "sqrt", "rsqrt", "log1p"):
        examples += (Example((ramp((11,), f32, 1.01, 2e4),)),)
    if name in ("asin", "acos", "atanh"):
        examples += (Example((ramp((11,), f32, -0.99, 0.99),)),)
    if i32 in dtypes:
        examples += (Example((integers((3, 4), i32),)), Example((np.array(-128, np.int8),)))
        examples += (Example((integers((5,), u8),)), Example((integers((2, 0), i64),)))
    if boolean in dtypes:
        examples += (Example((booleans((2, 3)),)),)
    return examples


def _binary_examples(name: str) -> tuple[Example, ...]:
    dtypes = _binary_dtypes(name)
    examples: tuple[Example, ...] = ()
    if f32 in dtypes:
        low = 0.1 if name == "pow" else -3.0
        examples += (
            Example((ramp((3, 5), f32, low), ramp((3, 5), f32, 2.0, -1.5))),
            Example((SPECIAL, SPECIAL[::-1].copy())),
            Example((SPECIAL, SPECIAL)),
            Example((np.array(2.5, np.float32), np.array(-1.5, np.float32))),
            Example((ramp((0, 2), f64), ramp((0, 2), f64))),
            Example((ramp((4,), f64, low), ramp((4,), f64, -2, 2)), tolerance=1e-12),
            Example((ramp((2, 3), f16, low), ramp((2, 3), f16, 1, 2)), tolerance=2e-3),
            Example((ramp((7,), bf16, low), ramp((7,), bf16, 1, 2)), tolerance=2e-2),
        )
    if i32 in dtypes:
        for dtype in (i32, i64, i8, u8):
            # Shifts by a negative count mean nothing.
            low = 0 if name in ("shl", "shr") else -5
            right = integers((3, 7), dtype, low, 7)
            examples += (Example((integers((3, 7), dtype, -9, 11), right)),)
    if boolean in dtypes:
        examples += (Example((booleans((2, 3)), booleans((2, 3), 2))),)
    return examples


# Registration


def _unary_infer(name: str) -> Callable[[TensorType], TensorType]:
    def infer(x: TensorType) -> TensorType:
        require_dtype(name, x, _unary_dtypes(name))
        return x.with_dtype(boolean) if name in ("isnan", "isinf") else x

    return infer


def _unary_element(name: str) -> Callable[..., Expression]:
    def element(x: Operand, *, index: Index) -> Expression:
        return expr.unary(name, x[index])

    return element


def _binary_infer(name: str) -> Callable[[TensorType, TensorType], TensorType]:
    def infer(x: TensorType, y: TensorType) -> TensorType:
        require_one_type(name, (x, y))
        require_dtype(name, x, _binary_dtypes(name))
        return x.with_dtype(boolean) if name in functions.COMPARISONS else x

    return infer


def _binary_element(name: str) -> Callable[..., Expression]:
    def element(x: Operand, y: Operand, *, index: Index) -> Expression:
        return expr.binary(name, x[index], y[index])

    return element


for _name in (name for name in functions.UNARY if name not in functions.SCHEDULED_UNARY):
    register(
        Operator(
            _name,
            _unary_infer(_name),
            rounded_once(_UNARY_REFERENCES.get(_name) or getattr(np, _name)),
            _unary_element(_name),
            gradient=unary_gradient(_name),
            examples=_unary_examples(_name),
        )
    )

for _name in functions.BINARY:
    register(
        Operator(
            _name,
            _binary_infer(_name),
            _trunc_div if _name == "trunc_div" else rounded_once(_BINARY_REFERENCES[_name]),
            _binary_element(_name),
            gradient=binary_gradient(_name),
            examples=_binary_examples(_name),
        )
    )


# relu, clip, leaky_relu


def _relu_infer(x: TensorType) -> TensorType:
    require_dtype("relu", x, (*FLOATS, *_SIGNED))
    return x


@rounded_once
def _relu_reference(x: Array) -> Array:
    return np.maximum(x, np.zeros((), x.dtype))


def _relu_element(x: Operand, *, index: Index) -> Expression:
    return expr.binary("max", x[index], 0)


register(
    Operator(
        "relu",
        _relu_infer,
        _relu_reference,
        _relu_element,
        gradient=unary_gradient("relu"),
        examples=(*float_examples(), Example((integers((3, 4), i32),))),
    )
)


def _clip_infer(x: TensorType, *, minimum: float, maximum: float) -> TensorType:
    require_dtype("clip", x, _NUMBERS)
    require(
        minimum == minimum and maximum == maximum,
        "clip wants numbers as bounds, not NaN. Leave a bound out with -inf or inf.",
    )
    return x


def _clip_bounds(
    dtype: DType, minimum: float, maximum: float
) -> tuple[float | int | None, float | int | None]:
    """The bounds in the element type; None where a bound never matters."""
    if dtype.is_float:
        return (
            None if minimum == -math.inf else minimum,
            None if maximum == math.inf else maximum,
        )
    lowest, highest = int(dtype.lowest), int(dtype.highest)
    low = lowest if minimum <= lowest else highest if minimum > highest else math.ceil(minimum)
    high = highest if maximum >= highest else lowest if maximum < lowest else math.floor(maximum)
    return (None if low == lowest else low, None if high == highest else high)


def _clip_reference(x: Array, *, minimum: float, maximum: float) -> Array:
    """The upper bound wins where the bounds cross, as in ONNX."""
    low, high = _clip_bounds(dtype_of(x), minimum, maximum)
    result = x
    if low is not None:
        result = np.maximum(result, np.asarray(low).astype(x.dtype))
    if high is not None:
        result = np.minimum(result, np.asarray(high).astype(x.dtype))
    return np.asarray(result)


def _clip_element(x: Operand, *, index: Index, minimum: float, maximum: float) -> Expression:
    low, high = _clip_bounds(x.dtype, minimum, maximum)
    result = x[index]
    if low is not None:
        result = expr.binary("max", result, low)
    return result if high is None else expr.binary("min", result, high)


_CLIPS = (
    {"minimum": -1.0, "maximum": 2.5},
    {"minimum": 0.0, "maximum": math.inf},
    {"minimum": -math.inf, "maximum": 0.3},
    {"minimum": 2.0, "maximum": -2.0},
)

register(
    Operator(
        "clip",
        _clip_infer,
        _clip_reference,
        _clip_element,
        gradient=unary_gradient("clip"),
        examples=(
            *(Example(e.inputs, _CLIPS[0], e.tolerance) for e in float_examples()),
            *(Example((SPECIAL,), bounds) for bounds in _CLIPS),
            *(Example((integers((3, 4), i32),), bounds) for bounds in _CLIPS),
            *(Example((integers((9,), u8),), bounds) for bounds in _CLIPS),
            Example((integers((9,), i64),), {"minimum": -(2**62) - 1, "maximum": 3}),
        ),
    )
)


def _leaky_relu_infer(x: TensorType, *, slope: float) -> TensorType:
    require_dtype("leaky_relu", x, FLOATS)
    return x


@rounded_once
def _leaky_relu_reference(x: Array, *, slope: float) -> Array:
    return np.where(x >= 0, x, x * slope)


def _leaky_relu_element(x: Operand, *, index: Index, slope: float) -> Expression:
    value = x[index]
    return expr.select(value >= 0, value, value * slope)


register(
    Operator(
        "leaky_relu",
        _leaky_relu_infer,
        _leaky_relu_reference,
        _leaky_relu_element,
        gradient=leaky_relu_gradient,
        examples=(
            *(Example(e.inputs, {"slope": 0.1}, e.tolerance) for e in float_examples()),
            Example((SPECIAL,), {"slope": -2.0}),
        ),
    )
)
