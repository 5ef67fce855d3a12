"""What the commands write: tables and JSON to stdout, notes and progress to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 1000
"""Where the reader is a program or a file, nothing is shortened or wrapped."""


def console(stderr: bool = False) -> Console:
    """A console on stdout or stderr as they are now. It takes brackets as they are."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, soft_wrap=True)


def write(text: str) -> None:
    """A result, to stdout."""
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")


def write_note(text: str, style: str = "") -> None:
    """Something about how it goes, to stderr."""
    console(stderr=True).print(Text(text, style=style))


def print_json(data: object) -> None:
    """A result for machines, to stdout."""
    write(json.dumps(data, indent=2, default=str))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "", right: str = ""
) -> None:
    """A result for people, to stdout. `right` lists the columns that hold numbers, by their first
    letters' order: "lr" aligns the first column left and the second right."""
    table = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for place, column in enumerate(columns):
        justify = "right" if right[place : place + 1] == "r" else "left"
        table.add_column(Text(column), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console().print(table)


def count_of(number: int, noun: str) -> str:
    """A number of things: 1 thread, 2 threads."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def format_bytes(count: float) -> str:
    """A number of bytes as people read it: 512 B, 1.5 KiB, 97.4 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""


def format_seconds(seconds: float) -> str:
    """A duration in the unit that suits it: 3.21 s, 4.56 ms, 7.89 us."""
    for scale, unit in ((1.0, "s"), (1e3, "ms")):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}" if seconds < 100 else f"{seconds:.0f} s"
    return f"{seconds * 1e6:.3g} us"


class Phases:
    """Numbered phases of something that takes time, with what each took, on stderr."""

    def __init__(self, total: int, quiet: bool = False) -> None:
        self.total = total
        self.quiet = quiet
        self.number = 0
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, text: str) -> Iterator[Callable[[str], None]]:
        """A phase that is about to run: a spinner while it does, a line when it has. What this
        gives shows how far it is."""
        start, label = time.perf_counter(), f"[{self.number + 1}/{self.total}] {text}"
        with spinner(label, self.quiet) as status:
            yield lambda progress: status.update(Text(f"{label}: {progress}"))
        self.done(text, time.perf_counter() - start)

    @contextmanager
    def stages(self) -> Iterator[Callable[[str], None]]:
        """Phases that follow one another: what this gives ends the present one and begins that of
        a text, unless it runs already."""
        running, start = "", 0.0

        def end() -> None:
            if running:
                self.done(running, time.perf_counter() - start)

        def enter(text: str) -> None:
            nonlocal running, start
            if text != running:
                end()
                running, start = text, time.perf_counter()
                status.update(Text(f"[{self.number + 1}/{self.total}] {text}"))

        with spinner("", self.quiet) as status:
            yield enter
            end()

    def done(self, text: str, seconds: float) -> None:
        """The line of a phase that has run."""
        self.number += 1
        self.seconds[text] = seconds
        if not self.quiet:
            write_note(f"[{self.number}/{self.total}] {text:<46} {seconds:8.2f} s")


@contextmanager
def spinner(text: str, quiet: bool = False) -> Iterator[Any]:
    """A spinner on stderr, if that is a terminal; `update` of what it gives changes its text."""
    err = console(stderr=True)
    with err.status(Text(text)) as status:
        if quiet or not err.is_terminal:
            status.stop()
        yield status
