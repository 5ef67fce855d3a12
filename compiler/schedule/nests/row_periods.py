"""Unrolls a row's loop by the period of its index, so that shuffles replace gathers.

    vector i in 0..224: out[i] = x[(20*i + 6)//7]      becomes
    for period in 0..2: unroll v in 0..7:
     vector lane in 0..16: out[112*period + 16*v + lane] = x[320*period + (20*(16*v + lane) + 6)//7]

Here the distances between elements repeat after seven elements, and so after seven vectors. For
each of the seven vectors it is then known where its elements lie in a few contiguous vectors.
Otherwise they would be gathered, which takes a load per element.
"""

from __future__ import annotations

from collections.abc import Callable

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Atom, FloorDiv, Mod, Size, Symbol, atom
from bessemer.compiler.ir.expr import Expression, Reduce
from bessemer.compiler.ir.walk_expr import loads_of, reductions_of
from bessemer.compiler.schedule.nests.interleave import UNROLLED_STEPS
from bessemer.compiler.schedule.nests.merge_axes import extent_of

MOST_VECTORS = 16
"""The most vectors in a period."""
MOST_LOADS = 128
"""The most vectors that these load: each load takes a few instructions."""
FEWEST_MASKED = 16
"""Machines with vectors of at least this many lanes have masked loads."""
_PERIOD = "period"


def vectors_per_period(
    value: Expression, inner: Symbol, start: Size, extent: Size, lanes: int
) -> int:
    """The number of vectors after which the distances repeat; or the number of vectors in a short
    row. 0 if nothing is gained, or if there are too many vectors."""
    if lanes < 2 or not isinstance(extent, int) or not isinstance(start, int):
        return 0
    sums = reductions_of(value)
    steps = max((_steps(node) for node in sums), default=1)
    if steps > UNROLLED_STEPS:
        return 0
    first_step: dict[Atom, Size] = {symbol: 0 for node in sums for symbol in node.over}
    loads = [node for node in loads_of(value) if node.guard is None]
    offsets = {dims.substitute(load.indices[0], first_step) for load in loads}
    offsets = {offset for offset in offsets if _is_scattered(offset, inner, lanes)}
    if not offsets or not all(_are_known(offset, inner, start, lanes) for offset in offsets):
        return 0
    most = min(MOST_VECTORS, MOST_LOADS // (len(offsets) * steps), extent // lanes)
    for vectors in range(1, most + 1):
        begin = start + vectors * lanes * atom(Symbol(_PERIOD, extent))
        if all(_are_known(offset, inner, begin, vectors * lanes) for offset in offsets):
            return vectors
    return most if most == extent // lanes else 0


def _steps(node: Reduce) -> int:
    """The number of steps of a reduction; more than are unrolled, if it is not known."""
    steps = dims.product(map(extent_of, node.over))
    return steps if isinstance(steps, int) else UNROLLED_STEPS + 1


def write_periods(
    builder: KernelBuilder, extent: int, lanes: int, vectors: int, write: Callable[[Size], None]
) -> None:
    """Adds the loops over a row to a kernel; `write(index)` adds what is done with an element."""

    def several(begin: Size, count: int) -> None:
        with builder.loop(count, "unroll") as number, builder.loop(lanes, "vector", lanes) as lane:
            write(begin + number * lanes + lane)

    period = vectors * lanes
    with builder.loop(extent // period) as number:
        several(number * period, vectors)
    begin = extent // period * period
    if whole := (extent - begin) // lanes:
        several(begin, whole)
    if rest := extent % lanes:
        with builder.loop(rest, "vector", lanes) as lane:
            write(extent - rest + lane)


def _is_scattered(offset: Size, inner: Symbol, lanes: int) -> bool:
    """Whether elements lie at unequal distances, and would be gathered one by one. If a vector's
    elements lie within the length of a vector, they can be loaded at once, but only with masks."""
    if isinstance(offset, int) or dims.coefficient_of(offset, inner) is not None:
        return False
    span = dims.substitute(offset, {inner: lanes}) - dims.substitute(offset, {inner: 0})
    if not isinstance(span, int):
        return False
    if span > lanes:
        return True
    factors = [factor for monomial in offset.terms for factor, _ in monomial]
    return lanes >= FEWEST_MASKED and not all(_repeats(one, inner, lanes) for one in factors)


def _repeats(factor: Atom, inner: Symbol, lanes: int) -> bool:
    """Whether a vector holds whole periods of a repeated pattern, or of repeated elements."""
    match factor:
        case FloorDiv(a, int(n)) | Mod(a, int(n)) if inner in dims.atoms(a):
            return dims.coefficient_of(a, inner) == 1 and lanes % n == 0
        case _:
            return True


def _are_known(offset: Size, inner: Symbol, begin: Size, count: int) -> bool:
    """Whether `count` elements lie at known distances from the first."""
    first = dims.substitute(offset, {inner: begin})
    # The last one is tried first: it is the most likely one not to be known.
    others = (begin + number for number in range(count - 1, 0, -1))
    return all(isinstance(dims.substitute(offset, {inner: i}) - first, int) for i in others)
