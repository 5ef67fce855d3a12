"""Estimates the work of a launch. The run body divides a launch among threads only into shares of
at least SHARE."""

from __future__ import annotations

from collections.abc import Set

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.loops import FragmentMac
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.tile_statements import TileMac
from bessemer.compiler.ir.walk_loops import walk

SHARE = 1 << 18
"""The work of the smallest share, which takes half a microsecond to one. A worker that is awake
begins it within a quarter of a microsecond if both cores share a cache; otherwise see
support/trials.py."""

GRAIN = 1 << 22
"""The fewest scalar operations for each member of a team (see team.py). With fewer, the barriers
take as long as the team saves (an LSTM of four million took 50 microseconds alone, 48 as a team of
two)."""

_OTHER_OPERATIONS, _BYTES = 4, 4
"""Work is counted in multiply-adds of vectors, of which a core does some 250 in a nanosecond; it
does a quarter as many other operations, and moves a quarter as many bytes from its second cache."""


def work_of(step: Launch, known: Set[str]) -> Size:
    """The work of a launch, as a formula of the sizes that are `known` before it.

    An array counts as a whole even if only a part of it is read.
    """
    kernel = step.kernel
    values = dict(zip(kernel.symbols, step.sizes, strict=True))
    contracts = any(isinstance(part, (FragmentMac, TileMac)) for part in walk(kernel.body))
    weight = 1 if contracts else _OTHER_OPERATIONS
    total = dims.rename(kernel.operations * kernel.parallel_extent, values) * weight
    for value in dict.fromkeys(step.values):  # a set would have another order in each process
        if dims.symbol_names(value.type.nbytes) <= known:
            total = total + value.type.nbytes * _BYTES
    return total


def work_of_copy(nbytes: Size) -> Size:
    """The work of copying this many bytes, which are read and written."""
    return nbytes * 2 * _BYTES
