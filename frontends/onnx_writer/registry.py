"""The table of rules, how each operator is written in ONNX, and the walk through a graph."""

from __future__ import annotations

from collections.abc import Callable

from bessemer.compiler.errors import UnsupportedError
from bessemer.compiler.ir.graph import Node
from bessemer.frontends.onnx_writer.emitter import Emitter
from bessemer.frontends.onnx_writer.model_parts import unsupported

Rule = Callable[[Emitter, Node], None]

RULES: dict[str, Rule] = {}
"""By the operator's name. A rule writes nodes and says where the outputs are (`Emitter.store`)."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enters a rule for operators."""

    def enter(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return enter


def write_nodes(emitter: Emitter) -> None:
    """Writes all nodes of a graph; collects what ONNX has no operator for in `parts.problems`."""
    for node in emitter.graph.nodes:
        if node in emitter.done:
            continue
        try:
            with emitter.path(node):
                _write(emitter, node)
        except UnsupportedError as problem:
            emitter.parts.problems.append(str(problem))
            for value in node.outputs:
                emitter.store(value, "")


def _write(emitter: Emitter, node: Node) -> None:
    write = RULES.get(node.operator.name)
    if write is None:
        raise unsupported(node, "ONNX has no such operator.")
    write(emitter, node)
    for value in node.outputs:
        if not emitter.is_stored(value):
            continue  # the operator after it has been written with it
        stored = emitter.stored(value)
        emitter.define_by_shape(stored.name, stored.shape)
