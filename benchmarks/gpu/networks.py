"""Whole networks, and a step of training; the first item of a batch is computed in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.gpu import torch_networks
from benchmarks.gpu.cases import Case, Peer, Sample, numbers
from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import build
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import Array
from bessemer.compiler.jit import load_code
from bessemer.compiler.options import Options, Precision
from bessemer.frontends import zoo
from bessemer.frontends.builder import Dense, Input, Network, Sequential, relu
from bessemer.frontends.float64_reference import widen
from bessemer.frontends.train import losses
from bessemer.frontends.train.optimizers import SGD
from bessemer.frontends.train.step import Regularization, training_graph

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
TOLERANCES = {"float32": 2e-5, "bfloat16": 5e-2}


@dataclass(frozen=True, eq=False)
class Subject:
    """A network with symbolic sizes; `flops` are an item's, `inputs` make those of so many."""

    name: str
    network: Network
    sizes: dict[str, int]
    flops: float
    inputs: Callable[[int], list[Array]]
    peer: Peer | None = None

    def graph(self, batch: int) -> Graph:
        """For so many items."""
        return self.network.with_dims({**self.sizes, "batch": batch}).graph


def network_cases(small: bool) -> list[Case]:
    """LeNet, ResNet-50 and BERT-base at their batches; and a step of an MLP."""
    subjects = _small() if small else _full()
    found = [
        _inference(subject, batch, precision)
        for subject, batches in subjects
        for batch in batches
        for precision in PRECISIONS
    ]
    return [*found, _training((24, 11, 5, 16) if small else (4096, 784, 10, 1024))]


def _small() -> list[tuple[Subject, tuple[int, ...]]]:
    residual = zoo.resnet(18, 5, size=8, width=4, small_images=True)
    encoder = zoo.transformer_encoder(50, positions=8, features=16, heads=2, layers=2)
    return [
        (Subject("lenet", zoo.lenet(), {}, 8.5e5, _images(1, 28)), (1,)),
        (Subject("residual", residual, {}, 0.0, _images(3, 8)), (2,)),
        (Subject("transformer", encoder, {"time": 6}, 0.0, _sentences(50, 6)), (2,)),
    ]


def _full() -> list[tuple[Subject, tuple[int, ...]]]:
    bert = zoo.transformer_encoder()
    return [
        (Subject("lenet", zoo.lenet(), {}, 8.5e5, _images(1, 28)), (1, 256)),
        (
            Subject("resnet50", zoo.resnet(50), {}, 8.18e9, _images(3, 224), torch_networks.resnet),
            (1, 64),
        ),
        (
            Subject(
                "bert-base", bert, {"time": 128}, 2.23e10, _sentences(30522, 128),
                torch_networks.bert,
            ),
            (1, 32),
        ),
    ]  # fmt: skip


def _images(channels: int, side: int) -> Callable[[int], list[Array]]:
    return lambda batch: [numbers((batch, channels, side, side))]


def _sentences(vocabulary: int, time: int) -> Callable[[int], list[Array]]:
    def make(batch: int) -> list[Array]:
        tokens = np.random.default_rng(0).integers(0, vocabulary, (batch, time))
        return [tokens, np.ones((batch, time), np.bool_), np.zeros((batch, time), np.int64)]

    return make


def _inference(subject: Subject, batch: int, precision: Precision) -> Case:
    def reference(arrays: Sequence[Array]) -> list[Sample]:
        (exact,) = in_float64(subject.graph(1), [array[:1] for array in arrays])
        return [Sample(0, slice(0, 1), exact)]

    return Case(
        f"{subject.name} {precision} b{batch}",
        lambda: subject.graph(batch),
        lambda: subject.inputs(batch),
        reference,
        TOLERANCES[precision],
        subject.flops * batch,
        arithmetic=precision,
        precision=precision,
        peer=_of_precision(subject.peer, precision) if subject.peer else None,
    )


def _of_precision(peer: Peer, precision: Precision) -> Peer:
    def make(torch: Any) -> Callable[..., Any]:
        return torch_networks.in_precision(torch, peer(torch), precision == "bfloat16")

    return make


def in_float64(graph: Graph, arrays: Sequence[Array]) -> list[Array]:
    """The outputs by the processor's code for the same graph in float64."""
    made = build(widen(graph), Options())
    model = load_code(made.code, made.weights, machine_of(made.target), 0)
    inputs = [array.astype(np.float64) if array.dtype.kind == "f" else array for array in arrays]
    return list(model.run(inputs))


def _training(sizes: tuple[int, int, int, int]) -> Case:
    """Forward, cross-entropy, backward and SGD with momentum of a perceptron of three layers."""
    batch, features, classes, hidden = sizes
    layers = Sequential(Dense(hidden), relu, Dense(hidden), relu, Dense(classes))
    network = Network(layers, Input("x", (batch, features)))
    label = [Input("label", (batch,), "i64")]
    optimizer = SGD(0.1, momentum=0.9)
    step = training_graph(network, losses.cross_entropy, label, optimizer, {}, Regularization())

    def arrays() -> list[Array]:
        found = []
        for place, value in enumerate(step.graph.inputs):
            shape = tuple(int(str(size)) for size in value.type.shape)
            kind = value.type.dtype
            if kind.is_float and shape:
                found.append(numbers(shape, kind.numpy, place) * kind.numpy.type(0.05))
            elif value.name == "label":
                found.append(np.random.default_rng(0).integers(0, classes, shape))
            else:
                found.append(np.array(0.1 if kind.is_float else 3, kind.numpy))
        return found

    def reference(arrays: Sequence[Array]) -> list[Sample]:
        return [Sample(k, ..., one) for k, one in enumerate(in_float64(step.graph, arrays))]

    flops = 6.0 * batch * (features * hidden + hidden * hidden + hidden * classes)
    name = f"mlp step float32 b{batch} {features}-{hidden}-{hidden}-{classes}"
    return Case(name, lambda: step.graph, arrays, reference, 2e-5, flops)
