"""Runs kernels of the loop language, one scalar at a time: the definition of that language.

It is slow and vectorises nothing, so that what a statement or expression means can be read here.
What a kernel may not rely on is made to fail: memory and locals that were never written hold
NaN or large numbers, and parallel loops run backwards.

What numbers are, and what functions do to them, is in arithmetic.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import expr, loops
from bessemer.compiler.ir.dims import Atom, Size, Symbol
from bessemer.compiler.ir.evaluate import evaluate
from bessemer.compiler.ir.expr import Buffer, Expression
from bessemer.compiler.ir.interpreter.arithmetic import (
    binary,
    bits,
    cast,
    from_memory,
    round_to,
    to_memory,
    unary,
    unwritten,
    wrap,
)
from bessemer.compiler.ir.interpreter.interpret_contract import attended, contract_sums
from bessemer.compiler.ir.interpreter.interpret_tiles import Tiles
from bessemer.compiler.ir.loops import Block, Kernel, Statement
from bessemer.compiler.ir.tile_statements import TileLoad, TileMac, TileSetup, TileStore, TileZero
from bessemer.compiler.ir.types import Array, DType, f32, u32

OUT_OF_RANGE = "index out of range"
"""The failure that a `Checked` index reports."""


@dataclass(frozen=True)
class KernelResult:
    """The buffers that were written, every symbol's value at the end, and distinct failures."""

    outputs: tuple[Array, ...]
    symbols: dict[str, int]
    failures: tuple[str, ...]


def run_kernel(kernel: Kernel, arrays: Sequence[Array], symbols: Mapping[str, int]) -> KernelResult:
    """Runs a kernel on arrays for its input buffers, or for all of its buffers; changes none.

    Output buffers are made here if they are not given. Where a symbol that the kernel sets occurs
    in their shapes, its value in `symbols` is the most that it may be; the results have the shape
    that it then gets.
    Raises InternalError for what no kernel may do: a read or write outside of a buffer, a local
    out of its scope.
    """
    machine = _Machine(symbols)
    inputs = len(kernel.buffers) - kernel.outputs
    if len(arrays) not in (inputs, len(kernel.buffers)):
        raise InternalError(f"{kernel.name} has {inputs} input buffers, but {len(arrays)} came")
    for position, buffer in enumerate(kernel.buffers):
        given = arrays[position] if position < len(arrays) else None
        machine.place(buffer, given)
    with np.errstate(all="ignore"):
        machine.run(kernel.body)
    outputs = tuple(machine.contents(buffer) for buffer in kernel.buffers[inputs:])
    return KernelResult(outputs, machine.symbols, tuple(machine.failures))


Memo = dict[Expression, Any]
"""Values of the nodes of one expression: nodes are shared, and what is shared is computed once."""


class _Machine:
    """The state of a running kernel."""

    def __init__(self, symbols: Mapping[str, int]) -> None:
        self.symbols = dict(symbols)
        self.failures: dict[str, None] = {}
        self._memory: dict[str, Array] = {}
        self._indices: dict[Symbol, int] = {}
        self._locals: dict[str, Any] = {}
        self._types: dict[str, DType] = {}
        self._fragments: dict[str, tuple[DType, Array]] = {}
        self._column = 0
        self._tiles = Tiles()
        self._offsets: dict[expr.Load | loops.Store, Size] = {}

    # Memory

    def place(self, buffer: Buffer, array: Array | None) -> None:
        """Gives a buffer its memory: a flat copy of the array, or unwritten elements."""
        if array is not None:
            if array.dtype != buffer.dtype.numpy:
                raise InternalError(f"{buffer.name} is {buffer.dtype}, but got {array.dtype}")
            self._memory[buffer.name] = array.reshape(-1).copy()
            return
        shape = [self.size(size) for size in buffer.shape]
        strides = [self.size(size) for size in buffer.element_strides()]
        count = 1 + sum((n - 1) * s for n, s in zip(shape, strides)) if all(shape) else 0
        self._memory[buffer.name] = np.full(count, unwritten(buffer.dtype), buffer.dtype.numpy)

    def contents(self, buffer: Buffer) -> Array:
        """A buffer's elements in its shape."""
        shape = tuple(self.size(size) for size in buffer.shape)
        flat = self._memory[buffer.name]
        if buffer.strides is not None:
            steps = tuple(self.size(s) * buffer.dtype.bytes for s in buffer.strides)
            return np.lib.stride_tricks.as_strided(flat, shape, steps).copy()
        return flat[: math.prod(shape)].reshape(shape)

    def _element(self, buffer: Buffer, offset: int) -> Any:
        return from_memory(self._memory[buffer.name][self._inside(buffer, offset)], buffer.dtype)

    def _inside(self, buffer: Buffer, offset: int) -> int:
        count = len(self._memory[buffer.name])
        if not 0 <= offset < count:
            raise InternalError(f"element {offset} of {buffer.name}, which has {count}")
        return offset

    # Statements

    def run(self, block: Block) -> None:
        """Runs a block; what it declares ends with it."""
        with self._scope():
            for statement in block:
                self._run(statement)

    @contextmanager
    def _scope(self) -> Iterator[None]:
        tables: tuple[dict[str, Any], ...] = (self._locals, self._memory, self._fragments)
        before = [set(table) for table in tables]
        yield
        for table, names in zip(tables, before):
            for name in set(table) - names:
                del table[name]

    def _run(self, statement: Statement) -> None:
        match statement:
            case loops.For(index, extent, body, kind):
                iterations = range(self.size(extent))
                if kind == "team" and len(iterations) != 1:
                    raise InternalError("a kernel is interpreted by a team of one")
                for i in reversed(iterations) if kind == "parallel" else iterations:
                    self._indices[index] = i
                    self.run(body)
            case loops.If(condition, then, otherwise):
                self.run(then if self.value(condition) else otherwise)
            case loops.While(condition, body):
                while self.value(condition):
                    self.run(body)
            case loops.Define(local, value):
                self._locals[local] = self.value(value)
                self._types[local] = value.dtype
            case loops.Assign(local, value):
                self._locals[self._known(local)] = self.value(value)
            case loops.Accumulate(local, name, value):
                before = self._locals[self._known(local)]
                self._locals[local] = binary(name, self._types[local], before, self.value(value))
            case loops.Store():
                self._store(statement)
            case loops.Allocate(buffer):
                self.place(buffer, None)
            case loops.SetDim(symbol, value):
                self.symbols[symbol] = self.value(value)
            case loops.Fail(condition, message):
                if self.value(condition):
                    self.failures[message] = None
            case loops.Prefetch() | loops.Stream() | loops.Barrier():
                pass
            case TileSetup() | TileZero() | TileLoad() | TileStore() | TileMac():
                self._tiles.run(statement, self.size, self._memory)
            case _:
                self._run_fragment(statement)

    def _run_fragment(self, statement: Statement) -> None:
        match statement:
            case loops.Fragment(name, rows, columns, dtype):
                elements = np.full((rows, columns), unwritten(dtype), dtype.numpy)
                self._fragments[name] = dtype, elements
            case loops.FragmentFill(fragment, column, value, limit):
                dtype, elements = self._fragments[fragment]
                for c in range(elements.shape[1]):
                    self._indices[column] = c
                    number = self.value(value) if c < self.size(limit) else 0
                    elements[:, c] = to_memory(number, dtype)
            case loops.FragmentMac():
                self._multiply_accumulate(statement)
            case loops.FragmentStore(_, column, limit, stores):
                for row in stores:
                    for c in range(self.size(limit)):
                        self._indices[column] = self._column = c
                        for store in row:
                            self._store(store)
            case loops.Contract():
                memory = self._memory.__getitem__
                sums, tall, wide = contract_sums(statement, self.size, memory)
                self._store_sums(statement, statement.sums, sums, tall, wide)
            case loops.Attend():
                self._attend(statement)
            case _:
                raise InternalError(f"no meaning for {type(statement).__name__}")

    def _multiply_accumulate(self, mac: loops.FragmentMac) -> None:
        dtype, elements = self._fragments[mac.fragment]
        right, products = self.size(mac.b_offset), range(mac.products)
        starts = range(right, right + elements.shape[1] * mac.group, mac.group)
        columns = [[self._element(mac.b, start + j) for j in products] for start in starts]
        for row, offset in zip(mac.rows, mac.a_offsets, strict=True):
            first = self.size(offset)
            a = [self._element(mac.a, first + j) for j in products]
            for column, b in enumerate(columns):
                before = elements[row, column]
                if dtype.is_float:
                    # Wide enough for products of two f32 to be exact: one rounding, at the end.
                    terms = (np.longdouble(x) * np.longdouble(y) for x, y in zip(a, b))
                    elements[row, column] = sum(terms, np.longdouble(before))
                else:
                    elements[row, column] = wrap(
                        sum((int(x) * int(y) for x, y in zip(a, b)), int(before)), dtype
                    )

    def _attend(self, attend: loops.Attend) -> None:
        memory = self._memory.__getitem__
        products, _ = attend.products
        keys = self.size(attend.key.extent or 0)
        whole = replace(products, tile=replace(attend.tile, columns=keys))
        scores, rows, _ = contract_sums(whole, self.size, memory)
        for r, row in enumerate(rows):
            self._indices[attend.row] = row
            self._fragments[attend.scores] = f32, scores[r : r + 1].copy()
            for self._column in range(keys):
                self._indices[attend.key] = self._column
                scores[r, self._column] = self.value(attend.score)
        if attend.key_end is not None:
            hidden = scores[:, max(0, self.size(attend.key_end)) :]
            if (hidden > loops.LOWEST_SCORE).any():
                raise InternalError(f"{attend.scores} has scores beyond the last key")
        self._fragments.pop(attend.scores, None)
        results, columns = attended(attend, scores, self.size, memory)
        self._store_sums(attend, attend.results, results, rows, columns)

    def _store_sums(
        self,
        tile: loops.Contract | loops.Attend,
        name: str,
        sums: Array,
        rows: range,
        columns: range,
    ) -> None:
        dtype = tile.dtype if isinstance(tile, loops.Contract) else f32
        for r, row in enumerate(rows):
            self._indices[tile.row] = row
            # The columns of one row of a fragment, in which the stores find their element.
            self._fragments[name] = dtype, sums[r : r + 1]
            for self._column, column in enumerate(columns):
                self._indices[tile.column] = column
                for store in tile.stores:
                    self._store(store)
        self._fragments.pop(name, None)

    def _store(self, store: loops.Store) -> None:
        if store.guard is not None and not self.value(store.guard):
            return
        value = to_memory(self.value(store.value), store.buffer.dtype)
        offset = self.size(self._offset(store))
        self._memory[store.buffer.name][self._inside(store.buffer, offset)] = value

    def _offset(self, access: expr.Load | loops.Store) -> Size:
        if access not in self._offsets:
            self._offsets[access] = access.buffer.offset(access.indices)
        return self._offsets[access]

    def _known(self, local: str) -> str:
        if local not in self._locals:
            raise InternalError(f"no local {local} here")
        return local

    # Expressions

    def size(self, size: Size, memo: Memo | None = None) -> int:
        """The value of index arithmetic."""
        found: Memo = {} if memo is None else memo
        return evaluate(size, lambda leaf: self._leaf(leaf, found))

    def _leaf(self, leaf: Atom, memo: Memo) -> int:
        match leaf:
            case Symbol(name, None):
                return self.symbols[name]
            case Symbol():
                return self._indices[leaf]
            case Expression():
                return int(self._value(leaf, memo))
            case _:
                raise InternalError(f"no value for {leaf}")

    def value(self, node: Expression) -> Any:
        """The value of an expression."""
        return self._value(node, {})

    def _value(self, node: Expression, memo: Memo) -> Any:
        if node not in memo:
            memo[node] = self._compute(node, memo)
        return memo[node]

    def _compute(self, node: Expression, memo: Memo) -> Any:
        match node:
            case expr.Constant(dtype, value):
                return round_to(value, dtype) if dtype.is_float else value
            case expr.Given(dtype, symbol):
                return bits(np.uint32(self.symbols[symbol]), u32, dtype)
            case expr.IndexValue(_, size):
                return self.size(size, memo)
            case expr.Load(_, buffer, _, guard):
                if guard is not None and not self._value(guard, memo):
                    return from_memory(np.zeros((), buffer.dtype.numpy)[()], buffer.dtype)
                return self._element(buffer, self.size(self._offset(node), memo))
            case expr.Unary(_, name, operand):
                return unary(name, operand.dtype, self._value(operand, memo))
            case expr.Binary(_, name, left, right):
                a, b = self._value(left, memo), self._value(right, memo)
                return binary(name, left.dtype, a, b)
            case expr.Select(_, condition, then, otherwise):
                both = self._value(otherwise, memo), self._value(then, memo)
                return both[self._value(condition, memo)]
            case expr.Cast(dtype, operand):
                return cast(self._value(operand, memo), operand.dtype, dtype)
            case expr.Bits(dtype, operand):
                return bits(self._value(operand, memo), operand.dtype, dtype)
            case expr.Checked(_, operand, extent):
                return self._checked(self._value(operand, memo), self.size(extent, memo))
            case expr.Reduce(_, name, over, body):
                return self._reduced(name, over, body)
            case expr.Read(_, local):
                return self._locals[self._known(local)]
            case expr.FragmentElement(dtype, fragment, row):
                return from_memory(self._fragments[fragment][1][row, self._column], dtype)
            case _:
                raise InternalError(f"no value for {expr.describe(node)}")

    def _checked(self, index: int, extent: int) -> int:
        counted = index + extent if index < 0 else index
        if not 0 <= counted < extent:
            self.failures[OUT_OF_RANGE] = None
        return max(0, min(counted, extent - 1))

    def _reduced(self, name: str, over: tuple[Symbol, ...], body: Expression) -> Any:
        """Only element rules have it; it is evaluated so that tests can run a rule as it is."""
        total = self.value(expr.neutral(name, body.dtype))

        def visit(remaining: tuple[Symbol, ...]) -> None:
            nonlocal total
            if not remaining:
                total = binary(name, body.dtype, total, self.value(body))
                return
            for i in range(self.size(remaining[0].extent or 0)):
                self._indices[remaining[0]] = i
                visit(remaining[1:])

        visit(over)
        return total
