"""Models against other systems: every system a process of its own, and all of them take turns.

A row is a model at a number of threads, with the times of all systems; our bf16 is compared with
openvino's, in the same rounds.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.plan import Plan, is_installed
from benchmarks.record import Row
from bessemer.frontends.cli.bench_rounds import Measured, Setting, measure
from bessemer.frontends.cli.bench_worker import BESSEMER, Job
from bessemer.frontends.cli.models import write_arrays
from bessemer.frontends.cli.rivals import RIVALS, VARIANTS
from bessemer.frontends.compile import as_graph
from bessemer.frontends.random_inputs import (
    default_sizes,
    index_limits,
    input_infos,
    random_arrays,
)

BF16 = "bessemer_bf16"
RIVAL_OF = {BESSEMER: ("onnxruntime", "onnxruntime_flushed", "openvino"), BF16: ("openvino_bf16",)}
"""Our settings, and those that each is compared with."""


def measure_peers(plan: Plan) -> dict[str, Row]:
    """A row for every model and number of threads."""
    files = plan.files()
    names = [f"{name}/{threads}" for name in files for threads in plan.threads]

    def one(name: str) -> Row:
        model, threads = name.rsplit("/", 1)
        return _measure(files[model], int(threads), plan)

    return plan.record.fill("peers", names, one)


def _measure(path: Path, threads: int, plan: Plan) -> Row:
    graph = as_graph(path)
    infos = input_infos(graph)
    sizes = default_sizes(infos, graph.symbols)
    with tempfile.TemporaryDirectory(prefix="bessemer-peers-") as name:
        folder = Path(name)
        inputs = folder / "inputs.npz"
        write_arrays(inputs, random_arrays(infos, sizes, 0, index_limits(graph)))
        job = Job("", str(path.resolve()), threads, str(inputs))
        found = measure(settings(job), folder, plan.rounds, plan.seconds, quiet=True)
        return row_of(found)


def settings(job: Job) -> list[Setting]:
    """All systems that are installed, with what one job says."""
    given = vars(job)
    chosen = [
        Setting(BESSEMER, Job(**{**given, "system": BESSEMER})),
        Setting(BF16, Job(**{**given, "system": BESSEMER, "precision": "bfloat16"})),
    ]
    for system in RIVALS:
        if is_installed(system):
            chosen.append(Setting(system, Job(**{**given, "system": system})))
    for system, (package, _) in VARIANTS.items():
        if is_installed(package):
            chosen.append(Setting(system, Job(**{**given, "system": system})))
    return chosen


def row_of(found: Iterable[Measured]) -> Row:
    """Milliseconds and errors by system; the error is relative to onnxruntime's results."""
    by_name = {one.setting.name: one for one in found}
    reference = by_name.get("onnxruntime")
    row: Row = {}
    for name, one in by_name.items():
        if one.error:
            row[name] = {"failed": one.error[:300]}
            continue
        entry: dict[str, Any] = {"ms": one.median * 1e3, "min_ms": one.min * 1e3}
        entry |= {"load_s": one.load, "memory": one.memory}
        if reference is not None and not reference.error:
            error = one.error_to(reference)
            entry["error"] = error if math.isfinite(error) else None
        row[name] = entry
    return row


def ratio(row: Mapping[str, Any], ours: str = BESSEMER) -> float | None:
    """Our time by the best rival's; None where either is missing."""
    mine = row.get(ours, {}).get("ms")
    theirs = [row[rival]["ms"] for rival in RIVAL_OF[ours] if "ms" in row.get(rival, {})]
    return mine / min(theirs) if mine and theirs else None


def geometric_mean(numbers: Iterable[float]) -> float:
    """1 of none."""
    logarithms = [math.log(number) for number in numbers]
    return math.exp(statistics.fmean(logarithms)) if logarithms else 1.0


def show_peers(rows: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """The table's columns and cells."""
    systems = list(dict.fromkeys(system for row in rows.values() for system in row))
    systems = [system for system in systems if system != "failed"]
    columns = ["model/threads", *(f"{system} ms" for system in systems), "ratio", "bf16 ratio"]
    cells = []
    for name, row in rows.items():
        times = [row.get(system, {}) for system in systems]
        ratios = [ratio(row), ratio(row, BF16)]
        cells.append(
            [
                name,
                *(f"{time['ms']:.3f}" if "ms" in time else "–" for time in times),
                *(f"{number:.2f}" if number is not None else "–" for number in ratios),
            ]
        )
    return columns, cells
