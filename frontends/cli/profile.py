"""`bessemer profile`: where a model's time goes, kernel by kernel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bessemer.frontends.array_files import read_arrays
from bessemer.frontends.cli import arguments
from bessemer.frontends.cli.models import inputs_for
from bessemer.frontends.cli.output import (
    count_of,
    format_seconds,
    print_json,
    print_table,
    spinner,
    write,
)
from bessemer.frontends.profiling.profile import KernelTime, Profile, compile_profiled, merged
from bessemer.frontends.text_files import write_text

_COLUMNS = (
    "step", "kernel", "time", "share", "GFLOP/s", "moved", "GB/s", "% roofline", "% busy", "from",
)  # fmt: skip
_LONGEST = 60


def command(
    model: arguments.ModelPath,
    threads: arguments.Threads = 1,
    dim: arguments.Dims = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.0, help="How long to run.")] = 1.0,
    top: Annotated[
        int, typer.Option("--top", min=0, help="Show only this many kernels, the slowest; 0: all.")
    ] = 25,
    merge: Annotated[
        bool, typer.Option("--merge", help="Show one row for all launches of a kernel.")
    ] = False,
    in_order: Annotated[
        bool,
        typer.Option("--in-order", help="Keep the order of the run; default: the slowest first."),
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace", metavar="FILE", help="Write a trace of one run, for Perfetto or Chrome."
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--save", metavar="FILE", help="Also write the profile to a file, as JSON."),
    ] = None,
    inputs: arguments.Inputs = None,
    seed: arguments.Seed = 0,
    precision: arguments.PrecisionChoice = "float32",
    optimize: arguments.Optimize = 2,
    tuning: arguments.TuningFile = None,
    grow_in_place: arguments.GrowInPlace = False,
    as_json: arguments.AsJson = False,
    quiet: arguments.Quiet = False,
) -> None:
    """Show where a model's time goes: each kernel's time, and how close to the machine's limits.

    The model is compiled with timers around its kernels. GFLOP/s count the operations of the graph;
    "moved" is what a kernel reads and writes, each byte once. The roofline is the least time that
    the arithmetic or the memory of this machine can take, as measured when the command starts.
    "busy" is the share of the time in which the threads that share a kernel were computing.
    """
    dims = arguments.parse_dims(dim)
    arguments.check_folders(trace, file)
    arguments.note_crowding(threads, quiet)
    given = read_arrays(inputs) if inputs else None
    with spinner("Compiling", quiet):
        ours = compile_profiled(
            model,
            dims=dims,
            threads=threads,
            precision=precision,
            optimize=optimize,
            tuning=tuning,
            grow_in_place=grow_in_place,
        )
    arrays = inputs_for(ours, model, dims, seed, quiet) if given is None else given
    with spinner("Running", quiet):
        profile = ours.profile(arrays, seconds)
    for path, content in ((trace, profile.to_trace()), (file, profile.to_json())):
        if path is not None:
            write_text(path, json.dumps(content))
    if as_json:
        print_json(profile.to_json())
    else:
        _show(profile, merged(profile.kernels) if merge else profile.kernels, top, in_order)


def _show(profile: Profile, kernels: Sequence[KernelTime], top: int, in_order: bool) -> None:
    limits = profile.limits
    memory = ", ".join(
        f"{f'L{level.number}' if level.number else 'memory'} {level.copy / 1e9:.0f}"
        for level in limits.levels
    )
    write(
        f"{profile.model}, {count_of(profile.threads, 'thread')}: "
        f"{format_seconds(profile.seconds)} a run, median of {profile.runs}"
    )
    write(f"this machine: {limits.peak / 1e9:.0f} GFLOP/s; copying, GB/s: {memory}")
    rows = list(enumerate(kernels))
    chosen = sorted(rows, key=lambda row: -row[1].seconds)[: top or None]
    shown = sorted(chosen) if in_order else chosen
    print_table(_COLUMNS, [_cells(number, k, profile) for number, k in shown], right="rlrrrrrrrl")
    rest = len(rows) - len(chosen)
    if rest:
        others = profile.kernel_seconds - sum(kernel.seconds for _, kernel in chosen)
        write(f"{rest} others: {format_seconds(others)} (--top 0 shows them)")
    times = (
        profile.kernel_seconds,
        profile.between_seconds,
        max(0.0, profile.call_seconds - profile.seconds),
    )
    inside, between, outside = map(format_seconds, times)
    write(f"kernels {inside}, between them {between}, around the run {outside}")


def _cells(number: int, kernel: KernelTime, profile: Profile) -> list[str]:
    sources = ", ".join(kernel.sources)
    if len(sources) > _LONGEST:
        sources = sources[: _LONGEST - 1] + "…"
    times = f" x{kernel.runs:g}" if kernel.runs != 1 else ""
    return [
        str(number),
        kernel.kernel + times,
        format_seconds(kernel.seconds),
        f"{100 * kernel.seconds / profile.seconds:.1f}%",
        f"{kernel.rate / 1e9:.1f}" if kernel.operations else "",
        _bytes(kernel.traffic.moved),
        f"{kernel.bandwidth / 1e9:.1f}",
        f"{100 * kernel.roofline:.0f}",
        f"{100 * kernel.busy:.0f}" if profile.threads > 1 else "",
        sources,
    ]


def _bytes(count: int) -> str:
    """In KiB or MiB, so that a column can be compared at a glance."""
    return f"{count / 2**20:.2f}M" if count >= 2**20 else f"{count / 2**10:.1f}K"
