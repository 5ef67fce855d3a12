"""The names of the functions of numbers that both languages have; expr.py says what they
compute."""

from __future__ import annotations

from collections.abc import Callable

from bessemer.compiler.ir.types import DType, boolean

SCHEDULED_UNARY = ("exp_nonpositive",)
"""Functions that are not operators: schedules put them in the place of others. This is exp of what
is at most 0, or NaN, right to 1.9 units in the last place and 5e-9 |x| beside: a tenth of what is
lost where x is a difference."""
FLOAT_UNARY = (
    "exp", "log", "sqrt", "rsqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
    "tanh", "asinh", "acosh", "atanh", "erf", "sigmoid", "expm1", "log1p",
    "floor", "ceil", "round", "trunc", *SCHEDULED_UNARY,
)  # fmt: skip
"""`round` is to nearest, ties to even."""
UNARY = (*FLOAT_UNARY, "neg", "abs", "not", "isnan", "isinf")
"""`not` is logical on bool and bitwise on integers; the last two give bool."""
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
BINARY = (
    "add", "sub", "mul", "div", "mod", "trunc_div", "fmod", "pow", "min", "max",
    "and", "or", "xor", "shl", "shr",
    *COMPARISONS,
)  # fmt: skip
REDUCTIONS: dict[str, Callable[[DType], int | float | bool]] = {
    "add": lambda dtype: 0,
    "mul": lambda dtype: 1,
    "max": lambda dtype: dtype.lowest,
    "min": lambda dtype: dtype.highest,
    "and": lambda dtype: True if dtype is boolean else -1,
    "or": lambda dtype: False if dtype is boolean else 0,
}
"""The neutral element of each reduction; a reduction's name is that of its binary function."""
