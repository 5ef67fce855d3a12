"""Plans the passes over a row that compute an expression, and what a pass keeps for the later ones.

    exp(x[i] - max r: x[r]) / sum r: exp(x[r] - max)

needs a pass for the maximum, one for the sum, and one that stores the results. The exponentials in
the sum are those of the result: the second pass stores them in the place of the result, and the
last one loads them from there. Reductions that read the same elements at the same time share a
pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bessemer.compiler.ir import expr, walk_expr
from bessemer.compiler.ir.build_loops import Local
from bessemer.compiler.ir.dims import Atom, Size, Symbol, atom
from bessemer.compiler.ir.expr import Buffer, Expression, Reduce
from bessemer.compiler.schedule.costs import operations
from bessemer.compiler.schedule.dependence import Dependence

Place = tuple[Buffer, Size]
"""A buffer, and where in it a row's elements lie, by the row's index."""

WORTH_KEEPING = 10
"""Operations from which on a pass stores a part for later passes; an exponential has as many."""


@dataclass(frozen=True, eq=False)
class RowPass:
    """The reductions that one pass over a row computes. `kept` is a part of their bodies that is
    needed again later, as an expression of the row's index; None if nothing is worth keeping."""

    reductions: tuple[Reduce, ...]
    kept: Expression | None


@dataclass(frozen=True)
class InLoop:
    """A part of a loop over a row. `write(index)` adds everything but the stores to the loop, and
    returns these. `lanes` is the narrowest vector width that the part needs.

    For a pass, `totals` have their values after the loop, and `rest` is what remains to be
    computed.
    """

    write: Callable[[Size], list[tuple[Place, Expression]]]
    lanes: int
    totals: tuple[Local, ...] = ()
    rest: Expression | None = None


def next_pass(
    value: Expression, may_hoist: Callable[[Reduce], bool], row: Symbol | None
) -> RowPass | None:
    """The next reductions of a value to compute; None if none is left that may be hoisted."""
    ready = _ready(value, may_hoist)
    if not ready:
        return None
    first, *others = ready
    if row is None or len(first.over) != 1 or first.over[0].extent != row.extent:
        return RowPass((first,), None)
    together = [first, *(node for node in others if _is_over(node, row))]
    return RowPass(tuple(together), _kept(value, together, row))


def along_row(node: Reduce, row: Symbol) -> Expression:
    """The body of a reduction as an expression of the row's index."""
    values: dict[Atom, Size] = {node.over[0]: atom(row)}
    return walk_expr.substitute(node.body, values)


def with_kept(value: Expression, kept: Expression, row: Symbol, loaded: Expression) -> Expression:
    """The value with `loaded` in place of what a pass kept, also inside of later reductions of the
    row."""

    def rule(node: Expression) -> Expression | None:
        if node is kept:
            return loaded
        if isinstance(node, Reduce) and _is_over(node, row):
            (index,) = node.over
            body = walk_expr.transform(
                along_row(node, row), lambda n: loaded if n is kept else None
            )
            return expr.reduce(node.name, (index,), walk_expr.substitute(body, {row: atom(index)}))
        return None

    return walk_expr.transform(value, rule)


def replaced(value: Expression, others: Mapping[Expression, Expression]) -> Expression:
    """The value with some of its parts replaced."""
    return walk_expr.replace_outermost(value, others.get)


def totals_named(step: RowPass, name: str) -> dict[Expression, Expression]:
    """A local for each total of a pass."""
    return {n: expr.read(f"{name}{i}", n.dtype) for i, n in enumerate(step.reductions)}


def _is_over(node: Reduce, row: Symbol) -> bool:
    """Whether a reduction goes along the row. A reduction of each element's own does not, even if
    it is as long."""
    is_as_long = len(node.over) == 1 and node.over[0].extent == row.extent
    return is_as_long and row not in Dependence().of(node)


def _ready(value: Expression, may_hoist: Callable[[Reduce], bool]) -> list[Reduce]:
    """The reductions that contain no other one to hoist, in order of first use."""
    found: list[Reduce] = []
    waiting: dict[Expression, bool] = {}

    def visit(node: Expression) -> bool:
        """Whether there is a reduction to hoist at or below the node."""
        if node in waiting:
            return waiting[node]
        below = [visit(child) for child in walk_expr.children(node)]
        here = isinstance(node, Reduce) and may_hoist(node)
        if here and not any(below):
            assert isinstance(node, Reduce)
            found.append(node)
        waiting[node] = here or any(below)
        return waiting[node]

    visit(value)
    return found


def _kept(value: Expression, reductions: Sequence[Reduce], row: Symbol) -> Expression | None:
    """The costliest part of the reductions' bodies that the rest of the value computes again."""
    rest = replaced(value, {n: expr.read(f"total{i}", n.dtype) for i, n in enumerate(reductions)})
    later = set(walk_expr.all_nodes(rest))
    for node in list(later):
        if isinstance(node, Reduce) and _is_over(node, row):
            later.update(walk_expr.all_nodes(along_row(node, row)))
    dependence = Dependence()
    best: Expression | None = None
    worth = WORTH_KEEPING
    waiting = [along_row(node, row) for node in reductions]
    seen: set[Expression] = set()
    while waiting:
        node = waiting.pop()
        if node in seen or row not in dependence.of(node):
            continue
        seen.add(node)
        if node in later:
            cost = operations(node)
            if isinstance(cost, int) and cost >= worth and not _has_reduction(node):
                best, worth = node, cost + 1
            continue
        waiting.extend(walk_expr.children(node))
    return best


def _has_reduction(node: Expression) -> bool:
    return bool(walk_expr.reductions_of(node))
