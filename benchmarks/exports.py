"""Networks of torch's packages, exported when they are measured, against other systems.

    python -m benchmarks exports --only 'Llama*'

What `export_recipes.py` lists and a package is installed for; free sizes stay free in the compiled
model. Systems are compared as in `python -m benchmarks peers`.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.export_recipes import EXPORTS, Export
from benchmarks.peers import compare_systems, geometric_mean, ratio, show_peers
from benchmarks.plan import Plan, kept_files, not_installed
from benchmarks.record import Row
from bessemer.frontends.cli.output import write_note
from bessemer.frontends.cli.rivals import RIVALS

LIMIT = 300.0
"""Seconds that an export may take."""


def measure_exports(plan: Plan) -> dict[str, Row]:
    """A row for every network that can be exported, and number of threads."""
    chosen = plan.chosen("exports", EXPORTS)
    missing = {package for name in chosen for package in _missing(EXPORTS[name])}
    if missing:
        write_note(f"exports: without {', '.join(sorted(missing))} (pip install) some are left out")
    able = [name for name in chosen if not _missing(EXPORTS[name])]

    def one(name: str) -> Row:
        network, threads = name.rsplit("/", 1)
        model, inputs = exported(network)
        return compare_systems(model, inputs, int(threads), plan)

    names = [f"{name}/{threads}" for name in able for threads in plan.threads]
    return plan.record.fill("exports", names, one, not_installed(*RIVALS))


def _missing(recipe: Export) -> list[str]:
    """The packages that it needs and that are not installed."""
    needed = ["torch", recipe.module.split(".")[0], *["onnxscript"] * recipe.dynamo]
    return not_installed(*needed)


def exported(name: str) -> tuple[Path, Path]:
    """The ONNX file of a network, and the inputs beside it.

    Raises RuntimeError where that fails.
    """
    model, inputs = kept_files() / f"export {name}.onnx", kept_files() / f"export {name}.npz"
    if not inputs.exists():  # which come last
        part = inputs.with_name(f".{inputs.name}")
        command = [sys.executable, "-m", "benchmarks.export_worker", name, str(model), str(part)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["no word"])[-1])
        part.rename(inputs)
    return model, inputs


def show_exports(rows: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """The peers' table, the slowest by the others first; at last a geometric mean."""
    ratios = {name: value for name, row in rows.items() if (value := ratio(row)) is not None}
    order = sorted(rows, key=lambda name: -ratios.get(name, math.inf))
    columns, cells = show_peers({name: rows[name] for name in order})
    for threads in sorted({name.rsplit("/", 1)[1] for name in ratios}):
        chosen = [value for name, value in ratios.items() if name.endswith(f"/{threads}")]
        line = ["–"] * len(columns)
        line[0] = f"geometric mean of {len(chosen)}/{threads}"
        line[columns.index("ratio")] = f"{geometric_mean(chosen):.2f}"
        cells.append(line)
    return columns, cells
