"""if and loop. In ONNX their bodies see the graph around them: captures need not be handed in."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.frontends.onnx_writer.emitter import Emitter
from bessemer.frontends.onnx_writer.model_parts import type_info
from bessemer.frontends.onnx_writer.names import without_unused
from bessemer.frontends.onnx_writer.registry import rule
from bessemer.frontends.onnx_writer.storage import plain
from bessemer.frontends.onnx_writer.walk import write_nodes


def write_body(
    outer: Emitter, region: Graph, own: int, captures: Sequence[Value]
) -> onnx.GraphProto:
    """The body of a control-flow node: `own` inputs of its own, then what it sees of `outer`."""
    inner = Emitter(region, outer.parts, outer)
    inputs = []
    for value in region.inputs[:own]:
        name = outer.parts.unique("input")
        inner.put(value, plain(name, value.type.shape))
        inputs.append(type_info(name, value.type))
    for value, captured in zip(region.inputs[own:], captures, strict=True):
        inner.put(value, plain(outer.name_of(captured), value.type.shape))
    write_nodes(inner)
    outputs = []
    for value in region.outputs:
        # Each output must be a name of its own, made in this graph.
        name = inner.one("Identity", inner.name_of(value))
        outputs.append(type_info(name, value.type))
    used = without_unused(inner.nodes, [output.name for output in outputs])
    return helper.make_graph(used, region.name or "body", inputs, outputs)


def _store_all(emitter: Emitter, values: Sequence[Value], names: Sequence[str]) -> None:
    for value, name in zip(values, names, strict=True):
        emitter.store(value, name)


@rule("if")
def write_if(emitter: Emitter, node: Node) -> None:
    condition, *captures = node.inputs
    then, otherwise = (write_body(emitter, region, 0, captures) for region in node.regions)
    names = emitter.emit(
        "If", [emitter.name_of(condition)], len(node.outputs), then_branch=then,
        else_branch=otherwise,
    )  # fmt: skip
    _store_all(emitter, node.outputs, names)


@rule("loop")
def write_loop(emitter: Emitter, node: Node) -> None:
    trips, condition, *rest = node.inputs
    count: int = node.attributes["carried"]
    carried, captures = rest[:count], rest[count:]
    body = write_body(emitter, node.regions[0], 2 + count, captures)
    inputs = [
        emitter.name_of(trips) if node.attributes["has_trips"] else "",
        emitter.name_of(condition) if node.attributes["has_condition"] else "",
        *(emitter.name_of(value) for value in carried),
    ]
    names = emitter.emit("Loop", inputs, len(node.outputs), body=body)
    _store_all(emitter, node.outputs, names)
