"""Networks from ONNX files that can be trained: some of their initializers become parameters.

    network = network_from_onnx("resnet50.onnx")
    trainer = Trainer(network, cross_entropy, [Input("label", ("batch",), "i64")])
    ...
    write_onnx(trainer.network.graph, "tuned.onnx")

The graph is taken as it was read, before any pass. Batch normalization is by the file's running
statistics, which stay as they are, if the file has the network as it infers; of one that says that
it is being trained, see training_modes.py. Random numbers are others at each step of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import Array
from bessemer.frontends.builder.initializers import Given
from bessemer.frontends.builder.layer import Layer
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.builder.tensor import Tensor
from bessemer.frontends.onnx_reader.loader import Source, load_model
from bessemer.frontends.onnx_reader.read import read_onnx
from bessemer.frontends.train.fixed_constants import is_fixed
from bessemer.frontends.train.training_modes import split_modes, with_step

_PLACES = {
    "Add": (0, 1), "BatchNormalization": (1, 2), "Conv": (1, 2), "ConvTranspose": (1, 2),
    "Div": (0,), "Einsum": (0, 1, 2),
    "GRU": (1, 2, 3), "Gather": (0,), "Gemm": (0, 1, 2), "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2), "LSTM": (1, 2, 3), "LayerNormalization": (1, 2),
    "MatMul": (0, 1), "Mul": (0, 1), "PRelu": (1,), "RNN": (1, 2, 3),
    "RMSNormalization": (1,), "SimplifiedLayerNormalization": (1,),
}  # fmt: skip
"""Where ONNX's operators take what is learnt."""
_MOVES = frozenset(
    {
        "Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze",
        "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Operators through which exporters pass weights that they do not fold."""


@dataclass(frozen=True, eq=False, repr=False)
class ReadGraph(Layer):
    """A graph as a layer: constants with these names are parameters.

    `training` takes its place in a step of training. It has the step as one more input, and behind
    its outputs the new values of `moved`, which are parameters that gradients do not move.
    """

    graph: Graph
    training: Graph
    trainable: Sequence[str]
    moved: tuple[str, ...] = ()

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        first = inputs[0]
        trace, given, graph = first.trace, [tensor.value for tensor in inputs], self.graph
        if trace.step is not None:
            given.append(trace.step)
            graph = self.training
        stands = dict(zip(graph.inputs, given, strict=True))
        known = _constants(graph)
        for name in (*self.trainable, *self.moved):
            value = known[name]
            stands[value] = trace.parameter(
                name,
                value.type.static_shape,
                Given(graph.constants[value]),
                value.type.dtype,
                trainable=name in self.trainable,
            )
        results = first.builder.include(graph, stands)
        names = self.graph.output_names
        if trace.step is not None:
            for name, value in zip(self.moved, results[len(names) :], strict=True):
                trace.update(name, value)
        return {name: first.with_value(value) for name, value in zip(names, results)}


def network_from_onnx(
    source: Source,
    trainable: Sequence[str] | None = None,
    *,
    dims: Mapping[str, int] | None = None,
) -> Network:
    """A network with a parameter for each trainable initializer, under its name in the file.

    `trainable` lists names, or patterns such as "classifier.*", which leave out batch
    normalization's running statistics. Without it, those are taken that products, convolutions,
    recurrences, normalizations, embeddings, and sums and scalings by more than one number read, and
    what is put beside data, also where they are transposed, cut or joined on the way; but not sums
    with and scalings by what nobody learns (fixed_constants.py).
    `dims` fixes symbolic dimensions.
    Raises CompileError for a model that cannot be read, and for a name that it does not have.
    """
    loaded = load_model(source)
    modes = split_modes(loaded)
    given = loaded.proto if loaded.folder is None else source
    graph = read_onnx(modes.inferring if modes else given, dims=dims, stretches=False)
    training = read_onnx(modes.training, dims=dims, stretches=False) if modes else graph
    if graph.strings is not None:
        raise CompileError(f"{loaded.label} takes or gives strings, which cannot be learnt from.")
    if not graph.inputs:
        raise CompileError(f"{loaded.label} has no inputs, so there is nothing to learn from.")
    known = _constants(graph)
    if trainable is None:
        names = _usual(loaded.proto.graph, {n: graph.constants[v] for n, v in known.items()})
    else:
        names = _matching(trainable, known, _running(loaded.proto.graph), loaded.label)
    if not names:
        raise CompileError(f"{loaded.label} has no initializer that could be trained.")
    layer = ReadGraph(graph, with_step(training), names, modes.moved if modes else ())
    inputs = [Input(value.name, value.type.shape, value.type.dtype) for value in graph.inputs]
    return Network(layer, *inputs, name=graph.name)


def _constants(graph: Graph) -> dict[str, Value]:
    """The named floats that nodes read, in order."""
    return {
        value.name: value
        for node in graph.nodes
        for value in node.inputs
        if value in graph.constants and value.name and value.type.dtype.is_float
    }


def _usual(graph: onnx.GraphProto, constants: Mapping[str, Array]) -> list[str]:
    """Those initializers that are learnt as a rule, in the order of their use."""
    makers = {name: node for node in graph.node for name in node.output}
    given = {tensor.name for tensor in graph.initializer}
    known = {name: array for name, array in constants.items() if name in given}
    found: dict[str, None] = {}
    for node in graph.node:
        is_pointwise = node.op_type in ("Add", "Div", "Mul")
        for place in _PLACES.get(node.op_type, ()):
            names = _moved(node.input[place : place + 1], makers)
            names = [name for name in names if name in known]
            if is_pointwise:
                names = [n for n in names if known[n].size > 1 and not is_fixed(known[n])]
            found |= dict.fromkeys(names)
        if node.op_type == "Concat":
            names = _moved(node.input, makers)
            if any(name not in given for name in names):
                # Beside data, what is not zeros that pad is a token of its own, say of a class.
                names = [n for n in names if n in known and known[n].any()]
                found |= {n: None for n in names if not is_fixed(known[n])}
    return list(found)


def _moved(names: Sequence[str], makers: Mapping[str, onnx.NodeProto]) -> list[str]:
    """The values whose elements these consist of, before they were moved."""
    found: list[str] = []
    waiting = list(reversed(names))
    while waiting:
        name = waiting.pop()
        node = makers.get(name)
        if node is not None and node.op_type in _MOVES:
            is_joined = node.op_type == "Concat"
            waiting += reversed(node.input if is_joined else node.input[:1])
        else:
            found.append(name)
    return found


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
