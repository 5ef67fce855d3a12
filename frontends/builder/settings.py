"""What the numbers in a layer's description may be, said where the layer is made. They may be
NumPy's."""

from __future__ import annotations

import math
import operator
from numbers import Integral

from bessemer.compiler.errors import CompileError
from bessemer.frontends.given_sizes import is_number


def require_counts(layer: object, least: int, *names: str) -> None:
    """Raises CompileError unless these settings are whole numbers from `least` on, one or a tuple
    of them; or None, where that is a default. They are plain ints then, for shapes."""
    for name in names:
        given = getattr(layer, name)
        are_several = isinstance(given, (tuple, list))
        entries = given if are_several else (given,)
        if given is None and getattr(type(layer), name, 0) is None:
            continue
        if not all(_is_count(entry) and entry >= least for entry in entries):
            _refuse(layer, name, f"whole numbers from {least} on are possible")
        plain = tuple(map(operator.index, entries))
        object.__setattr__(layer, name, plain if are_several else plain[0])


def require_share(layer: object, name: str, *, below_one: bool = False) -> None:
    """Raises CompileError unless a setting is from 0 to 1, or below 1."""
    given = getattr(layer, name)
    if not is_number(given) or not 0 <= given <= 1 or (below_one and given == 1):
        _refuse(layer, name, f"numbers from 0 to {'below 1' if below_one else '1'} are possible")


def require_epsilon(layer: object) -> None:
    """Raises CompileError unless what keeps a norm from dividing by zero is a number from 0 on."""
    given = getattr(layer, "epsilon")  # noqa: B009  (several kinds of layers have it)
    if not is_number(given) or not 0 <= given < math.inf:
        _refuse(layer, "epsilon", "numbers from 0 on are possible")


def _is_count(entry: object) -> bool:
    return isinstance(entry, Integral) and not isinstance(entry, bool)


def _refuse(layer: object, name: str, wanted: str) -> None:
    given = getattr(layer, name)
    raise CompileError(f"{type(layer).__name__}: {name} is {given!r}; {wanted}.")
