"""Where a model's time goes: every kernel's time, beside what it computes, moves and could do."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import Compilation
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ir.walk_steps import timed_steps
from bessemer.compiler.jit import address_of, aligned_weights, link
from bessemer.compiler.options import Options, Precision, Tuning, dump_folder
from bessemer.compiler.targets.choose import host_target
from bessemer.frontends.models_in import Model, build_model
from bessemer.frontends.outputs_in_place import over_inputs
from bessemer.frontends.profiling.machine_limits import Limits, measure_limits
from bessemer.frontends.profiling.operation_count import operations_of, products_of
from bessemer.frontends.profiling.profile_record import Record
from bessemer.frontends.profiling.traffic import Traffic, known, traffic_of
from bessemer.frontends.tuning_file import given_tuning
from bessemer.runtime.artifact import Placement, Status
from bessemer.runtime.errors import ExecutionError
from bessemer.runtime.model import CompiledModel, Inputs, Outputs

_MOST_RUNS, _SHOWN = 10_000, 20
"""Runs that are timed at most, and those of which events are kept to choose a trace from."""


@dataclass(frozen=True)
class KernelTime:
    """One launch of a kernel in the run body. Seconds are of one run of the model, the median over
    runs; `runs` is how often that happens in one (in a loop, or not at all in a branch).

    `operations` are those that the graph asks for, `traffic` the bytes that must move, both in one
    run. `floor` is the least seconds that the machine could do it in. `busy` is the time that
    threads spent inside, over all threads' time: 1 where none waited.
    """

    kernel: str
    sources: tuple[str, ...]
    runs: float
    seconds: float
    operations: float
    traffic: Traffic
    floor: float
    busy: float

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds if self.seconds else 0.0

    @property
    def bandwidth(self) -> float:
        """Bytes a second."""
        return self.traffic.moved / self.seconds if self.seconds else 0.0

    @property
    def roofline(self) -> float:
        """The share of what the machine could do. Above 1 where fewer operations did (Winograd),
        or where caches held more than expected."""
        return self.floor / self.seconds if self.seconds else 0.0


def merged(kernels: Sequence[KernelTime]) -> list[KernelTime]:
    """One entry for all that run the same code, where it first does."""
    rows: dict[str, list[KernelTime]] = {}
    for kernel in kernels:
        rows.setdefault(kernel.kernel, []).append(kernel)
    return [_sum(same) for same in rows.values()]


def _sum(same: Sequence[KernelTime]) -> KernelTime:
    seconds = sum(kernel.seconds for kernel in same)
    return KernelTime(
        same[0].kernel,
        tuple(dict.fromkeys(source for kernel in same for source in kernel.sources)),
        sum(kernel.runs for kernel in same),
        seconds,
        sum(kernel.operations for kernel in same),
        Traffic(
            sum(kernel.traffic.read for kernel in same),
            sum(kernel.traffic.written for kernel in same),
            sum(kernel.traffic.weights for kernel in same),
        ),
        sum(kernel.floor for kernel in same),
        sum(kernel.busy * kernel.seconds for kernel in same) / seconds if seconds else 0.0,
    )


@dataclass(frozen=True)
class Event:
    """A thread's work on a step, in nanoseconds since the run began. Thread 0 is the caller."""

    step: int
    thread: int
    begin: int
    end: int


@dataclass(frozen=True)
class Profile:
    """`seconds` is the median of whole runs inside the model, `call_seconds` of calls from Python.

    `between_seconds` is the median of what a run's kernels leave of that run. The difference of
    `seconds` and `kernel_seconds` would be more: an interruption makes some kernel of every run
    late, and is in no kernel's median. `events` are of one run, one with the median time.
    """

    model: str
    threads: int
    runs: int
    sizes: dict[str, int]
    seconds: float
    call_seconds: float
    between_seconds: float
    kernels: tuple[KernelTime, ...]
    limits: Limits
    events: tuple[Event, ...] = field(repr=False)

    @property
    def kernel_seconds(self) -> float:
        """The sum over the kernels."""
        return sum(kernel.seconds for kernel in self.kernels)

    def to_json(self) -> dict[str, Any]:
        """Everything but the events, as JSON has it; times in seconds."""
        found = {
            "model": self.model,
            "threads": self.threads,
            "runs": self.runs,
            "sizes": self.sizes,
            "seconds": self.seconds,
            "call_seconds": self.call_seconds,
            "kernel_seconds": self.kernel_seconds,
            "between_seconds": self.between_seconds,
            "peak": self.limits.peak,
            "levels": [asdict(level) for level in self.limits.levels],
        }
        kernels = [
            {
                "step": step,
                "kernel": kernel.kernel,
                "sources": list(kernel.sources),
                "runs": kernel.runs,
                "seconds": kernel.seconds,
                "share": kernel.seconds / self.seconds if self.seconds else 0.0,
                "operations": kernel.operations,
                "operations_per_second": kernel.rate,
                "bytes_read": kernel.traffic.read,
                "bytes_written": kernel.traffic.written,
                "bytes_per_second": kernel.bandwidth,
                "floor": kernel.floor,
                "roofline": kernel.roofline,
                "busy": kernel.busy,
            }
            for step, kernel in enumerate(self.kernels)
        ]
        return found | {"kernels": kernels}

    def to_trace(self) -> dict[str, Any]:
        """One run as Chrome and Perfetto show it: a track for every thread."""
        shown: list[dict[str, Any]] = [
            {"ph": "M", "pid": 1, "tid": thread, "name": "thread_name", "args": {"name": name}}
            for thread in sorted({event.thread for event in self.events})
            for name in [f"worker {thread}" if thread else "caller"]
        ]
        shown.insert(0, {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": self.model}})
        for event in self.events:
            kernel = self.kernels[event.step]
            shown.append(
                {
                    "ph": "X",
                    "pid": 1,
                    "tid": event.thread,
                    "ts": event.begin / 1e3,
                    "dur": (event.end - event.begin) / 1e3,
                    "name": kernel.kernel,
                    "cat": "kernel",
                    "args": {
                        "step": event.step,
                        "sources": ", ".join(kernel.sources),
                        "GFLOP/s": round(kernel.rate / 1e9, 1),
                        "GB/s": round(kernel.bandwidth / 1e9, 1),
                        "roofline": round(kernel.roofline, 3),
                    },
                }
            )
        return {"displayTimeUnit": "ns", "traceEvents": shown}


def compile_profiled(
    model: Model,
    *,
    dims: Mapping[str, int] | None = None,
    threads: int | None = None,
    precision: Precision = "float32",
    optimize: int = 2,
    values: Mapping[str, Array | None] | None = None,
    tuning: str | Path | Tuning | None = None,
    grow_in_place: bool = False,
) -> ProfiledModel:
    """Compiles a model so that it takes the time of its kernels; arguments as `bessemer.compile`.

    It never comes from the compile cache.
    """
    options = Options("", threads or 0, precision, optimize, dump_folder(), profile=True)
    options = replace(options, grow_in_place=grow_in_place)
    if tuning is not None:
        options = replace(options, tuning=given_tuning(tuning, host_target()))
    return ProfiledModel(build_model(model, options, dims, values), options.threads)


class ProfiledModel(CompiledModel):
    """A model that takes the time of its kernels, as `compile_profiled` gives it.

    It has one `record` of times, of the last run: call it from one thread at a time.
    """

    def __init__(self, made: Compilation, threads: int = 0) -> None:
        native = link(made.code, machine_of(made.target))
        super().__init__(native, weights=aligned_weights(made.weights), threads=threads)
        self._made = made
        self._steps = timed_steps(made.program.steps)
        record = ctypes.CFUNCTYPE(ctypes.c_void_p)(address_of(native, "profile"))()
        self.record = Record(record, len(self._steps), len(made.program.symbols))

    def save(
        self, path: str | Path, placement: Placement = "inside", linker: str = ""
    ) -> list[Path]:
        """Refuses: an artifact takes no times."""
        raise CompileError(f"{path}: a model that takes times is not saved: compile it without.")

    @property
    def compilation(self) -> Compilation:
        """What was compiled."""
        return self._made

    def measure(self, inputs: Inputs, out: Outputs | None = None) -> tuple[int, Array]:
        """One run: its nanoseconds, and how often and how long each step ran, [steps, 2]."""
        self.run(inputs, out)
        begin, end, _ = self.record.run()
        return int(end) - int(begin), self.record.sums()

    def profile(
        self, inputs: Inputs, seconds: float = 1.0, limits: Limits | None = None
    ) -> Profile:
        """Runs for about so long, at least five times, and tells where the time went.

        `limits` are the machine's, measured now unless given. What a run updates, such as the
        state of a training, is written in place, over copies of the inputs, from run to run, and
        what it continues is written behind these; a training that diverges begins again.
        """
        limits = limits or measure_limits(self._made.target, self.threads)
        arrays, out, first = over_inputs(self, inputs)
        for _ in range(2):
            self._seconds(arrays, out, first)
        calls: list[float] = []
        runs: list[Array] = []
        sums: list[Array] = []
        events: list[Array] = []
        end = time.perf_counter() + seconds
        while len(calls) < 5 or (time.perf_counter() < end and len(calls) < _MOST_RUNS):
            calls.append(self._seconds(arrays, out, first))
            runs.append(self.record.run())
            sums.append(self.record.sums())
            if len(events) < _SHOWN:
                events.append(self.record.events())
        whole = np.array([run[1] - run[0] for run in runs])
        times = np.stack(sums)
        distance = np.abs(whole[: len(events)] - np.median(whole))
        typical = int(np.argmin(distance))
        shown = events_of(events[typical], runs[typical])
        sizes = self._sizes()
        return Profile(
            model=self.signature.name,
            threads=self.threads,
            runs=len(calls),
            sizes={n: sizes[n] for n in self.signature.symbols[: self.signature.input_symbols]},
            seconds=float(np.median(whole)) / 1e9,
            call_seconds=float(np.median(calls)),
            between_seconds=float(np.median(whole - times[:, :, 1].sum(axis=1))) / 1e9,
            kernels=self._kernels(np.median(times, axis=0), sizes, limits, shown),
            limits=limits,
            events=tuple(shown),
        )

    def _seconds(
        self, arrays: Inputs, out: list[Array | None] | None, first: list[tuple[Array, Array]]
    ) -> float:
        """How long a call takes. One whose results must be finite and are not is made again, with
        the `first` values of what runs update."""
        start = time.perf_counter()
        try:
            self.run(arrays, out=out)
        except ExecutionError as error:
            if error.status != Status.NOT_FINITE or not first:
                raise
            for own, value in first:
                own[...] = value
            start = time.perf_counter()
            self.run(arrays, out=out)
        return time.perf_counter() - start

    def _sizes(self) -> dict[str, int]:
        """All symbols as the last run had them, the computed ones too."""
        sizes = dict(zip(self.signature.symbols, self.record.symbols(), strict=True))
        for name, definition in self._made.program.derived.items():
            number = known(definition, sizes)
            if number is not None:
                sizes[name] = number
        return sizes

    def _kernels(
        self, sums: Array, sizes: Mapping[str, int], limits: Limits, events: list[Event]
    ) -> tuple[KernelTime, ...]:
        plan = self._made.plan
        operations = operations_of(self._steps, sizes)
        weights = float(plan.weights_size)
        busy = [0.0] * len(self._steps)
        for event in events:
            busy[event.step] += (event.end - event.begin) / 1e9
        found = []
        for number, step in enumerate(self._steps):
            runs, seconds = float(sums[number, 0]), float(sums[number, 1]) / 1e9
            products = 1
            if isinstance(step, Launch):
                products = products_of(step.kernel)
                name, sources = step.kernel.name, step.sources
                traffic = traffic_of(step, sizes, plan.weight_offsets)
            else:
                size = known(step.source.type.nbytes, sizes) or 0
                name, sources, traffic = "memcpy", (), Traffic(size, size)
            floor = limits.floor(operations[number], traffic, weights, products)
            whole = Traffic(
                int(traffic.read * runs), int(traffic.written * runs), int(traffic.weights * runs)
            )
            found.append(
                KernelTime(
                    name,
                    sources,
                    runs,
                    seconds,
                    operations[number] * runs,
                    whole,
                    floor * runs,
                    min(1.0, busy[number] / (seconds * limits.threads)) if seconds else 0.0,
                )
            )
        return tuple(found)


def events_of(rows: Array, run: Array) -> list[Event]:
    """Events in the order of time; `run` is what `Record.run` gives. The caller is thread 0."""
    begin, _, caller = (int(word) for word in run)
    numbers = {caller: 0}
    found = []
    for step, thread, start, end in rows[np.argsort(rows[:, 2], kind="stable")]:
        number = numbers.setdefault(int(thread), len(numbers))
        found.append(Event(int(step), number, int(start) - begin, int(end) - begin))
    return found
