"""Integers known at compile time, at run time, or in a loop: one algebra for shapes and indices.

A `Size` is a Python int, or a `Dim`: a polynomial with integer coefficients over atoms. An atom is
a symbol (`batch`: a dimension bound at run time; `i0`: a loop's index, with its extent), a floor
division, remainder, minimum or maximum that could not be simplified, or any other hashable object
that stands for an integer (an expression's value, see expr.py).
Symbols are never negative; a symbol with an extent is also below it. This is all that the
simplifier knows, and enough to cancel the index arithmetic of views: (i*W + j) // W is i.
A Dim without atoms does not exist: every operation returns an int when the result is constant.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from math import gcd
from typing import Union

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import polynomials
from bessemer.compiler.ir.polynomials import Monomial, Terms

Size = Union[int, "Dim"]
Atom = Hashable
RESERVED = frozenset({"min", "max", "true", "false", "none", "inf", "nan"})
"""Names that mean something else in the text form."""


@dataclass(frozen=True)
class Symbol:
    """A named non-negative integer; with an `extent` it is also smaller than that."""

    name: str
    extent: Size | None = None

    def __str__(self) -> str:
        return _quoted(self.name)

    def __hash__(self) -> int:
        return hash(self.name)


@cache
def _quoted(name: str) -> str:
    # Names from a model may be anything; those that would not read back are quoted.
    if name.isidentifier() and name not in RESERVED:
        return name
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


@dataclass(frozen=True)
class FloorDiv:
    """numerator // denominator, rounded down; the denominator is positive."""

    numerator: Size
    denominator: Size

    def __str__(self) -> str:
        return f"({_factor(self.numerator)}//{_factor(self.denominator)})"


@dataclass(frozen=True)
class Mod:
    """numerator - denominator * (numerator // denominator); the denominator is positive."""

    numerator: Size
    denominator: Size

    def __str__(self) -> str:
        return f"({_factor(self.numerator)}%{_factor(self.denominator)})"


@dataclass(frozen=True)
class Min:
    """The smaller of two."""

    left: Size
    right: Size

    def __str__(self) -> str:
        return f"min({format_size(self.left)}, {format_size(self.right)})"


@dataclass(frozen=True)
class Max:
    """The larger of two."""

    left: Size
    right: Size

    def __str__(self) -> str:
        return f"max({format_size(self.left)}, {format_size(self.right)})"


class Dim:
    """A polynomial: a map from monomials to integer coefficients. Immutable and hashable."""

    __slots__ = ("_atoms", "_hash", "_text", "is_joined", "terms")

    def __init__(self, terms: Terms, is_joined: bool = False) -> None:
        """`is_joined`: no quotient or remainder in it is known to make a whole with other terms."""
        self.terms = terms
        self.is_joined = is_joined
        self._hash: int | None = None
        self._text: str | None = None
        self._atoms: frozenset[Atom] | None = None

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(frozenset(self.terms.items()))
        return self._hash

    @property
    def atoms(self) -> frozenset[Atom]:
        """The leaves: symbols and foreign atoms, also inside divisions."""
        if self._atoms is None:
            found: set[Atom] = set()
            for monomial in self.terms:
                for factor, _ in monomial:
                    match factor:
                        case FloorDiv(a, b) | Mod(a, b) | Min(a, b) | Max(a, b):
                            found |= atoms(a) | atoms(b)
                        case _:
                            found.add(factor)
            self._atoms = frozenset(found)
        return self._atoms

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Dim):
            return False
        return self is other or self.terms == other.terms

    # With what is not a size, a tensor being written for instance, the other side knows what to do.

    def __add__(self, other: Size) -> Size:
        return _add(self, other) if _is_size(other) else NotImplemented

    def __radd__(self, other: int) -> Size:
        return _add(self, other)

    def __sub__(self, other: Size) -> Size:
        return _add(self, -1 * other) if _is_size(other) else NotImplemented

    def __rsub__(self, other: int) -> Size:
        return -1 * _add(self, -1 * other)

    def __neg__(self) -> Size:
        return -1 * self

    def __mul__(self, other: Size) -> Size:
        return _multiply(self, other) if _is_size(other) else NotImplemented

    def __rmul__(self, other: int) -> Size:
        return _multiply(self, other)

    def __floordiv__(self, other: Size) -> Size:
        return floordiv(self, other)

    def __rfloordiv__(self, other: int) -> Size:
        return floordiv(other, self)

    def __mod__(self, other: Size) -> Size:
        return mod(self, other)

    def __rmod__(self, other: int) -> Size:
        return mod(other, self)

    def __str__(self) -> str:
        if self._text is None:
            self._text = polynomials.format_terms(self.terms)
        return self._text

    __repr__ = __str__


def symbol(name: str, extent: Size | None = None) -> Dim:
    """The Size that is one symbol."""
    return atom(Symbol(name, extent))


def atom(value: Atom) -> Dim:
    """The Size that is one atom."""
    return Dim({((value, 1),): 1}, is_joined=True)


def number(size: Size) -> int:
    """The number that a size is; raises InternalError for one that has symbols."""
    if isinstance(size, Dim):
        raise InternalError(f"the size {size} is not known here")
    return int(size)


def as_atom(size: Size) -> Atom | None:
    """The atom that `size` is, or None when it is anything else."""
    if isinstance(size, Dim) and len(size.terms) == 1:
        ((monomial, coefficient),) = size.terms.items()
        if coefficient == 1 and len(monomial) == 1 and monomial[0][1] == 1:
            return monomial[0][0]
    return None


def _is_size(x: object) -> bool:
    return isinstance(x, (int, Dim)) or hasattr(x, "__index__")


def _terms(size: Size) -> Terms:
    if isinstance(size, Dim):
        return size.terms
    return {(): int(size)} if size else {}


def _normal(terms: Terms) -> Size:
    kept = {monomial: c for monomial, c in terms.items() if c}
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    return Dim(kept)


def _add(left: Dim, right: Size) -> Size:
    if isinstance(right, int) and right == 0:
        return left
    terms = dict(left.terms)
    for monomial, coefficient in _terms(right).items():
        terms[monomial] = terms.get(monomial, 0) + coefficient
    # What makes a whole with others does so whatever number is added.
    is_joined = left.is_joined and not isinstance(right, Dim)
    if not is_joined and polynomials.has_factor_of((FloorDiv, Mod), terms):
        for kind in (Mod, FloorDiv):
            for found in _terms_with(kind, terms):
                joined = _rejoin(terms, *found)
                if joined is not None:
                    return joined
    result = _normal(terms)
    if isinstance(result, Dim):
        result.is_joined = True
    return result


def _terms_with(
    kind: type[FloorDiv | Mod], terms: Terms
) -> Iterator[tuple[Monomial, FloorDiv | Mod, Size]]:
    """The terms with an atom of a kind as a factor: the term, the atom, and what it is times."""
    for monomial, coefficient in terms.items():
        for factor, power in monomial:
            if type(factor) is kind and power == 1:
                others = tuple(pair for pair in monomial if pair[0] != factor)
                yield monomial, factor, _normal({others: coefficient})


def _rejoin(terms: Terms, monomial: Monomial, part: FloorDiv | Mod, times: Size) -> Size | None:
    """x % n + n * (x // n) is x, and x - x % n is n * (x // n). The halves of a number are x // 2
    and (x + 1) // 2: both are x, and x without one of them is the other."""
    for whole, joined in _joins(part, times):
        if all(terms.get(other) == count for other, count in whole.items()):
            left = {m: c for m, c in terms.items() if m not in whole and m != monomial}
            return joined + _normal(left)
    return None


@lru_cache(maxsize=65536)
def _joins(part: FloorDiv | Mod, times: Size) -> tuple[tuple[Terms, Size], ...]:
    """What may stand beside `times * part`, and what it becomes with it."""
    x, n = part.numerator, part.denominator
    forms: Iterable[tuple[Size, Size]] = ()
    if isinstance(part, Mod):
        forms = _remainder_forms(x, n)
    elif n == 2:
        forms = ((x, floordiv(x + 1, 2)),)
    found = []
    for plain, other in forms:
        for there, joined in ((other, plain), (-1 * plain, -1 * other)):
            constant = _terms(there).get((), 0)
            if whole := _terms(times * (there - constant)):
                found.append((whole, times * (joined - constant)))
    return tuple(found)


def _remainder_forms(x: Size, n: Size) -> Iterator[tuple[Size, Size]]:
    """Pairs of which x % n is the difference: x and n * (x // n). What fills up, 3*h % 4, is also
    less than h up to the next multiple: 4 * ((h + 3) // 4) - h. Of halves, h % 2 is both."""
    fills = isinstance(n, int) and all(2 * c > n for m, c in _terms(x).items() if m)
    if not fills:
        yield x, n * floordiv(x, n)
    if isinstance(n, int) and (fills or n == 2):
        missing = _normal({m: n - c for m, c in _terms(x).items()})
        yield -1 * missing, -n * floordiv(missing + n - 1, n)
    if fills:
        yield x, n * floordiv(x, n)


def _multiply(left: Size, right: Size) -> Size:
    if isinstance(right, int):
        left, right = right, left
    if isinstance(left, int):
        if left == 1 or left == 0 or isinstance(right, int):
            return right * left if isinstance(right, int) else (right if left else 0)
        terms = {monomial: left * c for monomial, c in right.terms.items()}
        return Dim(terms, right.is_joined)
    return _normal(polynomials.multiply(_terms(left), _terms(right)))


def product(sizes: Iterable[Size]) -> Size:
    """The product of sizes, 1 for none."""
    total: Size = 1
    for size in sizes:
        total = total * size
    return total


def total(sizes: Iterable[Size]) -> Size:
    """The sum of sizes, 0 for none."""
    result: Size = 0
    for size in sizes:
        result = result + size
    return result


def divide_exactly(size: Size, divisor: Size) -> Size | None:
    """`size / divisor` as a polynomial when every term divides, else None."""
    if isinstance(size, int) and isinstance(divisor, int):
        return size // divisor if divisor and size % divisor == 0 else None
    if divisor == 0:
        return None
    if size == divisor:
        return 1
    quotient = polynomials.divide(_terms(size), _terms(divisor))
    return None if quotient is None else _normal(quotient)


@lru_cache(maxsize=65536)
def floordiv(numerator: Size, denominator: Size) -> Size:
    """numerator // denominator, simplified; the denominator is taken to be positive."""
    if isinstance(denominator, int):
        if denominator <= 0:
            raise InternalError(f"division of {format_size(numerator)} by {denominator}")
        if isinstance(numerator, int):
            return numerator // denominator
        if denominator == 1:
            return numerator
    quotient, remainder = _split(numerator, denominator)
    if remainder == 0 or is_within(remainder, denominator):
        return quotient
    whole = _without_remainders(numerator, denominator)
    exact = None if whole == numerator else divide_exactly(whole, denominator)
    if exact is not None:
        return exact
    constant = _terms(remainder).get((), 0)
    inner = as_atom(remainder - constant)
    if (
        isinstance(inner, FloorDiv)
        and isinstance(inner.denominator, int)
        and isinstance(denominator, int)
    ):
        dividend = inner.numerator + constant * inner.denominator
        return quotient + floordiv(dividend, inner.denominator * denominator)
    dividend, divisor = _in_lowest_terms(remainder, denominator)
    if divisor != denominator:
        return quotient + floordiv(dividend, divisor)
    if isinstance(denominator, int) and (by_unit := _by_unit(remainder, denominator)):
        unit, number, _ = by_unit
        return quotient + floordiv(number, denominator // unit)
    if remainder == numerator or quotient == 0:
        return atom(FloorDiv(numerator, denominator))
    return quotient + floordiv(remainder, denominator)


@lru_cache(maxsize=65536)
def mod(numerator: Size, denominator: Size) -> Size:
    """The remainder of floordiv, never negative."""
    if isinstance(denominator, int):
        if denominator <= 0:
            raise InternalError(f"remainder of {format_size(numerator)} by {denominator}")
        if isinstance(numerator, int):
            return numerator % denominator
        if denominator == 1:
            return 0
    _, remainder = _split(numerator, denominator)
    if remainder == 0 or is_within(remainder, denominator):
        return remainder
    whole = _without_remainders(remainder, denominator)
    if whole != remainder:
        return mod(whole, denominator)
    factor = _common_factor(remainder, denominator)
    if factor != 1:
        dividend, divisor = (divide_exactly(size, factor) for size in (remainder, denominator))
        assert dividend is not None and divisor is not None
        return factor * mod(dividend, divisor)
    if isinstance(denominator, int) and (by_unit := _by_unit(remainder, denominator)):
        unit, number, rest = by_unit
        return unit * mod(number, denominator // unit) + rest
    return atom(Mod(remainder, denominator))


def _by_unit(size: Size, denominator: int) -> tuple[int, Size, Size] | None:
    """(unit, number, rest) with size = unit * number + rest, if there is a unit that divides the
    denominator and is above every rest: none goes across one of its multiples."""
    terms = _terms(size)
    units = {gcd(coefficient, denominator) for coefficient in terms.values()} - {1}
    for unit in sorted(units, reverse=True):
        rest = _normal({key: c for key, c in terms.items() if c % unit})
        if rest != 0 and is_within(rest, unit):
            return unit, _normal({k: c // unit for k, c in terms.items() if c % unit == 0}), rest
    return None


def _in_lowest_terms(numerator: Size, denominator: Size) -> tuple[Size, Size]:
    """Two sizes with the same quotient, rounded down: what divides both is cancelled. A constant
    need not divide: (4*n + 3) // 8 is n // 2, for the 3 never makes up for a whole 4."""
    constant = _terms(numerator).get((), 0)
    factor = _common_factor(numerator - constant, denominator)
    if constant and not isinstance(factor, int):
        factor = _common_factor(numerator, denominator)
    if factor == 1:
        return numerator, denominator
    dividend = divide_exactly(numerator - constant, factor)
    divisor = divide_exactly(denominator, factor)
    assert dividend is not None and divisor is not None
    return dividend + floordiv(constant, factor), divisor


def _common_factor(left: Size, right: Size) -> Size:
    """A size above 0 that divides every term of both. A symbol in it is not 0 where `right` is
    not, and nothing else is known of what it stands for than that it is not negative."""
    powers, number = polynomials.common_factor((_terms(left), _terms(right)))
    return product(
        (number, *(atom(a) for a, power in powers if _atom_is_nonnegative(a) for _ in range(power)))
    )


def _without_remainders(size: Size, divisor: Size) -> Size:
    """`size` with x - n * (x // n) in place of x % n, where n times its factor is a multiple of the
    divisor: then the division of both is one of x."""
    if isinstance(size, int):
        return size
    kept = dict(size.terms)
    added: Size = 0
    for monomial, part, times in _terms_with(Mod, size.terms):
        if monomial in kept and divide_exactly(times * part.denominator, divisor) is not None:
            del kept[monomial]
            plain, multiple = next(_remainder_forms(part.numerator, part.denominator))
            added = added + times * (plain - multiple)
    return _normal(kept) + added


def _split(numerator: Size, denominator: Size) -> tuple[Size, Size]:
    """(quotient, remainder) with numerator = quotient * denominator + remainder, term by term."""
    if not isinstance(denominator, int) and len(denominator.terms) > 1:
        exact = divide_exactly(numerator, denominator)
        return (exact, 0) if exact is not None else (0, numerator)
    quotient: Size = 0
    remainder: Size = 0
    for monomial, coefficient in _terms(numerator).items():
        if isinstance(denominator, int):
            whole, left = divmod(coefficient, denominator)
            quotient = quotient + _normal({monomial: whole})
            remainder = remainder + _normal({monomial: left})
            continue
        exact = divide_exactly(_normal({monomial: coefficient}), denominator)
        if exact is None:
            remainder = remainder + _normal({monomial: coefficient})
        else:
            quotient = quotient + exact
    return quotient, remainder


def minimum(left: Size, right: Size) -> Size:
    """The smaller of two sizes, decided at once where possible."""
    if is_nonnegative(right - left):
        return left
    if is_nonnegative(left - right):
        return right
    return atom(Min(left, right))


def maximum(left: Size, right: Size) -> Size:
    """The larger of two sizes, decided at once where possible."""
    if is_nonnegative(right - left):
        return right
    if is_nonnegative(left - right):
        return left
    return atom(Max(left, right))


def ceildiv(numerator: Size, denominator: Size) -> Size:
    """numerator / denominator rounded up."""
    return floordiv(numerator + denominator - 1, denominator)


def is_within(size: Size, extent: Size) -> bool:
    """Whether 0 <= size < extent is certain."""
    return is_nonnegative(size) and is_nonnegative(extent - 1 - _bound(size, lower=False))


@lru_cache(maxsize=65536)
def is_nonnegative(size: Size) -> bool:
    """Whether size >= 0 is certain, from what symbols promise."""
    if isinstance(size, int):
        return size >= 0
    lowest = _bound(size, lower=True)
    if all(coefficient >= 0 for coefficient in _terms(lowest).values()) and all(
        _atom_is_nonnegative(factor) for monomial in _terms(lowest) for factor, _ in monomial
    ):
        return True
    weaker = _undivided(lowest), _bound(size, lower=True, numbers=True), *_one_sided(lowest)
    return any(bound != lowest and is_nonnegative(bound) for bound in weaker)


def _undivided(size: Size) -> Size:
    """At most `size`: with x - n + 1 for n * (x // n), and with x where that is subtracted."""
    terms = dict(_terms(size))
    added: Size = 0
    for monomial, part, times in _terms_with(FloorDiv, _terms(size)):
        x, n = part.numerator, part.denominator
        often = divide_exactly(times, n)
        others = [factor for factor, _ in monomial if factor != part]
        if often is not None and monomial in terms and all(map(_atom_is_nonnegative, others)):
            added = added + often * (x - n + 1 if terms.pop(monomial) > 0 else x)
    return _normal(terms) + added


def _one_sided(size: Size) -> Iterator[Size]:
    """At most `size`: with either side of the first minimum subtracted, or maximum added, alone."""
    for monomial, times in _terms(size).items():
        match monomial:
            case (((Min(a, b) | Max(a, b)) as one, 1),) if isinstance(one, Min) == (times < 0):
                yield from (size + times * (side - atom(one)) for side in (a, b))
                return


def _atom_is_nonnegative(factor: Atom) -> bool:
    match factor:
        case Symbol() | Mod():
            return True
        case FloorDiv(numerator, _):
            return is_nonnegative(numerator)
        case Min(left, right):
            return is_nonnegative(left) and is_nonnegative(right)
        case Max(left, right):
            return is_nonnegative(left) or is_nonnegative(right)
        case _:
            return False


def upper_bound(size: Size) -> Size:
    """An upper bound without loop indices where one is known (each replaced by its last value)."""
    return _bound(size, lower=False, numbers=True)


@lru_cache(maxsize=65536)
def _bound(size: Size, *, lower: bool, numbers: bool = False) -> Size:
    """A bound without loop indices. Minima stay, to be cancelled, unless `numbers` are wanted."""
    if isinstance(size, int):
        return size
    result: Size = 0
    for monomial, times in size.terms.items():
        result = result + times * _monomial_bound(monomial, (times > 0) == lower, numbers)
    return result


def _monomial_bound(monomial: Monomial, lower: bool, numbers: bool) -> Size:
    """A bound of a product. It grows with each factor only while the others are not negative."""
    bounds = [(atom(f), power, _atom_bound(f, lower, numbers)) for f, power in monomial]
    unsure = [factor for factor, _ in monomial if not _atom_is_nonnegative(factor)]
    if unsure:
        moved = [factor for factor, power, bound in bounds if bound != factor]
        alone = len(unsure) == 1 and dict(monomial)[unsure[0]] == 1
        if moved and not (alone and moved == [atom(unsure[0])]):
            return product(factor for factor, power, _ in bounds for _ in range(power))
    return product(bound for _, power, bound in bounds for _ in range(power))


def _atom_bound(factor: Atom, lower: bool, numbers: bool) -> Size:
    """A bound of one atom; itself where none is known."""
    match factor:
        case Symbol(_, count) | Mod(_, count) if count is not None:
            return 0 if lower else count - 1
        case FloorDiv(numerator, denominator):
            return floordiv(_bound(numerator, lower=lower, numbers=numbers), denominator)
        case Min(a, b) if numbers and not lower:
            bounds = upper_bound(a), upper_bound(b)
            return min((n for n in bounds if isinstance(n, int)), default=atom(factor))
    return atom(factor)


def substitute(size: Size, values: Mapping[Atom, Size]) -> Size:
    """`size` with leaves (see `atoms`) replaced, also inside divisions, minima and maxima."""
    if isinstance(size, int) or not values or size.atoms.isdisjoint(values):
        return size
    return map_factors(size, lambda factor: _substitute_atom(factor, values))


def map_factors(size: Size, function: Callable[[Atom], Size]) -> Size:
    """The polynomial with another size in place of each atom that is a factor of a term."""
    if isinstance(size, int):
        return size
    result: Size = 0
    for monomial, coefficient in size.terms.items():
        term: Size = coefficient
        for factor, power in monomial:
            term = product([term, *[function(factor)] * power])
        result = result + term
    return result


def _substitute_atom(factor: Atom, values: Mapping[Atom, Size]) -> Size:
    if factor in values:
        return values[factor]
    match factor:
        case FloorDiv(a, b):
            return floordiv(substitute(a, values), substitute(b, values))
        case Mod(a, b):
            return mod(substitute(a, values), substitute(b, values))
        case Min(a, b):
            return minimum(substitute(a, values), substitute(b, values))
        case Max(a, b):
            return maximum(substitute(a, values), substitute(b, values))
        case _:
            return atom(factor)


def rename(size: Size, sizes: Mapping[str, Size]) -> Size:
    """`size` with dimension symbols (those without extent) replaced by name."""
    return substitute(size, {Symbol(name): value for name, value in sizes.items()})


def atoms(size: Size) -> frozenset[Atom]:
    """The leaves of a size: symbols and foreign atoms, also inside divisions."""
    return frozenset() if isinstance(size, int) else size.atoms


def symbol_names(size: Size) -> set[str]:
    """The names of the dimension symbols (those without extent) of a size."""
    return {leaf.name for leaf in atoms(size) if isinstance(leaf, Symbol) and leaf.extent is None}


@lru_cache(maxsize=65536)
def coefficient_of(size: Size, index: Atom) -> Size | None:
    """c when `size` is c * index + (what does not contain index); None when it is not linear."""
    if isinstance(size, int):
        return 0
    result: Size = 0
    for monomial, coefficient in size.terms.items():
        powers = dict(monomial)
        power = powers.pop(index, 0)
        if power > 1 or any(index in atoms(atom(factor)) for factor in powers):
            return None
        if power == 1:
            result = result + _normal({tuple(powers.items()): coefficient})
    return result


def format_size(size: Size) -> str:
    """The text of a size, which `parse_sizes.parse_size` reads back."""
    return str(size)


def _factor(size: Size) -> str:
    is_one = size >= 0 if isinstance(size, int) else as_atom(size) is not None
    return format_size(size) if is_one else f"({format_size(size)})"
