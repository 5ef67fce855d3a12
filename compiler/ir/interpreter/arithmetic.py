"""The numbers of the loop language, and its functions on them.

A value is a NumPy float32 (for f16, bf16, f32) or float64, a Python int within its type's range
(of a storage type: its byte), or a Python bool. f16 and bf16 are computed in f32, and rounded by
`round_to`, `cast` and `to_memory`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import functions
from bessemer.compiler.ir.types import DType, boolean, f64


def unwritten(dtype: DType) -> Any:
    """What memory of this type holds before anything is written: nothing that looks right."""
    if dtype.is_float:
        return math.nan
    if dtype.is_storage:
        return np.uint8(1).view(dtype.numpy)
    return False if dtype is boolean else (1 << (dtype.bits - 2)) + 1


def _working(dtype: DType) -> type[np.floating[Any]]:
    return np.float64 if dtype is f64 else np.float32


def round_to(value: Any, dtype: DType) -> Any:
    """A float rounded to a type, as a value."""
    return _working(dtype)(np.asarray(value).astype(dtype.numpy))


def wrap(value: int, dtype: DType) -> int:
    """An integer brought into the range of its type."""
    wrapped = value & ((1 << dtype.bits) - 1)
    negative = dtype.kind == "i" and wrapped >> (dtype.bits - 1)
    return wrapped - (1 << dtype.bits) if negative else wrapped


def from_memory(element: Any, dtype: DType) -> Any:
    """An element of an array as a value."""
    if dtype.is_float:
        return _working(dtype)(element)
    if dtype.is_storage:
        return int(np.asarray(element).view(np.uint8))
    return bool(element) if dtype is boolean else int(element)


def to_memory(value: Any, dtype: DType) -> Any:
    """A value as an element of an array."""
    if dtype.is_storage:
        return np.uint8(value).view(dtype.numpy)
    return np.asarray(value).astype(dtype.numpy) if dtype.is_float else dtype.numpy.type(value)


def cast(value: Any, source: DType, target: DType) -> Any:
    """A conversion between any two types."""
    if target is boolean:
        return bool(value != 0)
    if target.is_float:
        if source.is_integer:
            value = np.array(value, source.numpy)  # a Python int would be rounded to f64 first
        return round_to(value, target)
    if not source.is_float:
        return wrap(int(value), target)
    if math.isnan(value):
        return 0
    highest = int(target.highest)
    lowest = int(target.lowest)
    if math.isinf(value):
        return highest if value > 0 else lowest
    return max(lowest, min(highest, math.trunc(float(value))))


def bits(value: Any, source: DType, target: DType) -> Any:
    """A value's bits as those of another type."""
    return from_memory(np.asarray(to_memory(value, source)).view(target.numpy)[()], target)


_FLOAT_UNARY: dict[str, Callable[[Any], Any]] = {
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "erf": math.erf,
    "exp_nonpositive": np.exp,
    "round": np.rint,
}
"""Where NumPy has no function of the same name; all are computed in f64 and rounded once."""


def unary(name: str, dtype: DType, x: Any) -> Any:
    """One of functions.UNARY on a value of the given type."""
    if name in functions.FLOAT_UNARY:
        function = _FLOAT_UNARY.get(name) or getattr(np, name)
        return _working(dtype)(function(np.float64(x)))
    match name:
        case "isnan":
            return dtype.is_float and bool(np.isnan(x))
        case "isinf":
            return dtype.is_float and bool(np.isinf(x))
        case "not":
            return not x if dtype is boolean else wrap(~x, dtype)
        case "neg":
            return -x if dtype.is_float else wrap(-x, dtype)
        case "abs":
            return abs(x) if dtype.is_float else wrap(abs(x), dtype)
        case _:
            raise InternalError(f"no meaning for {name}")


_FLOAT_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "mod": np.mod,
    "fmod": np.fmod,
    "trunc_div": lambda a, b: np.trunc(a / b),
    "pow": np.power,
    "min": np.minimum,
    "max": np.maximum,
}


def _shift_right(a: int, b: int, bits: int) -> int:
    return a >> b if 0 <= b < bits else (-1 if a < 0 else 0)


def _power(a: int, b: int, bits: int) -> int:
    if b >= 0:
        return pow(a, b, 1 << bits)
    return 0 if abs(a) != 1 else a ** (-b % 2)  # 1 / a**-b, cut


def _truncated(a: int, b: int) -> int:
    quotient = abs(a) // abs(b) if b else 0
    return quotient if (a < 0) == (b < 0) else -quotient


_INTEGER_BINARY: dict[str, Callable[[int, int, int], int]] = {
    "add": lambda a, b, bits: a + b,
    "sub": lambda a, b, bits: a - b,
    "mul": lambda a, b, bits: a * b,
    "div": lambda a, b, bits: a // b if b else 0,
    "mod": lambda a, b, bits: a % b if b else 0,
    "trunc_div": lambda a, b, bits: _truncated(a, b),
    "fmod": lambda a, b, bits: a - b * _truncated(a, b) if b else 0,
    "pow": _power,
    "min": lambda a, b, bits: min(a, b),
    "max": lambda a, b, bits: max(a, b),
    "and": lambda a, b, bits: a & b,
    "or": lambda a, b, bits: a | b,
    "xor": lambda a, b, bits: a ^ b,
    "shl": lambda a, b, bits: a << b if 0 <= b < bits else 0,
    "shr": _shift_right,
}


def binary(name: str, dtype: DType, a: Any, b: Any) -> Any:
    """One of functions.BINARY on two values of the given type."""
    if name in functions.COMPARISONS:
        return bool(getattr(operator, name)(a, b))
    if dtype.is_float:
        return _working(dtype)(_FLOAT_BINARY[name](a, b))
    result = _INTEGER_BINARY[name](int(a), int(b), dtype.bits)
    return bool(result) if dtype is boolean else wrap(result, dtype)
