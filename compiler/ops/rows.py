"""Kernels over a tensor's rows: all positions along one axis, for each place of the other axes.

Neighbouring rows can lie side by side in vectors: nothing then passes from lane to lane.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size, ceildiv, minimum, number, product
from bessemer.compiler.ir.expr import Index, less
from bessemer.compiler.ir.ravel import unravel

Row: TypeAlias = Callable[[Size], Index]
"""The indices of a row's element, from its position in the row."""

BLOCK = 512
"""Rows side by side that one iteration of a parallel loop handles at most."""
LEAST_BEHIND, LEAST_BEFORE = 128, 16
"""And at least: of rows that are neighbours in memory, eight lines for each position; of others as
many as a vector has lanes."""
FEWEST_ITEMS = 16
"""Iterations that are made of few rows, so that threads can share them."""
FEWEST_BEHIND = 8
"""Places behind the axis from which on they fill vectors better than those before it."""


@contextmanager
def each_row(builder: KernelBuilder, shape: Sequence[Size], axis: int) -> Iterator[Row]:
    """A parallel loop over the rows along an axis."""
    others = (*shape[:axis], *shape[axis + 1 :])
    with builder.loop(product(others), "parallel") as flat:
        place = unravel(flat, others)
        yield lambda position: (*place[:axis], position, *place[axis:])


@contextmanager
def rows_side_by_side(
    builder: KernelBuilder,
    shape: Sequence[Size],
    axis: int,
    interleave: int = 1,
    alone: Callable[[Row], None] | None = None,
) -> Iterator[Row]:
    """The same with neighbouring rows as the lanes of a vector loop: those behind the axis, which
    are neighbours in memory; where they are few, those before it. Where a run finds a single one
    behind the axis, rows are written by `alone`, if that is given."""
    before, after = tuple(shape[:axis]), tuple(shape[axis + 1 :])
    behind = product(after)
    if isinstance(behind, int) and behind < FEWEST_BEHIND:
        with (
            _blocks(builder, product(before), 1, LEAST_BEFORE) as (begin, length, _),
            builder.loop(behind) as place,
            builder.loop(length, "vector", 0, interleave) as lane,
        ):
            outer, inner = unravel(begin + lane, before), unravel(place, after)
            yield lambda position: (*outer, position, *inner)
        return
    with (
        _blocks(builder, behind, product(before), LEAST_BEHIND) as (begin, length, flat),
        ExitStack() as where,
    ):
        outer = unravel(flat, before)
        if alone is not None and not isinstance(behind, int):
            with builder.when(less(behind, 2)):
                alone(lambda position: (*outer, position, *(0 for _ in after)))
            where.enter_context(builder.otherwise())
        lane = where.enter_context(builder.loop(length, "vector", 0, interleave))
        inner = unravel(begin + lane, after)
        yield lambda position: (*outer, position, *inner)


@contextmanager
def _blocks(
    builder: KernelBuilder, count: Size, outer: Size, least: int
) -> Iterator[tuple[Size, Size, Size]]:
    """A parallel loop over blocks of `count` places, of `least` or more, for each of `outer`
    others: where a block begins, its length, and the other."""
    block = BLOCK
    if isinstance(count, int) and isinstance(outer, int):
        share = ceildiv(count * outer, FEWEST_ITEMS * least) * least
        block = min(BLOCK, max(least, number(share)))
    if isinstance(count, int) and count <= block:
        with builder.loop(outer, "parallel") as item:
            yield 0, count, item
        return
    pieces = ceildiv(count, block)
    with builder.loop(outer * pieces, "parallel") as item:
        begin = item % pieces * block
        is_whole = isinstance(count, int) and count % block == 0
        yield begin, block if is_whole else minimum(count - begin, block), item // pieces
