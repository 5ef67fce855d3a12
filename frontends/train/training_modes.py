"""Converts networks of ONNX files exported for training to inference mode.

torch.onnx.export(..., training=TrainingMode.TRAINING) writes batch normalization that uses the
batch's statistics and updates the running ones, and dropout that is active. A step of training
needs that. Evaluation, prediction and the file that is written after training do not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx

from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import TensorType, i64
from bessemer.frontends.onnx_reader.loader import LoadedModel


@dataclass(frozen=True)
class Modes:
    """A model as it infers and as it is trained; then its last outputs are the `moved` running
    statistics, by their names."""

    inferring: onnx.ModelProto
    training: onnx.ModelProto
    moved: tuple[str, ...]


def split_modes(loaded: LoadedModel) -> Modes | None:
    """Both, if the model says that it is being trained."""
    if not any(_norm_trains(node) or _drops(node) for node in loaded.proto.graph.node):
        return None
    inferring, training = onnx.ModelProto(), onnx.ModelProto()
    training.CopyFrom(loaded.proto)
    if loaded.folder is not None:
        onnx.load_external_data_for_model(training, str(loaded.folder))
    inferring.CopyFrom(training)
    moved = _give_statistics(training.graph)
    for node in inferring.graph.node:
        if _norm_trains(node):
            kept = [a for a in node.attribute if a.name != "training_mode"]
            del node.attribute[:], node.output[1:]
            node.attribute.extend(kept)
        elif _drops(node):
            del node.input[2:]
    return Modes(inferring, training, tuple(moved))


def _give_statistics(graph: onnx.GraphProto) -> list[str]:
    """Makes the moved running statistics outputs; the names of those before."""
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    moved: list[str] = []
    for node in filter(_norm_trains, graph.node):
        while len(node.output) < 3:
            node.output.append("")
        for place, name in ((1, node.input[3]), (2, node.input[4])):
            node.output[place] = node.output[place] or f"{name}, moved"
            output = onnx.ValueInfoProto(name=node.output[place])
            output.type.tensor_type.elem_type = types.get(name, onnx.TensorProto.FLOAT)
            graph.output.append(output)
            moved.append(name)
    return moved


def _norm_trains(node: onnx.NodeProto) -> bool:
    return node.op_type == "BatchNormalization" and any(
        attribute.name == "training_mode" and attribute.i for attribute in node.attribute
    )


def _drops(node: onnx.NodeProto) -> bool:
    return node.op_type == "Dropout" and len(node.input) > 2 and bool(node.input[2])


def with_step(graph: Graph) -> Graph:
    """The graph with the number of the step as a last input, on which random numbers depend."""
    step = Value(TensorType(i64, ()), "step")
    nodes = tuple(
        replace(node, inputs=(step,)) if node.operator.is_random and not node.inputs else node
        for node in graph.nodes
    )
    return replace(graph, inputs=(*graph.inputs, step), nodes=nodes)
