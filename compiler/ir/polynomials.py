"""Polynomials with integer coefficients: maps from monomials to coefficients that are not 0.

A monomial is a product of powers of atoms; what an atom stands for does not matter here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping

Monomial = tuple[tuple[Hashable, int], ...]  # (atom, power), ordered by str(atom)
Terms = Mapping[Monomial, int]


def multiply(left: Terms, right: Terms) -> dict[Monomial, int]:
    """The product; its coefficients may be 0."""
    terms: dict[Monomial, int] = {}
    for a, x in left.items():
        for b, y in right.items():
            joined = _join(a, b)
            terms[joined] = terms.get(joined, 0) + x * y
    return terms


def has_factor_of(kinds: Collection[type], terms: Iterable[Monomial]) -> bool:
    """Whether an atom of one of these types is a factor of a term."""
    for monomial in terms:
        for factor, _ in monomial:
            if type(factor) in kinds:
                return True
    return False


def divide(dividend: Terms, divisor: Terms) -> dict[Monomial, int] | None:
    """The quotient, None if a polynomial times the divisor does not give the dividend.

    Long division, leading terms by `order`; a quotient of more than 16 terms is not found unless
    the divisor is a single term.
    """
    if len(divisor) == 1:
        return _divide_terms(dividend, *next(iter(divisor.items())))
    quotient: dict[Monomial, int] = {}
    rest = {monomial: coefficient for monomial, coefficient in dividend.items() if coefficient}
    lead, lead_coefficient = max(divisor.items(), key=order)
    for _ in range(16):
        if not rest:
            break
        monomial, coefficient = max(rest.items(), key=order)
        power = _cancel(monomial, lead)
        if power is None or coefficient % lead_coefficient:
            return None
        step = coefficient // lead_coefficient
        quotient[power] = quotient.get(power, 0) + step
        for other, factor in divisor.items():
            joined = _join(other, power)
            rest[joined] = rest.get(joined, 0) - step * factor
            if not rest[joined]:
                del rest[joined]
    return None if rest else quotient


def _divide_terms(dividend: Terms, by: Monomial, number: int) -> dict[Monomial, int] | None:
    quotient: dict[Monomial, int] = {}
    for monomial, coefficient in dividend.items():
        power = _cancel(monomial, by)
        if power is None or coefficient % number:
            return None
        quotient[power] = coefficient // number
    return quotient


def common_factor(polynomials: Iterable[Terms]) -> tuple[Monomial, int]:
    """The largest monomial, and the largest number, that divide every term of all of them."""
    shared: dict[Hashable, int] | None = None
    number = 0
    for terms in polynomials:
        for monomial, coefficient in terms.items():
            number = math.gcd(number, coefficient)
            powers = dict(monomial)
            if shared is None:
                shared = powers
            elif shared:
                least = {a: min(power, powers.get(a, 0)) for a, power in shared.items()}
                shared = {a: power for a, power in least.items() if power}
    return tuple((shared or {}).items()), number


def order(term: tuple[Monomial, int]) -> tuple[int, str]:
    """By which the terms of a polynomial are sorted, the leading one last: degree, then text."""
    monomial = term[0]
    return sum(power for _, power in monomial), str([str(a) for a, _ in monomial])


def format_terms(terms: Terms) -> str:
    """The text of a polynomial, the leading term first."""
    parts: list[str] = []
    for monomial, coefficient in sorted(terms.items(), key=order, reverse=True):
        factors = [str(factor) for factor, power in monomial for _ in range(power)]
        if abs(coefficient) != 1 or not factors:
            factors.insert(0, str(abs(coefficient)))
        sign = "-" if coefficient < 0 else "+"
        parts.append(f"{sign}{'*'.join(factors)}")
    return "".join(parts).removeprefix("+")


def _join(left: Monomial, right: Monomial) -> Monomial:
    if not left or not right:
        return left or right
    powers = dict(left)
    for factor, power in right:
        powers[factor] = powers.get(factor, 0) + power
    return tuple(sorted(powers.items(), key=lambda item: str(item[0])))


def _cancel(monomial: Monomial, by: Monomial) -> Monomial | None:
    powers = dict(monomial)
    for factor, power in by:
        left = powers.get(factor, 0) - power
        if left < 0:
            return None
        if left:
            powers[factor] = left
        else:
            del powers[factor]
    return tuple(sorted(powers.items(), key=lambda item: str(item[0])))
