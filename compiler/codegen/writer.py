"""Writes the instructions of one function, each of them once, and as far out of loops as possible.

The writer keeps a stack of scopes: the function, and a scope for each loop body and branch that is
open. A value's level is the depth of the scope in which it is known, and an instruction belongs to
the level of its newest operand. If that is not the innermost scope, the instruction is written in
front of the loop (or branch) in between. So nothing that does not change in a loop is computed in
it, and no instruction is written twice. No optimizer is needed for either.

Loads move in the same way, but not across stores to their buffer, and not to places where they
might be executed although they were not before.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, Union

from bessemer.compiler.codegen.values import Pointer, Value
from bessemer.compiler.ir.types import DType, boolean

Lines: TypeAlias = list[Union[str, "Lines"]]


@dataclass
class Scope:
    """A loop body or a branch. Values that are known before it and needed in it are computed in
    `before`.

    `writes` names the buffers that the body stores to. `runs` says that control surely reaches the
    body if it reaches the construct. The `before` of a loop is only reached together with its body.
    """

    kind: Literal["function", "loop", "branch"]
    writes: frozenset[str] = frozenset()
    runs: bool = False
    before: Lines = field(default_factory=list)
    known: dict[str, Value] = field(default_factory=dict)
    loaded: dict[str, tuple[str, Value]] = field(default_factory=dict)


class Writer:
    """The function that is being written. `block` is the label of the current basic block."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = [Scope("function", runs=True)]
        self.block = "entry"
        self.declarations: set[str] = set()
        self.loads_stay = False  # where all registers are taken, moving a load out costs one more
        self.entry: Lines = []
        self._lines: Lines = [self.entry]
        self._names = 0
        self._remembered: dict[Hashable, tuple[Scope, int, Any]] = {}

    @property
    def depth(self) -> int:
        """The level of values that are computed here."""
        return len(self.scopes) - 1

    def text(self) -> str:
        """All text that has been written."""
        return "".join(f"{line}\n" for line in _flat(self._lines))

    def name(self) -> str:
        """A new name of a value."""
        self._names += 1
        return f"%v{self._names}"

    def label(self, stem: str) -> str:
        """A new name of a basic block."""
        self._names += 1
        return f"{stem}{self._names}"

    # Control flow

    def line(self, text: str) -> None:
        """An instruction without a value, here."""
        self._lines.append(f"  {text}")

    def place(self) -> Lines:
        """A place in the code that can be filled later."""
        lines: Lines = []
        self._lines.append(lines)
        return lines

    def begin(self, label: str) -> None:
        """Starts a basic block."""
        self._lines.append(f"{label}:")
        self.block = label

    def jump(self, label: str) -> None:
        """Ends the block with a jump."""
        self.line(f"br label %{label}")

    def branch(self, condition: Value, then: str, otherwise: str) -> None:
        """Ends the block with a conditional branch."""
        self.line(f"br {condition.typed}, label %{then}, label %{otherwise}")

    @contextmanager
    def scope(self, scope: Scope) -> Iterator[None]:
        """Opens a scope, whose `before` must already have its place in the code."""
        self.scopes.append(scope)
        yield
        self.scopes.pop()

    # Instructions

    def compute(self, operation: str, kind: DType, lanes: int, level: int) -> Value:
        """The value of an instruction that depends on its operands only and cannot fail."""
        for scope in self.scopes[level : level + 2]:
            known = scope.known.get(operation)
            # The innermost scope also knows what was written inside of it.
            if known is not None and known.level <= level:
                return known
        value = Value(self._write(operation, level), kind, lanes, level)
        self._home(level).known[operation] = value
        return value

    def operate(self, name: str, kind: DType, *operands: Value) -> Value:
        """An instruction on operands of one type: `name TYPE a, b`."""
        texts = ", ".join(operand.text for operand in operands)
        first = operands[0]
        level = max(operand.level for operand in operands)
        return self.compute(f"{name} {first.type} {texts}", kind, first.lanes, level)

    def call(self, function: str, kind: DType, lanes: int, *operands: Value) -> Value:
        """A call of an LLVM intrinsic (which is declared) that is a plain instruction."""
        operation = self._call_text(function, Value("", kind, lanes).type, operands)
        level = max(operand.level for operand in operands)
        return self.compute(operation, kind, lanes, level)

    def call_function(self, symbol: str, kind: DType, lanes: int, *operands: Value) -> Value:
        """A call of a function of ours, which stays in a branch that may not be taken."""
        arguments = ", ".join(operand.typed for operand in operands)
        operation = f"call {Value('', kind, lanes).type} @{symbol}({arguments})"
        level = max(operand.level for operand in operands)
        return self.compute(operation, kind, lanes, max(level, self._last_branch()))

    def pointer(self, base: Pointer, distance: Value) -> Pointer:
        """The address `distance` bytes after `base`, both as far out as possible."""
        operation = f"getelementptr i8, ptr {base.text}, {distance.typed}"
        level = max(base.level, distance.level)
        value = self.compute(operation, boolean, 1, level)
        return Pointer(value.text, level, base.displacement)

    def at(self, pointer: Pointer, level: int | None = None) -> str:
        """The address as an operand of an instruction at `level`, which is here if not given."""
        if pointer.displacement == 0:
            return pointer.text
        # LLVM folds the displacement into the load or store, if both are in one block.
        text = f"getelementptr i8, ptr {pointer.text}, i64 {pointer.displacement}"
        return self.compute(text, boolean, 1, self.depth if level is None else level).text

    def remembered(self, key: Hashable) -> Any:
        """What was remembered under this key, if it is known here; else None."""
        scope, depth, found = self._remembered.get(key, (None, 0, None))
        return found if depth < len(self.scopes) and self.scopes[depth] is scope else None

    def remember(self, key: Hashable, level: int, found: object) -> None:
        """Keeps what was made from values of this level for as long as these are known, so that the
        same instructions need not be written again to find that they exist."""
        depth = min(level + 1, self.depth)
        self._remembered[key] = self.scopes[depth], depth, found

    def load(
        self, operation: str, buffer: str, kind: DType, lanes: int, pointer: Pointer, level: int = 0
    ) -> Value:
        """A load from a buffer, written as far out as is safe.

        `operation` has {} in place of the address; `level` is that of its other operands.
        """
        level = max(level, pointer.level)
        level = self.depth if self.loads_stay else self._load_level(buffer, level)
        key = f"{kind} {pointer.text} {pointer.displacement} {operation}"
        for scope in self.scopes[level:]:
            if key in scope.loaded:
                return scope.loaded[key][1]
        text = operation.replace("{}", self.at(pointer, level), 1)
        value = Value(self._write(text, level), kind, lanes, level)
        self._home(level).loaded[key] = (buffer, value)
        return value

    def here(self, operation: str, kind: DType, lanes: int = 1) -> Value:
        """The value of an instruction at exactly this place, whatever it depends on."""
        name = self.name()
        self.line(f"{name} = {operation}")
        return Value(name, kind, lanes, self.depth)

    def forget(self, buffer: str) -> None:
        """Notes that a buffer has been written: values loaded from it are no longer known."""
        for scope in self.scopes:
            stale = [key for key, (source, _) in scope.loaded.items() if source == buffer]
            for key in stale:
                del scope.loaded[key]

    def _call_text(self, function: str, result: str, operands: Iterable[Value]) -> str:
        listed = list(operands)
        types = ", ".join(operand.type for operand in listed)
        self.declarations.add(f"declare {result} @{function}({types})")
        return f"call {result} @{function}({', '.join(operand.typed for operand in listed)})"

    def _home(self, level: int) -> Scope:
        return self.scopes[min(level + 1, self.depth)]

    def _write(self, operation: str, level: int) -> str:
        name = self.name()
        lines = self._lines if level == self.depth else self._home(level).before
        lines.append(f"  {name} = {operation}")
        return name

    def _last_branch(self) -> int:
        branches = [depth for depth, s in enumerate(self.scopes) if s.kind == "branch"]
        return branches[-1] if branches else 0

    def _load_level(self, buffer: str, lowest: int) -> int:
        level = self.depth
        while level > lowest:
            scope = self.scopes[level]
            if scope.kind != "loop" or buffer in scope.writes:
                return level
            level -= 1
            if not scope.runs:
                return level
        return level


def _flat(lines: Lines) -> Iterator[str]:
    for line in lines:
        if isinstance(line, str):
            yield line
        else:
            yield from _flat(line)
