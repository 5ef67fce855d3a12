"""The least work that a share of a launch must have to be worth another thread.

The run body divides a launch among threads only into shares of at least that much work.
"""

from __future__ import annotations

from collections.abc import Set

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.loops import FragmentMac
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.tile_statements import TileMac
from bessemer.compiler.ir.walk_loops import walk

SHARE = 1 << 18
"""The work of the smallest share: half a microsecond to one. A worker that is awake begins it
within a quarter of one where both cores have a cache in common; elsewhere, see support/trials.py.
"""

GRAIN = 1 << 22
"""Scalar operations of a team's member at least (see team.py): with fewer its barriers eat the gain
(an LSTM of four million took 50 microseconds alone and 48 as a team of two)."""

_OTHER_OPERATIONS, _BYTES = 4, 4
"""Work is counted in multiply-adds of vectors, of which a core does some 250 in a nanosecond; it
does a quarter as many other operations, and moves a quarter as many bytes from its second cache."""


def work_of(step: Launch, known: Set[str]) -> Size:
    """The work of a launch, by the sizes that are `known` before it.

    An array of which it reads a part counts whole.
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
    """The work of copying so many bytes, which are read and written."""
    return nbytes * 2 * _BYTES
