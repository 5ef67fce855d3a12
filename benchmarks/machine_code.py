"""Single kernels as functions of this process, and the speed limit that they are compared with."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bessemer.compiler.codegen.artifact.machine import (
    compile_object,
    machine_of,
    place_object,
)
from bessemer.compiler.codegen.kernels.cpu import PASSES, emit_kernel, module_text
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
    engine = place_object(code, machine)
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
_DOTS = 24  # vdpbf16ps takes longer


@dataclass(frozen=True)
class _Step:
    """An instruction that multiplies and adds: its name in LLVM, the type of its factors, how many
    products it adds in a lane, whether the sum is its first operand, and how many sums are under
    way."""

    name: str
    factor: str
    products: int = 1
    sum_first: bool = False
    sums: int = _SUMS


def _step(target: Target, dots: bool) -> _Step:
    lanes = target.vector_bits // 32
    if not dots:
        return _Step(f"llvm.fma.v{lanes}f32", f"<{lanes} x float>")
    name = f"llvm.x86.avx512bf16.dpbf16ps.{target.vector_bits}"
    return _Step(name, f"<{2 * lanes} x bfloat>", 2, True, _DOTS)


def _peak_text(lanes: int, step: _Step) -> str:
    """Independent sums on registers; `end` iterations of them all."""
    vector, factor, numbers = f"<{lanes} x float>", step.factor, range(step.sums)
    types = (vector, factor, factor) if step.sum_first else (factor, factor, vector)
    phis = "\n".join(f"  %a{k} = phi {vector} [ %y, %entry ], [ %b{k}, %loop ]" for k in numbers)

    def call(k: int) -> str:
        operands = [f"{factor} %x", f"{factor} %x"]
        operands.insert(0 if step.sum_first else 2, f"{vector} %a{k}")
        return f"  %b{k} = call {vector} @{step.name}({', '.join(operands)})"

    sums = "\n".join(map(call, numbers))
    total = "\n".join(
        f"  %t{k} = fadd {vector} %{f't{k - 1}' if k else 'y'}, %b{k}" for k in numbers
    )
    return f"""
declare {vector} @{step.name}({", ".join(types)})
define void @peak(ptr %buffers, ptr %dims, i64 %begin, i64 %end) nounwind {{
entry:
  %p = load ptr, ptr %buffers
  %y = load {vector}, ptr %p, align 4
  %x = load {factor}, ptr %p, align 4
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
  store {vector} %t{step.sums - 1}, ptr %p, align 4
  ret void
}}
"""


class Peak:
    """The rate of multiply-adds that need no memory, in operations a second: fused ones of float32,
    or `dots`, which add two products of bfloat16."""

    def __init__(self, target: Target, dots: bool = False) -> None:
        self.lanes = target.vector_bits // 32
        step = _step(target, dots)
        self.operations = step.sums * step.products * 2 * self.lanes
        self.function = load(_peak_text(self.lanes, step), "peak", target)
        self.buffers = _pointers([aligned([self.lanes])])

    def rate(self, iterations: int = 400000) -> float:
        """Measured now: the clock changes."""
        start = clock()
        self.function.call(self.buffers, None, 0, iterations)
        return iterations * self.operations / (clock() - start)


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
