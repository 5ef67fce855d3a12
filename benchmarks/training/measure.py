"""Training against torch: the time of a step, memory, the first losses, and digits learned.

A step's bar is a share of torch's, eager or compiled, whichever is faster; what misses its bar
"falls short". torch with the channels of images last in memory is measured for information.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.plan import PAUSE, Plan, is_installed
from benchmarks.record import Row
from benchmarks.training.digits import DIGITS, learn_digits
from benchmarks.training.networks import NETWORKS
from benchmarks.training.worker import COMPILED, EAGER, EAGER_LAST, OURS
from bessemer.frontends.cli.bench_process import Worker
from bessemer.frontends.cli.bench_worker import Job
from bessemer.frontends.cli.output import format_bytes, write_note

WORKER = "benchmarks.training.worker"
CURVES = ("MLP", "LeNet", "ResNet-18", "LSTM", "transformer")
"""The networks whose losses are compared: those of `subjects`, which needs torch."""
CURVE_BARS = {"f32": 1e-4, "f64": 1e-10}
MOST_SECONDS = 20.0
"""For learning digits."""
_COUNTED = (EAGER, COMPILED)
"""The torch that bars count; the rest informs."""


def measure_training(plan: Plan) -> dict[str, Row]:
    """Rows "NETWORK/THREADS", "losses NETWORK" and "digits NETWORK"."""
    names = [*NETWORKS, *(f"losses {name}" for name in CURVES)]
    names = plan.chosen("training", [*names, *(f"digits {name}" for name in DIGITS)])
    if not is_installed("torch"):
        write_note("training: without torch (pip install torch) there is nothing to compare with")
        names = [name for name in names if name.startswith("digits")]
    rows = [
        row
        for name in names
        for row in ([f"{name}/{n}" for n in plan.threads] if name in NETWORKS else [name])
    ]
    return plan.record.fill("training", rows, lambda name: _measure(name, plan))


def _measure(name: str, plan: Plan) -> Row:
    if name.startswith("digits "):
        return learn_digits(name.removeprefix("digits "), max(plan.threads))
    if name.startswith("losses "):
        return _losses(name.removeprefix("losses "))
    network, threads = name.split("/")
    return _steps(network, int(threads), plan)


def _steps(name: str, threads: int, plan: Plan) -> Row:
    """Median seconds of a step and peak bytes of each system; their steps are interleaved."""
    systems = [OURS, EAGER, EAGER_LAST]
    if name in ("mlp", "lstm", "transformer"):
        systems.remove(EAGER_LAST)
    if plan.seconds > 0.2:
        systems.append(COMPILED)  # which takes minutes
    with tempfile.TemporaryDirectory(prefix="bessemer-training-") as folder:
        workers: dict[str, Worker] = {}
        try:
            for system in systems:
                write_note(f"  {system}")
                job = Job(system, name, threads)
                workers[system] = Worker(job, Path(folder), 1200.0, WORKER)
                workers[system].answer()
                workers[system].ask({"seconds": 0})
            times: dict[str, list[float]] = {system: [] for system in systems}
            for _ in range(plan.rounds):
                for system, worker in workers.items():
                    time.sleep(PAUSE)
                    times[system].append(worker.ask({"seconds": plan.seconds})["median"])
            peaks = {s: worker.ask({"stop": True})["peak_memory"] for s, worker in workers.items()}
        finally:
            for worker in workers.values():
                worker.close()
    return {"seconds": {s: statistics.median(t) for s, t in times.items()}, "peak": peaks}


def _losses(name: str) -> Row:
    """What `benchmarks.training.loss_curves` finds, in a process of its own: it needs torch."""
    command = [sys.executable, "-m", "benchmarks.training.loss_curves", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: Row = json.loads(done.stdout)
    return found


@dataclass(frozen=True)
class TrainingBar:
    """A bar, what was found and wanted, their unit, and whether it is met."""

    name: str
    found: float
    wanted: float
    unit: str
    met: bool

    def shown(self, value: float) -> str:
        """A figure with its unit."""
        match self.unit:
            case "%":
                return f"{value:.2%}"
            case "s":
                return f"{value:.1f} s"
            case _:
                return f"{value:.2f}" if value > 0.01 else f"{value:.1e}"


def bars_of(name: str, row: Mapping[str, Any]) -> list[TrainingBar]:
    """What a row says of its bars."""
    if "failed" in row or not row:
        return []
    if name.startswith("digits "):
        return _digits_bars(name, row)
    if name.startswith("losses "):
        return [
            TrainingBar(
                f"{name}, {kind}", max(row[kind].values()), bar, "", max(row[kind].values()) <= bar
            )
            for kind, bar in CURVE_BARS.items()
        ]
    network, _, what = name.partition("/")
    title = f"{network}, {what} thread{'' if what == '1' else 's'}"
    found = []
    for key, bar, label in (
        ("seconds", NETWORKS[network].bar, "time of a step by torch's"),
        ("peak", 1.0, "peak memory by torch's"),
    ):
        counted = [row[key][system] for system in _COUNTED if system in row[key]]
        ratio = row[key][OURS] / min(counted)
        found.append(TrainingBar(f"{title}: {label}", ratio, bar, "", ratio <= bar))
    return found


def _digits_bars(name: str, row: Mapping[str, Any]) -> list[TrainingBar]:
    least = DIGITS[name.removeprefix("digits ")].accuracy
    accuracy, seconds = row["accuracy"], row["seconds"]
    title = f"{name}: test accuracy, at least"
    time = f"{name}: time, compilation included, below"
    return [
        TrainingBar(title, accuracy, least, "%", accuracy >= least),
        TrainingBar(time, seconds, MOST_SECONDS, "s", seconds < MOST_SECONDS),
    ]


def show_training(rows: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """The table's columns and cells: a line for each bar."""
    cells = []
    for name, row in rows.items():
        if "failed" in row or not row:
            cells.append([name, "", "", "", f"falls short: {row.get('failed', 'not measured')}"])
        for bar in bars_of(name, row):
            shown = [bar.shown(bar.found), bar.shown(bar.wanted)]
            verdict = "" if bar.met else "falls short"
            cells.append([bar.name, _details(bar.name, row), *shown, verdict])
    return ["bar", "ours; torch eager, channels last, compiled", "found", "wanted", ""], cells


def _details(title: str, row: Mapping[str, Any]) -> str:
    if title.startswith("losses "):
        kind = title[-3:]
        worst = max(row[kind], key=row[kind].get)
        own = (
            f"; torch's with and without oneDNN: {row['torch'][worst]:.1e}" if kind == "f32" else ""
        )
        return f"worst of {len(row[kind])} optimizers: {worst}{own}"
    key = "peak" if "peak memory" in title else "seconds"
    if not isinstance(row.get(key), Mapping):
        return ""
    systems = (OURS, EAGER, EAGER_LAST, COMPILED)
    shown = {
        s: format_bytes(row[key][s]) if key == "peak" else f"{row[key][s] * 1e3:.2f}"
        for s in systems
        if s in row[key]
    }
    others = ", ".join(shown.get(s, "–") for s in systems[1:])
    return f"{shown[OURS]}; {others}" + ("" if key == "peak" else " ms")
