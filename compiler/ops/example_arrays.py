"""Arrays for operators' examples: fixed, of odd sizes, with the special values of their type."""

from __future__ import annotations

import math

import numpy as np

from bessemer.compiler.ir.op import Example
from bessemer.compiler.ir.types import Array, DType, bf16, f16, f32, f64

SPECIAL = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1e-30, 88.0, -104.0, 1e30],
    np.float32,
)


def ramp(shape: tuple[int, ...], dtype: DType, low: float = -2.9, high: float = 3.1) -> Array:
    """Evenly spread numbers, none of them a small integer."""
    return np.linspace(low, high, math.prod(shape)).reshape(shape).astype(dtype.numpy)


def integers(shape: tuple[int, ...], dtype: DType, low: int = -7, high: int = 9) -> Array:
    """Small integers in a fixed mixed-up order, zero among them."""
    count = math.prod(shape)
    found = (np.arange(count) * 5 + 3) % (high - low) + (low if dtype.kind == "i" else 0)
    return found.reshape(shape).astype(dtype.numpy)


def booleans(shape: tuple[int, ...], period: int = 3) -> Array:
    return np.asarray(np.arange(math.prod(shape)).reshape(shape) % period == 1)


def float_examples() -> tuple[Example, ...]:
    return (
        Example((ramp((3, 5), f32),)),
        Example((SPECIAL,)),
        Example(((),)),
        Example(((0, 4),)),
        Example(((2, 1, 17),)),
        Example((ramp((7,), f64),), tolerance=1e-12),
        Example((ramp((2, 3), f16),), tolerance=2e-3),
        Example((ramp((9,), bf16),), tolerance=2e-2),
    )
