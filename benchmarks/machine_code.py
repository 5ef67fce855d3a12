"""Single kernels as functions of this process, and the speed limit that they are compared with."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt

from bessemer.compiler.codegen.cpu import PASSES, emit_kernel, module_text
from bessemer.compiler.codegen.machine import Machine, compile_object, create_target_machine
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.targets.machine import Target

Array = npt.NDArray[Any]


clock = time.thread_time
"""The processor's time, not the wall's: other work on the machine does not count."""


@dataclass(frozen=True)
class Function:
    """A function in memory; `engine` owns the memory. `seconds` is what it took to compile."""

    call: Callable[..., None]
    engine: Any
    code_bytes: int
    seconds: float


def machine_of(target: Target) -> Machine:
    """What LLVM is told of a target."""
    return Machine(target.triple, target.cpu, target.feature_text)


def kernel_text(kernel: Kernel, target: Target) -> str:
    """A module with one kernel that can be called from outside."""
    text = module_text([emit_kernel(kernel, target)])
    return text.replace(f"define internal void @{kernel.name}(", f"define void @{kernel.name}(")


def load(text: str, name: str, target: Target, passes: Sequence[str] = ()) -> Function:
    """Compiles a module and links it into this process."""
    start = time.perf_counter()
    machine = machine_of(target)
    code = compile_object(text, machine, passes)
    seconds = time.perf_counter() - start
    engine = llvm.create_mcjit_compiler(
        llvm.parse_assembly("", llvm.create_context()), create_target_machine(machine)
    )
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    pointer = ctypes.c_void_p
    prototype = ctypes.CFUNCTYPE(None, pointer, pointer, ctypes.c_int64, ctypes.c_int64)
    call = prototype(engine.get_function_address(name))
    return Function(call, engine, len(code), seconds)


def load_kernel(kernel: Kernel, target: Target) -> Function:
    """A kernel as a function (buffers, dims, begin, end)."""
    start = time.perf_counter()
    function = load(kernel_text(kernel, target), kernel.name, target, PASSES)
    return Function(
        function.call, function.engine, function.code_bytes, time.perf_counter() - start
    )


def aligned(shape: Sequence[int], dtype: Any = np.float32) -> Array:
    """An array of zeros that begins at a multiple of 64 bytes."""
    count = int(np.prod(shape))
    size = np.dtype(dtype).itemsize
    memory = np.zeros(count * size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    part: Array = memory[start : start + count * size].view(dtype)
    return part.reshape(shape)


@dataclass(frozen=True)
class Call:
    """A kernel with its arrays, all of its parallel loop's iterations at once."""

    function: Function
    arrays: tuple[Array, ...]
    extent: int
    sizes: tuple[int, ...] = ()

    def __call__(self) -> None:
        self.function.call(self._buffers, self._sizes, 0, self.extent)

    @property
    def _buffers(self) -> Any:
        return _pointers(self.arrays)

    @property
    def _sizes(self) -> Any:
        return (ctypes.c_int64 * max(1, len(self.sizes)))(*self.sizes)


def _pointers(arrays: Sequence[Array]) -> Any:
    addresses = [array.ctypes.data for array in arrays]
    return (ctypes.c_void_p * max(1, len(addresses)))(*addresses)


def prepared(call: Call) -> Callable[[], None]:
    """The same with its arguments made once."""
    buffers, sizes, extent = call._buffers, call._sizes, call.extent
    # `call` as a whole: the code goes with its engine, and the buffers with their arrays.
    return lambda: call.function.call(buffers, sizes, 0, extent)


_SUMS = 12  # more than a multiplier and its latency need, fewer than the registers of any machine


def _peak_text(lanes: int) -> str:
    """Independent fused multiply-adds on registers; `dims[0]` iterations of _SUMS."""
    vector = f"<{lanes} x float>"
    phis = "\n".join(
        f"  %a{k} = phi {vector} [ %x, %entry ], [ %b{k}, %loop ]" for k in range(_SUMS)
    )
    fma = f"@llvm.fma.v{lanes}f32"
    sums = "\n".join(
        f"  %b{k} = call {vector} {fma}({vector} %a{k}, {vector} %x, {vector} %y)"
        for k in range(_SUMS)
    )
    total = "\n".join(
        f"  %t{k} = fadd {vector} %{f't{k - 1}' if k else 'y'}, %b{k}" for k in range(_SUMS)
    )
    return f"""
declare {vector} {fma}({vector}, {vector}, {vector})
define void @peak(ptr %buffers, ptr %dims, i64 %begin, i64 %end) nounwind {{
entry:
  %p = load ptr, ptr %buffers
  %y = load {vector}, ptr %p, align 4
  %x = fadd {vector} %y, %y
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %n, %loop ]
{phis}
{sums}
  %n = add i64 %i, 1
  %more = icmp slt i64 %n, %end
  br i1 %more, label %loop, label %done
done:
{total}
  store {vector} %t{_SUMS - 1}, ptr %p, align 4
  ret void
}}
"""


class Peak:
    """The rate of fused multiply-adds that need no memory, in operations a second."""

    def __init__(self, target: Target) -> None:
        self.lanes = target.vector_bits // 32
        self.function = load(_peak_text(self.lanes), "peak", target)
        self.buffers = _pointers([aligned([self.lanes])])

    def rate(self, iterations: int = 400000) -> float:
        """Measured now: the clock changes."""
        start = clock()
        self.function.call(self.buffers, None, 0, iterations)
        return iterations * _SUMS * 2 * self.lanes / (clock() - start)


@dataclass(frozen=True)
class Timing:
    """Seconds a call (median), and its rate in units of the peak measured beside it: the median of
    the rounds, and the best round against the best peak."""

    seconds: float
    share: float
    best: float
    peak: float


def measure(
    call: Callable[[], None], operations: float, peak: Peak, rounds: int = 11, span: float = 0.01
) -> Timing:
    """Times a call in rounds of about `span` seconds, with the peak before and after each."""
    call()
    start = time.perf_counter()
    call()
    repeat = max(1, int(span / (time.perf_counter() - start)))
    seconds, peaks = [], [peak.rate()]
    for _ in range(rounds):
        start = clock()
        for _ in range(repeat):
            call()
        seconds.append((clock() - start) / repeat)
        peaks.append(peak.rate())
    shares = [
        operations / time_ / ((before + after) / 2)
        for time_, before, after in zip(seconds, peaks, peaks[1:])
    ]
    return Timing(
        statistics.median(seconds),
        statistics.median(shares),
        operations / min(seconds) / max(peaks),
        statistics.median(peaks),
    )
