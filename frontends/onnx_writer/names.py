"""Names in ONNX nodes, also inside control flow: finds those that are used, and renames them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g


def names_read(node: onnx.NodeProto) -> Iterator[str]:
    """Everything that a node reads; what its bodies make themselves is in it too."""
    yield from node.input
    for body in bodies(node):
        for inner in body.node:
            yield from names_read(inner)
        for output in body.output:
            yield output.name


def without_unused(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that the outputs need, in order."""
    needed = set(outputs)
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(names_read(node))
    return kept[::-1]


def rename(nodes: Sequence[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Gives tensors other names, in place."""
    for node in nodes:
        for listed in (node.input, node.output):
            for place, name in enumerate(listed):
                listed[place] = names.get(name, name)
        for body in bodies(node):
            rename(body.node, names)
            for output in body.output:
                output.name = names.get(output.name, output.name)
