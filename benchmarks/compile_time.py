"""How long it takes to compile: cold, from the cache, and where the time goes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bessemer.compiler.driver import build
from bessemer.compiler.options import Options
from bessemer.frontends.cli.bench_process import Worker, WorkerError
from bessemer.frontends.cli.bench_worker import BESSEMER, Job
from bessemer.frontends.cli.models import write_arrays
from bessemer.frontends.cli.output import print_table
from bessemer.frontends.compile import as_graph
from bessemer.frontends.random_inputs import (
    default_sizes,
    index_limits,
    input_infos,
    random_arrays,
)

STATIONS = ("schedule", "plan_memory", "codegen", "llvm")


def measure_compile_times(models: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Seconds of each model, by its name; prints them."""
    rows = {path.stem: _measure(path) for path in models}
    columns = ("cold", "cached", "import", "passes", *STATIONS)
    cells = [
        [name, *(f"{row[key]:.2f}" if key in row else "" for key in columns), row.get("why", "")]
        for name, row in rows.items()
    ]
    print_table(("model, seconds", *columns, "why"), cells, right="lrrrrrrrr")
    return rows


def _measure(path: Path) -> dict[str, Any]:
    graph = as_graph(path)
    infos = input_infos(graph)
    sizes = default_sizes(infos, graph.symbols)
    with tempfile.TemporaryDirectory(prefix="bessemer-compile-") as name:
        folder = Path(name)
        inputs = folder / "inputs.npz"
        write_arrays(inputs, random_arrays(infos, sizes, 0, index_limits(graph)))
        job = Job(BESSEMER, str(path.resolve()), 1, str(inputs))
        try:
            row = {key: _load(job, folder / "cache") for key in ("cold", "cached")}
        except WorkerError as error:
            return {"why": str(error)}
    found: dict[str, Any] = {key: answer["load"] for key, answer in row.items()}
    found["import"] = row["cached"]["import"]
    seconds = build(graph, Options()).seconds
    found |= {station: seconds[station] for station in STATIONS if station in seconds}
    found["passes"] = sum(time for name, time in seconds.items() if name not in STATIONS)
    return found


def _load(job: Job, cache: Path) -> dict[str, Any]:
    with Worker(replace(job), cache) as worker:
        return worker.answer()
