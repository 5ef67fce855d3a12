"""The results as tables: on the terminal and as Markdown, with the comparison's picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.bars import Bar, all_bars
from benchmarks.picture import draw
from benchmarks.record import ROUND_TRIP, Record, Row
from benchmarks.sections import SECTIONS
from bessemer.frontends.cli.output import print_table, write

_MET = {True: "met", False: "MISSED", None: ""}


def print_section(name: str, rows: Mapping[str, Row]) -> None:
    """A section's table, to stdout."""
    columns, cells = _shown(name, rows)
    print_table(columns, cells, right="l" + "r" * (len(columns) - 1))


def _shown(name: str, rows: Mapping[str, Row]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """A section's table, with the round trips that were measured beside its rows."""
    columns, cells = SECTIONS[name].show(rows)
    if not any(ROUND_TRIP in row for row in rows.values()):
        return columns, cells
    trips = [str(rows.get(line[0], {}).get(ROUND_TRIP, "")) for line in cells]
    return [*columns, "flag's round trip, ns"], [[*c, t] for c, t in zip(cells, trips, strict=True)]


def print_bars(bars: Sequence[Bar]) -> None:
    """Which bars are met, to stdout."""
    if bars:
        write("")
        print_table(("bar", "wanted", "measured", ""), [_bar_cells(bar) for bar in bars])


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
            parts.append(_table(*_shown(name, rows)))
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
