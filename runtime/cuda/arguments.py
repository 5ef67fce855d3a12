"""Arrays in and out of a model on a GPU: NumPy's, or the device's own.

A device's array is whatever has `__cuda_array_interface__` (torch, CuPy, Numba, JAX), or speaks
DLPack and lies on a GPU.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bessemer.runtime.arrays import Array, as_input, numpy_dtype
from bessemer.runtime.artifact import ArrayInfo
from bessemer.runtime.errors import InputError
from bessemer.runtime.shapes import format_shape

GPU = 2
"""DLPack's number for memory of a CUDA device."""


@dataclass(frozen=True)
class DeviceArray:
    """Dense memory of the device: an array's address, shape and dtype. `owner` keeps it alive.

    It speaks `__cuda_array_interface__` itself.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: object = None

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "version": 3,
        }


Argument = Array | DeviceArray


def as_argument(info: ArrayInfo, value: object) -> Argument:
    """An input as NumPy memory or as the device's; InputError where it is neither of this dtype."""
    found = on_device(info, value)
    if found is None:
        return as_input(info, numpy_dtype(info.dtype), value)
    wanted = numpy_dtype(info.dtype)
    if found.dtype != wanted and not (info.dtype == "bfloat16" and found.dtype.itemsize == 2):
        raise InputError(f"Input '{info.name}' has dtype {found.dtype}, expected {info.dtype}.")
    return found


def on_device(info: ArrayInfo, value: object) -> DeviceArray | None:
    """The value as memory of the device, None where it has none."""
    if isinstance(value, DeviceArray):
        return value
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is not None:
        return _from_interface(info, interface, value)
    where = getattr(value, "__dlpack_device__", None)
    if where is not None and where()[0] == GPU:
        return _from_dlpack(info, value)
    return None


def _from_interface(info: ArrayInfo, interface: Mapping[str, Any], owner: object) -> DeviceArray:
    shape = tuple(int(size) for size in interface["shape"])
    dtype = np.dtype(interface["typestr"])
    strides = interface.get("strides")
    if strides is not None and tuple(strides) != _dense(shape, dtype.itemsize):
        raise InputError(f"'{info.name}' is not contiguous in the device's memory.")
    return DeviceArray(int(interface["data"][0]), shape, dtype, owner)


def _dense(shape: Sequence[int], step: int) -> tuple[int, ...]:
    found: list[int] = []
    for size in reversed(shape):
        found.append(step)
        step *= size
    return tuple(reversed(found))


class _Tensor(ctypes.Structure):
    """DLPack's DLTensor (dlpack.h, version 0.8): the part of a capsule that says where it is."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_KINDS = {0: "i", 1: "u", 2: "f", 4: "u", 6: "b"}
"""NumPy's letters for DLPack's type codes; bfloat16 (4) goes by its bits."""


def _from_dlpack(info: ArrayInfo, value: Any) -> DeviceArray:
    capsule = value.__dlpack__()
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = _Tensor.from_address(pointer(capsule, b"dltensor"))
    rank = tensor.ndim
    shape = tuple(tensor.shape[axis] for axis in range(rank))
    letter = _KINDS.get(tensor.code)
    if letter is None or tensor.lanes != 1:
        raise InputError(f"'{info.name}' has an element type that DLPack numbers {tensor.code}.")
    dtype = np.dtype("?" if letter == "b" else f"{letter}{tensor.bits // 8}")
    if tensor.strides and tuple(tensor.strides[axis] for axis in range(rank)) != _dense(shape, 1):
        raise InputError(f"'{info.name}' is not contiguous in the device's memory.")
    # The capsule's own destructor gives the memory back when the owner goes.
    owner = (capsule, value)
    return DeviceArray((tensor.data or 0) + tensor.byte_offset, shape, dtype, owner)


def check_shape(info: ArrayInfo, shape: Sequence[int], array: DeviceArray) -> None:
    """Raises InputError where a device's array to write to has another shape."""
    if tuple(array.shape) != tuple(shape):
        raise InputError(
            f"The array in out for output '{info.name}' has shape {format_shape(array.shape)}, "
            f"expected {format_shape(shape)}."
        )
