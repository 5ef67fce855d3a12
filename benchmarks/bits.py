"""Whether results are the same bits at every number of threads, and from run to run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import bessemer
from benchmarks.plan import Plan
from benchmarks.record import Row
from bessemer.frontends.models_in import as_graph
from bessemer.frontends.random_inputs import random_inputs


def measure_bits(plan: Plan) -> dict[str, Row]:
    """A row for every model."""
    files = plan.files()
    return plan.record.fill("bits", files, lambda name: _measure(files[name], plan.threads))


def _measure(path: Path, threads: tuple[int, ...]) -> Row:
    inputs = random_inputs(as_graph(path))
    bytes_of: dict[int, list[list[bytes]]] = {}
    for count in threads:
        model = bessemer.compile(path, threads=count)
        bytes_of[count] = [[array.tobytes() for array in model.run(inputs)] for _ in range(4)]
    first = bytes_of[threads[0]][0]
    return {
        "runs": all(run == runs[0] for runs in bytes_of.values() for run in runs),
        "threads": all(runs[0] == first for runs in bytes_of.values()),
    }


def show_bits(rows: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """The table's columns and cells."""
    said = {True: "equal", False: "DIFFER"}
    return ["model", "from run to run", "at all numbers of threads"], [
        [name, *(said.get(row.get(key), "–") for key in ("runs", "threads"))]  # type: ignore[arg-type]
        for name, row in rows.items()
    ]
