"""Writes what compositions.py finds: one operator of ONNX for several of ours."""

from __future__ import annotations

from bessemer.compiler.ir.graph import Node
from bessemer.frontends.onnx_writer.compositions import Composition
from bessemer.frontends.onnx_writer.emitter import Emitter
from bessemer.frontends.onnx_writer.storage import identity, inverse, without


def write_composition(emitter: Emitter, node: Node, found: Composition) -> None:
    """Writes the composition in place of its last node."""
    match found.kind:
        case "ReduceMean":
            _write_mean(emitter, node, found)
        case "Softmax" | "LogSoftmax":
            (name,), order = emitter.frame(found.inputs)
            result = emitter.one(found.kind, name, axis=order[found.axes[0]])
            emitter.store(node.output, result, order)
        case "LayerNormalization":
            names = [emitter.name_of(value) for value in found.inputs]
            emitter.store(node.output, emitter.one(found.kind, *names, **found.attributes))
        case "BatchNormalization":
            _write_batch_norm(emitter, node, found)
        case _:
            (name,), order = emitter.frame(found.inputs)
            result = emitter.one(found.kind, name, **found.attributes)
            emitter.store(node.output, result, order)


def _write_mean(emitter: Emitter, node: Node, found: Composition) -> None:
    (name,), order = emitter.frame(found.inputs)
    places = emitter.integers([order[axis] for axis in found.axes])
    result = emitter.one(found.kind, name, places, **found.attributes)
    kept = found.attributes["keepdims"]
    emitter.store(node.output, result, order if kept else without(order, found.axes))


def _write_batch_norm(emitter: Emitter, node: Node, found: Composition) -> None:
    """ONNX has the channels on axis 1, or in front of nothing else."""
    x, *vectors = found.inputs
    rank, (axis,) = x.type.rank, found.axes
    others = [place for place in identity(rank) if place != axis]
    order = (*others[:1], axis, *others[1:]) if rank > 1 else (0,)
    names = [emitter.ordered(x, order), *(emitter.name_of(vector) for vector in vectors)]
    result = emitter.one(found.kind, *names, **found.attributes)
    emitter.store(node.output, result, inverse(order))
