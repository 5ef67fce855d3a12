"""The comparison as a picture: a bar for every model, or a curve where there are many."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import BF16, ratio
from benchmarks.plan import is_installed
from benchmarks.record import Record, Row
from bessemer.frontends.cli.output import write, write_note

MOST_BARS = 40
"""More models than this are a curve, each system's from its best ratio to its worst."""
_NAMED = 8
_COLORS = ("#3465a4", "#73b5e8", "#f57900", "#fcaf3e")


def draw(record: Record, path: Path) -> bool:
    """Our time by the best peer's, as PNG. False where there is nothing to draw, or nothing to draw
    with."""
    rows = record.rows("peers")
    compared = {name: row for name, row in rows.items() if ratio(row) is not None}
    if not compared:
        return False
    if not is_installed("matplotlib"):
        write_note("no picture: pip install matplotlib")
        return False
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    plots: Any = importlib.import_module("matplotlib.pyplot")
    figure = (_bars if len(compared) <= MOST_BARS else _curves)(plots, compared)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plots.close(figure)
    write(f"{path}")
    return True


def _bars(plots: Any, rows: Mapping[str, Row]) -> Any:
    names = list(rows)
    figure, axes = plots.subplots(figsize=(9, 0.6 + 0.36 * len(names)))
    places = range(len(names))
    series = [("float32", [ratio(row) for row in rows.values()], -0.2, _COLORS[0])]
    halves = [ratio(row, BF16) for row in rows.values()]
    if any(halves):
        series.append(("bfloat16, by openvino's", halves, 0.2, _COLORS[2]))
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
    return figure


def _curves(plots: Any, rows: Mapping[str, Row]) -> Any:
    figure, axes = plots.subplots(figsize=(9, 5.5))
    for (label, values), color in zip(_series(rows), _COLORS):
        axes.plot(range(1, len(values) + 1), [v for _, v in values], label=label, color=color)
        for place, (name, value) in list(enumerate(values, 1))[-_NAMED:]:
            if value > 1:
                axes.annotate(name, (place, value), ha="right", fontsize=7, color=color)
    axes.axhline(1.0, color="black", linewidth=1)
    axes.set_yscale("log")
    axes.set_xlabel("models, each curve from its best to its worst")
    axes.set_ylabel("Bessemer's time by the best peer's (less is better)")
    axes.legend(loc="upper left")
    return figure


def _series(rows: Mapping[str, Row]) -> Sequence[tuple[str, list[tuple[str, float]]]]:
    """(name, ratio) in order, of float32 and of bfloat16 at every number of threads."""
    found: list[tuple[str, list[tuple[str, float]]]] = []
    for ours, title in (("bessemer", "float32"), (BF16, "bfloat16, by openvino's")):
        for threads in sorted({name.rsplit("/", 1)[1] for name in rows}, key=int):
            values = [
                (name.rsplit("/", 1)[0], value)
                for name, row in rows.items()
                if name.endswith(f"/{threads}") and (value := ratio(row, ours)) is not None
            ]
            if values:
                text = f"{title}, {threads} thread{'' if threads == '1' else 's'}"
                found.append((text, sorted(values, key=lambda pair: pair[1])))
    return found
