"""Traverses expressions, and rebuilds them with parts replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Atom, Size, Symbol
from bessemer.compiler.ir.expr import (
    Binary,
    Bits,
    Cast,
    Checked,
    Constant,
    Expression,
    FragmentElement,
    Given,
    Index,
    IndexValue,
    Load,
    Read,
    Reduce,
    Select,
    Unary,
    as_index,
    binary,
    bits,
    checked,
    constant,
    convert,
    index_value,
    load,
    reduce,
    select,
    unary,
)


def children(node: Expression) -> tuple[Expression, ...]:
    """The expressions directly below a node, those inside its index arithmetic included."""
    match node:
        case Load(_, _, indices, guard):
            inner = tuple(e for index in indices for e in index_expressions(index))
            return inner if guard is None else (*inner, guard)
        case IndexValue(_, size):
            return index_expressions(size)
        case Unary() | Cast() | Bits():
            return (node.operand,)
        case Checked(_, operand, extent):
            return (operand, *index_expressions(extent))
        case Binary(_, _, left, right):
            return (left, right)
        case Select(_, condition, then, otherwise):
            return (condition, then, otherwise)
        case Reduce(_, _, over, body):
            return (body, *(e for s in over for e in index_expressions(s.extent or 0)))
        case _:
            return ()


def index_expressions(size: Size) -> tuple[Expression, ...]:
    """The expressions that index arithmetic reads its values from."""
    found = [leaf for leaf in dims.atoms(size) if isinstance(leaf, Expression)]
    return tuple(sorted(found, key=str)) if len(found) > 1 else tuple(found)


def all_nodes(*values: Expression) -> list[Expression]:
    """Every node of expressions, once, those inside index arithmetic included."""
    seen: dict[Expression, None] = {}
    waiting = list(values)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen[node] = None
            waiting.extend(children(node))
    return list(seen)


def loads_of(*values: Expression) -> list[Load]:
    """Every load in expressions, once."""
    return [node for node in all_nodes(*values) if isinstance(node, Load)]


def read_elsewhere(value: Expression, place: Index) -> set[str]:
    """The names of the buffers of which a value reads another element than that at a place."""
    return {load.buffer.name for load in loads_of(value) if load.indices != place}


def reductions_of(*values: Expression) -> list[Reduce]:
    """Every reduction in expressions, once."""
    return [node for node in all_nodes(*values) if isinstance(node, Reduce)]


def substitute(node: Expression, values: Mapping[Atom, Size]) -> Expression:
    """The expression with symbols of its index arithmetic replaced."""
    return transform(node, lambda _: None, values)


def transform(
    node: Expression,
    rule: Callable[[Expression], Expression | None],
    values: Mapping[Atom, Size] | None = None,
) -> Expression:
    """The expression rebuilt from below; `rule` may replace a node whose children are done.

    `values` replaces symbols of the index arithmetic.
    """
    return _Transformation(rule, values or {}).apply(node)


def replace_outermost(
    node: Expression, rule: Callable[[Expression], Expression | None]
) -> Expression:
    """The expression with the outermost nodes that `rule` replaces replaced; what is inside those
    is the rule's own concern."""
    return _Transformation(rule, {}, from_above=True).apply(node)


class _Transformation:
    """One rebuilding, remembering what it did to shared nodes."""

    _CHILDLESS: ClassVar = (Constant, Given, Read, FragmentElement)

    def __init__(
        self,
        rule: Callable[[Expression], Expression | None],
        values: Mapping[Atom, Size],
        from_above: bool = False,
    ) -> None:
        self._rule = rule
        self._from_above = from_above
        self._values = values
        self._done: dict[Expression, Expression] = {}

    def apply(self, node: Expression) -> Expression:
        found = self._done.get(node)
        if found is None:
            found = self._done[node] = self._transformed(node)
        return found

    def _transformed(self, node: Expression) -> Expression:
        if self._from_above:
            replaced = self._rule(node)
            if replaced is not None:
                return replaced
        rebuilt = node if isinstance(node, self._CHILDLESS) else self._rebuild(node)
        if self._from_above:
            return rebuilt
        replaced = self._rule(rebuilt)
        return rebuilt if replaced is None else replaced

    def index(self, size: Size) -> Size:
        values = dict(self._values)
        for leaf in index_expressions(size):
            values[leaf] = as_index(self.apply(leaf))
        return dims.substitute(size, values)

    def _rebuild(self, node: Expression) -> Expression:
        match node:
            case IndexValue(_, size):
                return index_value(self.index(size))
            case Load(_, buffer, indices, guard):
                inner = None if guard is None else self.apply(guard)
                if isinstance(inner, Constant):
                    if not inner.value:
                        return constant(0, node.dtype)
                    inner = None
                return load(buffer, tuple(self.index(i) for i in indices), inner)
            case Unary(_, name, operand):
                return unary(name, self.apply(operand))
            case Cast(dtype, operand):
                return convert(self.apply(operand), dtype)
            case Bits(dtype, operand):
                return bits(self.apply(operand), dtype)
            case Checked(_, operand, extent):
                return index_value(checked(self.apply(operand), self.index(extent)))
            case Binary(_, name, left, right):
                return binary(name, self.apply(left), self.apply(right))
            case Select(_, condition, then, otherwise):
                return select(self.apply(condition), self.apply(then), self.apply(otherwise))
            case Reduce(_, name, over, body):
                return reduce(name, tuple(self._bound(s) for s in over), self.apply(body))
            case _:
                raise InternalError(f"no rule to rebuild {type(node).__name__}")

    def _bound(self, over: Symbol) -> Symbol:
        replaced = self._values.get(over)
        if replaced is not None:
            leaf = dims.as_atom(replaced)
            if not isinstance(leaf, Symbol):
                raise InternalError(f"the reduction over {over} cannot be renamed to {replaced}")
            return leaf
        return over
