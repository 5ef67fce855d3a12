"""The results as tables: on the terminal, as Markdown, and the comparison as a picture."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bars import Bar, all_bars
from benchmarks.peers import BF16, ratio
from benchmarks.plan import is_installed
from benchmarks.record import Record, Row
from benchmarks.sections import SECTIONS
from bessemer.frontends.cli.output import print_table, write, write_note

_MET = {True: "met", False: "MISSED", None: ""}


def print_section(name: str, rows: Mapping[str, Row]) -> None:
    """A section's table, to stdout."""
    columns, cells = SECTIONS[name].show(rows)
    print_table(columns, cells, right="l" + "r" * (len(columns) - 1))


def print_bars(record: Record) -> None:
    """Which bars are met, to stdout."""
    print_table(("bar", "wanted", "measured", ""), [_bar_cells(bar) for bar in all_bars(record)])


def _bar_cells(bar: Bar) -> list[str]:
    return [bar.name, bar.wanted, bar.found, _MET[bar.met]]


def write_report(record: Record, machine: Mapping[str, str]) -> Path:
    """`report.md` beside the JSON files, with all that they hold; and the picture, where matplotlib
    is installed."""
    parts = ["# Measurements\n", _table(("", ""), list(map(list, machine.items())))]
    parts += [
        "## Bars\n",
        _table(("bar", "wanted", "measured", ""), list(map(_bar_cells, all_bars(record)))),
    ]
    for name, section in SECTIONS.items():
        rows = record.rows(name)
        if rows:
            parts += [f"## {section.title}\n", f"`python -m benchmarks {name}`\n"]
            parts.append(_table(*section.show(rows)))
    path = record.folder / "report.md"
    path.write_text("\n".join(parts))
    (record.folder / "machine.json").write_text(json.dumps(dict(machine), indent=1) + "\n")
    draw(record, record.folder / "peers.png")
    return path


def _table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *cells]
    return "".join("| " + " | ".join(map(_escaped, line)) + " |\n" for line in lines)


def _escaped(cell: str) -> str:
    return str(cell).replace("|", "\\|").replace("\n", " ")


def draw(record: Record, path: Path) -> bool:
    """A bar for every model: our time by the best peer's. False where there is nothing to draw, or
    nothing to draw with."""
    rows = record.rows("peers")
    names = [name for name, row in rows.items() if ratio(row) is not None]
    if not names:
        return False
    if not is_installed("matplotlib"):
        write_note("no picture: pip install matplotlib")
        return False
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    plots: Any = importlib.import_module("matplotlib.pyplot")
    figure, axes = plots.subplots(figsize=(9, 0.6 + 0.36 * len(names)))
    places = range(len(names))
    series = [("float32", [ratio(rows[name]) for name in names], -0.2, "#3465a4")]
    halves = [ratio(rows[name], BF16) for name in names]
    if any(halves):
        series.append(("bfloat16, by openvino's", halves, 0.2, "#f57900"))
    for label, values, offset, color in series:
        axes.barh(
            [place + offset for place in places],
            [value or 0 for value in values],
            0.38,
            label=label,
            color=color,
        )
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks(list(places), names)
    axes.invert_yaxis()
    axes.set_xlabel("Bessemer's time by the best peer's (less is better)")
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plots.close(figure)
    write(f"{path}")
    return True
