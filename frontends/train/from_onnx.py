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
from bessemer.frontends.builder.initializers import Given
from bessemer.frontends.builder.layer import Layer
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.builder.tensor import Tensor
from bessemer.frontends.onnx_reader.loader import Source, load_model
from bessemer.frontends.onnx_reader.read import read_onnx
from bessemer.frontends.train.captured_weights import region_constants, with_captures
from bessemer.frontends.train.training_modes import split_modes, with_step
from bessemer.frontends.train.usual_parameters import usual_parameters


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
    what is put beside data, inside branches and loops too, and also where they are transposed, cut,
    joined or a function of them is read (usual_parameters.py); but not what nobody learns
    (fixed_constants.py). In a file without any such, the outputs of Constant nodes stand for them.
    `dims` fixes symbolic dimensions.
    Raises CompileError for a model that cannot be read, and for a name that it does not have.
    """
    if isinstance(trainable, str):
        raise CompileError(f"trainable is {trainable!r}; it must be a list, as [{trainable!r}].")
    loaded = load_model(source)
    modes = split_modes(loaded)
    given = loaded.proto if loaded.folder is None else source
    graph = read_onnx(modes.inferring if modes else given, dims=dims, broadcasts=False, learns=True)
    training = (
        read_onnx(modes.training, dims=dims, broadcasts=False, learns=True) if modes else graph
    )
    if graph.strings is not None:
        raise CompileError(f"{loaded.label} takes or gives strings, which cannot be trained.")
    if not graph.inputs:
        raise CompileError(f"{loaded.label} has no inputs, so there is nothing to learn from.")
    known = _constants(graph)
    if trainable is None:
        arrays = {name: graph.constants[value] for name, value in known.items()}
        names = usual_parameters(loaded.proto.graph, arrays)
    else:
        names = _matching(trainable, known, _running(loaded.proto.graph), loaded.label)
    if not names:
        raise CompileError(f"{loaded.label} has no initializer that could be trained.")
    graph, training = with_captures(graph, names), with_captures(training, names)
    layer = ReadGraph(graph, with_step(training), names, modes.moved if modes else ())
    inputs = [Input(value.name, value.type.shape, value.type.dtype) for value in graph.inputs]
    return Network(layer, *inputs, name=graph.name)


def _constants(graph: Graph) -> dict[str, Value]:
    """The named floats that nodes read, in order; of those that regions read, the one outside."""
    named = {value.name: value for value in graph.constants if value.name}
    return {
        value.name: value
        for node in graph.nodes
        for read in (*node.inputs, *(inner for inner, _ in region_constants(node)))
        if (value := named.get(read.name)) and value.type.dtype.is_float
    }


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
