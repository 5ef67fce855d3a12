"""Element types and tensor types.

A tensor is dense and row-major; its type is an element type and a shape, whose entries are
`Size`s (see dims.py). Booleans take one byte (0 or 1) in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.dims import Size, format_size, product

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class DType:
    """An element type. `kind`: f float, i signed, u unsigned, b boolean; `bits` as stored."""

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

    def __str__(self) -> str:
        return self.name

    def __hash__(self) -> int:
        return hash(self.name)


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

DTYPES: dict[str, DType] = {
    dtype.name: dtype
    for dtype in (f16, bf16, f32, f64, i8, i16, i32, i64, u8, u16, u32, u64, boolean)
}
FLOATS = (f16, bf16, f32, f64)
INTEGERS = (i8, i16, i32, i64, u8, u16, u32, u64)

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
}
_FROM_NUMPY = {dtype: DTYPES[name] for name, dtype in _NUMPY.items()}


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
