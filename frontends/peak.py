"""The most arithmetic that this machine can do: multiply-adds that touch registers only.

What a model reaches is told in percent of it, measured in the same minute: processors change their
clock with the load and with the time of the day.
"""

from __future__ import annotations

import ctypes
import threading
import time
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm

from bessemer.compiler.codegen.machine import Machine, compile_object, create_target_machine
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
    lanes = target.vector_bits // 32
    # Enough to keep two multipliers of latency 4 busy, or four where there are registers for it.
    sums = 16 if target.vector_registers >= 32 else 12
    code = compile_object(_text(lanes, sums, target.has_fma), machine)
    module = llvm.parse_assembly("", llvm.create_context())
    engine = llvm.create_mcjit_compiler(module, create_target_machine(machine))
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
    return Peak(prototype(engine.get_function_address("peak")), 2 * lanes * sums, engine)


def measure_peak(peak: Peak, threads: int = 1, iterations: int = _ITERATIONS) -> float:
    """Float32 operations a second of that many threads at once; a multiply-add counts two."""
    memory = (ctypes.c_float * 16)(*[0.5] * 16)

    def work() -> None:
        # A ctypes call runs without the interpreter's lock.
        peak.call(memory, iterations)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return peak.operations * iterations * threads / (time.perf_counter() - start)


def _text(lanes: int, sums: int, has_fma: bool) -> str:
    """A loop of independent sums. What is multiplied comes from memory, so that nothing folds."""
    vector = f"<{lanes} x float>"
    phis, steps, total = [], [], []
    for k in range(sums):
        phis.append(f"  %a{k} = phi {vector} [ %y, %entry ], [ %b{k}, %loop ]")
        if has_fma:
            fma = f"@llvm.fma.v{lanes}f32({vector} %a{k}, {vector} %x, {vector} %y)"
            steps.append(f"  %b{k} = call {vector} {fma}")
        else:
            steps.append(f"  %m{k} = fmul {vector} %a{k}, %x")
            steps.append(f"  %b{k} = fadd {vector} %m{k}, %y")
        total.append(f"  %t{k} = fadd {vector} %{f't{k - 1}' if k else 'y'}, %b{k}")
    return "\n".join(
        [
            f"declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})",
            "define void @peak(ptr %memory, i64 %count) nounwind {",
            "entry:",
            "  %one = load float, ptr %memory",
            f"  %s = insertelement {vector} poison, float %one, i32 0",
            f"  %x = shufflevector {vector} %s, {vector} poison, <{lanes} x i32> zeroinitializer",
            f"  %y = fadd {vector} %x, %x",
            "  br label %loop",
            "loop:",
            "  %i = phi i64 [ 0, %entry ], [ %n, %loop ]",
            *phis,
            *steps,
            "  %n = add i64 %i, 1",
            "  %more = icmp slt i64 %n, %count",
            "  br i1 %more, label %loop, label %done",
            "done:",
            *total,
            f"  %last = extractelement {vector} %t{sums - 1}, i32 0",
            "  %never = fcmp ogt float %last, 1.0e3",
            "  br i1 %never, label %store, label %end",
            "store:",
            "  store float %last, ptr %memory",
            "  br label %end",
            "end:",
            "  ret void",
            "}",
        ]
    )
