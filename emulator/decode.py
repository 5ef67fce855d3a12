"""Makes operations out of a kernel's instructions: which function, under which
predicate, for how many at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from emulator.errors import UnsupportedInstruction
from emulator.instructions import (
    async_copies,
    atomics,
    barriers,
    bits,
    bulk_copies,
    compare,
    conversion,
    floats,
    integers,
    loads,
    matrix,
    mbarriers,
    moves,
    warps,
    wgmma,
)
from emulator.instructions.operands import Family, Reader, Step, spread_reader
from emulator.language.order import branch_targets, priorities
from emulator.language.syntax import (
    Address,
    Instruction,
    Kernel,
    Negated,
    Operand,
    Register,
    TensorBox,
    Tuple,
)
from emulator.state.arrays import Array, is_float
from emulator.state.machine import Lanes, Machine

_FAMILIES: Family = {
    **integers.FAMILY,
    **bits.FAMILY,
    **compare.FAMILY,
    **conversion.FAMILY,
    **moves.FAMILY,
    **loads.FAMILY,
    **atomics.FAMILY,
    **warps.FAMILY,
    **barriers.FAMILY,
    **mbarriers.FAMILY,
    **async_copies.FAMILY,
    **bulk_copies.FAMILY,
    **matrix.FAMILY,
    **wgmma.FAMILY,
}
_HINTS = ("griddepcontrol", "nanosleep", "pmevent", "brkpt", "createpolicy")
_OF_WARP = ("shfl", "vote", "match", "redux", "elect")
_WHOLE_WARP = ("ldmatrix", "stmatrix", "mma", "movmatrix", "bar", "barrier")
_WARPGROUP = ("wgmma", "setmaxnreg")


@dataclass(frozen=True, slots=True)
class Operation:
    """`kind`: plain, branch, switch, exit or trap. `together`: how many threads must come (0: each
    alone).

    `members` reads the mask of the lanes that take part where that is not simply all. `targets` are
    places of the instruction list; `touched` the registers, for the watch over those that wgmma
    still writes; `watched` those written here that a wgmma uses elsewhere.
    """

    kind: str
    step: Step
    guard: int
    guard_negated: bool
    together: int
    members: Reader | None
    targets: tuple[int, ...]
    touched: frozenset[int]
    watched: frozenset[int]
    instruction: Instruction


@dataclass(frozen=True)
class Program:
    """A kernel made ready to run. `order` tells which place should run first."""

    kernel: Kernel
    operations: tuple[Operation, ...]
    order: Array
    starts: frozenset[int]


@functools.lru_cache(maxsize=256)
def decode(kernel: Kernel) -> Program:
    """Raises UnsupportedInstruction with the text of the first instruction that is not known."""
    products = _product_registers(kernel)
    operations = tuple(_operation(kernel, one, products) for one in kernel.instructions)
    return Program(
        kernel,
        operations,
        # The last one stands for the place behind the end, where threads are that have ended.
        np.array([*priorities(kernel), len(operations)], np.int64),
        frozenset(kernel.labels.values()),
    )


def _product_registers(kernel: Kernel) -> frozenset[int]:
    """The registers that wgmma.mma_async reads or writes besides descriptors and predicates."""
    return frozenset(
        one.index
        for instruction in kernel.instructions
        if instruction.opcode[:2] == ("wgmma", "mma_async")
        for operand in instruction.operands[:2]
        if isinstance(operand, Tuple)
        for one in registers_in(operand)
    )


def _operation(kernel: Kernel, instruction: Instruction, products: frozenset[int]) -> Operation:
    guard = instruction.guard
    register = guard.predicate if isinstance(guard, Negated) else guard
    kind, targets, step = _kind_of(kernel, instruction)
    together, members = _collective(instruction)
    touched = frozenset(
        one.index for operand in instruction.operands for one in registers_in(operand)
    )
    written = frozenset(one.index for one in _written(instruction)) & products
    return Operation(
        kind,
        step,
        -1 if register is None else register.index,
        isinstance(guard, Negated),
        together,
        members,
        targets,
        touched,
        written,
        instruction,
    )


def _written(instruction: Instruction) -> list[Register]:
    """The registers of the first operand, unless that is an address or the instruction a wgmma."""
    first = instruction.operands[0] if instruction.operands else None
    if instruction.opcode[0] == "wgmma" or not isinstance(first, (Register, Tuple)):
        return []
    return registers_in(first)


def _kind_of(kernel: Kernel, instruction: Instruction) -> tuple[str, tuple[int, ...], Step]:
    match instruction.opcode[0]:
        case "bra":
            return "branch", branch_targets(kernel, instruction), _nothing
        case "brx":
            chosen = spread_reader(instruction.operands[0], "u32")
            return "switch", branch_targets(kernel, instruction), chosen
        case "ret" | "exit":
            return "exit", (), _nothing
        case "trap":
            return "trap", (), _nothing
        case name if name in _HINTS:
            return "plain", (), _nothing
    return "plain", (), _builder(instruction)(instruction)


def _builder(instruction: Instruction) -> Callable[[Instruction], Step]:
    name = instruction.opcode[0]
    kind = instruction.opcode[-1]
    if name in floats.FAMILY and is_float(kind):
        return floats.FAMILY[name]
    if instruction.has("cc") and f"{name}.cc" in _FAMILIES:
        return _FAMILIES[f"{name}.cc"]
    if name not in _FAMILIES:
        raise UnsupportedInstruction(f"not known: {instruction.text}")
    return _FAMILIES[name]


def _nothing(machine: Machine, lanes: Lanes) -> None:
    return None


def _collective(instruction: Instruction) -> tuple[int, Reader | None]:
    name = instruction.opcode[0]
    if name in _WARPGROUP:
        return 128, None
    if name in _OF_WARP or instruction.opcode[:2] == ("bar", "warp"):
        mask = warps.member_mask(instruction)
        return 32, mask
    return (32, None) if name in _WHOLE_WARP else (0, None)


def registers_in(operand: Operand) -> list[Register]:
    """All registers that an operand names."""
    match operand:
        case Register():
            return [operand]
        case Negated(predicate):
            return [predicate]
        case Address(base, _):
            return registers_in(base)
        case Tuple(parts):
            return [one for part in parts for one in registers_in(part)]
        case TensorBox(address, coordinates):
            return [one for part in (address, *coordinates) for one in registers_in(part)]
    return []
