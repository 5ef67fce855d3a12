"""Writes kernels as text, one line a statement, blocks indented; parse_loops reads it back.

kernel rows[n](in0 : f32[n,8], out : f32[n,8]) writes 1 operations 64
  parallel i1 in 0..n
    acc2 : f32 = 0.0
    vector i3 in 0..8 by 4
      acc2 += in0[i1, i3] * in0[i1, i3]
    for i4 in 0..8
      out[i1, i4] = in0[i1, i4] * rsqrt(acc2)
  fail if out[0, 0] < 0.0: 'negative'
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.loops import (
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
from bessemer.compiler.ir.text.text_contract import attend_lines, contract_lines
from bessemer.compiler.ir.text.text_expr import ExpressionText
from bessemer.compiler.ir.tile_statements import TileLoad, TileMac, TileSetup, TileStore, TileZero
from bessemer.compiler.ir.types import DType
from bessemer.compiler.ir.walk_loops import expressions, own_sizes, sizes, walk

LOOP_WORDS = {
    "serial": "for",
    "parallel": "parallel",
    "team": "team",
    "vector": "vector",
    "unroll": "unroll",
}
ASSIGNMENTS = {"add": "+=", "mul": "*="}
"""Accumulations that have a mark of their own; the others are written `acc max= value`."""


def print_kernel(kernel: Kernel) -> str:
    """The text of a kernel."""
    return "\n".join(_Printer(kernel.buffers, kernel.body).kernel(kernel)) + "\n"


def print_statement(statement: Statement, buffers: Sequence[Buffer] = ()) -> str:
    """The first lines of a statement, without its blocks: for error messages."""
    printer = _Printer(buffers, (statement,))
    lines: list[str] = []
    for line in printer.statement(statement):
        if line.startswith("  "):
            break
        lines.append(line)
    return "\n".join(lines)


class _Printer:
    def __init__(self, buffers: Sequence[Buffer], body: Block) -> None:
        declared = {buffer.name: buffer for buffer in buffers}
        self.dtypes: dict[str, DType] = {}
        for statement in walk(body):
            match statement:
                case Allocate(buffer):
                    declared[buffer.name] = buffer
                case Define(local, value):
                    self.dtypes[local] = value.dtype
        self.text = ExpressionText(declared)

    def kernel(self, kernel: Kernel) -> Iterator[str]:
        buffers = ", ".join(f"{b.name} : {self.text.buffer_type(b)}" for b in kernel.buffers)
        symbols = ", ".join(str(Symbol(name)) for name in kernel.symbols)
        name = str(Symbol(kernel.name))
        head = f"kernel {name}{f'[{symbols}]' if symbols else ''}({buffers})"
        work = f"writes {kernel.outputs} operations {self.text.size(kernel.operations)}"
        yield f"{head} {work}" + (f" members {kernel.members}" if kernel.members > 1 else "")
        yield from self.block(kernel.body)

    def block(self, block: Block) -> Iterator[str]:
        for statement in block:
            for line in self.statement(statement):
                yield f"  {line}"

    def statement(self, statement: Statement) -> Iterator[str]:
        match statement:
            case For():
                yield from self.shared(statement)
                yield self.loop(statement)
                yield from self.block(statement.body)
            case If(condition, then, otherwise):
                yield from self.shared(statement)
                yield f"if {self.text.write(condition)}"
                yield from self.block(then)
                if otherwise:
                    yield "else"
                    yield from self.block(otherwise)
            case While(condition, body):
                yield from self.shared(statement)
                yield f"while {self.text.write(condition)}"
                yield from self.block(body)
            case FragmentStore():
                yield from self.fragment_store(statement)
            case Contract() | Attend():
                yield from self.contract(statement)
            case _:
                yield from self.shared(statement)
                yield self.line(statement)

    def shared(self, statement: Statement) -> Iterator[str]:
        for name, node in self.text.share(expressions(statement), sizes(statement)):
            yield f"{name} = {self.text.spell(node)}"

    def loop(self, loop: For) -> str:
        bound = "" if loop.index.extent == loop.extent else f" below {self.extent(loop.index)}"
        head = f"{LOOP_WORDS[loop.kind]} {loop.index}{bound} in 0..{self.text.size(loop.extent)}"
        if loop.lanes != 1 or loop.interleave != 1:
            head += f" by {loop.lanes}"
        return head if loop.interleave == 1 else f"{head} interleave {loop.interleave}"

    def extent(self, symbol: Symbol) -> str:
        return "none" if symbol.extent is None else self.text.size(symbol.extent)

    def line(self, statement: Statement) -> str:
        write, size = self.text.write, self.text.size
        match statement:
            case Define(local, value):
                return f"{local} : {value.dtype} = {write(value, value.dtype)}"
            case Assign(local, value):
                return f"{local} = {write(value, value.dtype)}"
            case Accumulate(local, name, value, may_skip_nan):
                mark = ASSIGNMENTS.get(name, f"{name}=")
                unless = " unless nan" if may_skip_nan else ""
                return f"{local} {mark} {write(value, value.dtype)}{unless}"
            case Store(buffer, indices, value, guard):
                places = ", ".join(size(index) for index in indices)
                condition = "" if guard is None else f" if {write(guard)}"
                return (
                    f"{self.text.buffer(buffer)}[{places}{condition}] = "
                    f"{write(value, buffer.dtype)}"
                )
            case Allocate(buffer):
                return f"allocate {buffer.name} : {self.text.buffer_type(buffer)}"
            case Fragment(name, rows, columns, dtype):
                return f"fragment {name} : {dtype}[{rows},{columns}]"
            case FragmentFill(fragment, column, value, limit):
                head = self.columns("fill", fragment, column, limit)
                return f"{head} = {write(value, value.dtype)}"
            case FragmentMac():
                return self.mac(statement)
            case TileSetup() | TileZero() | TileLoad() | TileStore() | TileMac():
                return self.tile(statement)
            case SetDim(symbol, value):
                return f"set {Symbol(symbol)} = {write(value, value.dtype)}"
            case Fail(condition, message):
                return f"fail if {write(condition)}: {message!r}"
            case Prefetch(buffer, offset, level):
                return f"prefetch {self.text.buffer(buffer)} at {size(offset)} level {level}"
            case Stream(buffer):
                return f"stream {self.text.buffer(buffer)}"
            case Barrier(member):
                return f"barrier of {size(member)}"
            case _:
                raise InternalError(f"no text for {type(statement).__name__}")

    def tile(self, statement: TileSetup | TileZero | TileLoad | TileStore | TileMac) -> str:
        """A statement on a matrix unit's tiles."""
        match statement:
            case TileSetup(rows):
                return f"tiles rows [{', '.join(self.text.size(row) for row in rows)}]"
            case TileZero(tile):
                return f"zero tile {tile}"
            case TileLoad(tile, buffer, offset, stride):
                return f"load tile {tile} from {self.tile_rows(buffer, offset, stride)}"
            case TileStore(tile, buffer, offset, stride):
                return f"save tile {tile} to {self.tile_rows(buffer, offset, stride)}"
            case TileMac(total, a, b, left, right):
                return f"multiply tiles {total} += {a} : {left} * {b} : {right}"

    def tile_rows(self, buffer: Buffer, offset: Size, stride: Size) -> str:
        size = self.text.size
        return f"{self.text.buffer(buffer)} at {size(offset)} stride {size(stride)}"

    def columns(self, verb: str, fragment: str, column: Symbol, limit: Size) -> str:
        return (
            f"{verb} {fragment} over {column} below {self.extent(column)} "
            f"limit {self.text.size(limit)}"
        )

    def mac(self, mac: FragmentMac) -> str:
        rows = ", ".join(str(row) for row in mac.rows)
        offsets = ", ".join(self.text.size(offset) for offset in mac.a_offsets)
        a, b = self.text.buffer(mac.a), self.text.buffer(mac.b)
        head = f"mac {mac.fragment}[{rows}] += {a}[{offsets}] * {b}[{self.text.size(mac.b_offset)}]"
        group = f" group {mac.group}" if mac.group > 1 else ""
        terms = f" terms {mac.terms}" if mac.terms is not None else ""
        return head + group + terms

    def contract(self, statement: Contract | Attend) -> Iterator[str]:
        scores = (statement.score,) if isinstance(statement, Attend) else ()
        for name, node in self.text.share(scores, own_sizes(statement)):
            yield f"{name} = {self.text.spell(node)}"
        if isinstance(statement, Attend):
            yield from attend_lines(statement, self.text)
        else:
            yield from contract_lines(statement, self.text)
        for store in statement.stores:
            for line in self.statement(store):
                yield f"  {line}"

    def fragment_store(self, statement: FragmentStore) -> Iterator[str]:
        for name, node in self.text.share((), (statement.limit,)):
            yield f"{name} = {self.text.spell(node)}"
        yield self.columns("store", statement.fragment, statement.column, statement.limit)
        for row, stores in enumerate(statement.stores):
            yield f"  row {row}"
            for store in stores:
                for line in self.statement(store):
                    yield f"    {line}"
