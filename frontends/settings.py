"""What the numbers in the description of a layer, an optimizer or a schedule may be, checked where
it is made. They may be NumPy's."""

from __future__ import annotations

import math
import operator
from numbers import Integral
from typing import TypeGuard

from bessemer.compiler.errors import CompileError
from bessemer.frontends.given_sizes import is_number


def require_counts(owner: object, least: int, *names: str) -> None:
    """Raises CompileError unless these settings are whole numbers from `least` on, one or a tuple
    of them; or None, where that is a default. They are plain ints then, for shapes."""
    for name in names:
        given = getattr(owner, name)
        are_several = isinstance(given, (tuple, list))
        entries = given if are_several else (given,)
        if given is None and getattr(type(owner), name, 0) is None:
            continue
        if not all(_is_count(entry) and entry >= least for entry in entries):
            _refuse(owner, name, f"whole numbers from {least} on are possible")
        plain = tuple(map(operator.index, entries))
        object.__setattr__(owner, name, plain if are_several else plain[0])


def require_share(owner: object, name: str, *, below_one: bool = False) -> None:
    """Raises CompileError unless a setting is from 0 to 1, or below 1."""
    given = getattr(owner, name)
    if not is_number(given) or not 0 <= given <= 1 or (below_one and given == 1):
        _refuse(owner, name, f"numbers from 0 to {'below 1' if below_one else '1'} are possible")


def require_not_negative(owner: object, *names: str) -> None:
    """Raises CompileError unless these settings are finite numbers from 0 on."""
    for name in names:
        require_number(type(owner).__name__, name, getattr(owner, name))


def require_finite(owner: object, *names: str) -> None:
    """Raises CompileError unless these settings are finite numbers."""
    for name in names:
        given = getattr(owner, name)
        if not is_number(given) or not math.isfinite(given):
            _refuse(owner, name, "finite numbers are possible")


def require_count(owner: str, name: str, given: object, least: int) -> None:
    """Raises CompileError unless an argument of a function is a whole number from `least` on."""
    if not _is_count(given) or given < least:
        wanted = f"whole numbers from {least} on are possible"
        raise CompileError(f"{owner}: {name} is {given!r}; {wanted}.")


def require_number(owner: str, name: str, given: object) -> None:
    """Raises CompileError unless an argument of a function is a finite number from 0 on."""
    if not is_number(given) or not 0 <= given < math.inf:
        raise CompileError(f"{owner}: {name} is {given!r}; numbers from 0 on are possible.")


def _is_count(entry: object) -> TypeGuard[int]:
    return isinstance(entry, Integral) and not isinstance(entry, bool)


def _refuse(owner: object, name: str, wanted: str) -> None:
    given = getattr(owner, name)
    raise CompileError(f"{type(owner).__name__}: {name} is {given!r}; {wanted}.")
