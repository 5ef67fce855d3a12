"""Runs `benchmarks.compare` over many models, each in a process of its own, and tabulates."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bessemer.frontends.cli.output import print_table, spinner, write

RESULTS = Path(__file__).parent / "results"
_SHOWN = 150


@dataclass(frozen=True)
class Subject:
    """A model to run; `name` is its name in the table and that of its recipe."""

    name: str
    path: Path


def find_models(folder: Path, only: Sequence[str] = ()) -> list[Subject]:
    """The .onnx files of a folder and of its folders; a file inside one of these has its name."""
    paths = [*folder.glob("*.onnx"), *folder.glob("*/*.onnx")]
    found = [Subject(p.stem if p.parent == folder else p.parent.name, p) for p in paths]
    return sorted((s for s in found if not only or s.name in only), key=lambda s: s.name)


def run_all(
    subjects: Sequence[Subject], arguments: Sequence[str], limit: float
) -> dict[str, dict[str, Any]]:
    """What `benchmarks.compare` says of each model; a crash or `limit` seconds are told as such."""
    rows: dict[str, dict[str, Any]] = {}
    with spinner("") as status:
        for number, subject in enumerate(subjects, 1):
            status.update(f"[{number}/{len(subjects)}] {subject.name}")
            rows[subject.name] = run_one(subject, arguments, limit)
    return rows


def run_one(subject: Subject, arguments: Sequence[str], limit: float) -> dict[str, Any]:
    """One row."""
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


def print_rows(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """The table, and what it comes to."""
    columns = ("model", "status", "error", "at other sizes", "ms", "ort ms", "ratio", "compile s")
    cells = [
        [name, row["status"], *_numbers(row), _short(row.get("why", ""))]
        for name, row in rows.items()
    ]
    print_table((*columns, "why"), cells, right="llrrrrrr")
    counts = Counter(row["status"] for row in rows.values())
    write(f"{len(rows)} models: {', '.join(f'{n} {status}' for status, n in counts.items())}")
    ratios = list(_ratios(rows))
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        write(f"time by onnxruntime's: geometric mean {mean:.2f}, worst {max(ratios):.2f}")


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _numbers(row: Mapping[str, Any]) -> list[str]:
    errors = [f"{error:.1e}" for error in row.get("errors", [])]
    errors += [""] * (2 - len(errors))
    if "ms" not in row:
        compiled = f"{row['compile']:.1f}" if "compile" in row else ""
        return [*errors, "", "", "", compiled]
    ratio = row["ms"] / row["ort_ms"]
    times = [f"{row['ms']:.3f}", f"{row['ort_ms']:.3f}", f"{ratio:.2f}", f"{row['compile']:.1f}"]
    return [*errors, *times]


def _ratios(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[float]:
    for row in rows.values():
        if "ms" in row:
            yield row["ms"] / row["ort_ms"]


def save_rows(name: str, rows: Mapping[str, Any]) -> Path:
    """Keeps what was found in benchmarks/results/."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(rows, indent=1) + "\n")
    return path
