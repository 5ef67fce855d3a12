"""Evaluates sizes, given the values of their symbols."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from bessemer.compiler.ir.dims import (
    Atom,
    FloorDiv,
    Max,
    Min,
    Mod,
    Size,
    Symbol,
    rename,
    symbol_names,
)


def evaluate(size: Size, value_of: Callable[[Atom], int]) -> int:
    """The integer that `size` is when `value_of` tells the leaves (symbols and foreign atoms)."""
    if isinstance(size, int):
        return size
    result = 0
    for monomial, coefficient in size.terms.items():
        term = coefficient
        for factor, power in monomial:
            term *= _evaluate_atom(factor, value_of) ** power
        result += term
    return result


def _evaluate_atom(factor: Atom, value_of: Callable[[Atom], int]) -> int:
    match factor:
        case FloorDiv(a, b):
            return evaluate(a, value_of) // evaluate(b, value_of)
        case Mod(a, b):
            return evaluate(a, value_of) % evaluate(b, value_of)
        case Min(a, b):
            return min(evaluate(a, value_of), evaluate(b, value_of))
        case Max(a, b):
            return max(evaluate(a, value_of), evaluate(b, value_of))
        case _:
            return value_of(factor)


def evaluate_named(size: Size, values: Mapping[str, int]) -> int:
    """The integer that `size` is under values of its symbols, by name."""
    return evaluate(size, lambda leaf: values[cast(Symbol, leaf).name])


def define(values: Mapping[str, int], definitions: Mapping[str, Size]) -> dict[str, int]:
    """The values, and with them those of names that are defined by them, or by names before; a
    definition that wants something else is left out."""
    found = dict(values)
    for name, size in definitions.items():
        if symbol_names(size) <= found.keys():
            found[name] = evaluate_named(size, found)
    return found


def expanded(definitions: Mapping[str, Size]) -> dict[str, Size]:
    """The definitions, each in terms of names that have none; they may name those before them."""
    found: dict[str, Size] = {}
    for name, definition in definitions.items():
        found[name] = rename(definition, found)
    return found
