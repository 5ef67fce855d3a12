"""`bessemer train`: trains what a TOML file or a Python module describes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bessemer.compiler.codegen.artifact.link import SUFFIXES
from bessemer.compiler.errors import CompileError
from bessemer.frontends.byte_count import byte_count
from bessemer.frontends.cli import arguments
from bessemer.frontends.cli.exit_codes import INTERRUPTED
from bessemer.frontends.cli.memory_table import show_plan
from bessemer.frontends.cli.output import (
    console,
    format_seconds,
    print_json,
    print_table,
    write,
    write_note,
)
from bessemer.frontends.onnx_writer.write import write_onnx
from bessemer.frontends.train.checkpoint import write_parameters
from bessemer.frontends.train.experiment import Data, Experiment, experiment_of_module
from bessemer.frontends.train.experiment_toml import experiment_of_toml
from bessemer.frontends.train.history import History

_SUFFIXES = (".safetensors", ".onnx")


def command(
    experiment: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .toml or .py file.", dir_okay=False)
    ],
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "-o", "--output", metavar="FILE",
            help="Write the trained network to this .onnx or .safetensors file; may be repeated.",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", metavar="FILE",
            help="Keep the state of the training here; if the file exists, resume from it.",
        ),
    ] = None,
    every: Annotated[
        int, typer.Option("--every", min=0, help="Steps between checkpoints; 0: one per epoch.")
    ] = 0,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Epochs in all, instead of the file's.")
    ] = None,
    memory: Annotated[
        str,
        typer.Option(
            "--memory", metavar="BYTES",
            help="Limit of a step's memory apart from batch and state, such as 512M.",
        ),
    ] = "",
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what a step keeps in memory, without training.")
    ] = False,
    library: Annotated[
        Path | None,
        typer.Option(
            "--library", metavar="OUT",
            help="Instead of training, write a C library (.so, .o or .a) that trains, and its "
            "header. It starts with the network's weights, or with the state of --checkpoint.",
        ),
    ] = None,
    as_json: arguments.AsJson = False,
    quiet: arguments.Quiet = False,
) -> None:  # fmt: skip
    """Train what a TOML file or a Python module describes, or write a C library that does.

    All files are written atomically. Ctrl-C writes a checkpoint and ends; the same command resumes
    from there, with the same bits as without the interruption.
    """
    for file in (*(output or ()), *([checkpoint] if checkpoint else ())):
        _check_place(file, _SUFFIXES if file != checkpoint else ())
    if library is not None:
        _check_place(library, SUFFIXES)
    found = read_experiment(experiment)
    if library is not None:
        _write_library(found, library, checkpoint, as_json)
        return
    if memory:
        found.trainer.memory = byte_count(memory)
    if plan:
        show_plan(found.trainer.plan(_first_batch(found)), as_json)
        return
    if found.trainer.memory and not quiet:
        write_note(found.trainer.plan(_first_batch(found)).line)
    start = time.perf_counter()
    history = _fit(found, checkpoint, every, epochs, quiet)
    seconds = time.perf_counter() - start
    files = output or []
    _write_networks(found, files)
    _show(found, history, seconds, files, as_json)


def _write_networks(found: Experiment, files: Sequence[Path]) -> None:
    trainer = found.trainer
    network = trainer.averaged if trainer.average else trainer.network
    for file in files:
        if file.suffix == ".onnx":
            write_onnx(network.graph, file)
        else:
            write_parameters(file, network.arrays())


def _show(
    found: Experiment, history: History, seconds: float, files: Sequence[Path], as_json: bool
) -> None:
    """The results of the training, and of a test if there is data for one."""
    tested = found.trainer.evaluate(found.test) if found.test is not None else None
    if as_json:
        print_json(
            {
                "epochs": history.epochs,
                "losses": history.losses,
                "steps": found.trainer.steps,
                "parameters": found.trainer.network.parameter_count,
                "test": tested,
                "seconds": seconds,
                "files": [str(file) for file in files],
            }
        )
        return
    _print_history(history)
    write(f"{found.trainer.steps} steps in {format_seconds(seconds)}")
    if tested is not None:
        write("test: " + ", ".join(f"{name} {value:.4f}" for name, value in tested.items()))
    for file in files:
        write(str(file))


def _write_library(
    found: Experiment, library: Path, checkpoint: Path | None, as_json: bool
) -> None:
    if checkpoint and checkpoint.exists():
        found.trainer.restore(checkpoint)
    files = found.trainer.export(library, sizes={"batch": found.batch})
    if as_json:
        print_json({"steps": found.trainer.steps, "files": [str(file) for file in files]})
        return
    for file in files:
        write(str(file))


def read_experiment(path: Path) -> Experiment:
    """The experiment of a file, whichever kind it is."""
    match path.suffix:
        case ".toml":
            return experiment_of_toml(path)
        case ".py":
            return experiment_of_module(path)
        case _:
            raise CompileError(f"{path}: an experiment is a .toml or a .py file.")


def _first_batch(found: Experiment) -> Data:
    return {name: array[: found.batch] for name, array in found.data.items()}


def _check_place(file: Path, suffixes: tuple[str, ...]) -> None:
    """Raises an error for an output that cannot be written, before the training."""
    if suffixes and file.suffix not in suffixes:
        raise typer.BadParameter(f"{file}: the suffix must be one of {', '.join(suffixes)}.")
    arguments.check_folders(file)


def _fit(
    found: Experiment, checkpoint: Path | None, every: int, epochs: int | None, quiet: bool
) -> History:
    total = found.epochs if epochs is None else epochs
    if checkpoint and checkpoint.exists() and not quiet:
        write_note(f"going on from {checkpoint}")
    with _bar(quiet) as bar:
        task = bar.add_task("compiling", total=None)

        def progress(done: int, each: int) -> None:
            epoch = min((done - 1) // each + 1, total)
            bar.update(task, completed=done, total=total * each, description=f"epoch {epoch}")

        def report(epoch: int, row: Mapping[str, float]) -> None:
            if not quiet:
                numbers = "  ".join(f"{name} {value:.4f}" for name, value in row.items())
                bar.console.print(f"epoch {epoch + 1:>3}  {numbers}")

        try:
            return found.run(
                epochs=epochs, checkpoint=checkpoint, every=every, report=report, progress=progress
            )
        except KeyboardInterrupt:
            kept = f" The state is in {checkpoint}." if checkpoint else ""
            write_note(f"Interrupted after {found.trainer.steps} steps.{kept}", style="yellow")
            raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _bar(quiet: bool) -> Iterator[Progress]:
    """A progress bar on stderr, if that is a terminal."""
    shown = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console(stderr=True), disable=quiet or not sys.stderr.isatty(), transient=True,
    )  # fmt: skip
    with shown:
        yield shown


def _print_history(history: History) -> None:
    names = list(history.epochs)
    count = max((len(column) for column in history.epochs.values()), default=0)
    rows = [
        [epoch + 1, *(f"{history.epochs[name][epoch]:.4f}" for name in names)]
        for epoch in range(count)
    ]
    print_table(("epoch", *names), rows, right="r" * (len(names) + 1))
