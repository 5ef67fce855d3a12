"""Writes kernels in the loop language: what operators' `statements` rules and schedules use.

builder = KernelBuilder()
with builder.loop(rows, "parallel") as i:
    total = builder.define(x[i, 0])
    with builder.loop(columns - 1) as j:
        total.set(total.value + x[i, j + 1])
        builder.store(out, (i, j), total.value)
body = builder.block()
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bessemer.compiler.ir import loops
from bessemer.compiler.ir.dims import Dim, Size, Symbol, as_atom, atom, symbol
from bessemer.compiler.ir.expr import (
    Buffer,
    Expression,
    Scalar,
    as_index,
    convert,
    index_value,
    lift,
    read,
)
from bessemer.compiler.ir.types import DType


@dataclass(frozen=True)
class Local:
    """A local variable of the kernel being written."""

    builder: KernelBuilder
    name: str
    dtype: DType

    @property
    def value(self) -> Expression:
        """Its value at this point of the kernel."""
        return read(self.name, self.dtype)

    @property
    def index(self) -> Size:
        """Its value for use in indices; the local is an i64."""
        return as_index(self.value)

    def set(self, value: Scalar) -> None:
        """Writes an assignment."""
        self.builder.append(loops.Assign(self.name, lift(value, self.dtype)))

    def accumulate(self, reduction: str, value: Scalar) -> None:
        """Writes an accumulation, e.g. accumulate("add", x)."""
        self.builder.append(loops.Accumulate(self.name, reduction, lift(value, self.dtype)))


class KernelBuilder:
    """Collects statements; `with` blocks nest them. Names are made up in order of use."""

    def __init__(self) -> None:
        self._blocks: list[list[loops.Statement]] = [[]]
        self._count = 0
        self.scratch_buffers: list[Buffer] = []

    def block(self) -> loops.Block:
        """What has been written."""
        (statements,) = self._blocks
        return tuple(statements)

    def append(self, statement: loops.Statement) -> None:
        """Adds a statement to the innermost block."""
        self._blocks[-1].append(statement)

    def fresh(self, prefix: str) -> str:
        """A name that this kernel has not used."""
        self._count += 1
        return f"{prefix}{self._count}"

    def index(self, extent: Size) -> Symbol:
        """A new loop index."""
        return Symbol(self.fresh("i"), extent)

    @contextmanager
    def loop(
        self,
        extent: Size,
        kind: loops.LoopKind = "serial",
        lanes: int = 1,
        interleave: int = 1,
    ) -> Iterator[Dim]:
        """A loop; gives its index. A vector loop with lanes=0 gets the target's width later."""
        index = self.index(extent)
        with self._nested() as body:
            yield atom(index)
        self.append(loops.For(index, extent, tuple(body), kind, lanes, interleave))

    @contextmanager
    def when(self, condition: Expression) -> Iterator[None]:
        """Statements under a condition."""
        with self._nested() as body:
            yield
        self.append(loops.If(condition, tuple(body)))

    @contextmanager
    def otherwise(self) -> Iterator[None]:
        """The other branch of the `when` just closed."""
        previous = self._blocks[-1].pop()
        assert isinstance(previous, loops.If)
        with self._nested() as body:
            yield
        self.append(loops.If(previous.condition, previous.then, tuple(body)))

    @contextmanager
    def repeat_while(self, condition: Expression) -> Iterator[None]:
        """A loop that runs while the condition (on locals) holds."""
        with self._nested() as body:
            yield
        self.append(loops.While(condition, tuple(body)))

    @contextmanager
    def _nested(self) -> Iterator[list[loops.Statement]]:
        body: list[loops.Statement] = []
        self._blocks.append(body)
        yield body
        self._blocks.pop()

    def define(self, value: Expression, name: str = "v") -> Local:
        """A local variable with its first value."""
        local = Local(self, self.fresh(name), value.dtype)
        self.append(loops.Define(local.name, value))
        return local

    def local(self, size: Size) -> Size:
        """The size in a local variable, unless it is as simple as one."""
        if isinstance(size, int) or isinstance(as_atom(size), (Symbol, Expression)):
            return size
        return self.define(index_value(size), "n").index

    def store(
        self,
        buffer: Buffer,
        indices: Sequence[Size],
        value: Scalar,
        guard: Expression | None = None,
    ) -> None:
        """buffer[indices] = value, converted to the buffer's type."""
        element = convert(lift(value, buffer.dtype), buffer.dtype)
        self.append(loops.Store(buffer, tuple(indices), element, guard))

    def allocate(self, dtype: DType, shape: Sequence[int]) -> Buffer:
        """A small local array."""
        buffer = Buffer(self.fresh("local"), dtype, tuple(shape))
        self.append(loops.Allocate(buffer))
        return buffer

    def scratch(self, dtype: DType, shape: Sequence[Size]) -> Buffer:
        """Working memory that the memory plan provides, shared by all threads of the kernel."""
        buffer = Buffer(f"scratch{len(self.scratch_buffers)}", dtype, tuple(shape))
        self.scratch_buffers.append(buffer)
        return buffer

    @contextmanager
    def team(self) -> Iterator[tuple[Dim, Dim]]:
        """A team loop; gives a member's number, and how many members there are."""
        members = symbol(loops.TEAM)
        with self.loop(members, "team") as member:
            yield member, members

    def barrier(self, member: Size) -> None:
        """Waits for all members of the team."""
        self.append(loops.Barrier(member))

    def set_dim(self, symbol: str, value: Expression) -> None:
        """Gives a data-dependent dimension its value."""
        self.append(loops.SetDim(symbol, value))

    def fail_if(self, condition: Expression, message: str) -> None:
        """Ends the run with an error if the condition holds."""
        self.append(loops.Fail(condition, message))
