"""Binds symbols: computes their values from the shapes of the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bessemer.runtime.artifact import ArrayInfo, Signature
from bessemer.runtime.errors import InputError
from bessemer.runtime.shapes import evaluate, format_shape


def bind_symbols(signature: Signature, shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """The value of every input symbol, for inputs of these shapes.

    A symbol takes the first size that it stands at alone; then every size is compared. Raises
    InputError naming the input, the axis, what was given and what was expected.
    """
    symbols: dict[str, int] = {}
    origins: dict[str, str] = {}
    names = set(signature.symbols[: signature.input_symbols])
    # Inputs alike, such as a decoder's caches, are looked at once: the first is the one to name.
    alike: dict[tuple[tuple[int | str, ...], tuple[int, ...]], ArrayInfo] = {}
    for info, shape in zip(signature.inputs, shapes, strict=True):
        # One element is a scalar, in however many axes it comes (numpy.ascontiguousarray adds one).
        is_scalar = not info.shape and all(size == 1 for size in shape)
        alike.setdefault((info.shape, () if is_scalar else tuple(shape)), info)
    kinds = [(info, shape) for (_, shape), info in alike.items()]
    for info, shape in kinds:
        if len(shape) != len(info.shape):
            raise InputError(
                f"Input '{info.name}' has shape {format_shape(shape)} of rank {len(shape)}, "
                f"expected {format_shape(info.shape)} of rank {len(info.shape)}."
            )
        for size, given in zip(info.shape, shape, strict=True):
            if isinstance(size, str) and size in names and size not in symbols:
                symbols[size] = given
                origins[size] = info.name
    for info, shape in kinds:
        for axis, (size, given) in enumerate(zip(info.shape, shape, strict=True)):
            expected = evaluate(size, symbols)
            if expected != given:
                raise _mismatch(info, shape, axis, expected, origins)
    return symbols


def _mismatch(
    info: ArrayInfo, shape: Sequence[int], axis: int, expected: int, origins: Mapping[str, str]
) -> InputError:
    size = info.shape[axis]
    wanted = str(size)
    if isinstance(size, str):
        wanted = f"{size}, which is {expected}"
        if size in origins:
            wanted += f" in '{origins[size]}'"
    remedy = ""
    if isinstance(size, str) and 1 in (shape[axis], expected):
        # Dimensions that the model names differently are one here if they meet.
        remedy = " Where a dimension of the model is always 1, compile with dims={'its name': 1}."
    return InputError(
        f"Input '{info.name}' has shape {format_shape(shape)}, expected "
        f"{format_shape(info.shape)}: axis {axis} is {shape[axis]}, not {wanted}.{remedy}"
    )
