"""Starts and drives the processes that measure; bench_worker.py has the protocol."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from bessemer.frontends.cli.bench_worker import Job

WORKER = "bessemer.frontends.cli.bench_worker"


class WorkerError(Exception):
    """A process could not do its job, died of it, or took too long."""


class Worker:
    """A process with one system in it. Use it as a context: it ends with it."""

    def __init__(
        self, job: Job, cache: Path, patience: float = 600.0, module: str = WORKER
    ) -> None:
        """`cache` is the process's compile cache; `patience` the seconds an answer may take;
        `module` what the process runs."""
        self.patience = patience
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        settings = {
            "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path),
            "BESSEMER_CACHE_DIR": str(cache),
            "OMP_NUM_THREADS": str(job.threads),
        }
        self._process = subprocess.Popen(
            ["env", *(f"{k}={v}" for k, v in settings.items()), sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._buffer = b""
        self._send(job.to_json())

    def answer(self) -> dict[str, Any]:
        """The next answer; raises WorkerError where there is none."""
        found: dict[str, Any] = json.loads(self._line())
        if "error" in found:
            raise WorkerError(found["error"])
        return found

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Sends a request and waits for its answer."""
        self._send(json.dumps(request))
        return self.answer()

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._errors.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        end = time.monotonic() + self.patience
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise WorkerError(f"no answer within {self.patience:.0f} s")
            part = os.read(descriptor, 1 << 16)
            if not part:
                raise WorkerError(self._last_words())
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _last_words(self) -> str:
        """How the process ended, and the last line of what it said."""
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"the process ended with {code}: {lines[-1] if lines else 'no message'}"
