"""What the numbers in a layer's description may be, said where the layer is made."""

from __future__ import annotations

from numbers import Integral

from bessemer.compiler.errors import CompileError


def require_counts(layer: object, least: int, *names: str) -> None:
    """Raises CompileError unless these settings are whole numbers from `least` on, one or a tuple
    of them; or None, where that is a default."""
    for name in names:
        given = getattr(layer, name)
        entries = given if isinstance(given, (tuple, list)) else (given,)
        if given is None and getattr(type(layer), name, 0) is None:
            continue
        if not all(_is_count(entry) and entry >= least for entry in entries):
            _refuse(layer, name, f"whole numbers from {least} on are possible")


def require_share(layer: object, name: str, *, below_one: bool = False) -> None:
    """Raises CompileError unless a setting is from 0 to 1, or below 1."""
    given = getattr(layer, name)
    if not isinstance(given, (int, float)) or not 0 <= given <= 1 or (below_one and given == 1):
        _refuse(layer, name, f"numbers from 0 to {'below 1' if below_one else '1'} are possible")


def require_epsilon(layer: object) -> None:
    """Raises CompileError unless what keeps a norm from dividing by zero is a small number."""
    given = getattr(layer, "epsilon")  # noqa: B009  (several kinds of layers have it)
    if not isinstance(given, (int, float)) or not 0 <= given <= 1:
        _refuse(layer, "epsilon", "small numbers that are not negative are possible")


def _is_count(entry: object) -> bool:
    return isinstance(entry, Integral) and not isinstance(entry, bool)


def _refuse(layer: object, name: str, wanted: str) -> None:
    given = getattr(layer, name)
    raise CompileError(f"{type(layer).__name__}: {name} is {given!r}; {wanted}.")
