"""One case on a device: compiled, checked, timed."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.cases import Case, error_of
from benchmarks.gpu.golden import keep_golden
from benchmarks.gpu.peaks import peak_of
from benchmarks.gpu.placed import ROUNDS, Placed
from bessemer.compiler.codegen.ptx.assemble import assemble
from bessemer.compiler.device_driver import build_for_device
from bessemer.compiler.ir.types import Array
from bessemer.compiler.options import Options
from bessemer.compiler.targets.nvptx import DEVICES, DeviceTarget, device_named
from bessemer.runtime.cuda.driver import Driver
from bessemer.runtime.cuda.program_file import SUFFIX, Form, read_forms, write_forms

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Setting:
    """Where cases run: an open driver, the device's name and level, its bandwidth (0: unknown), how
    often to time (0: not at all), and folders for compiled programs and for golden outputs."""

    driver: Driver
    device: str
    target: DeviceTarget
    level: int
    bandwidth: float = 0.0
    rounds: int = ROUNDS
    programs: Path | None = None
    golden: Path | None = None


def target_of(case: Case, own: DeviceTarget) -> DeviceTarget | None:
    """The level that a case is compiled for; None where that would be the device's own anyway, or
    more than it can do."""
    if not case.level:
        return own
    wanted = device_named(case.level)
    order = list(DEVICES.values())
    return wanted if order.index(wanted) < order.index(own) else None


def file_name(case: Case) -> str:
    """A case's name as that of a file."""
    return re.sub(r"[^a-z0-9]+", "-", case.name.lower().replace("->", "to")).strip("-")


def form_of(
    case: Case,
    arrays: Sequence[Array],
    target: DeviceTarget,
    folder: Path | None,
    has_cubin: bool = False,
) -> Form:
    """The case compiled for the target, or as it is in the folder already. `has_cubin`: assembled,
    where ptxas is found, so that the device's driver need not do it."""
    path = folder / f"{target.cpu}-{file_name(case)}{SUFFIX}" if folder else None
    if path is not None and path.exists():
        return read_forms(path)[0]
    _, held = case.split(arrays)
    made = build_for_device(case.graph(*held), Options(precision=case.precision), target)
    cubin = assemble(made.artifact.ptx, target) if has_cubin else b""
    form = Form(made.artifact, made.weights, cubin)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_forms([form], path)
    return form


def measure_case(case: Case, setting: Setting) -> Row:
    """The row of a case; raises what the device, or the compiler, says."""
    target = target_of(case, setting.target)
    if target is None:
        return {"skipped": f"it is {setting.device}'s own code, or beyond it"}
    arrays = case.arrays()
    inputs, held = case.split(arrays)
    start = time.perf_counter()
    form = form_of(case, arrays, target, setting.programs)
    compiled = time.perf_counter() - start
    placed = Placed(form, setting.driver, setting.level, inputs)
    try:
        placed.launch()
        outputs = placed.outputs()
        placed.run.check_faults(_fault_cells(placed))
        row: Row = {"level": target.cpu, "compile_s": compiled, "kernels": len(form.program.steps)}
        row["error"] = error_of(case.reference(arrays), outputs)
        row["right"] = bool(row["error"] <= case.tolerance)
        if setting.golden is not None:
            keep_golden(setting.golden / file_name(case), form, inputs, outputs)
        if setting.rounds and row["right"]:
            row |= _timed(placed, setting)
            moved = case.bytes or float(sum(a.nbytes for a in (*inputs, *held, *outputs)))
            row |= rates(case, row["ms"], moved, setting)
    finally:
        placed.close()
    return row


def _fault_cells(placed: Placed) -> Array:
    run = placed.run
    count = (run.layout.symbols - run.layout.faults) // 4
    return run.read(run.block + run.layout.faults, count, np.dtype(np.int32))


def _timed(placed: Placed, setting: Setting) -> Row:
    alone = placed.seconds_of_launches(setting.rounds)
    replayed = placed.seconds_of_replay(alone, setting.rounds)
    row: Row = {"event_ms": alone * 1e3, "ms": (alone if replayed is None else replayed) * 1e3}
    if replayed is not None:
        row["graph_ms"] = replayed * 1e3
    return row


def rates(case: Case, milliseconds: float, moved: float, setting: Setting) -> Row:
    """Operations and bytes a second, and the floor that the device sets, where it is known."""
    seconds = milliseconds * 1e-3
    row: Row = {"gb_s": moved / seconds / 1e9}
    if case.flops:
        row["gflops"] = case.flops / seconds / 1e9
    peak = peak_of(setting.device, case.arithmetic)
    if setting.bandwidth:
        floors = [moved / setting.bandwidth]
        if case.flops and peak:
            floors.append(case.flops / peak)
        row["floor_ms"] = max(floors) * 1e3
        row["of_floor"] = max(floors) / seconds
    return row
