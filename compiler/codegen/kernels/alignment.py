"""Finds powers of two that divide index arithmetic, whatever values its symbols have."""

from __future__ import annotations

import math
from collections.abc import Mapping

from bessemer.compiler.ir.dims import Atom, Max, Min, Mod, Size

LARGEST = 1 << 10
"""What is looked for is smaller: vectors of 64 bytes, steps of a few vectors."""


def largest_divisor(size: Size, known: Mapping[Atom, int]) -> int:
    """A number that divides the size, at most LARGEST (which is also returned for 0).

    `known` are divisors of single atoms.
    """
    if isinstance(size, int):
        return math.gcd(size, LARGEST)
    found = 0
    for monomial, coefficient in size.terms.items():
        term = coefficient
        for atom, power in monomial:
            term *= _of_atom(atom, known) ** power
        found = math.gcd(found, term)
    return math.gcd(found, LARGEST)


def _of_atom(atom: Atom, known: Mapping[Atom, int]) -> int:
    if atom in known:
        return known[atom]
    match atom:
        case Min(a, b) | Max(a, b) | Mod(a, b):
            return math.gcd(largest_divisor(a, known), largest_divisor(b, known))
        case _:
            return 1
