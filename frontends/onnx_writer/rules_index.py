"""Gathering and scattering; and bind, which gives dimensions their values."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.types import i64
from bessemer.frontends.onnx_writer.emitter import Emitter
from bessemer.frontends.onnx_writer.model_parts import unsupported
from bessemer.frontends.onnx_writer.registry import rule


def _plain(kind: str, emitter: Emitter, node: Node, **attributes: object) -> None:
    """An operator that wants its inputs as they stand."""
    names = [emitter.name_of(value) for value in node.inputs]
    emitter.store(node.output, emitter.one(kind, *names, **attributes))


def _as_i64(emitter: Emitter, indices: Value) -> str:
    """Indices of the only type that some operators take."""
    name = emitter.name_of(indices)
    return name if indices.type.dtype == i64 else emitter.cast(name, i64)


@rule("gather")
def write_gather(emitter: Emitter, node: Node) -> None:
    _plain("Gather", emitter, node, axis=node.attributes["axis"])


@rule("windows")
def write_windows(emitter: Emitter, node: Node) -> None:
    """A gather; of sizes that are numbers."""
    given = node.attributes
    if not node.output.type.is_static or not isinstance(given["start"], int):
        raise unsupported(node, "ONNX wants windows of known sizes")
    extent = node.inputs[0].type.shape[given["axis"]]
    places = np.arange(extent)
    shown = {**given, "axis": 0}
    array = node.operator.compute((places,), shown)[0]
    name = emitter.one(
        "Gather",
        emitter.name_of(node.inputs[0]),
        emitter.constant(np.asarray(array, np.int64)),
        axis=given["axis"],
    )
    emitter.store(node.output, name)


@rule("gather_elements")
def write_gather_elements(emitter: Emitter, node: Node) -> None:
    _plain("GatherElements", emitter, node, axis=node.attributes["axis"])


@rule("gather_nd")
def write_gather_nd(emitter: Emitter, node: Node) -> None:
    x, indices = node.inputs
    places = _as_i64(emitter, indices)
    batch = node.attributes["batch_dims"]
    found = emitter.one("GatherND", emitter.name_of(x), places, batch_dims=batch)
    emitter.store(node.output, found)


@rule("scatter_elements")
def write_scatter_elements(emitter: Emitter, node: Node) -> None:
    reduction = node.attributes.get("reduction", "none")
    _plain("ScatterElements", emitter, node, axis=node.attributes["axis"], reduction=reduction)


@rule("scatter_nd")
def write_scatter_nd(emitter: Emitter, node: Node) -> None:
    x, indices, updates = node.inputs
    names = emitter.name_of(x), _as_i64(emitter, indices), emitter.name_of(updates)
    reduction = node.attributes.get("reduction", "none")
    emitter.store(node.output, emitter.one("ScatterND", *names, reduction=reduction))


@rule("one_hot")
def write_one_hot(emitter: Emitter, node: Node) -> None:
    indices, off_on = node.inputs
    places = _as_i64(emitter, indices)
    operands = emitter.size(node.attributes["depth"]), emitter.name_of(off_on)
    if indices.type.rank > 0:
        result = emitter.one("OneHot", places, *operands, axis=node.attributes["axis"])
    else:
        result = emitter.one("OneHot", emitter.reshaped(places, (1,)), *operands, axis=1)
        result = emitter.reshaped(result, node.output.type.shape)
    emitter.store(node.output, result)


@rule("bind")
def write_bind(emitter: Emitter, node: Node) -> None:
    vector = emitter.name_of(node.inputs[0])
    for place, name in enumerate(node.attributes["symbols"]):
        if name:
            emitter.define(name, vector, place)
