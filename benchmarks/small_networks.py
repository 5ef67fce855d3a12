"""Small networks at batch 1 from Python on one thread: LeNet against onnxruntime, an MLP against
the time that reading its weights takes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import bessemer
from benchmarks.plan import Plan, is_installed, not_installed, zoo_file
from benchmarks.record import Row
from bessemer.compiler.targets.choose import host_target
from bessemer.frontends.cli.bench_worker import time_runs
from bessemer.frontends.cli.rivals import start_onnxruntime
from bessemer.frontends.profiling.bandwidth import measure_read, prepare_mover


def measure_small(plan: Plan) -> dict[str, Row]:
    """The rows "lenet" and "mlp"."""
    names = plan.chosen("small", ("lenet", "mlp"))
    absent = not_installed("onnxruntime")
    return plan.record.fill("small", names, lambda name: _measure(name, plan), absent)


def _measure(name: str, plan: Plan) -> Row:
    path = zoo_file(name)  # exported ones may have another batch
    model = bessemer.compile(path, threads=1)
    (info,) = model.inputs
    shape = tuple(size if isinstance(size, int) else 1 for size in info.shape)
    inputs = {info.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    runs: dict[str, Callable[[], Any]] = {"bessemer": lambda: model.run(inputs)}
    if is_installed("onnxruntime"):
        runs["onnxruntime"] = start_onnxruntime(path, 1, inputs)
    weights = model.signature.weights_bytes
    mover = prepare_mover(host_target())
    times: dict[str, list[float]] = {system: [] for system in runs}
    floors = []
    for _ in range(max(plan.rounds, 5)):
        floors.append(weights / measure_read(mover, weights, 1, 0.02))
        for system, run in runs.items():
            times[system].append(time_runs(run, plan.seconds / 2)["median"])
    row: Row = {f"{system}_us": statistics.median(found) * 1e6 for system, found in times.items()}
    return row | {"weights_bytes": weights, "floor_us": statistics.median(floors) * 1e6}


def show_small(rows: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """The table's columns and cells."""
    columns = ["network, batch 1", "bessemer us", "onnxruntime us", "floor of its weights us"]
    keys = ("bessemer_us", "onnxruntime_us", "floor_us")
    return columns, [
        [name, *(f"{row[key]:.2f}" if key in row else "–" for key in keys)]
        for name, row in rows.items()
    ]
