"""Interleaved measurements of several systems, so that slow phases of the machine affect
all alike."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from bessemer.compiler.ir.types import Array
from bessemer.frontends.array_files import read_arrays
from bessemer.frontends.cli.bench_process import Worker, WorkerError
from bessemer.frontends.cli.bench_worker import Job
from bessemer.frontends.cli.output import spinner
from bessemer.frontends.relative_error import relative_error


@dataclass(frozen=True)
class Setting:
    """A system as it is measured: its name in the table, and what its process does."""

    name: str
    job: Job


@dataclass(eq=False)
class Measured:
    """What was found out about a setting, in seconds and bytes; `error` says why nothing was."""

    setting: Setting
    error: str = ""
    load: float = 0.0
    first: float = 0.0
    memory: int = 0
    rounds: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[Array] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median over the rounds of each round's median, as p90 is of their p90."""
        return statistics.median(float(one["median"]) for one in self.rounds)

    @property
    def p90(self) -> float:
        return statistics.median(float(one["p90"]) for one in self.rounds)

    @property
    def min(self) -> float:
        return min(float(one["min"]) for one in self.rounds)

    @property
    def runs(self) -> int:
        return sum(int(one["runs"]) for one in self.rounds)

    @property
    def rate(self) -> float:
        """Operations a second, where that is what was measured."""
        rates = [one["rate"] for one in self.rounds if "rate" in one]
        return statistics.median(rates) if rates else 0.0

    def error_to(self, other: Measured) -> float:
        """The largest relative error of an output against another system's."""
        if len(self.outputs) != len(other.outputs):
            return math.inf
        pairs = zip(other.outputs, self.outputs, strict=True)
        return max((relative_error(theirs, ours) for theirs, ours in pairs), default=0.0)


def measure(
    settings: list[Setting], folder: Path, rounds: int, seconds: float, quiet: bool = False
) -> list[Measured]:
    """Starts every setting in a process, measures them in rounds, and stops them.

    `folder` is for files that they exchange; it is also the compile cache.
    """
    found = [Measured(setting) for setting in settings]
    with ExitStack() as stack, spinner("Starting", quiet) as status:
        workers: dict[int, Worker] = {}
        for number, one in enumerate(found):
            status.update(f"Loading {one.setting.name}")
            job = replace(one.setting.job, outputs=str(folder / f"outputs{number}.npz"))
            worker = stack.enter_context(Worker(job, folder))
            if _try(one, partial(_load, worker, one)):
                workers[number] = worker
        for past in range(rounds):
            for number, worker in list(workers.items()):
                one = found[number]
                status.update(f"Round {past + 1} of {rounds}: {one.setting.name}")
                if not _try(one, partial(_measure, worker, one, seconds)):
                    del workers[number]
        for number, worker in workers.items():
            _try(found[number], partial(_stop, worker, found[number]))
    for number, one in enumerate(found):
        path = folder / f"outputs{number}.npz"
        if path.exists():
            arrays = read_arrays(path)
            one.outputs = [arrays[str(k)] for k in range(len(arrays))]
    return found


def _try(one: Measured, action: Callable[[], None]) -> bool:
    try:
        action()
    except WorkerError as error:
        one.error = str(error)
        return False
    return True


def _load(worker: Worker, one: Measured) -> None:
    answer = worker.answer()
    one.load, one.first = answer["load"], answer["first"]


def _measure(worker: Worker, one: Measured, seconds: float) -> None:
    one.rounds.append(worker.ask({"seconds": seconds}))


def _stop(worker: Worker, one: Measured) -> None:
    one.memory = worker.ask({"stop": True})["peak_memory"]
