"""`bessemer tune`: measures other forms of a model's kernels here, and keeps the best in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bessemer.compiler.options import Options, dump_folder
from bessemer.compiler.targets.choose import host_target
from bessemer.compiler.targets.nvptx import CUDA
from bessemer.frontends.cli import arguments
from bessemer.frontends.cli.exit_codes import INTERRUPTED
from bessemer.frontends.cli.output import (
    format_seconds,
    print_json,
    print_table,
    spinner,
    write,
    write_note,
)
from bessemer.frontends.compile_device import target_at_hand
from bessemer.frontends.tuning.contest import Contest, Report, Tuned
from bessemer.frontends.tuning.device_key import device_key
from bessemer.frontends.tuning.tune import tune_model
from bessemer.frontends.tuning.tune_device import tune_for_device
from bessemer.frontends.tuning_file import check_choices, write_choices
from bessemer.runtime.cuda.libcuda import CudaDriver


def command(
    model: arguments.ModelPath,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Add the choices to this file."),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.0, help="How long to measure.")
    ] = 60.0,
    threads: arguments.Threads = 1,
    target: Annotated[
        str, typer.Option("--target", help="cuda: tune for the GPU instead of the processor.")
    ] = "",
    device: Annotated[int, typer.Option("--device", help="The GPU's number.")] = 0,
    dim: arguments.Dims = None,
    precision: arguments.PrecisionChoice = "float32",
    grow_in_place: arguments.GrowInPlace = False,
    as_json: arguments.AsJson = False,
    quiet: arguments.Quiet = False,
) -> None:
    """Measure other forms of a model's kernels on this machine, and write the best to a file.

    The file holds choices by target and kernel, for any number of models. `compile --tuning FILE`
    uses them, on any machine. Symbolic sizes are measured as a batch of 1, and as 64. Ctrl-C ends
    the search and keeps what it has found.
    """
    if target not in ("", CUDA):
        raise typer.BadParameter(f"--target {target}: it is the machine at hand, or {CUDA}.")
    arguments.check_folders(output)
    if output is not None:
        check_choices(output)
    if target and grow_in_place:
        raise typer.BadParameter("--grow-in-place is for processors.")
    options = Options(target, threads, precision, 2, dump_folder(), grow_in_place=grow_in_place)
    dims = arguments.parse_dims(dim)
    arguments.note_crowding(threads, quiet)
    with spinner("Tuning", quiet) as status:
        found, key = _tuned(model, options, seconds, dims, device, status.update)
    is_left = any(one.waiting for one in found.contests.values())
    if is_left and not found.trials and not found.interrupted:
        write_note(f"--seconds {seconds:g} were over before anything was tried: give more")
    _print(found, as_json)
    if output is not None:
        write_choices(output, found.tuning, key)
    if found.interrupted:
        write_note("interrupted; this is what was found before", style="yellow")
        raise typer.Exit(INTERRUPTED)


def _tuned(
    model: Path, options: Options, seconds: float, dims: dict[str, int], device: int, report: Report
) -> tuple[Tuned, str]:
    """What the tuner has found, and under which key a file keeps it."""
    if options.target != CUDA:
        found = tune_model(model, options, seconds, dims, report=report, interruptible=True)
        return found, host_target().name
    driver = CudaDriver()
    level = target_at_hand(driver, device)
    found = tune_for_device(
        model, options, seconds, level, driver, device, dims, report=report, interruptible=True
    )
    return found, device_key(driver, device, level)


def _print(found: Tuned, as_json: bool) -> None:
    if as_json:
        print_json(_as_json(found))
        return
    contests = sorted(found.contests.items(), key=lambda entry: -entry[1].share)
    rows = [_cells(name, one) for name, one in contests]
    print_table(("share", "time", "tried", "chosen", "kernels"), rows, right="rrrll")
    write(
        f"{found.trials} trials; a run takes {format_seconds(found.after)}, "
        f"{format_seconds(found.before)} without"
    )


def _cells(name: str, one: Contest) -> list[str]:
    changed = {key: value for key, value in one.best.items() if value != one.model.get(key)}
    chosen = " ".join(f"{key}={value}" for key, value in changed.items())
    return [f"{one.share:.1%}", f"{one.ratio:.2f}", str(one.tried), chosen or "as it was", name]


def _as_json(found: Tuned) -> dict[str, object]:
    return {
        "before": found.before,
        "after": found.after,
        "trials": found.trials,
        "choices": {name: dict(one) for name, one in found.tuning.choices.items()},
        "kernels": [
            {
                "signature": name,
                "share": one.share,
                "ratio": one.ratio,
                "tried": one.tried,
                "model": one.model,
                "best": one.best,
            }
            for name, one in found.contests.items()
        ],
    }
