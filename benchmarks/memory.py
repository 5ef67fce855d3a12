"""How much memory a model takes: its plan, and the peak of a process that runs it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import bessemer
from benchmarks.plan import Plan, is_installed, not_installed
from benchmarks.record import Row
from bessemer.compiler.options import Options
from bessemer.frontends.array_files import write_arrays
from bessemer.frontends.cli.bench_process import Worker
from bessemer.frontends.cli.bench_worker import ARTIFACT, Job
from bessemer.frontends.cli.compiler_steps import schedule
from bessemer.frontends.cli.output import format_bytes
from bessemer.frontends.cli.steps_text import memory_summary
from bessemer.frontends.models_in import as_graph
from bessemer.frontends.random_inputs import default_sizes, input_infos, random_inputs

_BYTES = ("weights_bytes", "arena_bytes", "lower_bound_bytes", "artifact", "onnxruntime")


def measure_memory(plan: Plan) -> dict[str, Row]:
    """Bytes of each model, with one thread."""
    files = plan.files()
    absent = not_installed("onnxruntime")
    return plan.record.fill("memory", files, lambda name: _measure(files[name], 1), absent)


def show_memory(rows: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """The table's columns and cells."""
    columns = ["model", "weights", "arena", "lower bound", "peak", "onnxruntime's peak", "gap"]
    return columns, [
        [
            name,
            *(format_bytes(row[key]) if key in row else "–" for key in _BYTES),
            f"{row['gap']:.1%}" if "gap" in row else "–",
        ]
        for name, row in rows.items()
    ]


def _measure(path: Path, threads: int) -> Row:
    graph = as_graph(path)
    sizes = default_sizes(input_infos(graph), graph.symbols)
    made = schedule(graph, Options())
    row = memory_summary(made.program, made.plan, sizes)
    with tempfile.TemporaryDirectory(prefix="bessemer-memory-") as name:
        folder = Path(name)
        inputs = folder / "inputs.npz"
        write_arrays(inputs, random_inputs(graph))
        artifact = folder / "model.so"
        bessemer.compile(path, threads=threads).save(artifact)
        row["artifact"] = _peak(Job(ARTIFACT, str(artifact), threads, str(inputs)), folder)
        if is_installed("onnxruntime"):
            other = Job("onnxruntime", str(path.resolve()), threads, str(inputs))
            row["onnxruntime"] = _peak(other, folder)
    return row


def _peak(job: Job, folder: Path) -> int:
    """The most memory of a process that loads the model and runs it a few times."""
    with Worker(job, folder) as worker:
        worker.answer()
        worker.ask({"seconds": 0.1})
        return int(worker.ask({"stop": True})["peak_memory"])
