"""The arguments of a call, given by name or in order, in the order of the signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bessemer.runtime.arrays import Array
from bessemer.runtime.artifact import ArrayInfo
from bessemer.runtime.errors import InputError

Inputs = Mapping[str, Any] | Sequence[Any]
Outputs = Array | Mapping[str, Array] | Sequence[Array | None]


def in_order(names: Sequence[str], inputs: Inputs) -> list[Any]:
    """The inputs, given by name or in order, in order; raises InputError."""
    if type(inputs) is dict and len(inputs) == len(names):
        try:
            return [inputs[name] for name in names]
        except KeyError:
            pass
    if isinstance(inputs, Mapping):
        missing = [name for name in names if name not in inputs]
        extra = [str(name) for name in inputs if name not in names]
        if missing or extra:
            raise InputError(_names_problem(names, missing, extra))
        return [inputs[name] for name in names]
    if not isinstance(inputs, Sequence):  # a bare array is none
        raise InputError(
            f"The inputs are a {type(inputs).__name__}: expected a dict by name or a list, such as "
            f"run({{'{next(iter(names), 'x')}': array}})."
        )
    if len(inputs) != len(names):
        raise InputError(
            f"{len(inputs)} inputs were given, expected {len(names)}: {_quoted(names)}."
        )
    return list(inputs)


def outputs_in_order(infos: Sequence[ArrayInfo], out: Any) -> list[Any]:
    """The arrays to write to, None where one is to be made; raises InputError."""
    if out is None:
        return [None] * len(infos)
    names = [info.name for info in infos]
    if isinstance(out, Mapping):
        if extra := [str(name) for name in out if name not in names]:
            raise InputError(f"out has {_quoted(extra)}; the outputs are {_quoted(names)}.")
        return [out.get(name) for name in names]
    arrays = list(out) if isinstance(out, Sequence) else [out]
    if len(arrays) != len(names):
        raise InputError(f"out has {len(arrays)} arrays, the outputs are {_quoted(names)}.")
    return arrays


def _names_problem(names: Sequence[str], missing: Sequence[str], extra: Sequence[str]) -> str:
    parts = []
    if missing:
        parts.append(f"{_quoted(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    if extra:
        parts.append(f"{_quoted(extra)} {'is' if len(extra) == 1 else 'are'} unknown")
    return f"Of the inputs, {' and '.join(parts)}. The model's inputs are {_quoted(names)}."


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
