"""The arguments and options that several commands have in common."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bessemer.compiler.errors import CompileError
from bessemer.compiler.options import Precision
from bessemer.frontends.cli.output import count_of, write_note
from bessemer.runtime.thread_count import MOST_THREADS

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.", dir_okay=False)]
Dims = Annotated[
    list[str] | None,
    typer.Option("--dim", metavar="NAME=SIZE", help="Fix a symbolic dimension; may be repeated."),
]
TargetName = Annotated[
    str,
    typer.Option(
        "--target", metavar="NAME", help="The machine to compile for; `doctor` lists them."
    ),
]
PrecisionChoice = Annotated[
    Precision, typer.Option("--precision", help="Precision of the arithmetic.")
]
Optimize = Annotated[
    int,
    typer.Option(
        "-O",
        "--optimize",
        min=0,
        max=2,
        help="0: plain loops, 1: vector loops, 2: all optimizations.",
    ),
]
Threads = Annotated[
    int,
    typer.Option(
        "--threads", min=0, max=MOST_THREADS, help="Threads of a run; 0 means all processors."
    ),
]
GrowInPlace = Annotated[
    bool,
    typer.Option(
        "--grow-in-place", help="A decoder's caches may grow within one array each, uncopied."
    ),
]
TuningFile = Annotated[
    Path | None,
    typer.Option("--tuning", metavar="FILE", help="A file written by `bessemer tune`."),
]
At = Annotated[
    list[str] | None,
    typer.Option(
        "--at", metavar="NAME=SIZE", help="Plan the memory for this size, without fixing it."
    ),
]
Inputs = Annotated[
    Path | None,
    typer.Option("--inputs", metavar="FILE.npz", help="The inputs by name; default: random."),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the random inputs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print no progress.")]


def parse_dims(entries: Sequence[str] | None, option: str = "--dim") -> dict[str, int]:
    """NAME=SIZE entries, several in one separated by commas; a usage error for anything else."""
    found: dict[str, int] = {}
    for entry in (part for text in entries or () for part in text.split(",")):
        name, equals, size = entry.rpartition("=")
        if not (name and equals and size.isdecimal()):
            raise typer.BadParameter(f"{option} {entry!r} is not NAME=SIZE, such as batch=8.")
        if found.setdefault(name, int(size)) != int(size):
            raise typer.BadParameter(f"{option} {entry!r}: {name} is {found[name]} already.")
    return found


def check_folders(*files: Path | None) -> None:
    """Raises CompileError for files that cannot be written, before the work that may take long."""
    for file in filter(None, files):
        if not file.absolute().parent.is_dir():
            raise CompileError(f"{file} cannot be written: there is no folder {file.parent}.")
        if file.is_dir():
            raise CompileError(f"{file} cannot be written: it is a folder.")
        is_special = file.is_symlink() or (file.exists() and not file.is_file())
        if not is_special and not os.access(file.absolute().parent, os.W_OK):
            raise CompileError(
                f"{file} cannot be written: the folder {file.parent} is not writable."
            )


def note_crowding(threads: int, quiet: bool) -> None:
    """Writes a note if threads have to share processors."""
    allowed = len(os.sched_getaffinity(0))
    if threads > allowed and not quiet:
        most = count_of(allowed, "processor")
        write_note(f"--threads {threads}: this process may use {most}; more is slower", "yellow")


def parse_list(text: str) -> list[str]:
    """The entries of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]
