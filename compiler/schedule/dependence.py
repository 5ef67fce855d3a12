"""Finds the loop indices on which an expression depends."""

from __future__ import annotations

from bessemer.compiler.ir import dims, walk_expr
from bessemer.compiler.ir.dims import Atom, Size
from bessemer.compiler.ir.expr import Checked, Expression, IndexValue, Load, Reduce


class Dependence:
    """The symbols that are free in expressions, remembered by node."""

    def __init__(self) -> None:
        self._known: dict[Expression, frozenset[Atom]] = {}

    def of(self, node: Expression) -> frozenset[Atom]:
        """The symbols that the node's value depends on."""
        found = self._known.get(node)
        if found is None:
            found = self._known[node] = self._compute(node)
        return found

    def of_size(self, size: Size) -> frozenset[Atom]:
        """The symbols in index arithmetic, including those of the values that it reads."""
        found: set[Atom] = set()
        for leaf in dims.atoms(size):
            if isinstance(leaf, Expression):
                found |= self.of(leaf)
            else:
                found.add(leaf)
        return frozenset(found)

    def _compute(self, node: Expression) -> frozenset[Atom]:
        found: set[Atom] = set()
        for child in walk_expr.children(node):
            found |= self.of(child)
        match node:
            case Load(_, _, indices, _):
                for index in indices:
                    found |= self.of_size(index)
            case IndexValue(_, size):
                found |= self.of_size(size)
            case Checked(_, _, extent):
                found |= self.of_size(extent)
            case Reduce(_, _, over, _):
                for symbol in over:
                    found |= self.of_size(symbol.extent or 0)
                found -= set(over)
            case _:
                pass
        return frozenset(found)
