"""The results of a device as a table and as JSON, and which of our bars they meet."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Results = Mapping[str, Mapping[str, Row]]
"""Rows by family and case."""
COLUMNS = (
    "case", "right", "error", "ms", "event ms", "GFLOP/s", "GB/s", "of floor", "torch ms",
    "compiled ms", "torch / ours",
)  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """`share` is what was found, None where nothing was measured."""

    name: str
    wanted: float
    share: float | None

    @property
    def verdict(self) -> str:
        if self.share is None:
            return "not measured"
        return "met" if self.share >= self.wanted else "falls short"


def best_peer(row: Row) -> float | None:
    """The better of torch and torch.compile, in milliseconds."""
    found = [row[key] for key in ("torch_ms", "compiled_ms") if key in row]
    return min(found) if found else None


def ratio(row: Row, peer: str = "") -> float | None:
    """A peer's time by ours: above 1 we are faster."""
    theirs = row.get(f"{peer}_ms") if peer else best_peer(row)
    return theirs / row["ms"] if theirs and row.get("ms") else None


def bars(results: Results) -> list[Bar]:
    """The bars of the GPU path."""
    every = [row for rows in results.values() for row in rows.values() if "skipped" not in row]
    right = [bool(row.get("right")) for row in every]
    gemm, nets = results.get("gemm", {}), results.get("networks", {})
    convolutions = [
        ratio(row, "torch")
        for name, row in results.get("convolutions", {}).items()
        if name.startswith("bfloat16 b64")
    ]
    rows = results.get("rows", {})
    large = ("softmax f32 32768x4096", "softmax bf16 32768x4096", "layer_norm bf16 262144x768")
    return [
        Bar("all cases are right", 1.0, sum(right) / len(right) if right else None),
        Bar("bf16 GEMM 8192^3 by cuBLAS", 0.85, ratio(gemm.get("bfloat16 8192x8192x8192", {}),
                                                      "torch")),
        Bar("ResNet-50's convolutions, bf16 b64, by cuDNN", 0.75, _mean(convolutions)),
        *(Bar(f"{name} by copying", 0.85, rows.get(name, {}).get("of_floor")) for name in large),
        Bar("ResNet-50 bf16 b64 by torch.compile", 1.0,
            ratio(nets.get("resnet50 bfloat16 b64", {}), "compiled")),
        Bar("BERT-base bf16 b32 by torch.compile", 1.0,
            ratio(nets.get("bert-base bfloat16 b32", {}), "compiled")),
    ]  # fmt: skip


def _mean(ratios: Iterable[float | None]) -> float | None:
    """The geometric mean; None where one of them is missing, or all are."""
    listed = list(ratios)
    known = [one for one in listed if one]
    if not known or len(known) < len(listed):
        return None
    return math.exp(sum(map(math.log, known)) / len(known))


def cells(name: str, row: Row) -> list[str]:
    """A row of the table."""
    if "failed" in row or "skipped" in row:
        return [name, "skipped" if "skipped" in row else "FAILED", row.get("failed", "")]
    peer = ratio(row)
    return [
        name,
        "yes" if row.get("right") else "NO",
        _text(row, "error", ".1e"),
        _text(row, "ms", ".4g"),
        _text(row, "event_ms", ".4g"),
        _text(row, "gflops", ",.0f"),
        _text(row, "gb_s", ",.0f"),
        _text(row, "of_floor", ".0%"),
        _text(row, "torch_ms", ".4g"),
        _text(row, "compiled_ms", ".4g"),
        f"{peer:.2f}" if peer else "–",
    ]


def _text(row: Row, key: str, form: str) -> str:
    return format(row[key], form) if key in row else "–"


def table_text(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table for a terminal."""
    full = [list(columns), *([*line, *[""] * (len(columns) - len(line))] for line in lines)]
    widths = [max(len(line[k]) for line in full if len(line[k]) < 60) for k in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(w) if not k else cell.rjust(w) for k, (cell, w) in
                  enumerate(zip(line, widths))).rstrip()
        for line in full
    )  # fmt: skip


def bar_lines(results: Results) -> list[list[str]]:
    """The bars as a table's lines."""
    return [
        [bar.name, f"{bar.wanted:.0%}", "–" if bar.share is None else f"{bar.share:.0%}",
         bar.verdict]
        for bar in bars(results)
    ]  # fmt: skip


def write_results(folder: Path, machine: Mapping[str, str], results: Results) -> Path:
    """`gpu.json` with everything, and `gpu.md` with the tables; the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    judged = [
        {"name": bar.name, "wanted": bar.wanted, "share": bar.share, "verdict": bar.verdict}
        for bar in bars(results)
    ]
    content = {"machine": dict(machine), "bars": judged, "families": results}
    (folder / "gpu.json").write_text(json.dumps(content, indent=1) + "\n")
    parts = ["# On a GPU\n", "`python -m benchmarks.gpu`\n"]
    parts.append(_markdown(("", ""), [list(item) for item in machine.items()]))
    parts.append(_markdown(("bar", "wanted", "measured", ""), bar_lines(results)))
    for family, rows in results.items():
        lines = [cells(name, row) for name, row in rows.items()]
        parts += [f"## {family}\n", _markdown(COLUMNS, lines)]
    path = folder / "gpu.md"
    path.write_text("\n".join(parts))
    return path


def _markdown(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    full = [columns, ["---"] + ["---:"] * (len(columns) - 1)]
    full += [[*line, *[""] * (len(columns) - len(line))] for line in lines]
    return "".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |\n" for line in full)
