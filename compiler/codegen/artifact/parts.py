"""Compiles kernels to machine code on other threads, while further kernels are still being written.

A part is a module of as many kernels as make PART characters of text, so what is in which part does
not depend on timing. Kernels are hidden symbols of their part; the main module declares them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from bessemer.compiler.codegen.artifact.machine import Machine, compile_object, machine_of
from bessemer.compiler.codegen.kernels.cpu import (
    CONSTANTS,
    PASSES,
    KernelCode,
    emit_kernel,
    module_text,
)
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.targets.machine import Target

PART = 1 << 17
_SUPPORT = "@bessemer_"
"""Kernels that call functions with this prefix, those of the support code, are compiled in the main
module, which declares these functions."""


@dataclass(frozen=True, eq=False)
class EmittedKernels:
    """The kernels of a model's programs as LLVM IR. `objects` are the compiled parts, as futures;
    `main` is what the main module contains in place of the kernels in them."""

    codes: Mapping[Kernel, KernelCode]
    objects: Sequence[Future[bytes]]
    main: tuple[str, ...]

    @property
    def messages(self) -> dict[Kernel, tuple[str, ...]]:
        """The messages of the failures that each kernel may report, for the bodies that call it."""
        return {kernel: code.messages for kernel, code in self.codes.items() if code.messages}

    def texts(self, bodies: Sequence[str]) -> tuple[str, ...]:
        """All LLVM IR: shared definitions once, then the kernels, then the bodies."""
        codes = self.codes.values()
        return (self._head(), *_functions(codes), *(code.text for code in codes), *bodies)

    def main_texts(self, bodies: Sequence[str]) -> tuple[str, ...]:
        """The LLVM IR of the main module: all, or what is not in `objects`."""
        return (self._head(), *self.main, *bodies) if self.objects else self.texts(bodies)

    def _head(self) -> str:
        declarations = {
            f"declare void @llvm.{name}.p0.p0.i64(ptr, ptr, i64, i1)"
            for name in ("memcpy", "memmove")
        }
        declarations = declarations.union(*(code.declarations for code in self.codes.values()))
        return "\n".join([CONSTANTS, *sorted(declarations)])


def emit_kernels(kernels: Iterable[Kernel], target: Target, workers: Executor) -> EmittedKernels:
    """Writes kernels as LLVM IR, while `workers` compile those that are already written."""
    parts = _Parts(machine_of(target), workers)
    codes = {}
    for kernel in kernels:
        codes[kernel] = emit_kernel(kernel, target)
        parts.add(codes[kernel])
    return EmittedKernels(codes, *parts.finish())


def _functions(codes: Iterable[KernelCode]) -> list[str]:
    """The texts of the functions that kernels call, without duplicates."""
    functions: dict[str, str] = {}
    for code in codes:
        functions |= code.functions
    return [functions[name] for name in sorted(functions)]


class _Parts:
    """The parts of a model's code: `add` kernels in order, then `finish`."""

    def __init__(self, machine: Machine, executor: Executor) -> None:
        self._machine = machine
        self._executor = executor
        self._waiting: list[KernelCode] = []
        self._size = 0
        self._objects: list[Future[bytes]] = []
        self._separate: list[KernelCode] = []
        self._inside: list[KernelCode] = []

    def add(self, code: KernelCode) -> None:
        """Adds a kernel to the current part. A part is compiled once it is large enough."""
        if any(_SUPPORT in declaration for declaration in code.declarations):
            self._inside.append(code)
            return
        self._separate.append(code)
        self._waiting.append(replace(code, text=code.text.replace(" internal ", " hidden ", 1)))
        self._size += len(code.text)
        if self._size >= PART:
            self._begin()

    def finish(self) -> tuple[list[Future[bytes]], tuple[str, ...]]:
        """The object files, as futures, and what the main module contains in place of the kernels
        in them.

        There are no object files if all kernels together do not fill a part: they are better
        compiled with the rest.
        """
        if not self._objects:
            return [], ()
        if self._waiting:
            self._begin()
        declared = (
            f"declare hidden void @{code.name}(ptr, ptr, i64, i64)" for code in self._separate
        )
        return self._objects, (
            "\n".join(declared),
            *_functions(self._inside),
            *(code.text for code in self._inside),
        )

    def _begin(self) -> None:
        text = module_text(self._waiting)
        job = self._executor.submit(compile_object, text, self._machine, PASSES)
        self._objects.append(job)
        self._waiting, self._size = [], 0


def compiling_threads() -> AbstractContextManager[Executor]:
    """A pool of threads for LLVM, as many as there are processors, at most 8."""
    return ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0))))
