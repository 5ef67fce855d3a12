"""Writes a reduction that lies inside of a vector loop over elements: as a serial loop, which each
lane runs for its own element, or unrolled if it has few steps."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable
from functools import reduce as fold

from bessemer.compiler.ir import dims, expr, walk_expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Atom, Size, Symbol
from bessemer.compiler.ir.expr import Expression, Reduce
from bessemer.compiler.ir.loops import Accumulate, LoopKind
from bessemer.compiler.ir.types import boolean
from bessemer.compiler.schedule.nests.interleave import UNROLLED_STEPS
from bessemer.compiler.schedule.nests.merge_axes import extent_of
from bessemer.compiler.schedule.nests.partial_sums import is_longer, summation_block


def write_reduction(
    builder: KernelBuilder, node: Reduce, spell: Callable[[Expression], Expression]
) -> Expression:
    """Adds the loops to a kernel and returns the total. `spell` lowers the reductions inside of
    this one."""
    steps = dims.product(map(extent_of, node.over))
    unrolled = isinstance(steps, int) and steps <= UNROLLED_STEPS
    if unrolled and node.name in ("max", "min") and node.dtype.is_float:
        return _extreme(builder, node, spell)
    accumulator = builder.define(expr.neutral(node.name, node.dtype), "acc")
    block_steps = summation_block(node, steps)

    def nest(over: tuple[Symbol, ...], values: dict[Atom, Size], total: str) -> None:
        if not over:
            element = spell(walk_expr.substitute(node.body, values))
            builder.append(Accumulate(total, node.name, element))
            return
        extent, inside = extent_of(over[0]), dims.product(map(extent_of, over[1:]))
        block = 0
        if block_steps and is_longer(extent * inside, block_steps):
            block = max(block_steps // inside, 1) if isinstance(inside, int) else 1
        if not block:
            kind: LoopKind = "unroll" if unrolled else "serial"
            with builder.loop(extent, kind) as index:
                nest(over[1:], {**values, over[0]: index}, total)
            return
        with builder.loop(dims.ceildiv(extent, block)) as index:
            part = builder.define(expr.neutral(node.name, node.dtype), "acc")
            length = dims.minimum(extent - index * block, block)
            if isinstance(extent, int) and extent % block == 0:
                length = block
            with builder.loop(length) as place:
                nest(over[1:], {**values, over[0]: index * block + place}, part.name)
            builder.append(Accumulate(total, node.name, part.value))

    nest(node.over, {}, accumulator.name)
    return accumulator.value


def _extreme(
    builder: KernelBuilder, node: Reduce, spell: Callable[[Expression], Expression]
) -> Expression:
    """The largest or smallest of a few numbers; NaN if any of them is. The check for NaN takes two
    numbers at once, and is independent of the comparisons, so that these do not wait for it."""
    extents = [dims.number(extent_of(symbol)) for symbol in node.over]
    total = builder.define(expr.neutral(node.name, node.dtype), "acc")
    are_numbers = builder.define(expr.constant(True, boolean), "ordered")
    places = list(itertools.product(*map(range, extents)))
    for first in range(0, len(places), 2):
        asked: list[Expression] = []
        for place in places[first : first + 2]:
            values: dict[Atom, Size] = dict(zip(node.over, place, strict=True))
            element = builder.define(spell(walk_expr.substitute(node.body, values)), "x").value
            builder.append(Accumulate(total.name, node.name, element, may_skip_nan=True))
            asked.append(~expr.unary("isnan", element))
        are_numbers.accumulate("and", fold(operator.and_, asked))
    return expr.select(are_numbers.value, total.value, math.nan)
