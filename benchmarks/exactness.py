"""How far results are from the network evaluated in float64, ours and onnxruntime's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import bessemer
from benchmarks.plan import Plan, is_installed, not_installed
from benchmarks.record import Row
from bessemer.compiler.ir.types import Array
from bessemer.frontends.cli.rivals import start_onnxruntime
from bessemer.frontends.float64_reference import run_in_float64
from bessemer.frontends.models_in import as_graph
from bessemer.frontends.random_inputs import random_inputs
from bessemer.frontends.relative_error import relative_error


def measure_exactness(plan: Plan) -> dict[str, Row]:
    """A row for every model: its worst output's relative error in the 2-norm."""
    files = plan.files()
    absent = not_installed("onnxruntime")
    return plan.record.fill("exactness", files, lambda name: _measure(files[name]), absent)


def _measure(path: Path) -> Row:
    graph = as_graph(path)
    inputs = random_inputs(graph)
    exact = run_in_float64(graph, inputs)
    row: Row = {"bessemer": _worst(exact, bessemer.compile(path, threads=1).run(inputs))}
    if is_installed("onnxruntime"):
        row["onnxruntime"] = _worst(exact, start_onnxruntime(path, 1, inputs)())
    return row


def _worst(exact: list[Array], found: list[Array]) -> float:
    return max(relative_error(right, ours) for right, ours in zip(exact, found, strict=True))


def show_exactness(rows: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """The table's columns and cells."""
    systems = ("bessemer", "onnxruntime")
    return ["model, error against float64", *systems], [
        [name, *(f"{row[system]:.2e}" if system in row else "–" for system in systems)]
        for name, row in rows.items()
    ]
