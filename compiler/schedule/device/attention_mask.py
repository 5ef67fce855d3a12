"""Finds keys that a mask hides from a row whatever the scores are, so that a block of rows need not
visit them.

    select(key <= row + 3, score, -inf)         hides keys beyond row + 3
    select(seen[row, key], score, -1e30)        where `seen` is a constant: hides keys beyond
    score + mask[row, key]                      the largest key - row that it shows
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size, Symbol, atom
from bessemer.compiler.ir.expr import (
    Binary,
    Cast,
    Constant,
    Expression,
    IndexValue,
    Load,
    Select,
    Unary,
)
from bessemer.compiler.ir.loops import LOWEST_SCORE
from bessemer.compiler.ir.types import Array, boolean

Distance: TypeAlias = Size | None
"""Keys further than this behind the row (key - row is larger) are hidden. None: no key is known to
be."""
_MOST_ELEMENTS = 1 << 26
"""Of a constant mask that is looked at: the comparison takes some bytes for each of them."""
_TURNED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
_NEGATED = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt"}


def farthest_key(
    score: Expression,
    row: Symbol,
    key: Symbol,
    constants: Mapping[str, Array],
    computed: Callable[[Load], Expression | None] = lambda load: None,
) -> Distance:
    """The largest `key - row` for which a score may be above LOWEST_SCORE; None if it is not known.

    `constants` are the contents of constant buffers by name. `computed` returns the expression of
    an element that another kernel stores, if it is known.
    """
    return _Search(row, key, constants, computed).hidden(score)


@dataclass(frozen=True, eq=False)
class _Search:
    row: Symbol
    key: Symbol
    constants: Mapping[str, Array]
    computed: Callable[[Load], Expression | None]

    def hidden(self, node: Expression) -> Distance:
        """The distance beyond which a score is at most LOWEST_SCORE."""
        match node:
            case Cast(operand=operand) if operand.dtype.is_float:
                return self.hidden(operand)
            case Binary(name="add", left=left, right=right):
                return _nearer(self.hidden(left), self.hidden(right))
            case Binary(name="sub", left=left):
                return self.hidden(left)
            case Select(condition=condition, then=then, otherwise=otherwise):
                if _is_low(otherwise):
                    return _nearer(self.hidden(then), self.fails(condition, value=False))
                if _is_low(then):
                    return _nearer(self.hidden(otherwise), self.fails(condition, value=True))
                return None
            case Load() if node.buffer.name not in self.constants:
                known = self.computed(node)
                return None if known is None else self.hidden(known)
            case Load() if node.dtype.is_float:
                return self._of_array(node, lambda array: array <= LOWEST_SCORE)
            case _:
                return None

    def fails(self, node: Expression, value: bool) -> Distance:
        """The distance beyond which a condition surely has this value."""
        match node:
            case Unary(name="not", operand=operand):
                return self.fails(operand, not value)
            case Binary(name="and", left=left, right=right) if not value:
                return _nearer(self.fails(left, value), self.fails(right, value))
            case Binary(name="or", left=left, right=right) if value:
                return _nearer(self.fails(left, value), self.fails(right, value))
            case Binary(name=name, left=IndexValue(size=one), right=right) if name in _TURNED:
                other = _index_of(right)
                return None if other is None else self._compared(name, one, other, value)
            case Load() if node.buffer.name not in self.constants:
                known = self.computed(node)
                return None if known is None else self.fails(known, value)
            case Load() if node.dtype is boolean:
                return self._of_array(node, lambda array: array == value)
            case _:
                return None

    def _compared(self, name: str, one: Size, other: Size, value: bool) -> Distance:
        """The same for a comparison of index arithmetic, such as `one < other`."""
        name = name if not value else _NEGATED[name]
        if name in ("gt", "ge"):
            name, one, other = _TURNED[name], other, one
        # It fails where one - other >= 0 (or > 0), which is key - row + rest.
        rest = one - other - atom(self.key) + atom(self.row)
        if {self.key, self.row} & dims.atoms(rest):
            return None
        return -rest - 1 if name == "lt" else -rest

    def _of_array(self, load: Load, hides: Callable[[Array], Array]) -> Distance:
        """The same for a constant with an element for every row and key; `hides` says which
        elements count."""
        array = self.constants.get(load.buffer.name)
        (offset,) = load.indices
        rows, keys = self.row.extent, self.key.extent
        down, across = (dims.coefficient_of(offset, symbol) for symbol in (self.row, self.key))
        base = dims.substitute(offset, {self.row: 0, self.key: 0})
        if array is None or load.guard is not None or not isinstance(base, int):
            return None
        if not (isinstance(rows, int) and isinstance(keys, int)) or rows * keys > _MOST_ELEMENTS:
            return None
        if not (isinstance(down, int) and isinstance(across, int)):
            return None
        places = base + np.arange(rows)[:, None] * down + np.arange(keys) * across
        seen = np.argwhere(~hides(array.reshape(-1)[places]))
        return int((seen[:, 1] - seen[:, 0]).max()) if len(seen) else None


def _nearer(one: Distance, other: Distance) -> Distance:
    if one is None or other is None:
        return one if other is None else other
    return dims.minimum(one, other)


def _is_low(node: Expression) -> bool:
    """Whether the node is a constant of at most LOWEST_SCORE, which hides a score."""
    while isinstance(node, Cast):
        node = node.operand
    return isinstance(node, Constant) and float(node.value) <= LOWEST_SCORE


def _index_of(node: Expression) -> Size | None:
    match node:
        case IndexValue(size=size):
            return size
        case Constant(value=value) if isinstance(value, int):
            return value
        case _:
            return None
