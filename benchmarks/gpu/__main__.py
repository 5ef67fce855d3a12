"""Checks and times everything that Bessemer does on a GPU.

    python -m benchmarks.gpu                         all families: ten minutes, as many for torch
    python -m benchmarks.gpu --only gemm --only 'r*' some of them
    python -m benchmarks.gpu --golden FOLDER         and keep small results for the interpreter
    python -m benchmarks.gpu --sanitize              and check them with compute-sanitizer
    python -m benchmarks.gpu --interpreter           the same at small sizes, without a device
    python -m benchmarks.gpu --replay FOLDER         what a device has kept, on the interpreter
    python -m benchmarks.gpu --prepare nvptx:sm_90a --programs FOLDER
                                                     compile here what --programs FOLDER takes there

Needs the repository, NumPy, llvmlite and what Bessemer's compiler needs, and NVIDIA's driver; torch
with CUDA where ratios are wanted. Ends with 1 where there is no device or something is wrong.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.chosen_names import chosen
from benchmarks.gpu.families import FAMILIES
from benchmarks.gpu.golden import goldens, replay_golden
from benchmarks.gpu.processes import run_job
from benchmarks.gpu.report import (
    COLUMNS,
    Row,
    bar_lines,
    cells,
    table_text,
    write_results,
)
from benchmarks.gpu.sanitizer import OPTIONS, TOOLS, find_sanitizer
from benchmarks.gpu.worker import BROKEN, PARTS, Job, open_driver, prepare, work
from benchmarks.machine import describe_machine
from bessemer.runtime.cuda.driver import Driver, NoDeviceError
from emulator.driver import EmulatedDriver

RESULTS = Path(__file__).resolve().parent.parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; the exit code."""
    given = _parser().parse_args(arguments)
    if given.job:
        return _work(given.job)
    if given.replay:
        return _replay(given.replay)
    families = chosen("gpu", FAMILIES, given.only)
    if not families:
        return 2
    if given.prepare:
        return _prepare(families, given)
    return _measure(families, given)


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("benchmarks.gpu", description=__doc__, formatter_class=shape)
    parser.add_argument(
        "--only", action="append", default=[], help="families, with * and ?; may be repeated"
    )
    parser.add_argument("--case", default="*", help="only cases of such a name, with * and ?")
    parser.add_argument("--interpreter", action="store_true", help="small sizes, no device")
    parser.add_argument("--device", type=int, default=0, help="its number")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds for each family")
    parser.add_argument("--case-limit", type=float, default=120.0, help="seconds for each case")
    parser.add_argument(
        "--sanitize", action="store_true", help="small sizes under compute-sanitizer"
    )
    parser.add_argument("--no-torch", action="store_true", help="leave out the ratios to torch")
    parser.add_argument("--golden", type=Path, help="where to keep small results")
    parser.add_argument("--programs", type=Path, help="where compiled programs are kept")
    parser.add_argument("--prepare", default="", metavar="TARGET", help="only fill --programs")
    parser.add_argument("--replay", type=Path, help="a folder that --golden has filled")
    parser.add_argument("--results", type=Path, help="default: benchmarks/results/TODAY-gpu")
    parser.add_argument("--job", default="", help=argparse.SUPPRESS)
    return parser


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _work(text: str) -> int:
    told = json.loads(text)
    code = work(Job(**{**told, "skip": tuple(told["skip"]), "under": tuple(told["under"])}))
    sys.stdout.flush()
    if code == BROKEN:
        os._exit(code)  # whatever would give memory back to a broken device would wait for it
    return code


def _prepare(families: Sequence[str], given: argparse.Namespace) -> int:
    if given.programs is None:
        _tell("--prepare wants --programs FOLDER.")
        return 2
    for family in families:
        for row in prepare(family, given.prepare, given.programs, given.case):
            print(f"{family}: {row['name']}, {row['kernels']} kernels", flush=True)
    return 0


def _replay(folder: Path) -> int:
    lines, is_right = [], True
    for path in goldens(folder):
        row = replay_golden(path, EmulatedDriver())
        is_right &= row["right"]
        differ = f"{row['differing']} of {row['elements']}"
        lines.append(
            [str(path.relative_to(folder)), "yes" if row["right"] else "NO", f"{row['error']:.1e}",
             differ]
        )  # fmt: skip
    if not lines:
        _tell(f"There is nothing to replay in {folder}.")
        return 1
    print(table_text(("golden", "right", "error", "other bits"), lines))
    return 0 if is_right else 1


def _measure(families: Sequence[str], given: argparse.Namespace) -> int:
    try:
        driver = open_driver(given.interpreter)
        if given.device >= driver.device_count():
            raise NoDeviceError(f"the driver finds {driver.device_count()} devices")
    except NoDeviceError as error:
        reason = str(error).rstrip(".")
        _tell(f"There is no CUDA device to measure ({reason}); --interpreter needs none.")
        return 1
    machine = _machine(driver, given.device, given.interpreter)
    folder = given.results
    if folder is None and not given.interpreter:
        folder = RESULTS / f"{datetime.date.today().isoformat()}-gpu"
    results: dict[str, dict[str, Row]] = {}
    for family in families:
        start = time.perf_counter()
        results[family] = _own_rows(family, given, machine)
        _show(family, results[family], f"{time.perf_counter() - start:.0f} s")
        _keep(folder, machine, results)
    # All of ours comes first: a loan of a device may end early.
    if not given.interpreter and not given.no_torch:
        for family in families:
            # torch.compile may take long for a network.
            job = replace(_job(family, given), case_seconds=given.limit)
            for name, row in _part(job, "torch", given.limit).items():
                results[family].setdefault(name, {}).update(
                    {"torch_failed": row["failed"]} if "failed" in row else row
                )
            _show(family, results[family], "with torch")
            _keep(folder, machine, results)
    if given.sanitize and not given.interpreter:
        _sanitize(families, given, results)
        _keep(folder, machine, results)
    print("\n" + table_text(("bar", "wanted", "measured", ""), bar_lines(results)))
    every = [row for rows in results.values() for row in rows.values() if "skipped" not in row]
    if not every:
        _tell(f"No case of {', '.join(families)} is like --case {given.case!r}.")
    return 0 if every and all(row.get("right") for row in every) else 1


def _sanitize(
    families: Sequence[str], given: argparse.Namespace, results: dict[str, dict[str, Row]]
) -> None:
    """Small sizes under the tools of compute-sanitizer, last of all: they take their time."""
    program = find_sanitizer()
    if program is None:
        _tell("There is no compute-sanitizer here.")
        return
    for family in families:
        for tool in TOOLS:
            under = (program, *OPTIONS, f"--tool={tool}")
            job = replace(_job(family, given), under=under, golden="")
            rows = _part(job, "sanitized", given.limit)
            for name, row in rows.items():
                if name:
                    results[family][f"{tool}: {name}"] = row
        _show(family, results[family], "with compute-sanitizer")


def _show(family: str, rows: dict[str, Row], note: str) -> None:
    print(f"\n{family}, {note}")
    print(table_text(COLUMNS, [cells(name, row) for name, row in rows.items()]), flush=True)


def _keep(folder: Path | None, machine: dict[str, str], results: dict[str, dict[str, Row]]) -> None:
    if folder is not None:
        _tell(f"wrote {write_results(folder, machine, results)}")


def _job(family: str, given: argparse.Namespace) -> Job:
    return Job(
        family,
        PARTS[0],
        "",
        only=given.case,
        is_emulated=given.interpreter,
        device=given.device,
        rounds=1 if given.interpreter else Job.rounds,
        # Workers run in the repository's folder.
        programs=str(given.programs.resolve()) if given.programs else "",
        golden=str(given.golden.resolve()) if given.golden else "",
        case_seconds=given.case_limit,
    )


def _own_rows(family: str, given: argparse.Namespace, machine: dict[str, str]) -> dict[str, Row]:
    """A family's rows without torch; the bandwidth goes to the machine's description."""
    job = _job(family, given)
    rows = _part(job, PARTS[0], given.limit)
    bandwidth = rows.pop("", {}).get("bandwidth")
    if bandwidth:
        machine["copy bandwidth"] = f"{bandwidth / 1e9:.0f} GB/s"
    if given.golden and not given.interpreter:
        small = _part(job, "golden", given.limit)
        rows |= {f"small: {name}": row for name, row in small.items() if name}
    return rows


def _part(job: Job, part: str, limit: float) -> dict[str, Row]:
    return run_job(replace(job, part=part), limit, _tell)


def _machine(driver: Driver, device: int, is_emulated: bool) -> dict[str, str]:
    found = {"device": driver.device_name(device)}
    version = driver.version()
    found["driver serves"] = f"CUDA {version[0]}.{version[1]}"
    if is_emulated:
        found["note"] = "the interpreter's times say nothing"
    return found | describe_machine()


if __name__ == "__main__":
    sys.exit(main())
