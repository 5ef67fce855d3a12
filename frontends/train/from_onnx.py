"""Networks from ONNX files that can be trained: some of their initializers become parameters.

    network = network_from_onnx("resnet50.onnx")
    trainer = Trainer(network, cross_entropy, [Input("label", ("batch",), "i64")])
    ...
    write_onnx(trainer.network.graph, "tuned.onnx")

The graph is taken as it was read, before any pass. Batch normalization is by the file's running
statistics, which stay as they are: an ONNX file has the network as it infers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.frontends.builder.initializers import Given
from bessemer.frontends.builder.layer import Layer
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.builder.tensor import Tensor
from bessemer.frontends.onnx_reader.loader import Source, load_model
from bessemer.frontends.onnx_reader.read import read_onnx

_PLACES = {
    "Add": (0, 1), "BatchNormalization": (1, 2), "Conv": (1, 2), "ConvTranspose": (1, 2),
    "GRU": (1, 2, 3), "Gather": (0,), "Gemm": (0, 1, 2), "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2), "LSTM": (1, 2, 3), "LayerNormalization": (1, 2),
    "MatMul": (0, 1), "Mul": (0, 1), "PRelu": (1,), "RNN": (1, 2, 3),
    "RMSNormalization": (1,), "SimplifiedLayerNormalization": (1,),
}  # fmt: skip
"""Where ONNX's operators take what is learnt."""


@dataclass(frozen=True, eq=False, repr=False)
class ReadGraph(Layer):
    """A graph as a layer: these constants of it are parameters."""

    graph: Graph
    trainable: Mapping[Value, str]

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        first = inputs[0]
        stands = {value: tensor.value for value, tensor in zip(self.graph.inputs, inputs)}
        for value, name in self.trainable.items():
            made = first.trace.parameter(
                name,
                value.type.static_shape,
                Given(self.graph.constants[value]),
                value.type.dtype,
            )
            stands[value] = made
        results = first.builder.include(self.graph, stands)
        return {
            name: first.with_value(value) for name, value in zip(self.graph.output_names, results)
        }


def network_from_onnx(
    source: Source,
    trainable: Sequence[str] | None = None,
    *,
    dims: Mapping[str, int] | None = None,
) -> Network:
    """A network with a parameter for each trainable initializer, under its name in the file.

    `trainable` lists names, or patterns such as "classifier.*", which leave out batch
    normalization's running statistics. Without it, those are taken that products, convolutions,
    recurrences, normalizations, embeddings, and sums and scalings by more than one number read.
    `dims` fixes symbolic dimensions.
    Raises CompileError for a model that cannot be read, and for a name that it does not have.
    """
    loaded = load_model(source)
    graph = read_onnx(loaded.proto if loaded.folder is None else source, dims=dims or {})
    if graph.strings is not None:
        raise CompileError(f"{loaded.label} takes or gives strings, which cannot be learnt from.")
    if not graph.inputs:
        raise CompileError(f"{loaded.label} has no inputs, so there is nothing to learn from.")
    known = {
        value.name: value
        for value in _read_values(graph)
        if value in graph.constants and value.name and value.type.dtype.is_float
    }
    if trainable is None:
        names = [name for name in _usual(loaded.proto.graph) if name in known]
    else:
        names = _matching(trainable, known, _running(loaded.proto.graph), loaded.label)
    if not names:
        raise CompileError(f"{loaded.label} has no initializer that could be trained.")
    layer = ReadGraph(graph, {known[name]: name for name in names})
    inputs = [Input(value.name, value.type.shape, value.type.dtype) for value in graph.inputs]
    return Network(layer, *inputs, name=graph.name)


def _read_values(graph: Graph) -> dict[Value, None]:
    """What nodes read, in order."""
    return {value: None for node in graph.nodes for value in node.inputs}


def _usual(graph: onnx.GraphProto) -> list[str]:
    """The initializers that are learnt as a rule, in the order of their use."""
    counts = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    found: dict[str, None] = {}
    for node in graph.node:
        least = 2 if node.op_type in ("Add", "Mul") else 1
        for place in _PLACES.get(node.op_type, ()):
            if place < len(node.input) and counts.get(node.input[place], 0) >= least:
                found[node.input[place]] = None
    return list(found)


def _running(graph: onnx.GraphProto) -> set[str]:
    """The running statistics of batch normalizations."""
    return {
        name for node in graph.node if node.op_type == "BatchNormalization"
        for name in node.input[3:]
    }  # fmt: skip


def _matching(
    patterns: Sequence[str], known: Mapping[str, Value], running: set[str], label: str
) -> list[str]:
    found: dict[str, None] = {}
    for pattern in patterns:
        names = [
            name for name in known
            if name == pattern or (name not in running and fnmatchcase(name, pattern))
        ]  # fmt: skip
        if not names:
            listing = ", ".join(known) or "none"
            raise CompileError(
                f"{label} has no float initializer {pattern} that could be trained; it has "
                f"{listing}."
            )
        found.update(dict.fromkeys(names))
    return list(found)
