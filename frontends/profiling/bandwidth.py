"""Measures the bandwidth of this machine: reading and copying, from each level of its caches.

Measured with plain vector loads and stores, as compiled kernels have them, on as many threads as
the model runs on, each with memory of its own: from when the first begins to when the last ends, as
one that is left alone is faster. The bytes are random: processors move lines of zeros faster (past
the caches 145 in place of 100 GB/s on two cores of Zen 4).
"""

from __future__ import annotations

import ctypes
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bessemer.compiler.codegen.artifact.machine import (
    Machine,
    compile_object,
    place_object,
)
from bessemer.compiler.ir.types import Array
from bessemer.compiler.targets.machine import Target
from bessemer.runtime.arrays import address, aligned_empty

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_USUAL = ((1, 32 << 10), (2, 1 << 20), (3, 32 << 20))
"""Caches, where the system does not tell of its own."""
_MEMORY = 1 << 28
"""Bytes that are measured for memory: more than any cache holds."""
_CONTENT = 1 << 20
_UNROLL = 8
_AHEAD = 8 << 10
_STREAMING = "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)\n!0 = !{i32 1}\n"


@dataclass(frozen=True)
class Level:
    """A cache, or memory: what fits into it, and bytes a second of all threads together.

    `copy` counts what is read and what is written. Caches below the third are each thread's own.
    """

    number: int
    bytes: int
    read: float
    copy: float

    @property
    def write(self) -> float:
        """Bytes a second of the writing half of a copy."""
        return 1 / max(2 / self.copy - 1 / self.read, 0.5 / self.copy)


@dataclass(frozen=True, eq=False)
class Mover:
    """The measuring functions; `engine` is what their code lives in. `stream` copies past the
    caches, and is `copy` on machines where kernels do not store that way."""

    read: Any
    copy: Any
    stream: Any
    engine: Any


def cache_sizes() -> list[tuple[int, int]]:
    """(level, bytes) of the data caches, from the first; usual ones where the system tells none."""
    found = {}
    for folder in sorted(_CACHES.glob("index*")):
        try:
            kind, number, size = (
                (folder / n).read_text().strip() for n in ("type", "level", "size")
            )
        except OSError:
            continue
        if kind != "Instruction" and size.endswith(("K", "M")):
            found[int(number)] = int(size[:-1]) << (10 if size.endswith("K") else 20)
    return sorted(found.items()) or list(_USUAL)


def prepare_mover(target: Target) -> Mover:
    """Compiles the measurement for a target, which must be this machine."""
    machine = Machine(target.triple, target.cpu, target.feature_text)
    engine = place_object(compile_object(mover_text(target), machine), machine)
    prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 2)
    stream = "stream_bytes" if target.last_cache else "copy_bytes"
    return Mover(
        prototype(engine.get_function_address("read_bytes")),
        prototype(engine.get_function_address("copy_bytes")),
        prototype(engine.get_function_address(stream)),
        engine,
    )


def measure_levels(mover: Mover, threads: int, seconds: float = 0.02) -> list[Level]:
    """The caches and memory; `seconds` is about what each of eight measurements takes."""
    levels = []
    below = 0
    for number, size in [*cache_sizes(), (0, _MEMORY)]:
        shared = threads if number in (0, 3) else 1
        # Half of the cache: the other half is everybody else's.
        part = max(below, (size if number == 0 else size // 2) // shared)
        memories = _memories(part, threads)
        read = _rate(mover.read, memories, part, seconds)
        copy = _rate(mover.copy, memories, part, seconds)
        levels.append(Level(number, size if number else 1 << 62, read, copy))
        below = 2 * size
    return levels


def measure_copy(mover: Mover, size: int, threads: int, seconds: float) -> float:
    """Bytes a second, read and written, of copying half of `size` bytes to the other half."""
    return _rate(mover.copy, _memories(size // threads, threads), size // threads, seconds)


def measure_stream(mover: Mover, size: int, threads: int = 1, seconds: float = 0.02) -> float:
    """The speed of copies by non-temporal stores, with software prefetch of what is read."""
    return _rate(mover.stream, _memories(size // threads, threads), size // threads, seconds)


def measure_read(mover: Mover, size: int, threads: int = 1, seconds: float = 0.02) -> float:
    """Bytes a second of reading the same `size` bytes again and again."""
    return _rate(mover.read, _memories(size // threads, threads), size // threads, seconds)


def _memories(part: int, threads: int) -> list[Array]:
    content = np.frombuffer(np.random.default_rng(0).bytes(min(part, _CONTENT)), np.uint8)
    memories = [aligned_empty((part,), np.dtype(np.uint8)) for _ in range(threads)]
    for memory in memories:
        for start in range(0, part, _CONTENT):
            memory[start : start + _CONTENT] = content[: part - start]
    return memories


def _rate(function: Any, memories: list[Array], part: int, seconds: float) -> float:
    """Bytes a second of reading the parts, or of copying their first halves to their second."""
    unit = 2 * 64 * _UNROLL
    half = part // unit * unit // 2
    moved = 2 * half

    def run(memory: Array, repeats: int, together: threading.Barrier) -> tuple[float, float]:
        begin = address(memory)
        together.wait()
        start = time.perf_counter()
        function(begin, begin + half, half, repeats)
        return start, time.perf_counter()

    def taken(repeats: int) -> float:
        """Seconds from the first beginning to the last end."""
        together = threading.Barrier(len(memories))
        with ThreadPoolExecutor(len(memories)) as pool:
            runs = [pool.submit(run, memory, repeats, together) for memory in memories]
            times = [one.result() for one in runs]
        return max(end for _, end in times) - min(start for start, _ in times)

    repeats = 1
    taken(1)
    while (trial := taken(repeats)) < seconds / 12:
        repeats *= 4
    repeats = max(1, int(repeats * seconds / 3 / trial))
    return len(memories) * moved * repeats / min(taken(repeats) for _ in range(3))


def mover_text(target: Target) -> str:
    """LLVM IR of `read_bytes(a, b, size, repeats)`, which reads a and b, and of `copy_bytes`, which
    copies a to b; `size` is a multiple of what one step of the loop moves. Where kernels store past
    the caches there is `stream_bytes`, which copies that way."""
    lanes = target.vector_bits // 32
    text = _read_loop(lanes) + _copy_loop("copy_bytes", lanes)
    if not target.last_cache:
        return text
    return text + _copy_loop("stream_bytes", lanes, streams=True) + _STREAMING


def _read_loop(lanes: int) -> str:
    """Reads both arrays into vectors that are never stored, which LLVM cannot know."""
    vector, width = f"<{lanes} x i32>", lanes * 4
    steps, phis, total = [], [], []
    for k in range(_UNROLL):
        steps += _addresses(k, width)
        steps.append(f"  %v{k} = load {vector}, ptr %a{k}, align 64")
        phis.append(f"  %s{k} = phi {vector} [ zeroinitializer, %again ], [ %n{k}, %loop ]")
        steps.append(f"  %w{k} = load {vector}, ptr %b{k}, align 64")
        steps.append(f"  %x{k} = or {vector} %v{k}, %w{k}")
        steps.append(f"  %n{k} = or {vector} %s{k}, %x{k}")
        total.append(f"  %t{k} = or {vector} %n{k}, {f'%t{k - 1}' if k else f'%n{k}'}")
    ends = [
        *total,
        f"  %one = extractelement {vector} %t{_UNROLL - 1}, i32 0",
        "  %never = icmp eq i32 %one, 123456789",
        "  br i1 %never, label %store, label %next",
        "store:",
        "  store i32 %one, ptr %a",
        "  br label %next",
    ]
    return _repeated("read_bytes", width, phis, steps, ends)


def _copy_loop(name: str, lanes: int, streams: bool = False) -> str:
    """Copies; with `streams`, by streaming stores."""
    vector, width = f"<{lanes} x i32>", lanes * 4
    steps = []
    for k in range(_UNROLL):
        steps += _addresses(k, width)
        steps.append(f"  %v{k} = load {vector}, ptr %a{k}, align 64")
        if streams:
            steps.append(f"  %c{k} = getelementptr i8, ptr %a{k}, i64 {_AHEAD}")
            steps.append(f"  call void @llvm.prefetch.p0(ptr %c{k}, i32 0, i32 3, i32 1)")
        how = ", !nontemporal !0" if streams else ""
        steps.append(f"  store {vector} %v{k}, ptr %b{k}, align 64{how}")
    return _repeated(name, width, [], steps, ["  br label %next"])


def _addresses(k: int, width: int) -> list[str]:
    offset = f"i64 {k * width}"
    return [f"  %{name}{k} = getelementptr i8, ptr %{name}.at, {offset}" for name in ("a", "b")]


def _repeated(name: str, width: int, phis: list[str], steps: list[str], ends: list[str]) -> str:
    """A function that goes over the arrays again and again by `steps`, which move _UNROLL times
    `width` bytes; `ends` are what follows a pass over the arrays."""
    return "\n".join(
        [
            f"define void @{name}(ptr %a, ptr %b, i64 %size, i64 %repeats) nounwind {{",
            "entry:",
            "  br label %again",
            "again:",
            "  %repeat = phi i64 [ 0, %entry ], [ %repeat.next, %next ]",
            "  br label %loop",
            "loop:",
            "  %i = phi i64 [ 0, %again ], [ %i.next, %loop ]",
            *phis,
            "  %a.at = getelementptr i8, ptr %a, i64 %i",
            "  %b.at = getelementptr i8, ptr %b, i64 %i",
            *steps,
            f"  %i.next = add i64 %i, {_UNROLL * width}",
            "  %more = icmp slt i64 %i.next, %size",
            "  br i1 %more, label %loop, label %last",
            "last:",
            *ends,
            "next:",
            '  call void asm sideeffect "", "~{memory}"()',
            "  %repeat.next = add i64 %repeat, 1",
            "  %again.more = icmp slt i64 %repeat.next, %repeats",
            "  br i1 %again.more, label %again, label %done",
            "done:",
            "  ret void",
            "}\n",
        ]
    )
