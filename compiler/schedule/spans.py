"""Finds out which elements of its buffers each item of a kernel touches, as intervals.

An item is an iteration of the kernel's parallel loop. The index arithmetic of every load and store
is evaluated for all items at once, with intervals for the indices of the loops inside of an item.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias, Union

import numpy as np

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.dims import Atom, FloorDiv, Max, Min, Mod, Size, Symbol
from bessemer.compiler.ir.expr import (
    Binary,
    Buffer,
    Checked,
    Constant,
    Expression,
    Index,
    IndexValue,
    Load,
    Read,
)
from bessemer.compiler.ir.loops import Block, Kernel, Statement
from bessemer.compiler.ir.types import Array, i64
from bessemer.compiler.ir.walk_expr import all_nodes
from bessemer.compiler.ir.walk_loops import expressions, sizes

_Bound: TypeAlias = Union[int, Array]
_Interval: TypeAlias = tuple[_Bound, _Bound]
_BEHIND, _BEFORE = 1 << 60, -1
"""The bounds of an empty interval: it begins after everything and ends before everything."""


@dataclass(frozen=True, eq=False)
class Span:
    """The elements of a buffer that items touch. No element before low[i] is touched by item i
    or a later one, and no element after high[i] by item i or an earlier one. Both arrays never
    decrease."""

    low: Array
    high: Array


_MOST_ITEMS = 1 << 24
"""For more items, the intervals would take too much memory."""


class _Unknown(Exception):
    """Raised where no interval can be given."""


def spans_of(kernel: Kernel, least: int = 0) -> dict[str, Span] | None:
    """The elements that items touch, by the name of the buffer, for buffers of at least `least`
    bytes.

    None for kernels whose sizes or indices depend on data or symbols, and for those with teams or
    matrix units.
    """
    if kernel.symbols or kernel.has_team or not isinstance(kernel.parallel_extent, int):
        return None
    if kernel.parallel_extent > _MOST_ITEMS:
        return None
    match kernel.body:
        case (loops.For(kind="parallel") as loop,):
            walk = _Walk(kernel, kernel.parallel_extent, least)
        case _:
            return None
    try:
        walk.items(loop)
    except _Unknown:
        return None
    return {name: _span(low, high, walk.sizes[name]) for name, (low, high) in walk.found.items()}


def _span(low: Array, high: Array, size: int) -> Span:
    """The span of intervals. Some of these may be empty; the span then has one element there."""
    low = np.clip(np.minimum.accumulate(low[::-1])[::-1], 0, max(0, size - 1))
    high = np.minimum(np.maximum.accumulate(high), size - 1)
    return Span(low, np.maximum(low, high))


class _Walk:
    """Walks through an item's statements; `mask` says for which items a statement may run."""

    def __init__(self, kernel: Kernel, count: int, least: int) -> None:
        sizes = {b.name: dims.number(dims.product(b.shape)) for b in kernel.buffers}
        bytes_ = {b.name: b.dtype.bytes for b in kernel.buffers}
        self.sizes = {name: n for name, n in sizes.items() if n * bytes_[name] >= least}
        self.found: dict[str, tuple[Array, Array]] = {}
        self._count = count
        self._indices: dict[Symbol, _Interval] = {}
        self._locals: dict[str, _Interval] = {}
        self._widths: dict[str, int] = {}  # of fragments, in columns
        self._known: dict[Size, _Interval] = {}
        self._waiting: dict[tuple[str, object], tuple[Size, int, int]] = {}

    def items(self, loop: loops.For) -> None:
        numbers = np.arange(self._count)
        self._indices[loop.index] = (numbers, numbers)
        self._block(loop.body, np.ones(self._count, bool))

    def _block(self, block: Block, mask: Array) -> None:
        for statement in block:
            if isinstance(statement, (loops.For, loops.If, loops.Define)):
                self._note_waiting(mask)
            self._statement(statement, mask)
        self._note_waiting(mask)

    def _statement(self, statement: Statement, mask: Array) -> None:
        match statement:
            case loops.FragmentFill(_, column, _, limit) | loops.FragmentStore(_, column, limit):
                self._set_index(column, (0, self._size(limit)[1] - 1))
            case _:
                pass
        for value in expressions(statement):
            self._loads(value)
        for leaf in (leaf for size in sizes(statement) for leaf in dims.atoms(size)):
            if isinstance(leaf, Expression):
                self._loads(leaf)
        match statement:
            case loops.For(index, extent, body):
                _, most = self._size(extent)
                self._set_index(index, (0, most - 1))
                self._block(body, mask & (most > 0))
            case loops.If(condition, then, otherwise):
                surely, never = self._truth(condition)
                self._note_waiting(mask)
                self._block(then, mask & ~never)
                self._block(otherwise, mask & ~surely)
            case loops.Define(local, value):
                self._define(local, value)
            case loops.Assign(local, _) | loops.Accumulate(local):
                if local in self._locals:
                    raise _Unknown
            case loops.Store(buffer, indices):
                self._touch(buffer, _offset(buffer, indices))
            case loops.FragmentMac():
                for offset in statement.a_offsets:
                    self._touch(statement.a, offset, statement.products)
                width = self._widths[statement.fragment] * statement.group
                self._touch(statement.b, statement.b_offset, width)
            case loops.FragmentStore():
                for store in (store for row in statement.stores for store in row):
                    self._touch(store.buffer, _offset(store.buffer, store.indices))
            case loops.Fragment(name, _, columns):
                self._widths[name] = columns
            case loops.FragmentFill() | loops.Allocate():
                pass
            case loops.Prefetch() | loops.Stream():
                pass
            case _:
                raise _Unknown

    def _set_index(self, index: Symbol, interval: _Interval) -> None:
        if index in self._indices:
            self._known.clear()
        self._indices[index] = interval

    def _define(self, local: str, value: Expression) -> None:
        if self._locals.pop(local, None) is not None:
            self._known.clear()
        if value.dtype is i64:
            with suppress(_Unknown):  # then no index may use it
                self._locals[local] = self._integer(value)

    # What is touched

    def _loads(self, value: Expression) -> None:
        for node in all_nodes(value):
            match node:
                case Checked():
                    raise _Unknown
                case Load(_, buffer, indices, _):
                    self._touch(buffer, _offset(buffer, indices))
                case _:
                    pass

    def _touch(self, buffer: Buffer, offset: Size, count: int = 1) -> None:
        """Remembers that `count` elements from an offset on are touched. Offsets that differ by
        numbers only are remembered together."""
        if buffer.name not in self.sizes:
            return
        terms = {} if isinstance(offset, int) else offset.terms
        constant = offset if isinstance(offset, int) else terms.get((), 0)
        key = buffer.name, frozenset(term for term in terms.items() if term[0])
        first, low, high = self._waiting.get(key, (offset - constant, constant, constant))
        self._waiting[key] = first, min(low, constant), max(high, constant + count - 1)

    def _note_waiting(self, mask: Array) -> None:
        """Records what the remembered accesses touch, for the items in `mask`."""
        for (name, _), (rest, least, most) in self._waiting.items():
            low, high = self._size(rest)
            first = np.where(mask, low + least, _BEHIND)
            last = np.where(mask, high + most, _BEFORE)
            before = self.found.get(name, (first, last))
            self.found[name] = np.minimum(before[0], first), np.maximum(before[1], last)
        self._waiting.clear()

    # Intervals

    def _size(self, size: Size) -> _Interval:
        if isinstance(size, int):
            return size, size
        found = self._known.get(size)
        if found is None:
            found = self._known[size] = self._polynomial(size)
        return found

    def _polynomial(self, size: dims.Dim) -> _Interval:
        low: _Bound = 0
        high: _Bound = 0
        for monomial, coefficient in size.terms.items():
            least: _Bound = coefficient
            most: _Bound = coefficient
            for factor, power in monomial:
                for _ in range(power):
                    least, most = _times((least, most), self._atom(factor))
            low, high = low + least, high + most
        return low, high

    def _atom(self, atom: Atom) -> _Interval:
        match atom:
            case Symbol() if atom in self._indices:
                return self._indices[atom]
            case FloorDiv(numerator, int() as denominator):
                low, high = self._size(numerator)
                return low // denominator, high // denominator
            case Mod(numerator, int() as denominator):
                low, high = self._size(numerator)
                is_one = np.equal(low // denominator, high // denominator)
                least = np.where(is_one, low % denominator, 0)
                return least, np.where(is_one, high % denominator, denominator - 1)
            case Min(left, right):
                a, b = self._size(left), self._size(right)
                return np.minimum(a[0], b[0]), np.minimum(a[1], b[1])
            case Max(left, right):
                a, b = self._size(left), self._size(right)
                return np.maximum(a[0], b[0]), np.maximum(a[1], b[1])
            case Expression():
                return self._integer(atom)
            case _:
                raise _Unknown

    def _integer(self, node: Expression) -> _Interval:
        match node:
            case IndexValue(_, size):
                return self._size(size)
            case Constant(_, int() as value):
                return value, value
            case Read(_, local) if local in self._locals:
                return self._locals[local]
            case _:
                raise _Unknown

    def _truth(self, condition: Expression) -> tuple[Array, Array]:
        """The items for which a condition is surely true, and those for which it is surely
        false."""
        nowhere = np.zeros(self._count, bool)
        match condition:
            case Binary(_, "and", left, right):
                a, b = self._truth(left), self._truth(right)
                return a[0] & b[0], a[1] | b[1]
            case Binary(_, ("lt" | "ge") as name, left, right):
                try:
                    a_low, a_high = self._integer(left)
                    b_low, b_high = self._integer(right)
                except _Unknown:
                    return nowhere, nowhere
                below, not_below = nowhere | (a_high < b_low), nowhere | (a_low >= b_high)
                return (below, not_below) if name == "lt" else (not_below, below)
            case _:
                return nowhere, nowhere


def _offset(buffer: Buffer, indices: Index) -> Size:
    return indices[0] if len(indices) == 1 and buffer.strides is None else buffer.offset(indices)


def _times(left: _Interval, right: _Interval) -> _Interval:
    products = [a * b for a in left for b in right]
    low, high = products[0], products[0]
    for each in products[1:]:
        low, high = np.minimum(low, each), np.maximum(high, each)
    return low, high
