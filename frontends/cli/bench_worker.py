"""One system with one model in a process of its own, driven by lines of JSON.

    python -m bessemer.frontends.cli.bench_worker

The first line says what to start (a `Job`); the answer tells how long that took. Every further
line {"seconds": s} asks for a measurement: the answer has the latencies of the runs that fitted in.
{"stop": true} ends it; the answer is the most memory that the process ever had.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

import bessemer
from bessemer.compiler.ir.types import Array
from bessemer.compiler.targets.choose import host_target
from bessemer.frontends.array_files import read_arrays, write_arrays
from bessemer.frontends.cli.rivals import package_of, start_system
from bessemer.frontends.import_on_use import import_on_use
from bessemer.frontends.profiling.peak import measure_peak, prepare_peak

PEAK, ARTIFACT, BESSEMER = "peak", "artifact", "bessemer"
"""Systems of our own: the processor's multipliers, a compiled .so, and `bessemer.compile`."""

PACKAGES = {BESSEMER: "bessemer.frontends.compile", ARTIFACT: "bessemer.runtime.model"}
"""What a system needs to be imported, where that is not a package of its name."""


@dataclass(frozen=True)
class Job:
    """What to start. Files are paths, "" for none: `inputs` and `outputs` .npz; `save` an artifact
    to write; `tuning` choices. A file of outputs has them as "0", "1", ... in the model's order."""

    system: str
    model: str = ""
    threads: int = 1
    inputs: str = ""
    outputs: str = ""
    save: str = ""
    optimize: int = 2
    precision: str = "float32"
    dims: dict[str, int] = field(default_factory=dict)
    tuning: str = ""
    grow_in_place: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def main() -> None:
    """Serves one job until it is told to stop."""
    answers = _own_stdout()
    job = Job(**json.loads(sys.stdin.readline()))
    try:
        _serve(job, answers)
    except Exception as error:
        _answer(answers, {"error": f"{type(error).__name__}: {error}"})


def _own_stdout() -> TextIO:
    """Where answers go. What libraries print to stdout goes to stderr from here on."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _answer(answers: TextIO, found: dict[str, Any]) -> None:
    answers.write(json.dumps(found) + "\n")
    answers.flush()


def _serve(job: Job, answers: TextIO) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(allowed[: job.threads]))
    if job.system == PEAK:
        _serve_peak(job, answers)
        return
    inputs = read_arrays(Path(job.inputs))
    before = time.perf_counter()
    importlib.import_module(PACKAGES.get(job.system) or package_of(job.system))
    start = time.perf_counter()
    run = _start(job, inputs)
    loaded = time.perf_counter()
    outputs = run()
    first = time.perf_counter() - loaded
    if job.outputs:
        write_arrays(Path(job.outputs), {str(k): array for k, array in enumerate(outputs)})
    _answer(answers, {"import": start - before, "load": loaded - start, "first": first})
    for line in sys.stdin:
        request = json.loads(line)
        if "stop" in request:
            _answer(answers, {"peak_memory": peak_memory()})
            return
        _answer(answers, time_runs(run, request["seconds"]))


def _serve_peak(job: Job, answers: TextIO) -> None:
    peak = prepare_peak(host_target())
    measure_peak(peak, job.threads)
    _answer(answers, {"load": 0.0, "first": 0.0})
    for line in sys.stdin:
        if "stop" in json.loads(line):
            _answer(answers, {"peak_memory": peak_memory()})
            return
        _answer(answers, {"rate": measure_peak(peak, job.threads)})


def _start(job: Job, inputs: dict[str, Array]) -> Callable[[], list[Array]]:
    path = Path(job.model)
    match job.system:
        case "artifact":
            loaded = bessemer.load(path, threads=job.threads)
            return _in_place(loaded, inputs)
        case "bessemer":
            model = bessemer.compile(  # type: ignore[call-overload]
                path,
                dims=job.dims,
                threads=job.threads,
                precision=job.precision,
                optimize=job.optimize,
                tuning=job.tuning or None,
                grow_in_place=job.grow_in_place,
            )
            if job.save:
                model.save(job.save)
            return _in_place(model, inputs)
        case _:
            return start_system(job.system, path, job.threads, inputs)


def _in_place(model: Any, inputs: dict[str, Array]) -> Callable[[], list[Array]]:
    """A run whose outputs lie behind the inputs that they continue."""
    arrays, out = import_on_use("outputs_in_place").behind_inputs(model, inputs)
    if out is None:  # a run without `out` is a shorter call
        return lambda: model.run(arrays)
    return lambda: model.run(arrays, out)


def time_runs(run: Callable[[], object], seconds: float) -> dict[str, Any]:
    """Runs for about so long, at least once; seconds a run."""
    clock = time.perf_counter
    times: list[float] = []
    run()  # brings the caches back that another system has used
    end = clock() + seconds
    while not times or clock() < end:
        start = clock()
        run()
        times.append(clock() - start)
    return {
        "median": statistics.median(times),
        "p90": float(np.percentile(times, 90)),
        "min": min(times),
        "runs": len(times),
    }


def peak_memory() -> int:
    """The most bytes of memory that this process ever had; what it was started from not counted."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
