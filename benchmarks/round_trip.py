"""Measures how long a flag takes from one core to another and back.

The times for two threads depend on it. The two cores of a virtual machine may be neighbours or far
apart, and may change their places within minutes.
"""

from __future__ import annotations

import ctypes
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np

from bessemer.compiler.codegen.artifact.machine import (
    compile_object,
    machine_of,
    place_object,
)
from bessemer.compiler.targets.choose import host_target
from bessemer.runtime.arrays import aligned_empty

_TRIPS, _ROUNDS = 1000, 9
_LINES = 256
"""Bytes between the flags: each in a line that is fetched with no other."""


def round_trip() -> float | None:
    """Seconds of a round trip between two of the processors allowed to this process, the best of a
    few: others may have interrupted one. None where there is one processor only."""
    processors = sorted(os.sched_getaffinity(0))[:2]
    if len(processors) < 2:
        return None
    _functions()  # compiled by this thread, not by both
    with ThreadPoolExecutor(2) as pool:
        return min(_round(pool, processors) for _ in range(_ROUNDS))


def _round(pool: ThreadPoolExecutor, processors: list[int]) -> float:
    flags = aligned_empty((2 * _LINES,), np.dtype(np.uint8))
    flags[...] = 0
    there = flags.ctypes.data
    back = there + _LINES
    answered = pool.submit(_on, processors[1], "answer", back, there)
    asked = pool.submit(_on, processors[0], "ask", there, back)
    answered.result()
    return asked.result() / _TRIPS


def _on(processor: int, name: str, mine: int, other: int) -> float:
    """Seconds that one side takes, on a processor."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {processor})  # of this thread
    try:
        start = time.perf_counter()
        _functions()[name](mine, other, _TRIPS)
        return time.perf_counter() - start
    finally:
        os.sched_setaffinity(0, allowed)


@cache
def _functions() -> dict[str, Any]:
    """The two sides, and the engine that their code lives in."""
    machine = machine_of(host_target())
    engine = place_object(compile_object(_text(), machine), machine)
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    found: dict[str, Any] = {
        name: prototype(engine.get_function_address(name)) for name in ("ask", "answer")
    }
    return found | {"engine": engine}


def _text() -> str:
    """LLVM IR of `ask(mine, other, trips)`, which raises its flag and waits for the other one, and
    of `answer`, which waits first."""
    raised = "  store atomic i64 %trip, ptr %mine release, align 8"
    waits = [
        "  br label %wait",
        "wait:",
        "  %seen = load atomic i64, ptr %other acquire, align 8",
        "  %is_there = icmp eq i64 %seen, %trip",
        "  br i1 %is_there, label %next, label %wait",
        "next:",
    ]
    sides = {"ask": [raised, *waits], "answer": [*waits, raised]}
    return "\n".join(line for name, steps in sides.items() for line in _loop(name, steps))


def _loop(name: str, steps: list[str]) -> list[str]:
    return [
        f"define void @{name}(ptr %mine, ptr %other, i64 %trips) nounwind {{",
        "entry:",
        "  br label %loop",
        "loop:",
        "  %trip = phi i64 [ 1, %entry ], [ %following, %next ]",
        *steps,
        "  %following = add i64 %trip, 1",
        "  %more = icmp sle i64 %following, %trips",
        "  br i1 %more, label %loop, label %done",
        "done:",
        "  ret void",
        "}\n",
    ]
