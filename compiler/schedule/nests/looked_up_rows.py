"""Rows whose elements lie at places that data gives, the same in every row: columns come first.

    out[n*i + j] = x[m*i + place[j]]      becomes
    parallel block:  vector j in 0..n:  for i in 32 rows:  out[n*i + j] = x[m*i + place[j]]

What a place is, and whether the lanes' places are neighbours, is found once for 32 rows.
"""

from __future__ import annotations

from bessemer.compiler.ir.dims import Symbol
from bessemer.compiler.ir.expr import Expression
from bessemer.compiler.ir.walk_expr import index_expressions, loads_of, reductions_of
from bessemer.compiler.schedule.dependence import Dependence

ROWS = 32
"""In a block."""


def has_common_places(
    value: Expression, outer: tuple[Symbol, ...], inner: Symbol, dependence: Dependence
) -> bool:
    """Whether data gives the places along a row's axis at which some elements are, and gives every
    row, along the last of the outer axes, the same ones."""
    if not outer or reductions_of(value):
        return False
    looks_up = False
    for load in loads_of(value):
        for offset in load.indices:
            for place in index_expressions(offset):
                if inner in dependence.of(place):
                    if outer[-1] in dependence.of(place):
                        return False
                    looks_up = True
    return looks_up
