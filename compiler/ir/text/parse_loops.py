"""Reads the text of a kernel, as text_loops.py writes it."""

from __future__ import annotations

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.functions import REDUCTIONS
from bessemer.compiler.ir.loops import (
    Accumulate,
    Allocate,
    Assign,
    Barrier,
    Block,
    Define,
    Fail,
    For,
    Fragment,
    FragmentFill,
    FragmentMac,
    FragmentStore,
    If,
    Kernel,
    LoopKind,
    Prefetch,
    SetDim,
    Statement,
    Store,
    Stream,
    While,
)
from bessemer.compiler.ir.text.parse_contract import read_attend, read_contract
from bessemer.compiler.ir.text.parse_expr import ExpressionReader, Names
from bessemer.compiler.ir.text.parse_graph import read_dtype
from bessemer.compiler.ir.text.parse_sizes import Tokens
from bessemer.compiler.ir.text.text_loops import ASSIGNMENTS
from bessemer.compiler.ir.tile_statements import TileLoad, TileMac, TileSetup, TileStore, TileZero
from bessemer.compiler.ir.types import i64

_KINDS: dict[str, LoopKind] = {
    "for": "serial",
    "parallel": "parallel",
    "team": "team",
    "vector": "vector",
    "unroll": "unroll",
}
_REDUCTION_OF = {mark: name for name, mark in ASSIGNMENTS.items()}


def parse_kernel(text: str) -> Kernel:
    """The kernel that `print_kernel` wrote. Raises CompileError, with the line, for other text."""
    lines = [
        (number, line)
        for number, line in enumerate(text.splitlines(), 1)
        if line.split("#")[0].strip()
    ]
    if not lines:
        raise CompileError("expected a kernel, not an empty text")
    parser = _Parser(lines)
    kernel = parser.kernel()
    if parser.lines:
        raise CompileError(f"line {parser.lines[0][0]}: the kernel has ended before this line")
    return kernel


class _Parser:
    def __init__(self, lines: list[tuple[int, str]]) -> None:
        self.lines = lines
        self.tokens = Tokens("")
        self.reader = ExpressionReader(self.tokens, Names())

    def next(self, names: Names) -> int:
        """Takes a line; its indent."""
        number, line = self.lines.pop(0)
        self.tokens = Tokens(line, number)
        self.reader = ExpressionReader(self.tokens, names)
        return _indent(line)

    def kernel(self) -> Kernel:
        names = Names()
        indent = self.next(names)
        tokens = self.tokens
        tokens.expect("kernel")
        name = tokens.take("name")
        symbols: list[str] = []
        if tokens.accept("["):
            while not tokens.accept("]"):
                symbols.append(tokens.take("name"))
                tokens.accept(",")
        names.indices.update((symbol, Symbol(symbol)) for symbol in symbols)
        buffers = self.parameters(names)
        tokens.expect("writes")
        outputs = tokens.integer()
        operations: Size = 1
        if tokens.accept("operations"):
            operations = self.reader.size()
        members = tokens.integer() if tokens.accept("members") else 1
        tokens.end()
        body = self.block(indent, names)
        return Kernel(name, buffers, outputs, tuple(symbols), body, operations, members)

    def parameters(self, names: Names) -> tuple[Buffer, ...]:
        tokens = self.tokens
        buffers: list[Buffer] = []
        tokens.expect("(")
        while not tokens.accept(")"):
            if buffers:
                tokens.expect(",")
            buffers.append(self.declared_buffer(names))
        return tuple(buffers)

    def declared_buffer(self, names: Names) -> Buffer:
        name = self.tokens.take("name")
        self.tokens.expect(":")
        names.buffers[name] = self.reader.buffer_type(name)
        return names.buffers[name]

    def block(self, outside: int, names: Names) -> Block:
        """The statements indented by more than `outside`; what they name ends with them."""
        inner = names.inner()
        statements: list[Statement] = []
        while self.lines and _indent(self.lines[0][1]) > outside:
            indent = self.next(inner)
            if self.tokens.peek().kind == "macro":
                self.name_expression(inner)
            else:
                statements.append(self.statement(indent, inner))
        return tuple(statements)

    def name_expression(self, names: Names) -> None:
        name = self.tokens.take()
        self.tokens.expect("=")
        names.shared[name] = self.reader.expression()
        self.tokens.end()

    def statement(self, indent: int, names: Names) -> Statement:
        tokens = self.tokens
        start = tokens.mark()
        word = tokens.take("name")
        if tokens.peek().text in ("[", "{", "=", ":", "+=", "*=") or (
            word in names.locals and tokens.peek().text in REDUCTIONS
        ):
            tokens.back(start)
            return self.done(self.change(names))
        match word:
            case "for" | "parallel" | "team" | "vector" | "unroll":
                return self.loop(_KINDS[word], indent, names)
            case "if":
                return self.condition(indent, names)
            case "while":
                condition = self.reader.expression()
                tokens.end()
                return While(condition, self.block(indent, names))
            case "store":
                return self.fragment_store(indent, names)
            case "contract" | "attend":
                return self.contract(word, indent, names)
            case _:
                return self.done(self.simple(word, names))

    def done(self, statement: Statement) -> Statement:
        self.tokens.end()
        return statement

    def change(self, names: Names) -> Statement:
        """A definition, assignment, accumulation or store."""
        tokens = self.tokens
        start = tokens.mark()
        name = tokens.take("name")
        if tokens.peek().text in ("[", "{"):
            tokens.back(start)
            buffer, indices, guard = self.reader.element()
            tokens.expect("=")
            return Store(buffer, indices, self.reader.expression(buffer.dtype), guard)
        if tokens.accept(":"):
            dtype = read_dtype(tokens)
            tokens.expect("=")
            value = self.reader.expression(dtype)
            names.locals[name] = dtype
            return Define(name, value)
        if name not in names.locals:
            raise tokens.error(f"a local instead of {name}")
        if tokens.accept("="):
            return Assign(name, self.reader.expression(names.locals[name]))
        word = tokens.take()
        if word not in _REDUCTION_OF:
            tokens.expect("=")
        reduction = _REDUCTION_OF.get(word, word)
        value = self.reader.expression(names.locals[name])
        may_skip_nan = tokens.accept("unless")
        if may_skip_nan:
            tokens.expect("nan")
        return Accumulate(name, reduction, value, may_skip_nan)

    def loop(self, kind: LoopKind, indent: int, names: Names) -> Statement:
        tokens = self.tokens
        name = tokens.take("name")
        bound: Size | None = None
        is_bounded = tokens.accept("below")
        if is_bounded:
            bound = self.extent()
        for mark in ("in", "0", ".."):
            tokens.expect(mark)
        extent = self.reader.size()
        lanes = tokens.integer() if tokens.accept("by") else 1
        interleave = tokens.integer() if tokens.accept("interleave") else 1
        tokens.end()
        index = Symbol(name, bound if is_bounded else extent)
        inner = names.inner()
        inner.indices[name] = index
        return For(index, extent, self.block(indent, inner), kind, lanes, interleave)

    def extent(self) -> Size | None:
        return None if self.tokens.accept("none") else self.reader.size()

    def condition(self, indent: int, names: Names) -> Statement:
        condition = self.reader.expression()
        self.tokens.end()
        then = self.block(indent, names)
        otherwise: Block = ()
        if (
            self.lines
            and self.lines[0][1].strip() == "else"
            and _indent(self.lines[0][1]) == indent
        ):
            self.next(names)
            otherwise = self.block(indent, names)
        return If(condition, then, otherwise)

    def simple(self, word: str, names: Names) -> Statement:
        tokens, reader = self.tokens, self.reader
        match word:
            case "allocate":
                return Allocate(self.declared_buffer(names))
            case "fragment":
                return self.fragment(names)
            case "fill":
                return self.fill(names)
            case "mac":
                return self.mac()
            case "tiles":
                tokens.expect("rows")
                tokens.expect("[")
                return TileSetup(reader.sizes("]"))
            case "zero":
                tokens.expect("tile")
                return TileZero(tokens.integer())
            case "load" | "save":
                return self.tile_access(word)
            case "multiply":
                return self.tile_mac()
            case "set":
                symbol = tokens.take("name")
                tokens.expect("=")
                return SetDim(symbol, reader.expression(i64))
            case "fail":
                tokens.expect("if")
                condition = reader.expression()
                tokens.expect(":")
                return Fail(condition, tokens.string())
            case "prefetch":
                buffer = reader.buffer()
                tokens.expect("at")
                offset = reader.size()
                tokens.expect("level")
                return Prefetch(buffer, offset, tokens.integer())
            case "stream":
                return Stream(reader.buffer())
            case "barrier":
                tokens.expect("of")
                return Barrier(reader.size())
            case _:
                raise tokens.error(f"a statement instead of {word}")

    # Fragments

    def fragment(self, names: Names) -> Statement:
        name = self.tokens.take("name")
        self.tokens.expect(":")
        dtype = read_dtype(self.tokens)
        self.tokens.expect("[")
        rows = self.tokens.integer()
        self.tokens.expect(",")
        columns = self.tokens.integer()
        self.tokens.expect("]")
        names.fragments[name] = dtype
        return Fragment(name, rows, columns, dtype)

    def columns(self, names: Names) -> tuple[str, Symbol, Size]:
        """fragment over column below extent limit size; the column is known to what follows."""
        tokens = self.tokens
        fragment = tokens.take("name")
        if fragment not in names.fragments:
            raise tokens.error(f"a fragment instead of {fragment}")
        tokens.expect("over")
        name = tokens.take("name")
        tokens.expect("below")
        column = Symbol(name, self.extent())
        tokens.expect("limit")
        return fragment, column, self.reader.size()

    def fill(self, names: Names) -> Statement:
        fragment, column, limit = self.columns(names)
        self.tokens.expect("=")
        inner = names.inner()
        inner.indices[column.name] = column
        value = ExpressionReader(self.tokens, inner).expression(names.fragments[fragment])
        return FragmentFill(fragment, column, value, limit)

    def mac(self) -> Statement:
        tokens, reader = self.tokens, self.reader
        fragment = tokens.take("name")
        tokens.expect("[")
        rows: list[int] = []
        while not tokens.accept("]"):
            if rows:
                tokens.expect(",")
            rows.append(tokens.integer())
        tokens.expect("+=")
        a = reader.buffer()
        tokens.expect("[")
        a_offsets = reader.sizes("]")
        tokens.expect("*")
        b = reader.buffer()
        tokens.expect("[")
        (b_offset,) = reader.sizes("]")
        group = tokens.integer() if tokens.accept("group") else 1
        terms = tokens.integer() if tokens.accept("terms") else None
        return FragmentMac(fragment, tuple(rows), a, a_offsets, b, b_offset, group, terms)

    def tile_access(self, word: str) -> Statement:
        tokens, reader = self.tokens, self.reader
        tokens.expect("tile")
        tile = tokens.integer()
        tokens.expect("from" if word == "load" else "to")
        buffer = reader.buffer()
        tokens.expect("at")
        offset = reader.size()
        tokens.expect("stride")
        stride = reader.size()
        if word == "load":
            return TileLoad(tile, buffer, offset, stride)
        return TileStore(tile, buffer, offset, stride)

    def tile_mac(self) -> Statement:
        tokens = self.tokens
        tokens.expect("tiles")
        total = tokens.integer()
        tokens.expect("+=")
        a = tokens.integer()
        tokens.expect(":")
        left = read_dtype(tokens)
        tokens.expect("*")
        b = tokens.integer()
        tokens.expect(":")
        return TileMac(total, a, b, left, read_dtype(tokens))

    def fragment_store(self, indent: int, names: Names) -> Statement:
        fragment, column, limit = self.columns(names)
        self.tokens.end()
        inner = names.inner()
        inner.indices[column.name] = column
        rows: list[tuple[Store, ...]] = []
        while self.lines and _indent(self.lines[0][1]) > indent:
            row_indent = self.next(inner)
            self.tokens.expect("row")
            self.tokens.integer()
            stores = self.block(row_indent, inner)
            rows.append(tuple(store for store in stores if isinstance(store, Store)))
        return FragmentStore(fragment, column, limit, tuple(rows))

    def contract(self, word: str, indent: int, names: Names) -> Statement:
        def store_block(inner: Names) -> tuple[Store, ...]:
            self.tokens.end()
            found = self.block(indent, inner)
            return tuple(store for store in found if isinstance(store, Store))

        read = read_attend if word == "attend" else read_contract
        return read(self.reader, names, store_block)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
