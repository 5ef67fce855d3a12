"""What lowering a piece gives, and which of its reductions run through memory from neighbour to
neighbour."""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.ir import dims, walk_expr
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import Reduce
from bessemer.compiler.ir.loops import Block
from bessemer.compiler.schedule.nests.merge_axes import extent_of

NEAREST = 4
"""Elements at most this far from each other are loaded as vectors and shuffled."""


@dataclass(frozen=True, eq=False)
class Nest:
    """A lowered nest, and the scalar operations of one iteration of its parallel loop."""

    body: Block
    operations: Size


def runs_along_memory(node: Reduce, inner: Symbol, lanes: int) -> bool:
    """Whether a reduction reads neighbours, and neighbours of its output are farther apart. Loads
    that do not depend on the reduction's index do not count. It is false for windows that are
    shorter than a vector and close together."""
    last = node.over[-1]
    taps = extent_of(last)
    nearest = NEAREST if isinstance(taps, int) and taps < lanes else 1
    along = False
    for load in walk_expr.loads_of(node.body):
        step = dims.coefficient_of(load.indices[0], last)
        if step == 0 and not walk_expr.index_expressions(load.indices[0]):
            continue
        stride = dims.coefficient_of(load.indices[0], inner)
        if isinstance(stride, int) and 1 <= stride <= nearest:
            return False
        along = along or step == 1
    return along
