"""`bessemer list-ops`: the operators of the graph language, and of ONNX those that are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from onnx import defs

from bessemer.compiler.ir.op import OPS, Operator
from bessemer.frontends.cli import arguments
from bessemer.frontends.cli.output import print_json, print_table, write_note
from bessemer.frontends.onnx_reader import families
from bessemer.frontends.onnx_reader.functions import has_body
from bessemer.frontends.onnx_reader.operators.repeat import DOMAIN
from bessemer.frontends.onnx_reader.registry import RULES
from bessemer.frontends.text_files import write_text

OLDEST_OPSET = 7
"""The oldest operator set that the reader is written for."""


@dataclass(frozen=True)
class OnnxRow:
    """An ONNX operator. `opsets` are the first and last version of its domain that have it, None
    for domains that onnx knows no versions of; `how`: by a rule of ours or by ONNX's own body."""

    domain: str
    name: str
    opsets: tuple[int, int] | None
    how: str


def command(
    markdown: Annotated[
        Path | None,
        typer.Option("--markdown", metavar="FILE", help="Write the tables as Markdown."),
    ] = None,
    as_json: arguments.AsJson = False,
) -> None:
    """List the supported operators: those of ONNX with their operator sets, and our own."""
    arguments.check_folders(markdown)
    families.check_registered()
    rows = onnx_rows()
    if markdown is not None:
        write_text(markdown, markdown_text(rows))
        write_note(f"wrote {markdown}")
    elif as_json:
        print_json(
            {
                "onnx": [vars(row) for row in rows],
                "graph": [{"name": op.name, "lowering": lowering(op)} for op in OPS.values()],
            }
        )
    else:
        cells = [[_domain(row), row.name, _range(row), row.how] for row in rows]
        print_table(("domain", "operator", "opsets", "how"), cells, f"{len(rows)} of ONNX")
        own = [[op.name, lowering(op), len(op.examples)] for op in sorted_operators()]
        print_table(
            ("operator", "lowering", "examples"), own, f"{len(own)} of the graph", right="llr"
        )


def onnx_rows() -> list[OnnxRow]:
    """Every ONNX operator that the reader takes, by domain and name."""
    histories = _histories()
    found = dict.fromkeys((key for key in RULES if key[0] != DOMAIN), "rule")
    for key, schemas in histories.items():
        if not schemas[-1].deprecated and has_body(schemas[-1]):
            found.setdefault(key, "body")
    newest = {domain: schemas[-1].since_version for (domain, _), schemas in histories.items()}
    for (domain, _), schemas in histories.items():
        newest[domain] = max(newest[domain], schemas[-1].since_version)
    newest[""] = defs.onnx_opset_version()
    rows = [
        OnnxRow(
            domain, name, _opsets(histories.get((domain, name), []), newest.get(domain, 0)), how
        )
        for (domain, name), how in found.items()
    ]
    return sorted(rows, key=lambda row: (row.domain, row.name.lower()))


def _histories() -> dict[tuple[str, str], list[defs.OpSchema]]:
    """The versions of every operator of ONNX that runs a network, in order."""
    found: dict[tuple[str, str], list[defs.OpSchema]] = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain in ("", "ai.onnx.ml"):
            found.setdefault((schema.domain, schema.name), []).append(schema)
    for schemas in found.values():
        schemas.sort(key=lambda schema: schema.since_version)
    return found


def _opsets(schemas: Sequence[defs.OpSchema], newest: int) -> tuple[int, int] | None:
    """The range of operator sets that have an operator."""
    if not schemas:
        return None
    oldest = OLDEST_OPSET if schemas[0].domain == "" else 1
    last = schemas[-1].since_version - 1 if schemas[-1].deprecated else newest
    return max(oldest, schemas[0].since_version), last


def lowering(operator: Operator) -> str:
    """How an operator becomes code; see ir/op.py."""
    if operator.is_view:
        return "view"
    if operator.element is not None:
        return "element"
    return "statements" if operator.statements is not None else "run body"


def sorted_operators() -> list[Operator]:
    """The operators of the graph by name."""
    return sorted(OPS.values(), key=lambda operator: operator.name)


def _domain(row: OnnxRow) -> str:
    return row.domain or "ai.onnx"


def _range(row: OnnxRow) -> str:
    if row.opsets is None:
        return "all"
    first, last = row.opsets
    return str(first) if first == last else f"{first}–{last}"


def markdown_text(rows: Sequence[OnnxRow]) -> str:
    """docs/operators.md."""
    lines = [
        "# Operators",
        "",
        "Written by `bessemer list-ops --markdown docs/operators.md`; not to be edited.",
        "",
        f"## ONNX: {len(rows)} operators",
        "",
        "*rule*: the reader has a rule of its own. *body*: read by the function body that ONNX",
        "gives for it, as far as the operators in that are supported. Operator sets newer than the",
        "installed onnx package knows are tried, with a warning.",
        "",
        "| domain | operator | operator sets | how |",
        "|---|---|---|---|",
        *(f"| {_domain(row)} | {row.name} | {_range(row)} | {row.how} |" for row in rows),
        "",
        f"## The graph language: {len(OPS)} operators",
        "",
        "*element*: an expression of one element, fused with others. *view*: only another index,",
        "never computed. *statements*: a kernel of its own. *run body*: control flow.",
        "",
        "| operator | lowering |",
        "|---|---|",
        *(f"| {op.name} | {lowering(op)} |" for op in sorted_operators()),
    ]
    return "\n".join(lines) + "\n"
