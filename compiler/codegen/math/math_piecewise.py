"""Piecewise polynomials of a number that is not negative, from tables with 32 entries: finds the
interval of a number, and how far the number is above its centre.

    shifted = size + (2^21 - 2)     a float32 in [2^20, 2^21) is a multiple of 1/8, one above of 1/4
    rest = size - (shifted - (2^21 - 2))

These three additions round `size` to the centre of its interval: to multiples of 1/8 up to 2, and
of 1/4 from there on, where functions that level off need less resolution. The rest is exact, and
the bits of `shifted` number the intervals. (Zen 4 starts no more than 1.2 instructions of three
operands in a cycle, multiply-adds and lookups in two registers; a table of quartics needs nine of
them. Intervals of any other width, all equal, would need two more.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bessemer.compiler.codegen.math.math_instructions import table_lookup
from bessemer.compiler.codegen.math.math_terms import Term, at_most, bits_of, fma

COUNT = 32
_BITS = 24  # of a float32's significand


@dataclass(frozen=True)
class Intervals:
    """Intervals whose centres are the multiples of `width`, a power of two, up to `edge`, then
    those of twice the width. The last interval has no end."""

    width: float
    edge: float

    @property
    def last(self) -> float:
        """The centre of the last interval."""
        return self.edge + (COUNT - 1 - self.edge / self.width) * 2 * self.width

    @property
    def _magic(self) -> float:
        return math.ldexp(self.width, _BITS) - self.edge

    def locate(self, size: Term) -> tuple[Term, Term, Term]:
        """The centre of a number's interval, how far the number is above it, and the interval's
        number in the low bits of an integer."""
        bits = (size + self._magic).bits()
        interval = at_most(bits, bits_of(self._magic) + COUNT - 1)
        centre = interval.as_float() - self._magic
        return centre, size - centre, interval

    def coefficient(self, table: Sequence[float], interval: Term) -> Term:
        """For each lane the table's number for its interval."""
        # Lookups read the low bits, of which the first interval has some.
        first = bits_of(self._magic) % COUNT
        return table_lookup([*table[COUNT - first :], *table[: COUNT - first]], interval)

    def polynomial(self, tables: Sequence[Sequence[float]], rest: Term, interval: Term) -> Term:
        """c0 + c1 rest + ..., with a table for every power."""
        total = self.coefficient(tables[-1], interval)
        for table in reversed(tables[:-1]):
            total = fma(total, rest, self.coefficient(table, interval))
        return total
