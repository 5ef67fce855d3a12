"""Where a kernel's shared and local variables lie."""

from __future__ import annotations

from dataclasses import dataclass

from emulator.language.space import SHARED_START
from emulator.language.syntax import Kernel, Variable


@dataclass(frozen=True)
class SharedLayout:
    """Bytes [start, end) of a block's shared memory are there; blocks lie `stride`
    apart. `size`: static bytes.
    """

    start: int
    end: int
    stride: int
    size: int


def lay_out_shared(
    kernel: Kernel, variables: tuple[Variable, ...], dynamic: int
) -> tuple[SharedLayout, dict[str, int]]:
    """The layout, and the address of every shared variable: those of known size first,
    then the dynamic ones.
    """
    named = [one for one in (*variables, *kernel.variables) if one.space == "shared"]
    symbols: dict[str, int] = {}
    end = SHARED_START
    for one in sorted(named, key=lambda variable: variable.size == 0):
        start = -(-end // one.alignment) * one.alignment
        symbols[one.name] = start
        end = max(end, start + one.size)
    statics = end - SHARED_START
    dynamic_starts = [symbols[one.name] for one in named if one.size == 0]
    last = max([end, *(start + dynamic for start in dynamic_starts)])
    return SharedLayout(SHARED_START, last, -(-(last + 64) // 1024) * 1024, statics), symbols


def lay_out_local(kernel: Kernel) -> tuple[int, dict[str, int]]:
    """The bytes of local memory a thread needs, and the address of every local variable."""
    symbols: dict[str, int] = {}
    end = 0
    for one in kernel.variables:
        if one.space == "local":
            symbols[one.name] = -(-end // one.alignment) * one.alignment
            end = symbols[one.name] + one.size
    return end, symbols
