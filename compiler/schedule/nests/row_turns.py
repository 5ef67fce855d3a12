"""Cuts a row into vectors whose elements lie at known distances, though not at equal ones.

    vector i in 0..224: out[i] = x[(20*i + 6)//7]      becomes
    for turn in 0..2:  for v in 0..7, written out:
      vector lane in 0..16: out[112*turn + 16*v + lane] = x[320*turn + (20*(16*v + lane) + 6)//7]

Seven elements later, all distances are the same: after seven vectors. Of each of the seven it is
known where in which few vectors of neighbours its elements are; otherwise they would be gathered,
which costs a load each.
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
"""That are written out."""
MOST_LOADS = 128
"""Vectors that they load, at most: each takes a few instructions."""
FEWEST_MASKED = 16
"""Lanes of machines whose loads can be limited to some of them."""
_TURN = "turn"


def vectors_of_a_turn(
    value: Expression, inner: Symbol, start: Size, extent: Size, lanes: int
) -> int:
    """After how many vectors the distances are the same again, or how many the row has; 0 where
    nothing is gained, or there are too many."""
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
        begin = start + vectors * lanes * atom(Symbol(_TURN, extent))
        if all(_are_known(offset, inner, begin, vectors * lanes) for offset in offsets):
            return vectors
    return most if most == extent // lanes else 0


def _steps(node: Reduce) -> int:
    """How many steps a reduction has; too many to write out where nobody knows."""
    steps = dims.product(map(extent_of, node.over))
    return steps if isinstance(steps, int) else UNROLLED_STEPS + 1


def write_turns(
    builder: KernelBuilder, extent: int, lanes: int, vectors: int, write: Callable[[Size], None]
) -> None:
    """Adds the loops over a row to a kernel; `write` adds what is done with an element."""

    def several(begin: Size, count: int) -> None:
        with builder.loop(count, "unroll") as number, builder.loop(lanes, "vector", lanes) as lane:
            write(begin + number * lanes + lane)

    turn = vectors * lanes
    with builder.loop(extent // turn) as number:
        several(number * turn, vectors)
    begin = extent // turn * turn
    if whole := (extent - begin) // lanes:
        several(begin, whole)
    if rest := extent % lanes:
        with builder.loop(rest, "vector", lanes) as lane:
            write(extent - rest + lane)


def _is_scattered(offset: Size, inner: Symbol, lanes: int) -> bool:
    """Whether elements lie at different distances, and would be gathered one by one. Those of less
    than a vector can be loaded as one only under a mask."""
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
    """Whether a vector holds whole patterns of neighbours that repeat, or are repeated."""
    match factor:
        case FloorDiv(a, int(n)) | Mod(a, int(n)) if inner in dims.atoms(a):
            return dims.coefficient_of(a, inner) == 1 and lanes % n == 0
        case _:
            return True


def _are_known(offset: Size, inner: Symbol, begin: Size, count: int) -> bool:
    """Whether `count` elements lie at known distances from the first."""
    first = dims.substitute(offset, {inner: begin})
    # The last one first: most often it tells.
    others = (begin + number for number in range(count - 1, 0, -1))
    return all(isinstance(dims.substitute(offset, {inner: i}) - first, int) for i in others)
