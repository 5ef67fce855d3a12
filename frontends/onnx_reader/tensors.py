"""ONNX tensors as NumPy arrays, and ONNX element types as ours.

A tensor says its size three times: by its shape, by its type, and by its bytes. They must agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from bessemer.compiler.errors import CompileError, UnsupportedError
from bessemer.compiler.ir import types
from bessemer.compiler.ir.types import Array, DType
from bessemer.frontends.onnx_reader import limits
from bessemer.frontends.onnx_reader.external import ExternalFiles

DTYPE_OF: dict[int, DType] = {
    TensorProto.FLOAT: types.f32,
    TensorProto.DOUBLE: types.f64,
    TensorProto.FLOAT16: types.f16,
    TensorProto.BFLOAT16: types.bf16,
    TensorProto.INT8: types.i8,
    TensorProto.INT16: types.i16,
    TensorProto.INT32: types.i32,
    TensorProto.INT64: types.i64,
    TensorProto.UINT8: types.u8,
    TensorProto.UINT16: types.u16,
    TensorProto.UINT32: types.u32,
    TensorProto.UINT64: types.u64,
    TensorProto.BOOL: types.boolean,
    TensorProto.INT4: types.i4,
    TensorProto.UINT4: types.u4,
    TensorProto.INT2: types.i2,
    TensorProto.UINT2: types.u2,
    TensorProto.FLOAT8E4M3FN: types.f8e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: types.f8e4m3fnuz,
    TensorProto.FLOAT8E5M2: types.f8e5m2,
    TensorProto.FLOAT8E5M2FNUZ: types.f8e5m2fnuz,
    TensorProto.FLOAT8E8M0: types.f8e8m0,
    TensorProto.FLOAT4E2M1: types.f4e2m1,
}
CODE_OF: dict[DType, int] = {dtype: code for code, dtype in DTYPE_OF.items()}

_FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
}
"""The field that holds a type's elements when they are not raw; int32_data for the others."""
_IN_A_BYTE: dict[DType, int] = {types.i4: 2, types.u4: 2, types.f4e2m1: 2, types.i2: 4, types.u2: 4}
"""How many elements share a byte in a file, the first in the lowest bits."""
_ALL_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


def element_name(code: int) -> str:
    """ONNX's name of an element type, or the number where there is no such type."""
    known = code in TensorProto.DataType.values()
    return TensorProto.DataType.Name(code) if known else str(code)


def dtype_of_code(code: int, where: str) -> DType:
    """Our element type for ONNX's; raises for those that we do not have."""
    found = DTYPE_OF.get(code)
    if found is not None:
        return found
    name = element_name(code)
    if name == str(code):
        raise CompileError(f"{where}: has the element type {code}, which does not exist")
    if name == "UNDEFINED":
        raise CompileError(f"{where}: has no element type")
    raise UnsupportedError(
        f"{where}: has the element type {name}, which is not supported", [f"{where}: {name}"]
    )


def array_of(
    tensor: onnx.TensorProto, files: ExternalFiles, where: str, raw: memoryview | None = None
) -> Array:
    """The elements, read-only, of strings as objects; raises CompileError where type, shape and
    bytes disagree. `raw` are the bytes of a tensor that lacks them."""
    if tensor.data_type == TensorProto.STRING:
        return _texts(tensor, where)
    dtype = dtype_of_code(tensor.data_type, where)
    shape = _shape(tensor, dtype, where)
    count = math.prod(shape)
    if tensor.HasField("segment"):
        raise CompileError(f"{where}: is stored in segments, which is not supported")
    typed = [name for name in _ALL_FIELDS if len(getattr(tensor, name))]
    if raw is not None:
        result: Array = _from_raw(raw, dtype, count, where)
    elif tensor.data_location == TensorProto.EXTERNAL:
        stored = files.read(tensor, where, _stored_bytes(dtype, count))
        result = _viewed(stored, dtype, count) if count else np.zeros(0, dtype.numpy)
    elif tensor.HasField("raw_data"):
        if typed:
            raise CompileError(f"{where}: has its elements twice, in raw_data and in {typed[0]}")
        result = _from_raw(tensor.raw_data, dtype, count, where)
    else:
        result = _from_field(tensor, dtype, typed, count, where)
    result = result.reshape(shape)
    result.flags.writeable = False
    return result


def array_of_sparse(
    sparse: onnx.SparseTensorProto, read: Callable[[onnx.TensorProto, str], Array], where: str
) -> Array:
    """All elements of a sparse tensor, zeros included; raises CompileError as `array_of` does.
    `read` gives its values and its indices, which are [count] places in the flattened tensor, or
    [count, rank]."""
    values, indices = read(sparse.values, where), read(sparse.indices, f"{where}: its indices")
    shape = _shape(sparse, dtype_of_code(sparse.values.data_type, where), where)
    wanted = [(len(values),), (len(values), len(shape))] if values.ndim == 1 else []
    if indices.shape not in wanted or indices.dtype != np.int64:
        raise CompileError(
            f"{where}: values of shape {list(values.shape)} and {indices.dtype} indices of shape"
            f" {list(indices.shape)} make no sparse tensor of shape {list(shape)}"
        )
    axes = (math.prod(shape),) if indices.ndim == 1 else shape
    places = indices.reshape(len(values), len(axes))
    if (places < 0).any() or (places >= np.array(axes, np.int64)).any():
        raise CompileError(f"{where}: has indices outside of its shape {list(shape)}")
    result = np.zeros(axes, values.dtype)
    result[tuple(places.T)] = values
    result = result.reshape(shape)
    result.flags.writeable = False
    return result


def _texts(tensor: onnx.TensorProto, where: str) -> Array:
    shape = _shape(tensor, types.i32, where)
    if len(tensor.string_data) != math.prod(shape):
        raise CompileError(
            f"{where}: has {len(tensor.string_data)} strings, its shape needs {math.prod(shape)}"
        )
    result = np.empty(len(tensor.string_data), object)
    try:
        result[:] = [text.decode() for text in tensor.string_data]
    except UnicodeDecodeError as error:
        raise CompileError(f"{where}: holds a string that is not UTF-8: {error}") from None
    result = result.reshape(shape)
    result.flags.writeable = False
    return result


def _shape(
    tensor: onnx.TensorProto | onnx.SparseTensorProto, dtype: DType, where: str
) -> tuple[int, ...]:
    shape = tuple(tensor.dims)
    if len(shape) > limits.RANK:
        raise CompileError(f"{where}: has {len(shape)} dimensions, more than {limits.RANK}")
    for size in shape:
        if size < 0:
            raise CompileError(f"{where}: has the dimension {size}; its shape is {list(shape)}")
    # A product of zeros and huge numbers is as suspicious as the huge numbers.
    size = math.prod(max(size, 1) for size in shape) * dtype.bytes
    if size > limits.TENSOR_BYTES:
        raise CompileError(f"{where}: is {dtype.name}{list(shape)}, {limits.too_large(size)}")
    return shape


def _little(dtype: DType) -> np.dtype[np.generic]:
    return dtype.numpy.newbyteorder("<") if dtype.numpy.kind in "iufb" else dtype.numpy


def _stored_bytes(dtype: DType, count: int) -> int:
    return -(-count // _IN_A_BYTE.get(dtype, 1)) * dtype.bytes


def _viewed(stored: Array, dtype: DType, count: int) -> Array:
    """Bytes of a file as elements."""
    parts = _IN_A_BYTE.get(dtype, 1)
    if parts == 1:
        return stored.view(_little(dtype))
    width = 8 // parts
    spread = stored.reshape(-1, 1) >> (np.arange(parts, dtype=np.uint8) * np.uint8(width))
    kept: Array = (spread.reshape(-1)[:count] & np.uint8((1 << width) - 1)).view(dtype.numpy)
    return kept


def _from_raw(raw: bytes | memoryview, dtype: DType, count: int, where: str) -> Array:
    if len(raw) != _stored_bytes(dtype, count):
        raise CompileError(
            f"{where}: has {len(raw)} bytes of raw_data, its type and shape need"
            f" {_stored_bytes(dtype, count)}"
        )
    return _viewed(np.frombuffer(raw, np.uint8), dtype, count)


def _from_field(
    tensor: onnx.TensorProto, dtype: DType, typed: list[str], count: int, where: str
) -> Array:
    field = _FIELDS.get(tensor.data_type, "int32_data")
    if any(name != field for name in typed):
        raise CompileError(
            f"{where}: has its elements in {typed[0]}, for its type {field} is right"
        )
    stored = np.array(getattr(tensor, field))
    wanted = _stored_bytes(dtype, count) if dtype.is_storage else count
    if len(stored) != wanted:
        raise CompileError(f"{where}: has {len(stored)} elements, its shape needs {wanted}")
    if dtype.is_storage:
        return _viewed(stored.astype(np.uint8), dtype, count)
    if dtype in (types.f16, types.bf16):
        halves = stored.astype(np.uint16)
        return halves.view(np.float16 if dtype is types.f16 else ml_dtypes.bfloat16)
    return stored.astype(dtype.numpy)
