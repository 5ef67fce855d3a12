"""Runs kernels of the loop language as machine code, for the tests of code generation."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from bessemer.compiler.codegen.artifact.machine import (
    assembly_text,
    compile_object,
    machine_of,
    place_object,
)
from bessemer.compiler.codegen.kernels.cpu import PASSES, KernelCode, emit_kernel, module_text
from bessemer.compiler.ir.evaluate import evaluate_named
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.types import Array
from bessemer.compiler.targets import aarch64, x86
from bessemer.compiler.targets.choose import host_target
from bessemer.compiler.targets.machine import Target

_LEVELS = (x86.SSE42, x86.AVX2, x86.AVX512)
HERE = tuple(target for target in _LEVELS if set(target.features) <= set(host_target().features))
"""The targets that this machine can run."""

_Test = Callable[..., None]


def targets_in_turn(test: _Test) -> _Test:
    """Makes a test of a case one for each of these targets, all but one of which are slow."""
    each = pytest.mark.parametrize("target", HERE, ids=lambda target: target.name)
    return pytest.mark.in_turn(each(test))


_ENTRY = """
define void @entry(ptr %buffers, ptr %dims, i64 %begin, i64 %end) {{
  call void @{name}(ptr %buffers, ptr %dims, i64 %begin, i64 %end)
  ret void
}}
"""


@dataclass(frozen=True)
class Outcome:
    """What a kernel left: all buffers, the symbols' values, the failure's message or ""."""

    arrays: tuple[Array, ...]
    symbols: dict[str, int]
    failure: str


def with_entry(kernel: Kernel, target: Target) -> tuple[KernelCode, str]:
    """The kernel's code, and a module whose function @entry calls it."""
    code = emit_kernel(kernel, target)
    return code, module_text([code]) + _ENTRY.format(name=kernel.name)


def assembly(kernel: Kernel, target: Target) -> str:
    """The kernel's assembly."""
    return assembly_text(with_entry(kernel, target)[1], machine_of(target), PASSES)


def compiles_for_arm(kernel: Kernel) -> bool:
    """Whether AArch64 machine code comes out."""
    text = with_entry(kernel, aarch64.NEON)[1]
    return len(compile_object(text, machine_of(aarch64.NEON), PASSES)) > 0


class CompiledKernel:
    """A kernel in this process's memory."""

    def __init__(self, kernel: Kernel, target: Target) -> None:
        self.kernel = kernel
        self.code, text = with_entry(kernel, target)
        machine = machine_of(target)
        self._engine = place_object(compile_object(text, machine, PASSES), machine)
        kinds = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        address = self._engine.get_function_address("entry")
        self._function: Callable[..., Any] = ctypes.CFUNCTYPE(None, *kinds)(address)

    def __call__(
        self,
        arrays: Sequence[Array],
        symbols: Mapping[str, int] | None = None,
        part: tuple[int, int] | None = None,
    ) -> Outcome:
        """Runs it on copies of the arrays, one for each buffer, or a part of its parallel loop."""
        values = dict(symbols or {})
        fault = np.zeros(1, np.int32)
        copies = [_guarded_copy(array) for array in arrays]
        pointers = np.array([a.ctypes.data for a in (*copies, fault)], np.uint64)
        sizes = np.array([*(values[name] for name in self.kernel.symbols), 0], np.int64)
        extent = evaluate_named(self.kernel.parallel_extent, values)
        begin, end = part if part is not None else (0, extent)
        self._function(pointers.ctypes.data, sizes.ctypes.data, begin, end)
        after = {name: int(sizes[k]) for k, name in enumerate(self.kernel.symbols)}
        message = self.code.messages[fault[0] - 1] if fault[0] else ""
        for copy in copies:
            assert _is_intact(copy), "written outside of a buffer"
        return Outcome(tuple(copies), after, message)


_MARGIN = 256


def _guarded_copy(array: Array) -> Array:
    """A copy between two margins, which nothing may write."""
    memory = np.full(array.nbytes + 2 * _MARGIN, 0xA5, np.uint8)
    inside = memory[_MARGIN : _MARGIN + array.nbytes].view(array.dtype).reshape(array.shape)
    inside[...] = array
    return inside


def _is_intact(copy: Array) -> bool:
    memory: Any = copy
    while memory.base is not None:
        memory = memory.base
    return bool(np.all(memory[:_MARGIN] == 0xA5) and np.all(memory[-_MARGIN:] == 0xA5))
