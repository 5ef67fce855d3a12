"""Element types and tensor types.

A tensor is dense and row-major; its type is an element type and a shape, whose entries are
`Size`s (see dims.py). Booleans take one byte (0 or 1) in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.dims import Size, format_size, product

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class DType:
    """An element type, of which there is one object each. `kind`: f float, i signed, u unsigned,
    b boolean; `bits` as stored.

    Kind s is a type for storage: elements of a byte each, which are moved, and cast to and from the
    other types, but not computed with. In a register such an element is that byte, a u8.
    """

    name: str
    kind: str
    bits: int

    @property
    def bytes(self) -> int:
        return self.bits // 8

    @property
    def numpy(self) -> np.dtype[Any]:
        return _NUMPY[self.name]

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        return self.kind in "iu"

    @property
    def is_storage(self) -> bool:
        return self.kind == "s"

    @property
    def lowest(self) -> int | float | bool:
        """The lowest value: minus infinity, for a float."""
        if self.is_float:
            return -math.inf
        if self.kind == "b":
            return False
        return -(1 << (self.bits - 1)) if self.kind == "i" else 0

    @property
    def highest(self) -> int | float | bool:
        """The highest value: infinity, for a float."""
        if self.is_float:
            return math.inf
        if self.kind == "b":
            return True
        return (1 << (self.bits - 1)) - 1 if self.kind == "i" else (1 << self.bits) - 1

    def has(self, number: float) -> bool:
        """Whether an integer type has this number, as it is."""
        return float(number).is_integer() and self.lowest <= number <= self.highest

    def __str__(self) -> str:
        return self.name


f16 = DType("f16", "f", 16)
bf16 = DType("bf16", "f", 16)
f32 = DType("f32", "f", 32)
f64 = DType("f64", "f", 64)
i8 = DType("i8", "i", 8)
i16 = DType("i16", "i", 16)
i32 = DType("i32", "i", 32)
i64 = DType("i64", "i", 64)
u8 = DType("u8", "u", 8)
u16 = DType("u16", "u", 16)
u32 = DType("u32", "u", 32)
u64 = DType("u64", "u", 64)
boolean = DType("bool", "b", 8)
i4 = DType("i4", "s", 8)
u4 = DType("u4", "s", 8)
i2 = DType("i2", "s", 8)
u2 = DType("u2", "s", 8)
f8e4m3fn = DType("f8e4m3fn", "s", 8)
f8e4m3fnuz = DType("f8e4m3fnuz", "s", 8)
f8e5m2 = DType("f8e5m2", "s", 8)
f8e5m2fnuz = DType("f8e5m2fnuz", "s", 8)
f8e8m0 = DType("f8e8m0", "s", 8)
f4e2m1 = DType("f4e2m1", "s", 8)

FLOATS = (f16, bf16, f32, f64)
INTEGERS = (i8, i16, i32, i64, u8, u16, u32, u64)
SMALL_INTEGERS = (i4, u4, i2, u2)
SMALL_FLOATS = (f8e4m3fn, f8e4m3fnuz, f8e5m2, f8e5m2fnuz, f8e8m0, f4e2m1)
DTYPES: dict[str, DType] = {dtype.name: dtype for dtype in (*FLOATS, *INTEGERS, boolean)}
"""The types that are computed with, by name."""
ELEMENT_TYPES = DTYPES | {dtype.name: dtype for dtype in (*SMALL_INTEGERS, *SMALL_FLOATS)}
"""These and the types for storage."""

_NUMPY: dict[str, np.dtype[Any]] = {
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "i8": np.dtype(np.int8),
    "i16": np.dtype(np.int16),
    "i32": np.dtype(np.int32),
    "i64": np.dtype(np.int64),
    "u8": np.dtype(np.uint8),
    "u16": np.dtype(np.uint16),
    "u32": np.dtype(np.uint32),
    "u64": np.dtype(np.uint64),
    "bool": np.dtype(np.bool_),
    "i4": np.dtype(ml_dtypes.int4),
    "u4": np.dtype(ml_dtypes.uint4),
    "i2": np.dtype(ml_dtypes.int2),
    "u2": np.dtype(ml_dtypes.uint2),
    "f8e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "f8e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "f8e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "f8e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "f8e8m0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "f4e2m1": np.dtype(ml_dtypes.float4_e2m1fn),
}
_FROM_NUMPY = {dtype: ELEMENT_TYPES[name] for name, dtype in _NUMPY.items()}


def dtype_of(array: Array) -> DType:
    """The element type of a NumPy array; raises InternalError for one we have no name for."""
    try:
        return _FROM_NUMPY[array.dtype]
    except KeyError:
        raise InternalError(f"no element type for NumPy's {array.dtype}") from None


@dataclass(frozen=True)
class TensorType:
    """An element type and a shape."""

    dtype: DType
    shape: tuple[Size, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def numel(self) -> Size:
        return product(self.shape)

    @property
    def is_static(self) -> bool:
        return all(isinstance(size, int) for size in self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape as integers; InternalError if a symbol is left in it."""
        if not all(isinstance(size, int) for size in self.shape):
            raise InternalError(f"{self} has no static shape")
        return tuple(size for size in self.shape if isinstance(size, int))

    @property
    def nbytes(self) -> Size:
        return self.numel * self.dtype.bytes

    def with_shape(self, shape: tuple[Size, ...]) -> TensorType:
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(format_size(size) for size in self.shape)}]"


def type_of(array: Array) -> TensorType:
    """The type of a NumPy array."""
    return TensorType(dtype_of(array), tuple(int(size) for size in array.shape))
