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
from bessemer.frontends.onnx_reader.registry import RULES

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
    families.check_registered()
    rows = onnx_rows()
    if markdown is not None:
        markdown.write_text(markdown_text(rows))
        write_note(f"wrote {markdown}")
    elif as_json:
        print_json(
            {
                "onnx": [vars(row) for row in rows],
                "graph": [{"name": op.name, "lowering": lowering(op)} for op in OPS.values()],
            }
        )
    else:
        cells = [[row.domain or "ai.onnx", row.name, _range(row), row.how] for row in rows]
        print_table(("domain", "operator", "opsets", "how"), cells, f"{len(rows)} of ONNX")
        own = [[op.name, lowering(op), len(op.examples)] for op in sorted_operators()]
        print_table(
            ("operator", "lowering", "examples"), own, f"{len(own)} of the graph", right="llr"
        )


def onnx_rows() -> list[OnnxRow]:
    """Every ONNX operator that the reader takes, by domain and name."""
    newest = defs.onnx_opset_version()
    known = {
        (schema.domain, schema.name): schema
        for schema in defs.get_all_schemas_with_history()
        if schema.since_version <= newest or schema.domain
    }
    rows = [OnnxRow(d, name, _opsets(d, name), "rule") for d, name in RULES]
    for domain, name in known:
        if (domain, name) in RULES or domain not in ("", "ai.onnx.ml"):
            continue
        if _newest_has_body(domain, name):
            rows.append(OnnxRow(domain, name, _opsets(domain, name), "body"))
    return sorted(rows, key=lambda row: (row.domain, row.name.lower()))


def _newest_has_body(domain: str, name: str) -> bool:
    schemas = _history(domain, name)
    return bool(schemas) and not schemas[-1].deprecated and has_body(schemas[-1])


def _history(domain: str, name: str) -> list[defs.OpSchema]:
    found = [s for s in defs.get_all_schemas_with_history() if (s.domain, s.name) == (domain, name)]
    return sorted(found, key=lambda schema: schema.since_version)


def _opsets(domain: str, name: str) -> tuple[int, int] | None:
    """The range of operator sets that have an operator."""
    schemas = _history(domain, name)
    if not schemas:
        return None
    oldest = OLDEST_OPSET if domain == "" else 1
    last = _newest(domain)
    if schemas[-1].deprecated:
        last = schemas[-1].since_version - 1
    return max(oldest, schemas[0].since_version), last


def _newest(domain: str) -> int:
    if domain == "":
        return defs.onnx_opset_version()
    return max(s.since_version for s in defs.get_all_schemas_with_history() if s.domain == domain)


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
        "gives for it. Newer operator sets than the installed onnx package knows are tried, with a",
        "warning.",
        "",
        "| domain | operator | operator sets | how |",
        "|---|---|---|---|",
        *(
            f"| {row.domain or 'ai.onnx'} | {row.name} | {_range(row)} | {row.how} |"
            for row in rows
        ),
        "",
        f"## The graph language: {len(OPS)} operators",
        "",
        "*element*: an expression of one element, fused with others. *view*: only another index,",
        "never computed. *statements*: a kernel of its own. *run body*: control flow.",
        "",
        "| operator | lowering | tested examples |",
        "|---|---|---|",
        *(f"| {op.name} | {lowering(op)} | {len(op.examples)} |" for op in sorted_operators()),
    ]
    return "\n".join(lines) + "\n"
