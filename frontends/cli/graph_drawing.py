"""A graph in the language of Graphviz: `bessemer inspect model.onnx --emit dot | dot -Tsvg`."""

from __future__ import annotations

import json
from collections.abc import Iterator

from bessemer.compiler.ir.graph import Graph, Node, Value

_COLORS = {
    "conv": "#d6e4f5", "matmul": "#d6e4f5", "conv_transpose": "#d6e4f5",
    "if": "#f5e3d0", "loop": "#f5e3d0",
}  # fmt: skip


def dot_text(graph: Graph) -> str:
    """Nodes as boxes with the user's names for them, values as edges with their types.

    Constants are left out: they would hide the network.
    """
    lines = [f"digraph {_quoted(graph.name)} {{", "  node [shape=box, fontname=sans];"]
    lines += _inside(graph, "n", {})
    return "\n".join([*lines, "}"]) + "\n"


def _inside(graph: Graph, prefix: str, outer: dict[Value, str]) -> Iterator[str]:
    names = dict(outer)
    for number, value in enumerate(graph.inputs):
        names[value] = f"{prefix}i{number}"
        label = f"{value.name}\n{value.type}".strip()
        yield f"  {names[value]} [label={_quoted(label)}, shape=ellipse];"
    for number, node in enumerate(graph.nodes):
        own = f"{prefix}{number}"
        yield f"  {own} [label={_quoted(_label(node))}, {_style(node)}];"
        for value in node.inputs:
            if value in names:
                yield f"  {names[value]} -> {own} [label={_quoted(str(value.type))}];"
        names |= dict.fromkeys(node.outputs, own)
        for place, region in enumerate(node.regions):
            cluster = f"{own}r{place}_"
            yield f"  subgraph cluster_{cluster} {{ label={_quoted(f'{node.operator} {place}')};"
            yield from _inside(region, cluster, {})
            yield "  }"
    for number, (value, name) in enumerate(zip(graph.outputs, graph.output_names)):
        yield f"  {prefix}o{number} [label={_quoted(name)}, shape=ellipse];"
        if value in names:
            yield f"  {names[value]} -> {prefix}o{number} [label={_quoted(str(value.type))}];"


def _label(node: Node) -> str:
    return "\n".join([node.operator.name, *node.sources[:3]])


def _style(node: Node) -> str:
    color = _COLORS.get(node.operator.name, "#ffffff")
    return f'style=filled, fillcolor="{color}"'


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
