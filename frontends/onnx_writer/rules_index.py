"""Gathering and scattering; and bind, which gives dimensions their values."""

from __future__ import annotations

from bessemer.compiler.ir.graph import Node
from bessemer.frontends.onnx_writer.emitter import Emitter
from bessemer.frontends.onnx_writer.registry import rule


def _plain(kind: str, emitter: Emitter, node: Node, **attributes: object) -> None:
    """An operator that wants its inputs as they stand."""
    names = [emitter.name_of(value) for value in node.inputs]
    emitter.store(node.output, emitter.one(kind, *names, **attributes))


@rule("gather")
def write_gather(emitter: Emitter, node: Node) -> None:
    _plain("Gather", emitter, node, axis=node.attributes["axis"])


@rule("gather_elements")
def write_gather_elements(emitter: Emitter, node: Node) -> None:
    _plain("GatherElements", emitter, node, axis=node.attributes["axis"])


@rule("gather_nd")
def write_gather_nd(emitter: Emitter, node: Node) -> None:
    _plain("GatherND", emitter, node, batch_dims=node.attributes["batch_dims"])


@rule("scatter_elements")
def write_scatter_elements(emitter: Emitter, node: Node) -> None:
    reduction = node.attributes.get("reduction", "none")
    _plain("ScatterElements", emitter, node, axis=node.attributes["axis"], reduction=reduction)


@rule("scatter_nd")
def write_scatter_nd(emitter: Emitter, node: Node) -> None:
    _plain("ScatterND", emitter, node, reduction=node.attributes.get("reduction", "none"))


@rule("one_hot")
def write_one_hot(emitter: Emitter, node: Node) -> None:
    indices, off_on = (emitter.name_of(value) for value in node.inputs)
    depth = emitter.size(node.attributes["depth"])
    result = emitter.one("OneHot", indices, depth, off_on, axis=node.attributes["axis"])
    emitter.store(node.output, result)


@rule("bind")
def write_bind(emitter: Emitter, node: Node) -> None:
    vector = emitter.name_of(node.inputs[0])
    for place, name in enumerate(node.attributes["symbols"]):
        if name:
            emitter.define(name, vector, place)
