"""Measures the highest arithmetic speed of this machine: multiply-adds that touch registers only.

A model's speed is given in percent of it. Both are measured within the same minute, because
processors change their clock with the load and over time.
"""

from __future__ import annotations

import ctypes
import threading
import time
from dataclasses import dataclass
from typing import Any

from bessemer.compiler.codegen.artifact.machine import (
    Machine,
    compile_object,
    place_object,
)
from bessemer.compiler.targets.machine import Target

_ITERATIONS = 200_000


@dataclass(frozen=True, eq=False)
class Peak:
    """The measuring function; `engine` is what its code lives in."""

    call: Any
    operations: int
    engine: Any


def prepare_peak(target: Target) -> Peak:
    """Compiles the measurement for a target, which must be this machine."""
    machine = Machine(target.triple, target.cpu, target.feature_text)
    engine = place_object(compile_object(peak_text(target), machine), machine)
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
    operations = 2 * target.vector_bits // 32 * _sums(target)
    return Peak(prototype(engine.get_function_address("peak")), operations, engine)


def measure_peak(peak: Peak, threads: int = 1, iterations: int = _ITERATIONS) -> float:
    """Float32 operations a second of that many threads at once; a multiply-add counts two."""
    memory = (ctypes.c_float * 16)(*[0.5 + k / 64 for k in range(16)])

    seconds: list[float] = []

    def work() -> None:
        # The thread's own time: what else the machine does meanwhile is not its limit.
        start = time.thread_time()
        # A ctypes call runs without the interpreter's lock.
        peak.call(memory, iterations)
        seconds.append(time.thread_time() - start)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(peak.operations * iterations / spent for spent in seconds)


def _sums(target: Target) -> int:
    """Enough for two multipliers of latency 4, or four where there are registers for them."""
    return 16 if target.vector_registers >= 32 else 12


def peak_text(target: Target) -> str:
    """LLVM IR of a loop of independent sums. They begin with different numbers from memory, so that
    no two of them are one."""
    vector = _vector(target)
    lines = [_lines_of_sum(target, k) for k in range(_sums(target))]
    starts, phis, steps, totals = ("\n".join(part) for part in zip(*lines, strict=True))
    return _LOOP.format(
        vector=vector,
        lanes=target.vector_bits // 32,
        starts=starts,
        phis=phis,
        steps=steps,
        totals=totals,
        last=_sums(target) - 1,
    )


def _vector(target: Target) -> str:
    return f"<{target.vector_bits // 32} x float>"


def _lines_of_sum(target: Target, k: int) -> tuple[str, str, str, str]:
    """What sum number k needs before the loop, at its head, in its body, and behind it."""
    lanes, vector = target.vector_bits // 32, _vector(target)
    start = f"""\
  %p{k} = getelementptr float, ptr %memory, i64 {k}
  %f{k} = load float, ptr %p{k}
  %s{k} = insertelement {vector} poison, float %f{k}, i32 0
  %v{k} = shufflevector {vector} %s{k}, {vector} poison, <{lanes} x i32> zeroinitializer"""
    phi = f"  %a{k} = phi {vector} [ %v{k}, %entry ], [ %b{k}, %loop ]"
    if target.has_fma:
        fma = f"@llvm.fma.v{lanes}f32({vector} %a{k}, {vector} %x, {vector} %y)"
        step = f"  %b{k} = call {vector} {fma}"
    else:
        step = f"  %m{k} = fmul {vector} %a{k}, %x\n  %b{k} = fadd {vector} %m{k}, %y"
    return start, phi, step, f"  %t{k} = fadd {vector} %{f't{k - 1}' if k else 'y'}, %b{k}"


_LOOP = """\
declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})
define void @peak(ptr %memory, i64 %count) nounwind {{
entry:
{starts}
  %x = fadd {vector} %v0, zeroinitializer
  %y = fadd {vector} %v0, %v1
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %n, %loop ]
{phis}
{steps}
  %n = add i64 %i, 1
  %more = icmp slt i64 %n, %count
  br i1 %more, label %loop, label %done
done:
{totals}
  %last = extractelement {vector} %t{last}, i32 0
  %never = fcmp ogt float %last, 1.0e3
  br i1 %never, label %store, label %end
store:
  store float %last, ptr %memory
  br label %end
end:
  ret void
}}"""
