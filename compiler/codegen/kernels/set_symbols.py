"""Finds the dimension symbols to which the steps of a program give values."""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir.loops import Kernel, SetDim
from bessemer.compiler.ir.program import BindDims, Branch, Launch, Repeat, Step
from bessemer.compiler.ir.walk_loops import walk


def set_by_kernel(kernel: Kernel) -> set[str]:
    """The symbols that a kernel sets from the data."""
    return {statement.symbol for statement in walk(kernel.body) if isinstance(statement, SetDim)}


def set_by_steps(steps: Sequence[Step]) -> set[str]:
    """The symbols that steps set, including those inside of branches and loops."""
    found: set[str] = set()
    for step in steps:
        match step:
            case Launch():
                found |= set_by_kernel(step.kernel)
            case BindDims():
                found |= {name for name in step.symbols if name}
            case Branch():
                found |= set_by_steps(step.then) | set_by_steps(step.otherwise)
            case Repeat():
                found |= set_by_steps(step.body) | ({step.count} if step.count else set())
    return found
