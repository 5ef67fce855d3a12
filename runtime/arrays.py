"""Arrays in and out of a model without copies where that is possible, and refused where it is not.

float16 is NumPy's own. bfloat16 and the types of at most eight bits are ml_dtypes' where that
package is installed; without it such arrays go in and come out as uint16 or uint8 holding the same
bits.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from bessemer.runtime.artifact import SMALL_DTYPES, ArrayInfo
from bessemer.runtime.errors import InputError
from bessemer.runtime.shapes import format_shape

try:
    import ml_dtypes
except ImportError:  # an optional package
    _OWN = {"bfloat16": np.uint16, **dict.fromkeys(SMALL_DTYPES, np.uint8)}
else:
    _OWN = {name: getattr(ml_dtypes, name) for name in ("bfloat16", *SMALL_DTYPES)}

Array = npt.NDArray[Any]
_LINE = 64

_from_buffer = ctypes.c_char.from_buffer
_addressof = ctypes.addressof


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype for an element type of a signature; strings are numbers in the code."""
    return np.dtype(np.int32 if name == "string" else _OWN.get(name, name))


def address(array: Array) -> int:
    """Where the array's data begins; four times as fast as `array.ctypes.data`."""
    try:
        return _addressof(_from_buffer(array))  # type: ignore[arg-type]
    except (TypeError, ValueError, BufferError):  # read-only, empty, or a dtype without a buffer
        found: int = array.__array_interface__["data"][0]
        return found


def aligned_empty(shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """An uninitialized array that begins at a cache line."""
    return aligned_in(np.empty(aligned_bytes(shape, dtype), np.uint8), shape, dtype)


def aligned_bytes(shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    """The bytes in which there is room for an array that begins at a cache line."""
    return math.prod(shape) * dtype.itemsize + _LINE


def aligned_in(memory: Array, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """An array that begins at the first cache line of `memory`, which is bytes."""
    start = -address(memory) % _LINE
    return memory[start : start + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


def as_input(info: ArrayInfo, dtype: np.dtype[Any], value: object) -> Array:
    """A C-contiguous, aligned array of this dtype: the value's own memory, or a copy of it.

    Takes NumPy arrays, what speaks DLPack or the buffer protocol or has `__array__`, numbers and
    nested sequences of them. Raises InputError for another dtype; only numbers and sequences, which
    have none of their own, are converted.
    """
    if isinstance(value, (str, Mapping)):  # of another runtime's calls: names of outputs, a dict
        raise InputError(
            f"Input '{info.name}' is a {type(value).__name__}, expected an array of {info.dtype}. "
            f"Inputs by name are run({{'{info.name}': array}}), or model({info.name}=array)."
        )
    array = value if isinstance(value, np.ndarray) else _as_array(info, dtype, value)
    if array.dtype != dtype and array.dtype.newbyteorder("=") != dtype:
        raise InputError(
            f"Input '{info.name}' has dtype {array.dtype}, expected {info.dtype}. "
            f"Convert it, for example with .astype('{dtype}')."
        )
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise InputError(
            f"Input '{info.name}' has masked elements. Give them a value, for example with "
            ".filled(0)."
        )
    # ascontiguousarray would make a vector of a scalar.
    return np.require(array, dtype, ["C", "A"]) if array.ndim else array.astype(dtype)


def _as_array(info: ArrayInfo, dtype: np.dtype[Any], value: object) -> Array:
    try:
        if hasattr(value, "__dlpack__"):
            return _from_dlpack(value)
        array = np.asarray(value)
        if not isinstance(value, (bool, int, float, list, tuple)):
            return array
        if array.size and not np.can_cast(array.dtype, dtype, "same_kind"):
            return array
        return np.asarray(value, dtype)
    except (TypeError, ValueError, OverflowError, BufferError, RuntimeError) as error:
        raise InputError(
            f"Input '{info.name}' is not an array of {info.dtype} ({type(value).__name__}): {error}"
        ) from None


def _from_dlpack(value: Any) -> Array:
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError):
        # NumPy's DLPack knows no read-only memory of older producers and no bfloat16.
        if hasattr(value, "__array__"):
            return np.asarray(value)
        raise


def check_output(
    info: ArrayInfo,
    dtype: np.dtype[Any],
    shape: Sequence[int],
    array: object,
    axis: int | None = None,
) -> None:
    """Raises InputError where a run cannot write this output into the caller's array, which may be
    the first places along an `axis` of a larger one."""
    problem = ""
    if not isinstance(array, np.ndarray):
        problem = f"is a {type(array).__name__}, expected a NumPy array"
    elif array.dtype != dtype:
        problem = f"has dtype {array.dtype}, expected {info.dtype}"
    elif array.shape != tuple(shape):
        problem = f"has shape {format_shape(array.shape)}, expected {format_shape(shape)}"
        if axis is not None and array.shape[axis : axis + 1] < (shape[axis],):
            problem += ": there is no room for what is new"
    elif axis is not None and places_along(array, axis) is None:
        problem = f"is not the first places along axis {axis} of an array"
    elif not (array.flags.c_contiguous or axis is not None):
        problem = "is not contiguous in memory"
    elif not array.flags.aligned:
        problem = f"does not begin at a multiple of {dtype.alignment} bytes"
    elif not array.flags.writeable:
        problem = "is read-only"
    if problem:
        raise InputError(f"The array in out for output '{info.name}' {problem}.")


def check_apart(
    outputs: Sequence[tuple[str, Array]],
    inputs: Sequence[tuple[str, Array]],
    updates: Collection[tuple[str, str]],
) -> None:
    """Raises InputError where an array to write to overlaps an input or another output.

    An output may be the very memory of an input if `updates` has the pair.
    """
    ranges = [(*extent(array), name, False) for name, array in inputs]
    ranges += [(*extent(array), name, True) for name, array in outputs]
    ranges.sort(key=lambda found: found[:2])
    reached: list[tuple[int, int, str, bool]] = []  # those that may reach the next one
    for start, end, name, is_output in ranges:
        if start == end:
            continue
        reached = [found for found in reached if found[1] > start]
        for other_start, other_end, other, other_is_output in reached:
            if not (is_output or other_is_output):
                continue
            pair = (name, other) if is_output else (other, name)
            is_same = (start, end) == (other_start, other_end)
            if is_same and is_output != other_is_output and pair in updates:
                continue
            raise InputError(
                f"The array in out for output '{pair[0]}' overlaps that of '{pair[1]}'."
            )
        reached.append((start, end, name, is_output))


def are_apart(ranges: list[tuple[int, int]]) -> bool:
    """Whether no two ranges of memory meet; where they do, `check_apart` knows if they may."""
    ranges.sort()
    reached = 0
    for start, end in ranges:
        if start < reached:
            return False
        reached = end
    return True


def extent(array: Array) -> tuple[int, int]:
    """Where the array's elements begin in memory and end; other things may be between them."""
    if array.flags.c_contiguous or not array.size:
        start = address(array)
        return start, start + array.nbytes
    start = array.__array_interface__["data"][0]
    steps = [(size - 1) * stride for size, stride in zip(array.shape, array.strides, strict=True)]
    last = sum(step for step in steps if step > 0)
    return start + sum(steps) - last, start + last + array.itemsize


def copy_from(where: int, array: Array) -> None:
    """Copies what begins at this address, of an array like this one, to it."""
    ctypes.memmove(address(array), where, array.nbytes)


def first_places(array: Array, axis: int, count: int) -> Array:
    """The part of an array that is its first places along an axis."""
    return array[(*(slice(None),) * axis, slice(count))]


def places_along(array: Array, axis: int) -> int | None:
    """How many places an array has along an axis of which it is the first ones: as many as it has
    itself, or more. None where it does not lie in memory so."""
    found = _places_along(array.shape, array.strides, array.itemsize, axis)
    # Of an array without elements, NumPy's strides may say anything.
    return found if array.size else max(found or 0, array.shape[axis])


@lru_cache(256)
def _places_along(
    shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int, axis: int
) -> int | None:
    block = itemsize
    for size, stride in zip(shape[:axis:-1], strides[:axis:-1], strict=True):
        if size > 1 and stride != block:
            return None
        block *= size
    if shape[axis] > 1 and strides[axis] != block:
        return None
    if axis == 0:
        return shape[0]  # nothing in the array tells what lies behind it
    found = guess = 0
    for size, stride in zip(shape[axis - 1 :: -1], strides[axis - 1 :: -1], strict=True):
        count, rest = divmod(stride, block or 1)
        is_possible = not rest and count >= shape[axis]
        if size == 1:
            # Such a stride says nothing certain, but it may be all there is.
            guess = guess or (count if is_possible else 0)
        elif not is_possible or found not in (0, count):
            return None
        else:
            found = count
        block *= size
    return found or guess or shape[axis]
