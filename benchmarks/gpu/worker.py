"""Runs one family in this process, and writes a line of JSON for each case as soon as it is done.

A device that has failed once fails for the rest of its process. The worker then ends with the exit
code BROKEN, and the process that started it starts another worker for the remaining cases.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from benchmarks.gpu.cases import Case
from benchmarks.gpu.families import FAMILIES
from benchmarks.gpu.measure import Row, Setting, form_of, measure_case, target_of
from benchmarks.gpu.peers import measure_peer, torch_with_cuda
from benchmarks.gpu.placed import ROUNDS, copy_bandwidth
from bessemer.compiler.targets.nvptx import device_named, device_of_capability
from bessemer.runtime.cuda.device import compute_capability
from bessemer.runtime.cuda.driver import DeviceError, Driver
from bessemer.runtime.cuda.libcuda import CudaDriver
from emulator.driver import EmulatedDriver

BROKEN = 3
CASE_SECONDS = 120.0
"""After which a case that says nothing is ended: its kernel may hang."""
PARTS = ("ours", "golden", "torch", "sanitized")
"""What a worker does with a family: check and time, check small sizes and keep the outputs, time
torch, or check small sizes under another program."""


@dataclass(frozen=True)
class Job:
    """What a worker is told; a JSON text on its command line. `under` is a command that it runs
    under, such as compute-sanitizer's."""

    family: str
    part: str
    rows: str
    skip: tuple[str, ...] = ()
    only: str = "*"
    is_emulated: bool = False
    device: int = 0
    rounds: int = ROUNDS
    programs: str = ""
    golden: str = ""
    case_seconds: float = CASE_SECONDS
    under: tuple[str, ...] = ()


def cases_of(family: str, small: bool, only: str = "*") -> list[Case]:
    """A family's cases whose names match a pattern with * and ?."""
    return [case for case in FAMILIES[family](small) if fnmatchcase(case.name, only)]


def open_driver(is_emulated: bool) -> Driver:
    """The device's driver, or the interpreter; raises NoDeviceError."""
    return EmulatedDriver() if is_emulated else CudaDriver()


def setting_of(driver: Driver, device: int, is_emulated: bool = False) -> Setting:
    """Opens the device, and measures how fast it copies."""
    driver.open(device)
    major, minor = compute_capability(driver, device)
    bandwidth = 0.0 if is_emulated else copy_bandwidth(driver)
    name = driver.device_name(device)
    target = device_of_capability(major, minor)
    return Setting(driver, name, target, 10 * major + minor, bandwidth)


def work(job: Job) -> int:
    """Does a job; the process's exit code."""
    lines = _Lines(Path(job.rows))
    is_small = job.is_emulated or job.part in ("golden", "sanitized")
    cases = [case for case in cases_of(job.family, is_small, job.only) if case.name not in job.skip]
    if job.part == "torch":
        return _time_torch(cases, lines, job.device)
    setting = replace(
        setting_of(open_driver(job.is_emulated), job.device, job.is_emulated),
        rounds=0 if job.part in ("golden", "sanitized") else job.rounds,
        programs=Path(job.programs) / job.family if job.programs and not is_small else None,
        golden=Path(job.golden) / job.family if job.golden and is_small else None,
    )
    lines.add("", {"bandwidth": setting.bandwidth})
    return _measure(cases, setting, lines)


def _measure(cases: Sequence[Case], setting: Setting, lines: _Lines) -> int:
    for case in cases:
        lines.begin(case.name)
        try:
            row = measure_case(case, setting)
        except Exception as error:
            row = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        lines.add(case.name, row)
        if "failed" in row and not _is_alive(setting.driver):
            return BROKEN
    return 0


def _is_alive(driver: Driver) -> bool:
    """Whether the device still answers after a failure."""
    try:
        driver.free(driver.allocate(1024))
        driver.synchronize(0)
    except DeviceError:
        return False
    return True


def _time_torch(cases: Sequence[Case], lines: _Lines, device: int) -> int:
    torch = torch_with_cuda()
    if torch is None:
        return 0
    for case in cases:
        lines.begin(case.name)
        try:
            row = measure_peer(torch, case, f"cuda:{device}")
        except Exception as error:
            row = {"torch_failed": f"{type(error).__name__}: {str(error)[:200]}"}
        lines.add(case.name, row)
        if any(key.endswith("_failed") for key in row):
            # The next case has a process of its own: the device may be broken in this one.
            return BROKEN
    return 0


def prepare(family: str, target_name: str, folder: Path, only: str = "*") -> list[Row]:
    """Compiles a family's cases for a target into a folder, without a device."""
    own = device_named(target_name)
    found = []
    for case in cases_of(family, False, only):
        target = target_of(case, own)
        if target is not None:
            form = form_of(case, case.arrays(), target, folder / family, has_cubin=True)
            found.append({"name": case.name, "kernels": len(form.program.kernels)})
    return found


class _Lines:
    """The file that the rows go to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, name: str) -> None:
        self._write({"begin": name})

    def add(self, name: str, row: dict[str, Any]) -> None:
        self._write({"name": name, "row": row})

    def _write(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
