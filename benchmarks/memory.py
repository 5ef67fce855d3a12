"""How much memory a model takes: its plan, and the peak of a process that runs it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bessemer
from bessemer.compiler.options import Options
from bessemer.frontends.cli.bench_process import Worker, WorkerError
from bessemer.frontends.cli.bench_worker import ARTIFACT, Job
from bessemer.frontends.cli.models import write_arrays
from bessemer.frontends.cli.output import format_bytes, print_table
from bessemer.frontends.cli.stations import schedule
from bessemer.frontends.cli.steps_text import memory_summary
from bessemer.frontends.compile import as_graph
from bessemer.frontends.random_inputs import (
    default_sizes,
    index_limits,
    input_infos,
    random_arrays,
)

_BYTES = ("weights_bytes", "arena_bytes", "lower_bound_bytes", "artifact", "onnxruntime")


def measure_memory(models: Sequence[Path], threads: int) -> dict[str, dict[str, Any]]:
    """Bytes of each model, by its name; prints them."""
    rows = {path.stem: _measure(path, threads) for path in models}
    cells = [
        [
            name,
            *(format_bytes(row[key]) if key in row else "" for key in _BYTES[:3]),
            f"{row['gap']:.1%}" if "gap" in row else "",
            *(format_bytes(row[key]) if key in row else "" for key in _BYTES[3:]),
            row.get("why", ""),
        ]
        for name, row in rows.items()
    ]
    columns = (
        "model",
        "weights",
        "arena",
        "lower bound",
        "gap",
        "peak",
        "ort's peak",
        "why",
    )
    print_table(columns, cells, right="lrrrrrr")
    return rows


def _measure(path: Path, threads: int) -> dict[str, Any]:
    graph = as_graph(path)
    infos = input_infos(graph)
    sizes = default_sizes(infos, graph.symbols)
    made = schedule(graph, Options())
    row = memory_summary(made.program, made.plan, sizes)
    with tempfile.TemporaryDirectory(prefix="bessemer-memory-") as name:
        folder = Path(name)
        inputs = folder / "inputs.npz"
        write_arrays(inputs, random_arrays(infos, sizes, 0, index_limits(graph)))
        artifact = folder / "model.so"
        try:
            bessemer.compile(path, threads=threads).save(artifact)
            row["artifact"] = _peak(Job(ARTIFACT, str(artifact), threads, str(inputs)), folder)
            row["onnxruntime"] = _peak(
                Job("onnxruntime", str(path.resolve()), threads, str(inputs)), folder
            )
        except (WorkerError, bessemer.CompileError) as error:
            row["why"] = str(error)
    return row


def _peak(job: Job, folder: Path) -> int:
    """The most memory of a process that loads the model and runs it a few times."""
    with Worker(job, folder) as worker:
        worker.answer()
        worker.ask({"seconds": 0.1})
        return int(worker.ask({"stop": True})["peak_memory"])
