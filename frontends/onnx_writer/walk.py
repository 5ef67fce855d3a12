"""The walk through a graph: every node by its rule."""

from __future__ import annotations

from bessemer.compiler.errors import UnsupportedError
from bessemer.compiler.ir.graph import Node
from bessemer.frontends.onnx_writer.emitter import Emitter
from bessemer.frontends.onnx_writer.model_parts import unsupported
from bessemer.frontends.onnx_writer.registry import RULES
from bessemer.frontends.onnx_writer.rules_composed import write_composition
from bessemer.frontends.onnx_writer.wider_types import wider_type, write_in_wider_type


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
    composition = emitter.compositions.get(node)
    write = RULES.get(node.operator.name)
    if composition is not None:
        write_composition(emitter, node, composition)
    elif write is None:
        raise unsupported(node, "ONNX has no such operator.")
    elif (dtype := wider_type(node)) is not None:
        write_in_wider_type(emitter, node, write, dtype)
    else:
        write(emitter, node)
    for value in node.outputs:
        if not emitter.is_stored(value):
            continue  # the operator after it has been written with it
        stored = emitter.stored(value)
        emitter.define_by_shape(stored.name, stored.shape)
