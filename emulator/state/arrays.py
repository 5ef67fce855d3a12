"""The scalar types of PTX and the NumPy types that hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""An array over threads, of any element type."""

WIDTHS = {
    **{f"{kind}{bits}": bits for kind in "bus" for bits in (8, 16, 32, 64)},
    "f16": 16,
    "f32": 32,
    "f64": 64,
    "bf16": 16,
    "tf32": 32,
    "f16x2": 32,
    "bf16x2": 32,
    "e4m3": 8,
    "e5m2": 8,
    "e4m3x2": 16,
    "e5m2x2": 16,
    "b128": 128,
    "u16x2": 32,
    "s16x2": 32,
    "pred": 1,
}
"""Bits of every scalar type."""

UNSIGNED: dict[int, Any] = {
    1: np.dtype(np.bool_),
    8: np.dtype(np.uint8),
    16: np.dtype(np.uint16),
    32: np.dtype(np.uint32),
    64: np.dtype(np.uint64),
}
_SIGNED: dict[int, Any] = {
    8: np.dtype(np.int8),
    16: np.dtype(np.int16),
    32: np.dtype(np.int32),
    64: np.dtype(np.int64),
}
_FLOATS: dict[str, Any] = {
    "f16": np.dtype(np.float16),
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
}


def numpy_type(name: str) -> Any:
    """The NumPy type of a value of PTX type `name`; formats that NumPy lacks (bf16,
    tf32, pairs) stay bits.
    """
    if name in _FLOATS:
        return _FLOATS[name]
    width = WIDTHS[name]
    return _SIGNED[width] if name[0] == "s" and width <= 64 and "x" not in name else UNSIGNED[width]


def is_float(name: str) -> bool:
    return name in ("f16", "f32", "f64", "bf16", "tf32", "f16x2", "bf16x2")


def is_signed(name: str) -> bool:
    return name[0] == "s"
