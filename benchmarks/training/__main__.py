"""Measures training and says which bars are met: what misses one "falls short".

    python -m benchmarks.training [--json FILE] [--only NAME] [--threads 1,2] [--quick]

Steps are interleaved with torch's; losses and digits have a row each.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.plan import Plan, possible_threads
from benchmarks.record import Record
from benchmarks.training.measure import measure_training, show_training
from bessemer.frontends.cli.output import print_table


def command(
    to_json: Annotated[Path | None, typer.Option("--json", help="A file for the figures.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help='As "lenet", "digits mlp" or "losses *"; may be repeated.'),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="3 short measurements, and without torch.compile.")
    ] = False,
    threads: Annotated[str, typer.Option("--threads", help="Numbers, by commas.")] = "1,2",
) -> None:
    """Measures training and says which bars are met. About 30 minutes; 5 with --quick."""
    with tempfile.TemporaryDirectory(prefix="bessemer-training-") as folder:
        counts = possible_threads(threads)
        plan = Plan(Record(Path(folder)), only=tuple(only or ()), threads=counts, seconds=1.0)
        plan = replace(plan, rounds=3, seconds=0.15) if quick else plan
        rows = measure_training(plan)
    if not rows:
        raise typer.Exit(1)
    columns, cells = show_training(rows)
    print_table(columns, cells, right="llrrl")
    if to_json:
        to_json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(command)
