"""Finds out what a block of statements changes, and which values differ between the lanes of a
vector loop."""

from __future__ import annotations

from bessemer.compiler.ir import dims, expr, loops, walk_expr, walk_loops
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import Expression
from bessemer.compiler.ir.loops import Block
from bessemer.compiler.ir.tile_statements import TileStore


def written_buffers(block: Block) -> frozenset[str]:
    """The names of the buffers that statements of the block store to."""
    stores = (loops.Store, TileStore)
    found = {s.buffer.name for s in walk_loops.walk(block) if isinstance(s, stores)}
    for statement in walk_loops.walk(block):
        if isinstance(statement, loops.FragmentStore):
            found |= {store.buffer.name for row in statement.stores for store in row}
        if isinstance(statement, (loops.Contract, loops.Attend)):
            found |= {store.buffer.name for store in statement.stores}
    return frozenset(found)


def assigned_locals(block: Block) -> frozenset[str]:
    """The names of the locals that the block assigns."""
    return frozenset(
        s.local for s in walk_loops.walk(block) if isinstance(s, (loops.Assign, loops.Accumulate))
    )


def changed_fragments(block: Block) -> dict[str, frozenset[int] | None]:
    """The fragments that change, and in which rows (None: in all)."""
    found: dict[str, frozenset[int] | None] = {}
    for statement in walk_loops.walk(block):
        match statement:
            case loops.FragmentFill(fragment):
                found[fragment] = None
            case loops.FragmentMac(fragment, rows):
                before = found.get(fragment, frozenset())
                found[fragment] = None if before is None else before | frozenset(rows)
    return found


def varying_locals(body: Block, index: Symbol) -> frozenset[str]:
    """The locals defined in a vector loop's body whose lanes may differ."""
    values = [
        (s.local, s.value)
        for s in walk_loops.walk(body)
        if isinstance(s, (loops.Define, loops.Assign, loops.Accumulate))
    ]
    varying: frozenset[str] = frozenset()
    while True:
        lanes = Lanes(index, varying)
        found = varying | {local for local, value in values if lanes.differ(value)}
        if found == varying:
            return varying
        varying = found


class Lanes:
    """Decides whether expressions differ between the lanes of a vector loop."""

    def __init__(self, index: Symbol, varying: frozenset[str]) -> None:
        self._index = index
        self._varying = varying
        self._known: dict[Expression, bool] = {}

    def differ(self, node: Expression) -> bool:
        """Whether the lanes may have different values."""
        if node not in self._known:
            self._known[node] = self._differ(node)
        return self._known[node]

    def differ_in(self, size: Size) -> bool:
        """Whether index arithmetic may have different values."""
        return any(
            self.differ(leaf) if isinstance(leaf, Expression) else leaf == self._index
            for leaf in dims.atoms(size)
        )

    def _differ(self, node: Expression) -> bool:
        match node:
            case expr.Read(_, local):
                return local in self._varying
            case expr.IndexValue(_, size):
                return self.differ_in(size)
            case expr.Load(_, buffer, indices, guard):
                guarded = guard is not None and self.differ(guard)
                return guarded or self.differ_in(buffer.offset(indices))
            case expr.Checked(_, operand, extent):
                return self.differ(operand) or self.differ_in(extent)
            case _:
                return any(self.differ(child) for child in walk_expr.children(node))
