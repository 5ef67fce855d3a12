"""Lets several programs be in one artifact: equal kernels become one, and others get different
names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.program import Launch, Program
from bessemer.compiler.ir.walk_loops import structure
from bessemer.compiler.ir.walk_steps import map_launches


def share_kernels(programs: Sequence[Program]) -> list[Program]:
    """The programs, changed so that no two kernels have the same name, and no two are equal."""
    table = _Table()
    return [
        replace(program, steps=map_launches(program.steps, table.launch)) for program in programs
    ]


class _Table:
    def __init__(self) -> None:
        self.kernels: dict[object, Kernel] = {}
        self.names: set[str] = set()
        self.known: dict[Kernel, Kernel] = {}

    def launch(self, launch: Launch) -> Launch:
        return replace(launch, kernel=self._kernel(launch.kernel))

    def _kernel(self, kernel: Kernel) -> Kernel:
        found = self.known.get(kernel)
        if found is None:
            key = (
                kernel.buffers,
                kernel.outputs,
                kernel.symbols,
                structure(kernel.body),
                kernel.operations,
                kernel.members,
            )
            found = self.kernels.get(key)
            if found is None:
                found = self.kernels[key] = replace(kernel, name=self._unused(kernel.name))
            self.known[kernel] = found
        return found

    def _unused(self, stem: str) -> str:
        name, count = stem, 1
        while name in self.names:
            count += 1
            name = f"{stem}_again{count}"
        self.names.add(name)
        return name
