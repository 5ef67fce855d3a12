"""Families in processes of their own: what hangs or breaks its device loses no others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu.worker import BROKEN, Job

Row = dict[str, Any]
_LOOK_SECONDS = 0.2
ROOT = Path(__file__).resolve().parent.parent.parent


def run_job(job: Job, limit: float, told: Callable[[str], None]) -> dict[str, Row]:
    """The rows of a family, by case. Where the worker dies in a case, that case says so and another
    worker goes on behind it, until `limit` seconds are over."""
    end = time.monotonic() + limit
    rows: dict[str, Row] = {}
    while True:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.jsonl"
            path.touch()
            left = replace(job, rows=str(path), skip=(*job.skip, *(n for n in rows if n)))
            code = _run(left, end - time.monotonic())
            found, begun = read_lines(path.read_text())
        rows |= found
        if begun and begun not in rows:
            why = "it took too long" if code is None else f"the process ended with {code}"
            rows[begun] = {"failed": why}
            told(f"{job.family} {begun}: {why}")
        elif code != BROKEN:
            if code:
                rows.setdefault(job.family, {"failed": f"the process ended with {code}"})
            return rows
        if time.monotonic() >= end:
            told(f"{job.family}: its {limit:.0f} s are over")
            return rows


def _run(job: Job, seconds: float) -> int | None:
    """A worker's exit code, None where its time, or that of a case, was over."""
    worker = [sys.executable, "-m", "benchmarks.gpu", "--job", json.dumps(asdict(job))]
    # A session of its own, so that what it has started ends with it.
    command = [*job.under, *worker]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as process:
        end = time.monotonic() + max(seconds, 1.0)
        path, size, heard = Path(job.rows), 0, time.monotonic()
        while True:
            try:
                return process.wait(_LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                now = time.monotonic()
            if path.stat().st_size != size:
                size, heard = path.stat().st_size, now
            if now > end or now > heard + job.case_seconds:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return None


def read_lines(text: str) -> tuple[dict[str, Row], str]:
    """The rows in a worker's file, and the case that it began last."""
    rows: dict[str, Row] = {}
    begun = ""
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:  # the last line of a process that was ended
            continue
        if "begin" in found:
            begun = found["begin"]
        else:
            rows[found["name"]] = found["row"]
    return rows, begun
