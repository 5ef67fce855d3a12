"""What several operators want of their inputs, as checks that raise CompileError."""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import DType, TensorType


def require(condition: bool, message: str) -> None:
    """Raises CompileError with the message unless the condition holds."""
    if not condition:
        raise CompileError(message)


def listed(types: Sequence[TensorType]) -> str:
    """The types, for a message."""
    return ", ".join(str(type) for type in types)


def require_dtype(name: str, type: TensorType, allowed: Sequence[DType]) -> None:
    """The element type is one of those allowed."""
    if type.dtype not in allowed:
        names = ", ".join(str(dtype) for dtype in allowed)
        raise CompileError(
            f"{name} works on {names}, but its input is {type}. Cast the input first."
        )


def require_one_type(name: str, types: Sequence[TensorType]) -> None:
    """All element types and all shapes are equal."""
    if any(type.dtype != types[0].dtype for type in types):
        raise CompileError(
            f"{name} wants one element type, but its inputs are {listed(types)}. Cast them first."
        )
    require_one_shape(name, types)


def require_one_shape(name: str, types: Sequence[TensorType]) -> None:
    """All shapes are equal."""
    if any(type.shape != types[0].shape for type in types):
        raise CompileError(
            f"{name} wants equal shapes, but its inputs are {listed(types)}. Broadcast them first."
        )


def require_axis(name: str, axis: int, type: TensorType) -> None:
    """The axis is one of the tensor's, counted from 0."""
    if not 0 <= axis < type.rank:
        raise CompileError(
            f"{name} has axis {axis}, but its input {type} has {type.rank} axes, counted from 0."
        )


def require_entries(name: str, attribute: str, entries: Sequence[object], count: int) -> None:
    """An attribute has one entry for each axis it speaks of."""
    require(
        len(entries) == count,
        f"{name} wants {count} {attribute}, one an axis, but got {len(entries)}: {tuple(entries)}.",
    )
