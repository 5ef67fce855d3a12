"""`bessemer bench`: interleaved runs of a model fused, unfused, and in other systems."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bessemer.compiler.errors import CompileError
from bessemer.compiler.targets.choose import host_target
from bessemer.frontends.array_files import read_arrays, write_arrays
from bessemer.frontends.cli import arguments
from bessemer.frontends.cli.bench_process import Worker, WorkerError
from bessemer.frontends.cli.bench_rounds import Measured, Setting, measure
from bessemer.frontends.cli.bench_worker import ARTIFACT, BESSEMER, PEAK, Job
from bessemer.frontends.cli.exit_codes import FAILED_RUN
from bessemer.frontends.cli.output import (
    format_bytes,
    print_json,
    print_table,
    spinner,
    write,
    write_note,
)
from bessemer.frontends.cli.rivals import RIVALS
from bessemer.frontends.code_arrays import code_arrays
from bessemer.frontends.models_in import as_graph
from bessemer.frontends.profiling.operation_count import count_operations
from bessemer.frontends.random_inputs import (
    default_sizes,
    index_limits,
    input_infos,
    known_texts,
    random_arrays,
)
from bessemer.frontends.tuning_file import read_tuning

_COLUMNS = (
    "system", "threads", "median", "p90", "min", "GFLOP/s", "% peak",
    "compile", "load", "memory", "error", "time/ort",
)  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What is measured: the model's file, its inputs, and the operations of a run."""

    model: Path
    inputs: Path
    operations: float
    sizes: dict[str, int]


def command(
    model: arguments.ModelPath,
    threads: Annotated[
        str, typer.Option("--threads", help="Numbers of threads, separated by commas.")
    ] = "1,2",
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, help="How many times each system is measured.")
    ] = 5,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.0, help="Length of a measurement.")
    ] = 0.5,
    against: Annotated[
        str,
        typer.Option(
            "--against", help="Other systems, separated by commas; default: all that are installed."
        ),
    ] = "auto",
    unfused: Annotated[
        bool, typer.Option("--unfused", help="Also measure -O1 and -O0, which do not fuse.")
    ] = False,
    dim: arguments.Dims = None,
    inputs: arguments.Inputs = None,
    seed: arguments.Seed = 0,
    precision: arguments.PrecisionChoice = "float32",
    tuning: arguments.TuningFile = None,
    grow_in_place: arguments.GrowInPlace = False,
    as_json: arguments.AsJson = False,
    quiet: arguments.Quiet = False,
) -> None:
    """Measure a model, also unfused and in other systems.

    Each system runs in a process of its own; the processes run alternately. Times are medians over
    the rounds. GFLOP/s are the operations of the graph divided by the median time; the peak is
    measured in the same rounds. Memory is the peak memory of the process; Bessemer's runs the
    compiled library.
    """
    dims = arguments.parse_dims(dim)
    counts = _thread_counts(threads)
    rivals = _rivals(against)
    if tuning is not None:
        read_tuning(tuning, host_target())  # tells of a wrong file before the work that takes long
    with tempfile.TemporaryDirectory(prefix="bessemer-bench-") as name:
        folder = Path(name)
        with spinner("Reading", quiet):
            work = _prepare(model, dims, inputs, seed, folder)
        path = str(model.resolve())
        base = Job(
            BESSEMER,
            path,
            1,
            str(work.inputs),
            precision=precision,
            dims=dims,
            tuning=str(tuning.resolve()) if tuning else "",
            grow_in_place=grow_in_place,
        )
        levels = (2, 1, 0) if unfused else (2,)
        settings = [Setting(_name(level), replace(base, optimize=level)) for level in levels]
        settings += [Setting(rival, replace(base, system=rival)) for rival in rivals]
        jobs = [
            Setting(setting.name, replace(setting.job, threads=count))
            for count in counts
            for setting in (*settings, Setting(PEAK, Job(PEAK)))
        ]
        cold = {s.name: _compile_cold(s, folder, quiet) for s in settings[: len(levels)]}
        found = measure(jobs, folder, rounds, seconds, quiet)
        memory = {count: _artifact_memory(base, count, folder) for count in counts}
    rows = [_row(one, found, work, cold, memory) for one in found if one.setting.name != PEAK]
    _report(work, rows, as_json)


def _name(level: int) -> str:
    return BESSEMER if level == 2 else f"{BESSEMER} -O{level}"


def _thread_counts(text: str) -> list[int]:
    allowed = len(os.sched_getaffinity(0))
    counts = arguments.parse_list(text)
    if not counts or not all(count.isdecimal() and int(count) for count in counts):
        raise typer.BadParameter(f"--threads {text!r} is not a list of numbers such as 1,2.")
    possible = [int(count) for count in counts if int(count) <= allowed]
    if not possible:
        raise typer.BadParameter(f"--threads {text}: this process may use {allowed} processors.")
    if len(possible) < len(counts):
        write_note(f"only {allowed} processors: more threads than that are left out", "yellow")
    return possible


def _rivals(text: str) -> list[str]:
    installed = [name for name in RIVALS if importlib.util.find_spec(name) is not None]
    wanted = installed if text == "auto" else arguments.parse_list(text)
    if unknown := [name for name in wanted if name not in RIVALS]:
        raise typer.BadParameter(f"--against {unknown[0]!r}: known are {', '.join(RIVALS)}.")
    if missing := [name for name in wanted if name not in installed]:
        raise CompileError(f"{missing[0]} is not installed: pip install {missing[0]}")
    return wanted


def _prepare(
    model: Path, dims: dict[str, int], given: Path | None, seed: int, folder: Path
) -> Work:
    graph = as_graph(model, dims)
    infos = input_infos(graph)
    sizes = default_sizes(infos, graph.symbols)
    if given is None:
        texts = known_texts(graph.strings)
        arrays = random_arrays(infos, sizes, seed, index_limits(graph), texts)
    else:
        arrays = read_arrays(given)
    missing = [info.name for info in infos if info.name not in arrays]
    if missing:
        raise CompileError(f"{given} has no array for the input {', '.join(missing)}.")
    path = folder / "inputs.npz"
    write_arrays(path, {info.name: arrays[info.name] for info in infos})
    operations = count_operations(graph, code_arrays(graph, arrays))
    return Work(model, path, operations, {} if given else sizes)


def _compile_cold(setting: Setting, folder: Path, quiet: bool) -> float | str:
    """Seconds to compile with an empty cache; fills the cache, and writes the artifact."""
    save = str(folder / "model.so") if setting.name == BESSEMER else ""
    with spinner(f"Compiling ({setting.name})", quiet):
        try:
            return _cold(replace(setting.job, save=save), folder)
        except WorkerError as error:
            if not save:
                return str(error)
        try:
            return _cold(setting.job, folder / "again")  # without a linker there is no artifact
        except WorkerError as error:
            return str(error)


def _cold(job: Job, cache: Path) -> float:
    with Worker(job, cache) as worker:
        return float(worker.answer()["load"])


def _artifact_memory(base: Job, threads: int, folder: Path) -> int | None:
    artifact = folder / "model.so"
    if not artifact.exists():
        return None
    job = replace(base, system=ARTIFACT, model=str(artifact), threads=threads)
    try:
        with Worker(job, folder) as worker:
            worker.answer()
            worker.ask({"seconds": 0.05})
            return int(worker.ask({"stop": True})["peak_memory"])
    except WorkerError:
        return None


def _row(
    one: Measured,
    all_measured: list[Measured],
    work: Work,
    cold: dict[str, float | str],
    memory: dict[int, int | None],
) -> dict[str, Any]:
    job = one.setting.job
    row: dict[str, Any] = {"system": one.setting.name, "threads": job.threads}
    if one.error:
        return row | {"failed": one.error}
    beside = {m.setting.name: m for m in all_measured if m.setting.job.threads == job.threads}
    rate = work.operations / one.median if one.median else 0.0
    row |= {"median": one.median, "p90": one.p90, "min": one.min, "first": one.first}
    row |= {"gflops": rate / 1e9, "load": one.load, "memory": one.memory, "runs": one.runs}
    if peak := beside[PEAK].rate:
        row["peak_share"] = rate / peak
    if job.system == BESSEMER:
        row["compile"] = cold[one.setting.name]
        if job.optimize == 2:
            row["memory"] = memory[job.threads] or one.memory
    reference = beside.get("onnxruntime")
    if reference is not None and not reference.error and reference is not one:
        row["error"] = one.error_to(reference)
        row["time_to_onnxruntime"] = one.median / reference.median
    return row


def _report(work: Work, rows: list[dict[str, Any]], as_json: bool) -> None:
    sizes = ", ".join(f"{name}={size}" for name, size in work.sizes.items())
    if as_json:
        print_json(
            {
                "model": str(work.model),
                "sizes": work.sizes,
                "operations": work.operations,
                "target": host_target().name,
                "systems": rows,
            }
        )
    else:
        head = [work.model.name, sizes, f"{work.operations / 1e9:.3g} GFLOP", host_target().name]
        write(", ".join(part for part in head if part))
        print_table(_COLUMNS, [_cells(row) for row in rows], right="lrrrrrrrrrrr")
        for row in rows:
            if "failed" in row:
                write(f"{row['system']}, {row['threads']} threads: {row['failed']}")
    if any("failed" in row for row in rows if row["system"].startswith(BESSEMER)):
        raise typer.Exit(FAILED_RUN)


def _cells(row: dict[str, Any]) -> list[str]:
    def number(key: str, scale: float, digits: str) -> str:
        entry = row.get(key)
        return format(entry * scale, digits) if isinstance(entry, float) else ""

    if "failed" in row:
        return [row["system"], str(row["threads"]), "failed"]
    return [
        row["system"],
        str(row["threads"]),
        *(f"{number(key, 1e3, '.4g')} ms" for key in ("median", "p90", "min")),
        number("gflops", 1, ".1f"),
        number("peak_share", 100, ".1f"),
        f"{number('compile', 1, '.2f')} s" if isinstance(row.get("compile"), float) else "",
        f"{number('load', 1, '.2f')} s",
        format_bytes(row["memory"]),
        number("error", 1, ".1e"),
        number("time_to_onnxruntime", 1, ".2f"),
    ]
