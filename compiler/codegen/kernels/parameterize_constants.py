"""Merges kernels that differ only in numbers into one kernel, to which the launches give the
numbers.

    out0[i] = byte(round(in0[i] / 0.25) + 3)        becomes
    out0[i] = byte(round(in0[i] / given(a)) + given(b))         with a = 0.25, b = 3

The layers of a quantized network differ only in their scales and zero points; a function for each
would take most of the compile time. A number is only given by the launch if codegen writes the same
instructions for every number. Numbers that are folded (0, 1, powers of two as factors), that belong
to a known function (see activation_patterns.py), bounds and exponents stay in the code. Equal
numbers of a kernel stay equal, so that what is computed once in one kernel is computed once in the
other.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from bessemer.compiler.codegen.kernels.activation_patterns import recognized_function
from bessemer.compiler.codegen.kernels.quotients import can_divide
from bessemer.compiler.ir.expr import Binary, Cast, Constant, Expression, binary, convert, given
from bessemer.compiler.ir.loops import Block, Kernel
from bessemer.compiler.ir.program import Launch, Program
from bessemer.compiler.ir.types import f32
from bessemer.compiler.ir.walk_expr import replace_outermost
from bessemer.compiler.ir.walk_loops import map_expressions, structure
from bessemer.compiler.ir.walk_steps import launches, map_launches

_SYMBOL = "bessemer_number"
"""The prefix of the symbols by which launches give numbers."""
_Rule = Callable[[float], Expression | None]


@dataclass(frozen=True, eq=False)
class _Shared:
    """A kernel that stands for several others, and the numbers that the launches of one of these
    give it."""

    kernel: Kernel
    numbers: tuple[float, ...]


def parameterize_constants(programs: Sequence[Program]) -> list[Program]:
    """The programs, with one kernel in place of kernels that differ only in numbers."""
    found: dict[Kernel, _Shared] = {}
    alike: dict[object, dict[Kernel, None]] = {}
    for program in programs:
        for launch in launches(program.steps):
            alike.setdefault(_frame(launch.kernel), {})[launch.kernel] = None
    for group in alike.values():
        if len(group) > 1:
            found |= _shared(list(group))
    return [
        replace(program, steps=map_launches(program.steps, lambda step: _given(step, found)))
        for program in programs
    ]


def _frame(kernel: Kernel) -> object:
    """What must be equal in kernels that differ only in numbers, except for their bodies."""
    return kernel.buffers, kernel.outputs, kernel.symbols, kernel.operations, kernel.members


def _given(launch: Launch, found: dict[Kernel, _Shared]) -> Launch:
    shared = found.get(launch.kernel)
    if shared is None:
        return launch
    bits = (struct.unpack("<I", struct.pack("<f", number))[0] for number in shared.numbers)
    return replace(launch, kernel=shared.kernel, sizes=(*launch.sizes, *bits))


def _shared(kernels: Sequence[Kernel]) -> dict[Kernel, _Shared]:
    """The shared kernels for the kernels of one frame. Kernels that are like no other are not in
    it."""
    alike: dict[object, dict[Kernel, tuple[float, ...]]] = {}
    for kernel in kernels:
        numbers: dict[float, Expression] = {}
        body = _with_numbers(kernel.body, partial(_numbered, numbers))
        if numbers:  # kernels without any are different already
            alike.setdefault(structure(body), {})[kernel] = tuple(numbers)
    found: dict[Kernel, _Shared] = {}
    for members in alike.values():
        if len(members) > 1:
            found |= _one_kernel(members)
    return found


def _numbered(known: dict[float, Expression], number: float) -> Expression:
    return known.setdefault(number, given(f"{_SYMBOL}{len(known)}"))


def _one_kernel(members: dict[Kernel, tuple[float, ...]]) -> dict[Kernel, _Shared]:
    """The kernel for all members. Only numbers that differ between the members are given by
    launches."""
    first, *_ = members
    different = [k for k, column in enumerate(zip(*members.values())) if len(set(column)) > 1]
    names = {members[first][k]: f"{_SYMBOL}{n}" for n, k in enumerate(different)}
    body = _with_numbers(
        first.body, lambda number: given(names[number]) if number in names else None
    )
    kernel = replace(first, body=body, symbols=(*first.symbols, *names.values()))
    return {
        member: _Shared(kernel, tuple(numbers[k] for k in different))
        for member, numbers in members.items()
    }


def _with_numbers(body: Block, rule: _Rule) -> Block:
    """The body, with the numbers that may be given replaced by what `rule` returns for them; None
    keeps a number."""
    return map_expressions(body, _Replacement(rule).apply)


class _Replacement:
    def __init__(self, rule: _Rule) -> None:
        self._number = rule
        self._done: dict[Expression, Expression | None] = {}

    def apply(self, node: Expression) -> Expression:
        """The expression with its numbers replaced."""
        return replace_outermost(node, self._replaced)

    def _replaced(self, node: Expression) -> Expression | None:
        if node not in self._done:
            self._done[node] = self._compute(node)
        return self._done[node]

    def _compute(self, node: Expression) -> Expression | None:
        match node:
            case Cast(dtype, Binary(_, "add", steps, Constant() as zero)) if dtype.is_integer:
                # If the type does not have the zero point, codegen writes other instructions.
                if zero.dtype is f32 and not dtype.has(zero.value):
                    return convert(binary("add", self.apply(steps), zero), dtype)
            case Binary() if node.dtype is f32:
                return self._binary(node)
        return None

    def _binary(self, node: Binary) -> Expression | None:
        function = recognized_function(node)
        if function is not None:
            operand = self.apply(function.operand)
            return replace_outermost(node, lambda n: operand if n is function.operand else None)
        name, left, right = node.name, node.left, node.right
        if name not in ("add", "sub", "mul", "div"):
            return None
        a = self._operand(name, left) if name != "div" else self.apply(left)
        return binary(name, a, self._operand(name, right))

    def _operand(self, name: str, node: Expression) -> Expression:
        if not isinstance(node, Constant):
            return self.apply(node)
        with np.errstate(over="ignore"):
            number = float(np.float32(node.value))
        return (self._number(number) if _may_be_given(name, number) else None) or node


def _may_be_given(name: str, number: float) -> bool:
    """Whether the code is the same for any other number at this place."""
    match name:
        case "add" | "sub":
            return math.isfinite(number) and number not in (0, 1)
        case "div":
            return number > 0 and can_divide(number) and not _is_power_of_two(number)
        case _:
            return math.isfinite(number) and number != 0 and not _is_power_of_two(number)


def _is_power_of_two(number: float) -> bool:
    return abs(math.frexp(number)[0]) == 0.5
