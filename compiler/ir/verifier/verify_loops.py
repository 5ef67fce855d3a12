"""Checks that a kernel is valid, as loops.py defines it; the driver calls it on every kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NoReturn

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size, Symbol, atoms, symbol
from bessemer.compiler.ir.expr import (
    Buffer,
    Expression,
    FragmentElement,
    Given,
    Load,
    Read,
    Reduce,
)
from bessemer.compiler.ir.functions import REDUCTIONS
from bessemer.compiler.ir.loops import (
    TEAM,
    Accumulate,
    Allocate,
    Assign,
    Attend,
    Barrier,
    Block,
    Contract,
    Define,
    Fail,
    For,
    Fragment,
    FragmentFill,
    FragmentMac,
    FragmentStore,
    If,
    Kernel,
    Prefetch,
    SetDim,
    Statement,
    Store,
    Stream,
    While,
)
from bessemer.compiler.ir.text.text_loops import print_statement
from bessemer.compiler.ir.tile_statements import TileLoad, TileMac, TileSetup, TileStore, TileZero
from bessemer.compiler.ir.types import DType, bf16, boolean, i8, i64, u8
from bessemer.compiler.ir.verifier.scope import Scope
from bessemer.compiler.ir.verifier.verify_contract import contract_problems
from bessemer.compiler.ir.verifier.verify_vectors import check_vector_loop
from bessemer.compiler.ir.walk_expr import children, index_expressions
from bessemer.compiler.ir.walk_loops import expressions, own_sizes, sizes


def verify_kernel(kernel: Kernel) -> None:
    """Raises InternalError, with the guilty statement, unless

    - every buffer, local, fragment, index and symbol is known where it is used, and its name not
      already in use where it is defined; only outputs and local arrays are written;
    - element types, numbers of indices and the rows of fragments fit;
    - a parallel loop is the only outermost statement, and vector loops carry nothing but
      accumulations and take no branch that depends on the lane.
    """
    _Verifier(kernel).kernel()


class _Verifier:
    def __init__(self, kernel: Kernel) -> None:
        self.whole = kernel
        inputs = len(kernel.buffers) - kernel.outputs
        self.inputs = {buffer.name for buffer in kernel.buffers[:inputs]}
        self.symbols = set(kernel.symbols)
        self.statement: Statement | None = None
        self.column: Symbol | None = None
        self.checked: set[Expression] = set()
        self.has_tiles = False

    def kernel(self) -> None:
        kernel = self.whole
        names = [buffer.name for buffer in kernel.buffers]
        if len(set(names)) != len(names):
            self.fail("two buffers have one name")
        if not 0 <= kernel.outputs <= len(names):
            self.fail(f"{kernel.outputs} of {len(names)} buffers are written")
        scope = Scope({b.name: b for b in kernel.buffers}, {}, {}, frozenset())
        for buffer in kernel.buffers:
            self.sizes((*buffer.shape, *(buffer.strides or ())), scope)
        self.sizes((kernel.operations,), scope)
        self.block(kernel.body, scope, outermost=len(kernel.body) == 1)

    def block(self, block: Block, scope: Scope, outermost: bool = False) -> None:
        for statement in block:
            self.statement = statement
            self.checked = set()
            if not isinstance(statement, (FragmentFill, FragmentStore, Contract, Attend)):
                self.sizes(sizes(statement), scope)
                self.expressions(expressions(statement), scope)
            self.one(statement, scope, outermost)

    def one(self, statement: Statement, scope: Scope, outermost: bool) -> None:
        match statement:
            case For():
                self.loop(statement, scope, outermost)
            case If(condition, then, otherwise):
                self.condition(condition)
                self.block(then, scope.inner())
                self.block(otherwise, scope.inner())
            case While(condition, body):
                self.condition(condition)
                self.block(body, scope.inner())
            case Define(local, value):
                self.new(local, scope)
                scope.locals[local] = value.dtype
            case Assign(local, value):
                self.type(value, self.local(local, scope))
            case Accumulate(local, name, value):
                self.type(value, self.local(local, scope))
                if name not in REDUCTIONS:
                    self.fail(f"{name} is not a reduction")
            case Store():
                self.store(statement, scope)
            case Allocate(buffer):
                self.new(buffer.name, scope)
                if not all(isinstance(size, int) for size in buffer.shape):
                    self.fail("a local array has a constant shape")
                scope.buffers[buffer.name] = buffer
            case SetDim(symbol, value):
                self.type(value, i64)
                if symbol not in self.symbols:
                    self.fail(f"the symbol {symbol} is not the kernel's")
            case Fail(condition):
                self.condition(condition)
            case Prefetch(buffer) | Stream(buffer):
                self.buffer(buffer, scope)
            case Barrier():
                if not self.whole.has_team:
                    self.fail("a barrier in a kernel without a team")
            case TileSetup() | TileZero() | TileLoad() | TileStore() | TileMac():
                self.tile_statement(statement, scope)
            case _:
                self.fragment_statement(statement, scope)

    def loop(self, loop: For, scope: Scope, outermost: bool) -> None:
        if loop.kind in ("parallel", "team") and not outermost:
            self.fail(f"a {loop.kind} loop is the only outermost statement of its kernel")
        if loop.kind == "team" and loop.extent != symbol(TEAM):
            self.fail(f"a team has {TEAM} members")
        if loop.index.extent is None:
            self.fail("a loop's index has an extent")
        self.new(loop.index.name, scope)
        if loop.lanes < 0 or loop.interleave < 1:
            self.fail("a loop cannot have so few lanes")
        if loop.kind != "vector" and loop.lanes != 1:
            self.fail("only a vector loop has lanes")
        if loop.kind == "vector":
            problem = check_vector_loop(loop)
            if problem:
                self.fail(problem)
        self.block(loop.body, scope.inner(loop.index))

    def fragment_statement(self, statement: Statement, scope: Scope) -> None:
        match statement:
            case Fragment(name, rows, columns):
                self.new(name, scope)
                if rows < 1 or columns < 1:
                    self.fail("a fragment has rows and columns")
                scope.fragments[name] = statement
            case FragmentFill(name, column, value):
                self.type(value, self.fragment(name, scope).dtype)
                self.columns(column, self.fragment(name, scope), scope)
                self.sizes((statement.limit,), scope)
                self.expressions((value,), scope.inner(column))
            case FragmentMac():
                self.mac(statement, scope)
            case FragmentStore():
                self.fragment_store(statement, scope)
            case Contract():
                self.contract(statement, scope, (statement.row, statement.column))
            case Attend(score=score):
                indices = (statement.row, statement.column, statement.key)
                self.contract(statement, scope, indices, (score,))
            case _:
                self.fail(f"{type(statement).__name__} is not a statement")

    def mac(self, mac: FragmentMac, scope: Scope) -> None:
        fragment = self.fragment(mac.fragment, scope)
        self.rows(mac.rows, fragment)
        if len(set(mac.rows)) != len(mac.rows) or len(mac.rows) != len(mac.a_offsets):
            self.fail("every row is named once and has one offset")
        for buffer in (mac.a, mac.b):
            self.buffer(buffer, scope)
            if buffer.dtype.is_float != fragment.dtype.is_float:
                self.fail(
                    f"sums of {fragment.dtype} from {buffer.name}, which holds {buffer.dtype}"
                )
        if mac.group not in (1, 2, 4) or not 1 <= mac.products <= mac.group:
            self.fail(f"{mac.products} terms of groups of {mac.group}")

    def fragment_store(self, statement: FragmentStore, scope: Scope) -> None:
        fragment = self.fragment(statement.fragment, scope)
        self.sizes((statement.limit,), scope)
        self.columns(statement.column, fragment, scope)
        if len(statement.stores) != fragment.rows:
            self.fail(f"{len(statement.stores)} rows of stores for {fragment.rows} rows")
        if isinstance(statement.limit, int) and statement.limit > fragment.columns:
            self.fail(f"the fragment has only {fragment.columns} columns")
        inner = scope.inner(statement.column)
        self.column = statement.column
        self.stores((store for row in statement.stores for store in row), inner)
        self.column = None

    def contract(
        self,
        tile: Contract | Attend,
        scope: Scope,
        indices: tuple[Symbol, ...],
        values: tuple[Expression, ...] = (),
    ) -> None:
        for problem in contract_problems(tile):
            self.fail(problem)
        self.sizes(own_sizes(tile), scope)
        for operand in tile.operands:
            self.buffer(operand.buffer, scope)
        inner = scope.inner(*indices)
        for name in (*tile.fragments, *(index.name for index in indices)):
            self.new(name, scope)
        for name, dtype in tile.fragments.items():
            inner.fragments[name] = Fragment(name, 1, 1, dtype)
        self.column = tile.column
        self.expressions(values, inner)
        self.stores(tile.stores, inner)
        self.column = None

    def stores(self, stores: Iterable[Store], scope: Scope) -> None:
        for store in stores:
            self.sizes(sizes(store), scope)
            self.expressions(expressions(store), scope)
            self.store(store, scope)

    def tile_statement(
        self, statement: TileSetup | TileZero | TileLoad | TileStore | TileMac, scope: Scope
    ) -> None:
        if isinstance(statement, TileSetup) == self.has_tiles:
            self.fail("tiles are set up once, before they are used")
        self.has_tiles = True
        match statement:
            case TileSetup(rows):
                if len(rows) != 8 or any(isinstance(r, int) and not 1 <= r <= 16 for r in rows):
                    self.fail("eight tiles have 1 to 16 rows each")
                if any(isinstance(leaf, Expression) for size in rows for leaf in atoms(size)):
                    self.fail("the tiles' rows are known before the kernel begins")
                for size in rows:
                    self.symbols_of(size, replace(scope, indices=frozenset()))
            case TileZero(tile):
                self.tiles(tile)
            case TileLoad(tile, buffer) | TileStore(tile, buffer):
                self.tiles(tile)
                self.buffer(buffer, scope)
                if isinstance(statement, TileStore) and buffer.name in self.inputs:
                    self.fail(f"{buffer.name} is an input and may not be written")
            case TileMac(total, a, b, left, right):
                self.tiles(total, a, b)
                if len({total, a, b}) != 3:
                    self.fail("a product names three different tiles")
                bytes_ = (i8, u8)
                if not (left is right is bf16 or (left in bytes_ and right in bytes_)):
                    self.fail(f"no product of tiles of {left} and {right}")

    def tiles(self, *tiles: int) -> None:
        if not all(0 <= tile < 8 for tile in tiles):
            self.fail("there are eight tiles")

    # What statements are made of

    def store(self, store: Store, scope: Scope) -> None:
        self.buffer(store.buffer, scope)
        if store.buffer.name in self.inputs:
            self.fail(f"{store.buffer.name} is an input and may not be written")
        if len(store.indices) != len(store.buffer.shape):
            self.fail(f"{len(store.indices)} indices into rank {len(store.buffer.shape)}")
        self.type(store.value, store.buffer.dtype)
        if store.guard is not None:
            self.condition(store.guard)

    def expressions(self, roots: Iterable[Expression], scope: Scope) -> None:
        for node in roots:
            if node in self.checked:
                continue
            self.checked.add(node)
            self.expressions(children(node), scope)
            self.expression(node, scope)

    def expression(self, node: Expression, scope: Scope) -> None:
        for size in _sizes_in(node):
            self.symbols_of(size, scope)
        match node:
            case Load(_, buffer, _, guard):
                self.buffer(buffer, scope)
                if guard is not None:
                    self.condition(guard)
            case Given(_, symbol):
                if symbol not in self.symbols:
                    self.fail(f"the symbol {symbol} is not known here")
            case Read(dtype, local):
                if self.local(local, scope) != dtype:
                    self.fail(f"{local} is read as {dtype}")
            case FragmentElement(dtype, name, row):
                if self.column is None:
                    self.fail("a fragment's element is read outside of a fragment store")
                fragment = self.fragment(name, scope)
                self.rows((row,), fragment)
                if fragment.dtype != dtype:
                    self.fail(f"an element of {name} is read as {dtype}")
            case Reduce():
                self.fail("a kernel spells reductions out as loops")

    def sizes(self, found: Iterable[Size], scope: Scope) -> None:
        for size in found:
            self.symbols_of(size, scope)
            self.expressions(index_expressions(size), scope)

    def symbols_of(self, size: Size, scope: Scope) -> None:
        for leaf in atoms(size):
            if not isinstance(leaf, Symbol):
                continue
            known = leaf.name in self.symbols if leaf.extent is None else leaf in scope.indices
            if not known:
                what = "symbol" if leaf.extent is None else "index"
                self.fail(f"the {what} {leaf} (below {leaf.extent}) is not known here")

    def buffer(self, buffer: Buffer, scope: Scope) -> None:
        declared = scope.buffers.get(buffer.name)
        if declared is None:
            self.fail(f"there is no buffer {buffer.name} here")
        elif declared.dtype != buffer.dtype:
            self.fail(f"{buffer.name} is {declared.dtype}, not {buffer.dtype}")

    def local(self, name: str, scope: Scope) -> DType:
        if name not in scope.locals:
            self.fail(f"there is no local {name} here")
        return scope.locals[name]

    def fragment(self, name: str, scope: Scope) -> Fragment:
        if name not in scope.fragments:
            self.fail(f"there is no fragment {name} here")
        return scope.fragments[name]

    def rows(self, rows: Sequence[int], fragment: Fragment) -> None:
        if not all(0 <= row < fragment.rows for row in rows):
            self.fail(f"rows {rows} of {fragment.name}, which has {fragment.rows}")

    def columns(self, column: Symbol, fragment: Fragment, scope: Scope) -> None:
        self.new(column.name, scope)
        extent = column.extent
        if extent is None or not dims.is_nonnegative(fragment.columns - extent):
            self.fail(f"{column} runs to {extent} in {fragment.columns} columns")

    def new(self, name: str, scope: Scope) -> None:
        if name in scope.names() or name in self.symbols:
            self.fail(f"the name {name} is in use already")

    def condition(self, condition: Expression) -> None:
        self.type(condition, boolean)

    def type(self, value: Expression, dtype: DType) -> None:
        if value.dtype != dtype:
            self.fail(f"a value of type {value.dtype} where {dtype} is wanted")

    def fail(self, problem: str) -> NoReturn:
        where = f"kernel {self.whole.name}: {problem}"
        if self.statement is None:
            raise InternalError(where)
        raise InternalError(f"{where}\n  {print_statement(self.statement, self.whole.buffers)}")


def _sizes_in(node: Expression) -> tuple[Size, ...]:
    """The index arithmetic directly in an expression."""
    if isinstance(node, Load):
        return (*node.indices, *node.buffer.element_strides())
    size = getattr(node, "size", None)
    extent = getattr(node, "extent", None)
    return tuple(found for found in (size, extent) if found is not None)
