"""Puts values under a condition: their loads and checks are done only where it holds."""

from __future__ import annotations

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Atom, Symbol
from bessemer.compiler.ir.expr import (
    Binary,
    Checked,
    Constant,
    Expression,
    IndexValue,
    Load,
    Scalar,
    Unary,
    checked,
    index_value,
    lift,
    load,
    select,
)
from bessemer.compiler.ir.walk_expr import all_nodes, transform


def guarded(condition: Expression, value: Expression, otherwise: Scalar) -> Expression:
    """`value` where the condition holds, else `otherwise`; elsewhere, loads in `value` touch no
    memory that is not theirs, and its checks do not fail."""
    if isinstance(condition, Constant):
        return value if condition.value else lift(otherwise, value.dtype)
    changing = _symbols_of(condition)
    # What the condition itself reads exists; a guard would make a second value of it.
    asked = frozenset(all_nodes(condition))

    def guard(node: Expression) -> Expression | None:
        if node in asked:
            return None
        if isinstance(node, Load):
            if _is_elsewhere_too(node, changing):
                return None
            both = condition if node.guard is None else condition & node.guard
            return load(node.buffer, node.indices, both)
        if isinstance(node, Checked):
            return index_value(checked(select(condition, node.operand, 0), node.extent))
        return None

    return select(condition, transform(value, guard), otherwise)


def _is_elsewhere_too(node: Load, changing: frozenset[Symbol] | None) -> bool:
    """Whether a load is of an element that exists whatever the values of these symbols are. What
    does not change with the condition can then be computed once, before it is asked."""
    if changing is None or len(node.indices) != len(node.buffer.shape):
        return False
    found: set[Atom] = set()
    for index, size in zip(node.indices, node.buffer.shape):
        found |= dims.atoms(index)
        if not isinstance(size, int):
            # It may be 0, unless it is what a loop counts through that runs at all.
            counter = dims.as_atom(index)
            if not isinstance(counter, Symbol) or counter.extent != size:
                return False
        elif not size:
            return False
    return all(isinstance(atom, Symbol) for atom in found) and changing.isdisjoint(found)


def _symbols_of(condition: Expression) -> frozenset[Symbol] | None:
    """What a condition depends on, None if on more than symbols of index arithmetic."""
    found: set[Symbol] = set()
    waiting = [condition]
    while waiting:
        match waiting.pop():
            case IndexValue(_, size):
                for leaf in dims.atoms(size):
                    if not isinstance(leaf, Symbol):
                        return None
                    found.add(leaf)
            case Binary(_, _, left, right):
                waiting += (left, right)
            case Unary(_, _, operand):
                waiting.append(operand)
            case Constant():
                pass
            case _:
                return None
    return frozenset(found)
