"""Models against other systems: each system in a process of its own, their runs interleaved.

A row is a model at a number of threads, with the times of all systems; our bf16 is compared with
openvino's, in the same rounds. A model that one of them cannot run has a row all the same.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.judge import EXACT, float64_errors, has_halves, verdict
from benchmarks.light_nets import with_weights
from benchmarks.peer_inputs import choose_inputs
from benchmarks.plan import Plan, is_installed, not_installed
from benchmarks.record import ROUND_TRIP, WITHOUT, Row
from bessemer.frontends.array_files import write_arrays
from bessemer.frontends.cli.bench_rounds import Measured, Setting, measure
from bessemer.frontends.cli.bench_worker import BESSEMER, Job
from bessemer.frontends.cli.rivals import RIVALS, VARIANTS

BF16 = "bessemer_bf16"
RIVAL_OF = {BESSEMER: ("onnxruntime", "onnxruntime_flushed", "openvino"), BF16: ("openvino_bf16",)}
"""Our settings, and those that each is compared with."""
_NO_SYSTEMS = ("failed", "sizes", "halves", "float64_errors", ROUND_TRIP, WITHOUT)


def measure_peers(plan: Plan) -> dict[str, Row]:
    """A row for every model and number of threads."""
    files = plan.files()
    names = [f"{name}/{threads}" for name in files for threads in plan.threads]

    def one(name: str) -> Row:
        model, threads = name.rsplit("/", 1)
        return _measure(model, files[model], int(threads), plan)

    return plan.record.fill("peers", names, one, not_installed(*RIVALS))


def _measure(name: str, given: Path, threads: int, plan: Plan) -> Row:
    with tempfile.TemporaryDirectory(prefix="bessemer-peers-") as temporary:
        folder = Path(temporary)
        path = with_weights(given.resolve(), folder)
        chosen = choose_inputs(name, path, folder)
        inputs = folder / "inputs.npz"
        write_arrays(inputs, chosen.inputs)
        row = compare_systems(path, inputs, threads, plan)
        return row | {"sizes": dict(chosen.sizes)} if chosen.sizes else row


def compare_systems(path: Path, inputs: Path, threads: int, plan: Plan) -> Row:
    """What all systems make of a model with these inputs, an .npz file."""
    with tempfile.TemporaryDirectory(prefix="bessemer-systems-") as temporary:
        folder = Path(temporary)
        job = Job("", str(path.resolve()), threads, str(inputs))
        found = measure(settings(job), folder, plan.rounds, plan.seconds, quiet=True)
        row = row_of(found)
        if has_halves(path):
            row["halves"] = True
        if _is_doubtful(row):
            outputs = [one.outputs for one in found if one.setting.name in _JUDGED]
            row["float64_errors"] = float64_errors(path, inputs, outputs, folder)
        return row


_JUDGED = (BESSEMER, "onnxruntime")


def _is_doubtful(row: Row) -> bool:
    """Whether float64 has to say who is right."""
    if any("error" not in row.get(system, {}) for system in _JUDGED):
        return False
    error = row[BESSEMER]["error"]
    return error is None or error > EXACT


def settings(job: Job) -> list[Setting]:
    """All systems that are installed, with what one job says."""
    given = vars(job)
    chosen = [
        Setting(BESSEMER, Job(**{**given, "system": BESSEMER})),
        Setting(BF16, Job(**{**given, "system": BESSEMER, "precision": "bfloat16"})),
    ]
    for system in RIVALS:
        if is_installed(system):
            chosen.append(Setting(system, Job(**{**given, "system": system})))
    for system, (package, _) in VARIANTS.items():
        if is_installed(package):
            chosen.append(Setting(system, Job(**{**given, "system": system})))
    return chosen


def row_of(found: Iterable[Measured]) -> Row:
    """Milliseconds and errors by system; the error is relative to onnxruntime's results, None where
    it is infinite."""
    by_name = {one.setting.name: one for one in found}
    reference = by_name.get("onnxruntime")
    row: Row = {}
    for name, one in by_name.items():
        if one.error:
            row[name] = {"failed": one.error[:300]}
            continue
        entry: dict[str, Any] = {"ms": one.median * 1e3, "min_ms": one.min * 1e3}
        entry |= {"load_s": one.load, "memory": one.memory}
        if reference is not None and not reference.error:
            error = one.error_to(reference)
            entry["error"] = error if math.isfinite(error) else None
        row[name] = entry
    return row


def ratio(row: Mapping[str, Any], ours: str = BESSEMER) -> float | None:
    """Our time by the best rival's; None where either is missing."""
    mine = row.get(ours, {}).get("ms")
    theirs = [row[rival]["ms"] for rival in RIVAL_OF[ours] if "ms" in row.get(rival, {})]
    return mine / min(theirs) if mine and theirs else None


def efficiency(rows: Mapping[str, Row], name: str) -> float | None:
    """The share of the threads' time that is of use: ours on one, by all of theirs together. None
    of one thread, and where either time is missing."""
    model, _, threads = name.rpartition("/")
    alone, together = (rows.get(f"{model}/{n}", {}).get(BESSEMER, {}) for n in ("1", threads))
    if threads == "1" or "ms" not in alone or "ms" not in together:
        return None
    return float(alone["ms"] / together["ms"] / int(threads))


def geometric_mean(numbers: Iterable[float]) -> float:
    """The geometric mean; 1 if there are no numbers."""
    logarithms = [math.log(number) for number in numbers]
    return math.exp(statistics.fmean(logarithms)) if logarithms else 1.0


def show_peers(rows: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """The table's columns and cells."""
    found = dict.fromkeys(system for row in rows.values() for system in row)
    systems = [system for system in found if system not in _NO_SYSTEMS]
    columns = ["model/threads", *(f"{system} ms" for system in systems), "ratio", "bf16 ratio"]
    columns += ["efficiency", "error", "bf16 error", "openvino bf16 error", "results"]
    cells = []
    for name, row in rows.items():
        times = [row.get(system, {}) for system in systems]
        ratios, share = [ratio(row), ratio(row, BF16)], efficiency(rows, name)
        errors = [row.get(system, {}) for system in (BESSEMER, BF16, "openvino_bf16")]
        cells.append(
            [
                name,
                *(f"{time['ms']:.3f}" if "ms" in time else "–" for time in times),
                *(f"{number:.2f}" if number is not None else "–" for number in ratios),
                f"{share:.0%}" if share is not None else "–",
                *(_error_text(entry) for entry in errors),
                _short(verdict(row)),
            ]
        )
    return columns, cells


def _error_text(entry: Mapping[str, Any]) -> str:
    if "error" not in entry:
        return "–"
    return "infinite" if entry["error"] is None else f"{entry['error']:.1e}"


def _short(text: str) -> str:
    line = text.splitlines()[0] if text else ""
    return line if len(line) <= 60 else f"{line[:60]}..."
