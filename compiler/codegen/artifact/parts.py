"""Kernels become machine code on other threads, while the next ones are still being written.

A part is a module of as many kernels as make PART characters of text: what is in which part does
not depend on time. Kernels are hidden in their part; the main module declares them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace

from bessemer.compiler.codegen.artifact.machine import Machine, compile_object
from bessemer.compiler.codegen.kernels.cpu import KernelCode, module_text

PART = 1 << 17
_SUPPORT = "@bessemer_"
"""Kernels that call functions of the support code stay in the main module, which declares these."""


class Parts:
    """The parts of a model's code: `add` kernels in order, then `finish`."""

    def __init__(self, machine: Machine, passes: Sequence[str], executor: Executor) -> None:
        self._machine = machine
        self._passes = passes
        self._executor = executor
        self._waiting: list[KernelCode] = []
        self._size = 0
        self._objects: list[Future[bytes]] = []
        self._apart: list[KernelCode] = []
        self._inside: list[KernelCode] = []

    def add(self, code: KernelCode) -> KernelCode:
        """Gives a kernel to a part, which is compiled once it is large enough."""
        if any(_SUPPORT in declaration for declaration in code.declarations):
            self._inside.append(code)
            return code
        self._apart.append(code)
        self._waiting.append(replace(code, text=code.text.replace(" internal ", " hidden ", 1)))
        self._size += len(code.text)
        if self._size >= PART:
            self._begin()
        return code

    def finish(self) -> tuple[list[Future[bytes]], tuple[str, ...]]:
        """The object files, once they are there, and what the main module has in place of kernels.

        No files where all kernels together make no part: they are better compiled with the rest.
        """
        if not self._objects:
            return [], ()
        if self._waiting:
            self._begin()
        functions: dict[str, str] = {}
        for code in self._inside:
            functions |= code.functions
        declared = (f"declare hidden void @{code.name}(ptr, ptr, i64, i64)" for code in self._apart)
        return self._objects, (
            "\n".join(declared),
            *(functions[name] for name in sorted(functions)),
            *(code.text for code in self._inside),
        )

    def _begin(self) -> None:
        text = module_text(self._waiting)
        job = self._executor.submit(compile_object, text, self._machine, self._passes)
        self._objects.append(job)
        self._waiting, self._size = [], 0


def compiling_threads() -> AbstractContextManager[Executor]:
    """Threads for LLVM, as many as there are processors."""
    return ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0))))
