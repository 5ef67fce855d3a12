"""What the parser makes of a PTX text: modules, kernels, instructions, operands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Union


@dataclass(frozen=True)
class Register:
    """A register of the kernel: its place in the register file and its bits (1 for a predicate)."""

    index: int
    width: int
    name: str = field(compare=False, default="")


@dataclass(frozen=True)
class Immediate:
    """A number: an integer, or the bits of a float written as 0f or 0d (`width` 32 or 64)."""

    value: int
    width: int = 0


@dataclass(frozen=True)
class Special:
    """A special register such as %tid.x; `name` without the percent sign."""

    name: str


@dataclass(frozen=True)
class Symbol:
    """A variable, parameter or label by name."""

    name: str


@dataclass(frozen=True)
class Address:
    """[base + offset]."""

    base: Operand
    offset: int


@dataclass(frozen=True)
class Tuple:
    """{a, b, ...} or a|b."""

    parts: tuple[Operand, ...]


@dataclass(frozen=True)
class TensorBox:
    """[map, {coordinates}]: a box of the tensor that a tensor map describes."""

    map: Operand
    coordinates: tuple[Operand, ...]


@dataclass(frozen=True)
class Negated:
    """!p, a predicate's opposite."""

    predicate: Register


@dataclass(frozen=True)
class Discard:
    """_, a result that nobody wants."""


Operand = Union[Register, Immediate, Special, Symbol, Address, Tuple, TensorBox, Negated, Discard]


@dataclass(frozen=True)
class Instruction:
    """One statement; `opcode` is split at its dots, `guard` the predicate of @p or @!p."""

    opcode: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Register | Negated | None
    text: str
    line: int

    def has(self, modifier: str) -> bool:
        return modifier in self.opcode

    @property
    def type(self) -> str:
        """The last part of the opcode: mostly the type."""
        return self.opcode[-1]


@dataclass(frozen=True)
class Parameter:
    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Variable:
    """A variable of a module or kernel. `size` 0 in shared memory: as large as the launch says.

    `words` are its first values, each of `word_bytes` bytes or a (symbol, offset) whose address it
    is.
    """

    name: str
    space: str
    alignment: int
    size: int
    word_bytes: int = 1
    words: tuple[int | tuple[str, int], ...] = ()


@dataclass(frozen=True, eq=False)
class Kernel:
    name: str
    parameters: tuple[Parameter, ...]
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]
    branch_targets: dict[str, tuple[str, ...]]
    register_widths: tuple[int, ...]
    variables: tuple[Variable, ...]
    required_threads: tuple[int, int, int] | None
    most_threads: int | None

    @property
    def parameter_bytes(self) -> int:
        return max((one.offset + one.size for one in self.parameters), default=0)


@dataclass(frozen=True, eq=False)
class Module:
    """A whole text; `version` such as (8, 0), `target` such as "sm_90a"."""

    version: tuple[int, int]
    target: str
    kernels: dict[str, Kernel]
    variables: tuple[Variable, ...]
