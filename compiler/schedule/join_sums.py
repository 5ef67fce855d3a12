"""Joins launches that add up parts of the same arrays by the same loops into one.

    for i, r: a[i] += x[r, i]                            for i, r: a[i] += x[r, i]
    for i, r: b[i] += x[r, i] * y[r, i]      become                b[i] += x[r, i] * y[r, i]

What both read comes from memory once: the sums of batch normalization's gradients, or those of
windows that are shifted. Every sum is computed in the same order as before. (Zen 5, one core, nine
windows of 16 x 24 x 24 x 144: 1078 -> 348 us.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bessemer.compiler.ir import dims, expr, walk_expr
from bessemer.compiler.ir.dims import Atom, Size, atom
from bessemer.compiler.ir.expr import Buffer, Expression, Load, Read
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.loops import (
    Accumulate,
    Allocate,
    Block,
    Define,
    For,
    Statement,
    Store,
)
from bessemer.compiler.ir.program import Launch, Step
from bessemer.compiler.ir.walk_loops import walk
from bessemer.compiler.ir.walk_steps import touched
from bessemer.compiler.schedule.lowering.lowering import Computation, Lowering

SMALLER = 16
"""Launches are joined if they share an input with at least this many times the elements of each
output."""
MOST_JOINED = 9
"""The most launches that become one."""
NEAR = 64
"""The most steps from the first of them to the last."""


def join_sums(steps: Sequence[Step], lowering: Lowering) -> tuple[Step, ...]:
    """The steps with joined launches in place of the first of those that were joined."""
    written: dict[Value, int] = {}
    open_runs: list[_Run] = []
    runs: dict[int, _Run] = {}
    joined: set[int] = set()
    for number, step in enumerate(steps):
        form = _form(step)
        if form is not None and isinstance(step, Launch):
            open_runs = [run for run in open_runs if number - run.begin < NEAR]
            run = next((run for run in open_runs if run.takes(step, form, written)), None)
            if run is None:
                run = runs[number] = _Run(number, form)
                open_runs.append(run)
            else:
                joined.add(number)
            run.launches.append(step)
        for value in touched(step)[1]:
            written[value] = number
    found: list[Step] = []
    for number, step in enumerate(steps):
        if number in runs:
            found.append(runs[number].launch(lowering))
        elif number not in joined:
            found.append(step)
    return tuple(found)


@dataclass(eq=False)
class _Run:
    """Launches of the same loops that may run where the first of them does, step `begin`."""

    begin: int
    form: object
    launches: list[Launch] = field(default_factory=list)

    def takes(self, launch: Launch, form: object, written: Mapping[Value, int]) -> bool:
        """Whether a later launch may be joined, and is worth it."""
        if form != self.form or len(self.launches) == MOST_JOINED:
            return False
        if any(written.get(value, -1) >= self.begin for value in launch.values):
            return False
        known = {value for one in self.launches for value in one.values[:-1]}
        return any(value in known for value in _large_inputs(launch))

    def launch(self, lowering: Lowering) -> Launch:
        """One launch that does what all of them do."""
        if len(self.launches) == 1:
            return self.launches[0]
        inputs: dict[Value, Buffer] = {}
        outputs: dict[Value, Buffer] = {}
        parts = [
            _Part(number, launch, _buffers(launch, inputs, outputs))
            for number, launch in enumerate(self.launches)
        ]
        registers = lowering.target.vector_registers
        body = _joined([(part, part.launch.kernel.body) for part in parts], registers)
        operations = sum((part.launch.kernel.operations for part in parts), start=0)
        nodes = [node for launch in self.launches for node in launch.nodes]
        return lowering.launch(nodes, inputs, outputs, Computation(body, operations, name="sums"))


def _buffers(
    launch: Launch, inputs: dict[Value, Buffer], outputs: dict[Value, Buffer]
) -> dict[str, Buffer]:
    """The joined launch's buffers by the names that they have in one of its parts; notes them."""
    found: dict[str, Buffer] = {}
    for value, buffer in zip(launch.values, launch.kernel.buffers, strict=True):
        kind, noted = ("out", outputs) if value is launch.values[-1] else ("in", inputs)
        made = replace(buffer, name=f"{kind}{len(noted)}")
        found[buffer.name] = noted.setdefault(value, made)
    return found


@dataclass(eq=False)
class _Part:
    """One of the launches that are joined: its names become those of the joined kernel."""

    number: int
    launch: Launch
    buffers: dict[str, Buffer]
    indices: dict[Atom, Size] = field(default_factory=dict)

    def local(self, name: str) -> str:
        return f"{name}_{self.number}"

    def buffer(self, buffer: Buffer) -> Buffer:
        """By its name in the joined kernel. The shape in which a statement sees it stays."""
        return replace(buffer, name=self.buffers[buffer.name].name)

    def size(self, size: Size) -> Size:
        return dims.substitute(size, self.indices)

    def value(self, value: Expression) -> Expression:
        def rule(node: Expression) -> Expression | None:
            if isinstance(node, Load):
                return expr.load(self.buffer(node.buffer), node.indices, node.guard)
            return expr.read(self.local(node.local), node.dtype) if isinstance(node, Read) else None

        return walk_expr.transform(value, rule, self.indices)

    def statement(self, statement: Statement) -> Statement:
        """A statement other than a loop."""
        match statement:
            case Define(local, value):
                return Define(self.local(local), self.value(value))
            case Accumulate(local, _, value):
                return replace(statement, local=self.local(local), value=self.value(value))
            case Allocate(buffer):
                self.buffers[buffer.name] = replace(buffer, name=self.local(buffer.name))
                return Allocate(self.buffers[buffer.name])
            case Store(buffer, indices, value):
                places = tuple(self.size(index) for index in indices)
                return Store(self.buffer(buffer), places, self.value(value))
            case _:
                raise AssertionError(statement)


def _joined(parts: Sequence[tuple[_Part, Block]], registers: int) -> Block:
    """The statements of blocks of one form, each beside those of the others."""
    found: list[Statement] = []
    for statements in zip(*(block for _, block in parts), strict=True):
        first = statements[0]
        if not isinstance(first, For):
            found += [p.statement(s) for (p, _), s in zip(parts, statements, strict=True)]
            continue
        inner: list[tuple[_Part, Block]] = []
        for (part, _), loop in zip(parts, statements, strict=True):
            assert isinstance(loop, For)
            part.indices[loop.index] = atom(first.index)
            inner.append((part, loop.body))
        body = _joined(inner, registers)
        interleave = _interleave(first, len(parts), registers)
        found.append(replace(first, body=body, interleave=interleave))
    return tuple(found)


def _interleave(loop: For, count: int, registers: int) -> int:
    """How many vectors of each sum a loop handles at once, so that registers hold all sums."""
    most = loop.interleave
    sums = any(isinstance(statement, Accumulate) for statement in walk(loop.body))
    while sums and most > 1 and most * count > registers * 3 // 4:
        most //= 2
    return most


def _form(step: Step) -> object | None:
    """A key that is equal for launches whose loops can be joined; None for launches that compute no
    sums, and for those of a device."""
    if type(step) is not Launch or step.kernel.outputs != 1 or step.scratch:
        return None
    kernel = step.kernel
    if step.values[-1] in step.values[:-1] or step.unless_in is not None:
        return None
    if not _large_inputs(step):
        return None
    inside = list(walk(kernel.body))
    if not any(isinstance(one, Accumulate) for one in inside):
        return None
    if not any(isinstance(one, For) and one.kind == "vector" for one in inside):
        return None
    body = _form_of(kernel.body, {})
    sizes = step.sizes, kernel.symbols, kernel.members, step.values[-1].type.numel
    return None if body is None else (body, *sizes)


def _large_inputs(launch: Launch) -> list[Value]:
    """The inputs of a launch that are, as far as is known, much larger than its output."""
    least = launch.values[-1].type.numel * SMALLER
    return [v for v in launch.values[:-1] if not dims.is_nonnegative(least - 1 - v.type.numel)]


def _form_of(block: Block, indices: dict[Atom, Size]) -> object | None:
    """The form of a block, with induction variables named by their order; None if it has statements
    of other kinds, or if a trip count or the place of a store depends on data."""
    found: list[object] = []
    for statement in block:
        match statement:
            case For(extent=extent) if not _reads_data(extent):
                extent = dims.substitute(extent, indices)
                name = f"loop{len(indices)}"
                indices[statement.index] = dims.symbol(name)
                inner = _form_of(statement.body, indices)
                if inner is None:
                    return None
                loop = statement.kind, extent, statement.lanes, statement.interleave
                found.append((*loop, inner))
            case Define():
                found.append("define")
            case Accumulate():
                found.append(statement.name)
            case Allocate(buffer):
                found.append((buffer.dtype, buffer.shape))
            case Store(buffer, places, guard=None) if not any(map(_reads_data, places)):
                found.append(buffer.dtype)
            case _:
                return None
    return tuple(found)


def _reads_data(size: Size) -> bool:
    """Whether a size or an index is read from memory or from a local variable."""
    return bool(walk_expr.index_expressions(size))
