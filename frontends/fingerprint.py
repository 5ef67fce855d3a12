"""A hash of a graph, 32 bytes: it differs if the graphs differ in a node, a name or a weight."""

from __future__ import annotations

import hashlib

import numpy as np

from bessemer.compiler.ir.graph import Graph, Value


def fingerprint(graph: Graph) -> bytes:
    """A SHA-256 of names, types, nodes with their attributes, and the constants' contents.

    It is the same in every process; the names that the user gave to nodes count as well, since
    errors and reports speak them.
    """
    digest = hashlib.sha256()
    for line in _lines(graph, {}):
        digest.update(line if isinstance(line, bytes) else line.encode())
        digest.update(b"\n")
    return digest.digest()


def _lines(graph: Graph, numbers: dict[Value, int]) -> list[str | bytes]:
    """The graph as text, with values as numbers; arrays as their own digests."""
    lines: list[str | bytes] = [f"{graph.name} {graph.symbols} {graph.output_names}"]

    def number(value: Value) -> int:
        return numbers.setdefault(value, len(numbers))

    for value in graph.inputs:
        lines.append(f"{number(value)} input {value.name} {value.type}")
    for value, array in graph.constants.items():
        lines.append(f"{number(value)} constant {value.name} {value.type}")
        lines.append(
            hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).digest()
        )
    for node in graph.nodes:
        made = [f"{number(value)} {value.name} {value.type}" for value in node.outputs]
        read = [number(value) for value in node.inputs]
        attributes = sorted((key, repr(item)) for key, item in node.attributes.items())
        lines.append(f"{made} = {node.operator} {read} {attributes} {node.sources}")
        for region in node.regions:
            lines.extend(_lines(region, numbers))
    lines.append(f"outputs {[number(value) for value in graph.outputs]}")
    lines.append(f"{graph.updates} {graph.finite} {graph.strings}")
    return lines
