"""How long it takes to compile: cold, from the cache, where the time goes; and what others take.

`import` is what a model from the cache needs; the rest of the compiler is imported in `cold`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.plan import Plan, is_installed, not_installed
from benchmarks.record import Row
from bessemer.compiler.driver import build
from bessemer.compiler.options import Options
from bessemer.frontends.array_files import write_arrays
from bessemer.frontends.cli.bench_process import Worker
from bessemer.frontends.cli.bench_worker import BESSEMER, Job
from bessemer.frontends.models_in import as_graph
from bessemer.frontends.random_inputs import random_inputs

STAGES = ("schedule", "plan_memory", "codegen", "llvm")
_IREE, _IREE_MODELS = "iree.compiler", ("resnet50",)
"""IREE takes long: the bar is about this model."""


def measure_compile_times(plan: Plan) -> dict[str, Row]:
    """Seconds of each model."""
    files = plan.files()
    absent = not_installed("onnxruntime", _IREE)
    return plan.record.fill("compile_time", files, lambda name: _measure(files[name]), absent)


def _measure(path: Path) -> Row:
    graph = as_graph(path)
    with tempfile.TemporaryDirectory(prefix="bessemer-compile-") as name:
        folder = Path(name)
        inputs = folder / "inputs.npz"
        write_arrays(inputs, random_inputs(graph))
        job = Job(BESSEMER, str(path.resolve()), 1, str(inputs))
        cold = _answer(job, folder / "cache")
        cached = _answer(job, folder / "cache")
        row: Row = {"cold": cold["load"], "cached": cached["load"], "import": cached["import"]}
        if is_installed("onnxruntime"):
            other = Job("onnxruntime", str(path.resolve()), 1, str(inputs))
            row["onnxruntime"] = min(_answer(other, folder)["load"] for _ in range(2))
        if path.stem in _IREE_MODELS and is_installed(_IREE):
            row["iree"] = _iree(path, folder)
    seconds = build(graph, Options()).seconds
    row |= {stage: seconds[stage] for stage in STAGES if stage in seconds}
    row["passes"] = sum(time for name, time in seconds.items() if name not in STAGES)
    return row


def _answer(job: Job, cache: Path) -> Row:
    with Worker(job, cache) as worker:
        return worker.answer()


def _iree(path: Path, folder: Path) -> float:
    """Seconds of IREE's import and compilation for this processor, by its own commands."""
    tools = Path(sys.executable).parent
    text, out = folder / "model.mlir", folder / "model.vmfb"
    commands = (
        [tools / "iree-import-onnx", path, "--opset-version", "17", "-o", text],
        [
            tools / "iree-compile",
            text,
            "--iree-hal-target-backends=llvm-cpu",
            "--iree-llvmcpu-target-cpu=host",
            "--iree-opt-level=O3",
            "-o",
            out,
        ],
    )
    start = time.perf_counter()
    for command in commands:
        subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=600)
    return time.perf_counter() - start


def show_compile_times(rows: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """The table's columns and cells."""
    keys = ("cold", "cached", "onnxruntime", "iree", "import", "passes", *STAGES)
    return ["model, seconds", *keys], [
        [name, *(f"{row[key]:.2f}" if key in row else "–" for key in keys)]
        for name, row in rows.items()
    ]
