"""Merges kernels that differ only in the names of sizes into one kernel, to which the launches give
their own sizes.

    kernel copy[size007, size008](...)   out0[size008*i1+i2] = in0[...]
    kernel copy_2[size009, size010](...) out0[size010*i1+i2] = in0[...]      become the first one

A detector of free height and width computes the same layers on maps of several scales, whose sizes
are symbols of their own (schedule/derived_sizes.py). (RetinaNet: 617 kernels become 191.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from bessemer.compiler.codegen.kernels.set_symbols import set_by_kernel
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.program import Launch, Program
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.walk_steps import launches, map_launches

_WORD = re.compile(r"[^\W\d]\w*")


def merge_renamed(programs: Sequence[Program]) -> list[Program]:
    """The programs, with one kernel in place of kernels that are equal but for their symbols."""
    alike: dict[object, dict[Kernel, None]] = {}
    for program in programs:
        for launch in launches(program.steps):
            alike.setdefault(_frame(launch.kernel), {})[launch.kernel] = None
    found: dict[Kernel, Kernel] = {}
    for group in alike.values():
        if len({kernel.symbols for kernel in group}) > 1:
            found |= _merged(list(group))
    return [
        replace(program, steps=map_launches(program.steps, lambda step: _with(step, found)))
        for program in programs
    ]


def _with(launch: Launch, found: dict[Kernel, Kernel]) -> Launch:
    """The launch of the kernel that stands for its own. Symbols have the same order in both."""
    return replace(launch, kernel=found.get(launch.kernel, launch.kernel))


def _frame(kernel: Kernel) -> object:
    """What must be equal in kernels that differ only in the names of sizes, as far as it is found
    fast."""
    types = tuple(buffer.dtype for buffer in kernel.buffers)
    return types, kernel.outputs, len(kernel.symbols), kernel.members


def _merged(kernels: Sequence[Kernel]) -> dict[Kernel, Kernel]:
    """For each kernel the first that differs only in the names of sizes. What sets sizes sets those
    of its own name."""
    first: dict[str, Kernel] = {}
    return {
        kernel: first.setdefault(_without_names(kernel), kernel)
        for kernel in kernels
        if not set_by_kernel(kernel)
    }


def _without_names(kernel: Kernel) -> str:
    """The text of a kernel with a number in place of each symbol."""
    numbers = {name: f"?{number}" for number, name in enumerate(kernel.symbols)}
    _, text = print_kernel(kernel).split("(", 1)  # without the name and the list of symbols
    return _WORD.sub(lambda word: numbers.get(word[0], word[0]), text)
