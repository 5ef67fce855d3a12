"""The state of a kernel that is being written: the registers of its parameters, indices and
locals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

from bessemer.compiler.codegen.math.math_terms import MathFunction
from bessemer.compiler.codegen.values import Pointer, Value, literal, scalar_text
from bessemer.compiler.codegen.writer import Writer
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims, expr, walk_expr
from bessemer.compiler.ir.dims import Atom, Size, Symbol
from bessemer.compiler.ir.expr import Expression
from bessemer.compiler.ir.loops import Kernel, Statement
from bessemer.compiler.ir.types import DType, f32, i64
from bessemer.compiler.targets.machine import Target

ZEROS = "bessemer_zeros"
"""Memory full of zeros that guarded loads read instead of what is out of bounds."""
ZEROS_BYTES = 1024
_NUMBERS = "numbers that the launch gives"
"""In place of a buffer's name: nothing is stored there while the kernel runs."""


@dataclass(frozen=True)
class Vectors:
    """The current vector loop: `width` values of `symbol` at once, of which those in `mask` count.

    The scalar register of `symbol` holds the first value. `outer` names the locals that the loop
    accumulates into.
    """

    symbol: Symbol
    width: int
    mask: Value | None = None
    outer: frozenset[str] = frozenset()


@dataclass(frozen=True)
class FragmentShape:
    """The registers of a fragment: each row is a sequence of vectors, (first column, lanes)."""

    name: str
    rows: int
    pieces: tuple[tuple[int, int], ...]
    dtype: DType

    def register(self, row: int, piece: int) -> str:
        """The name of a register in `KernelState.locals`."""
        return f"{self.name}.{row}.{piece}"


@dataclass
class KernelState:
    """The kernel that is being written. `indices` are the loop indices, as registers or known
    numbers.

    `constants` replaces the indices of unrolled loops in everything that is read. `locals` holds
    local variables and fragment registers, by name; `element` gives a fragment's elements in the
    current column. `values` remembers the subexpressions of the current statement; `narrow`
    remembers the 16 bits from which a float was made. `special` writes the statements that a
    machine has its own form for, and returns whether it did. `streamed` are the buffers that this
    form of the kernel may write by streaming stores, `streaming` those for which it does so from
    here on. `made_of_given` says where the results of `of_given` are.
    """

    kernel: Kernel
    target: Target
    writer: Writer = field(default_factory=Writer)
    vectors: Vectors | None = None
    indices: dict[Symbol, Value | int] = field(default_factory=dict)
    constants: dict[Atom, Size] = field(default_factory=dict)
    locals: dict[str, Value] = field(default_factory=dict)
    fragments: dict[str, FragmentShape] = field(default_factory=dict)
    element: Callable[[str, int], Value] | None = None
    arrays: dict[str, Pointer] = field(default_factory=dict)
    values: dict[tuple[Expression, Value | None], Value] = field(default_factory=dict)
    narrow: dict[tuple[str, DType], Value] = field(default_factory=dict)
    guard: Value | None = None
    varying: frozenset[str] = frozenset()
    messages: list[str] = field(default_factory=list)
    functions: dict[str, MathFunction] = field(default_factory=dict)
    special: Callable[[Statement], bool] | None = None
    streamed: frozenset[str] = frozenset()
    streaming: set[str] = field(default_factory=set)
    made_of_given: dict[tuple[str, str], Pointer] = field(default_factory=dict)

    def hidden(self, index: Value) -> Value:
        """A loop's next index, in a form that hides from LLVM how it grows; this adds no
        instruction.

        LLVM's loop strength reduction gains nothing here, since addresses are computed as far out
        as possible. It would take a fifth of LLVM's time, and with very many addresses ten times as
        long as all the rest.
        """
        return self.writer.here(f'call i64 asm "", "=r,0"(i64 {index.text})', i64)

    # Parameters

    def base(self, buffer: expr.Buffer) -> Pointer:
        """The address of a buffer's first element."""
        found = self.arrays.get(buffer.name)
        if found is None:
            position = [b.name for b in self.kernel.buffers].index(buffer.name)
            found = self.arrays[buffer.name] = Pointer(
                self._parameter("buffers", "ptr", position), 0
            )
        return found

    def fault_cell(self) -> str:
        """The cell after the buffers to which a failure's code is written."""
        return self._parameter("buffers", "ptr", len(self.kernel.buffers))

    def dimension(self, name: str) -> Value:
        """The value of a dimension symbol."""
        if name not in self.kernel.symbols:
            raise InternalError(f"{self.kernel.name} does not know the symbol {name}")
        position = self.kernel.symbols.index(name)
        return Value(self._parameter("dims", "i64", position), i64)

    def given(self, name: str) -> Value:
        """The number that the launch gives in the place of a dimension symbol."""
        return self._number(Pointer("%dims", 0, 8 * self.kernel.symbols.index(name)), f32)

    def of_given(self, name: str, operation: str, kind: DType = f32) -> Value:
        """The result of an LLVM operation on such a number, which stands for {} in the operation's
        text. It is computed when the kernel begins."""
        scalar = scalar_text(kind)
        key = (name, operation)
        if key not in self.made_of_given:
            cell = self.made_of_given[key] = Pointer(self.stack(4, 4), 0)
            number = self._parameter("dims", "float", self.kernel.symbols.index(name))
            made = self.writer.name()
            self.writer.entry += [
                f"  {made} = {operation.format(number)}",
                f"  store {scalar} {made}, ptr {cell.text}, align 4",
            ]
        return self._number(self.made_of_given[key], kind)

    def _number(self, place: Pointer, kind: DType) -> Value:
        operation = f"load {scalar_text(kind)}, ptr {{}}, align 4"
        if self.writer.loads_stay:
            # Read again wherever it is needed, as part of an instruction: kept in a register, it
            # would be spilled.
            return self.writer.here(operation.format(self.writer.at(place)), kind)
        return self.writer.load(operation, _NUMBERS, kind, 1, place)

    def alignment(self, buffer: expr.Buffer, offset: Size, lanes: int) -> int:
        """A number of bytes that divides the address of `lanes` neighbours from this offset on."""
        return buffer.dtype.bytes

    def kept_element(self, buffer: expr.Buffer) -> Value | None:
        """The current elements of a local array that has no memory; None for arrays that have."""
        return None

    def team_cells(self) -> str:
        """The counters of the team's barriers, after the fault cell."""
        return self._parameter("buffers", "ptr", len(self.kernel.buffers) + 1)

    def _parameter(self, table: str, kind: str, position: int) -> str:
        key, known = f"{table} {position}", self.writer.scopes[0].known
        if key not in known:
            place, name = self.writer.name(), self.writer.name()
            self.writer.entry += [
                f"  {place} = getelementptr i8, ptr %{table}, i64 {8 * position}",
                f"  {name} = load {kind}, ptr {place}, align 8",
            ]
            known[key] = Value(name, i64)
        return known[key].text

    def sink(self) -> str:
        """A cell that is never read, to write to in place of the fault cell."""
        known = self.writer.scopes[0].known
        if "sink" not in known:
            known["sink"] = Value(self.stack(4, 4), i64)
        return known["sink"].text

    def stack(self, size: int, alignment: int) -> str:
        """Memory on the function's stack."""
        name = self.writer.name()
        self.writer.entry.append(f"  {name} = alloca [{size} x i8], align {alignment}")
        return name

    def fault_code(self, message: str) -> int:
        """The code of a failure with this message: the message's position, counted from 1."""
        if message not in self.messages:
            self.messages.append(message)
        return self.messages.index(message) + 1

    def function(self, function: MathFunction) -> str:
        """The symbol of a function that the module then has to contain."""
        self.functions.setdefault(function.symbol, function)
        return function.symbol

    # What is being compiled

    def size(self, size: Size) -> Size:
        """Index arithmetic with the indices of unrolled loops put in."""
        if not self.constants or isinstance(size, int):
            return size
        values = dict(self.constants)
        for leaf in walk_expr.index_expressions(size):
            values[leaf] = expr.as_index(walk_expr.substitute(leaf, self.constants))
        return dims.substitute(size, values)

    def expression(self, node: Expression) -> Expression:
        """An expression with the indices of unrolled loops put in."""
        return walk_expr.substitute(node, self.constants) if self.constants else node

    def index(self, symbol: Symbol) -> Value | int:
        """A loop index or a dimension."""
        if symbol in self.indices:
            return self.indices[symbol]
        if symbol.extent is not None:
            raise InternalError(f"the index {symbol} is used outside of its loop")
        return self.dimension(symbol.name)

    @property
    def width(self) -> int:
        """The lanes of varying values."""
        return self.vectors.width if self.vectors else 1

    @property
    def mask(self) -> Value | None:
        """The lanes that count; None for all."""
        return self.vectors.mask if self.vectors else None

    @contextmanager
    def vector_context(self, vectors: Vectors | None, first: Value | int | None) -> Iterator[None]:
        """Code for several values of an index at once; `first` is its first value."""
        before = self.vectors, dict(self.indices)
        self.vectors = vectors
        if vectors is not None and first is not None:
            self.indices[vectors.symbol] = first
        self.values.clear()
        yield
        self.vectors, self.indices = before
        self.values.clear()


@cache
def number(value: int) -> Value:
    """An i64 constant."""
    return literal(value, i64)
