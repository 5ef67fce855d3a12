"""Sizes and numbers that a caller gives, which may be of any type."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable, Mapping
from numbers import Real
from typing import TypeGuard

from bessemer.compiler.errors import CompileError


def given_size(size: object, where: str) -> int:
    """The number, which may be one of NumPy's; `where` begins the sentence that tells of another.

    Raises CompileError.
    """
    try:
        number = operator.index(size)  # type: ignore[arg-type]  # that is what is found out
    except TypeError:
        number = -1
    if number < 0:
        raise CompileError(f"{where} {size!r}; a size is a number that is not negative.")
    return number


def given_sizes(sizes: object, argument: str) -> dict[str, int]:
    """Sizes by their symbols, of an argument of this name; None is none. Raises CompileError."""
    if sizes is None:
        return {}
    if not isinstance(sizes, Mapping) or not all(isinstance(name, str) for name in sizes):
        raise CompileError(f"{argument}={sizes!r} does not map names to sizes, as {{'batch': 1}}.")
    return {name: given_size(size, f"{argument}: {name!r} is") for name, size in sizes.items()}


def check_dimensions(label: str, names: Iterable[str], symbols: Collection[str]) -> None:
    """Raises CompileError for a name that is none of a model's symbols; `label` is the model's."""
    for name in names:
        if name not in symbols:
            listed = ", ".join(symbols) or "none"
            raise CompileError(
                f"{label}: no dimension is called '{name}'; its symbolic dimensions: {listed}"
            )


def is_number(given: object) -> TypeGuard[float]:
    """Whether it is a real number, which may be one of NumPy's."""
    return isinstance(given, Real)


def given_seconds(seconds: object) -> float:
    """The seconds to tune for. Raises CompileError."""
    if not is_number(seconds) or not 0 <= seconds < math.inf:
        raise CompileError(f"tune={seconds!r} is not a number of seconds.")
    return seconds
