"""Runs `benchmarks.compare` over many models, each in a process of its own, and tabulates."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.plan import Plan
from benchmarks.record import Row

LIMIT = 300.0
"""Seconds that a model may take."""
_SHOWN = 150


@dataclass(frozen=True)
class Subject:
    """A model to run; `name` is its name in the table and that of its recipe."""

    name: str
    path: Path


def find_models(folder: Path) -> list[Subject]:
    """The .onnx files of a folder and of its folders; a file inside one of these has its name."""
    paths = [*folder.glob("*.onnx"), *folder.glob("*/*.onnx")]
    found = [Subject(p.stem if p.parent == folder else p.parent.name, p) for p in paths]
    return sorted(found, key=lambda s: s.name)


def measure_models(section: str, subjects: Sequence[Subject], plan: Plan) -> dict[str, Row]:
    """A row for every model and number of threads: what `benchmarks.compare` says of it. A crash is
    told as such, and so is a model that takes too long."""
    by_name = {subject.name: subject for subject in subjects}
    names = [f"{n}/{threads}" for n in plan.chosen(section, by_name) for threads in plan.threads]

    def one(name: str) -> Row:
        model, threads = name.rsplit("/", 1)
        arguments = ["--threads", threads, "--seconds", str(plan.seconds)]
        return run_one(by_name[model], arguments, LIMIT)

    return plan.record.fill(section, names, one)


def run_one(subject: Subject, arguments: Sequence[str], limit: float) -> dict[str, Any]:
    """Compares a model in a process of its own: its row, or why there is none."""
    command = [sys.executable, "-m", "benchmarks.compare", str(subject.path), "--id", subject.name]
    try:
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=limit, check=False
        )
        printed, errors, code = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as late:
        printed, errors = _text(late.stdout), _text(late.stderr)
        code = None
    row: dict[str, Any] = {"status": "failed"}
    for line in printed.splitlines():
        if line.startswith("{"):
            row = json.loads(line)
    if code is None:
        row["why"] = f"not done after {limit:.0f} s"
    elif code:
        last = (errors.strip().splitlines() or [""])[-1]
        row |= {"status": "crashed" if code < 0 else "failed", "why": f"exit {code}: {last}"}
    return row


def _text(printed: bytes | str | None) -> str:
    return printed.decode(errors="replace") if isinstance(printed, bytes) else printed or ""


def better_ms(row: Mapping[str, Any]) -> float:
    """Onnxruntime's time at its better setting: with denormals, or with zeros for them."""
    return float(min(row["ort_ms"], row.get("ort_flushed_ms", row["ort_ms"])))


def show_models(rows: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """The table's columns and cells."""
    columns = ["model/threads", "status", "error", "at other sizes", "ms", "ort ms", "ratio"]
    return [*columns, "compile s", "why"], [
        [name, row.get("status", "failed"), *_numbers(row), _short(row.get("why", ""))]
        for name, row in rows.items()
    ]


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _numbers(row: Mapping[str, Any]) -> list[str]:
    errors = [f"{error:.1e}" for error in row.get("errors", [])]
    errors += [""] * (2 - len(errors))
    if "ms" not in row:
        compiled = f"{row['compile']:.1f}" if "compile" in row else ""
        return [*errors, "", "", "", compiled]
    theirs = better_ms(row)
    times = [f"{row['ms']:.3f}", f"{theirs:.3f}", f"{row['ms'] / theirs:.2f}"]
    times.append(f"{row['compile']:.1f}")
    return [*errors, *times]
