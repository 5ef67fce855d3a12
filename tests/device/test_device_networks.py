"""Whole networks on the emulated GPU, under two schedules, against the processor's code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import bessemer
from bessemer.compiler.device_driver import build_for_device
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import Array
from bessemer.compiler.options import Options
from bessemer.compiler.targets.nvptx import SM80, SM90A, DeviceTarget
from bessemer.frontends import zoo
from bessemer.frontends.builder import (
    BatchNorm,
    Conv,
    Dense,
    GlobalAveragePool,
    Input,
    Network,
    Residual,
    Sequential,
    relu,
)
from bessemer.frontends.models_in import as_graph
from bessemer.frontends.train import losses
from bessemer.frontends.train.optimizers import SGD, AdamW, Optimizer
from bessemer.frontends.train.step import Regularization, training_graph
from bessemer.frontends.train.trainer import Trainer
from bessemer.runtime.cuda.model import DeviceModel
from emulator.driver import EmulatedDriver
from emulator.schedule import FOUR_SCHEDULES
from tests.device_runs import assert_close, run_compiled

SLOW = pytest.mark.slow
EACH_TARGET = pytest.mark.parametrize(
    "target", [pytest.param(SM80, id="sm_80"), pytest.param(SM90A, id="sm_90a", marks=SLOW)]
)


def compare(graph: Graph, inputs: Mapping[str, Array], target: DeviceTarget) -> None:
    """The outputs on the device are the processor's, within float32's errors."""
    expected = bessemer.compile(graph, cache=False).run(inputs)
    made = build_for_device(graph, Options(), target)
    arrays = [inputs[value.name] for value in graph.inputs]
    # What a network has beside its kernels, which are tested under all schedules, is their order.
    found = run_compiled(made, arrays, again=False, schedules=FOUR_SCHEDULES[::3])
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, 3e-6)


def numbers(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


@EACH_TARGET
def test_lenet(root: Path, target: DeviceTarget) -> None:
    graph = as_graph(root / "examples/lenet.onnx")
    compare(graph, {graph.inputs[0].name: numbers(1, 1, 28, 28)}, target)


def _residual() -> Network:
    def block(features: int, stride: int) -> Residual:
        body = Sequential(
            Conv(features, 3, stride, padding=1, bias=False), BatchNorm(), relu,
            Conv(features, 3, padding=1, bias=False), BatchNorm(),
        )  # fmt: skip
        return Residual(body, Conv(features, 1, stride) if stride > 1 else None, relu)

    layers = Sequential(
        Conv(4, 3, padding=1), BatchNorm(), relu, block(4, 1), block(8, 2),
        GlobalAveragePool(), Dense(5),
    )  # fmt: skip
    return Network(layers, Input("x", ("batch", 3, 7, 7)))


@EACH_TARGET
def test_a_residual_network(target: DeviceTarget) -> None:
    compare(_residual().graph, {"x": numbers(2, 3, 7, 7)}, target)


@EACH_TARGET
def test_a_transformer_of_two_layers(target: DeviceTarget) -> None:
    network = zoo.causal_transformer(24, positions=8, features=16, heads=2, layers=2)
    tokens = np.random.default_rng(0).integers(0, 24, (2, 5))
    compare(network.graph, {"tokens": tokens}, target)


@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9), AdamW(0.01)], ids=["sgd", "adamw"])
def test_a_training_step_of_a_perceptron(optimizer: Optimizer) -> None:
    network = Network(Sequential(Dense(24), relu, Dense(5)), Input("x", (16, 11)))
    label = [Input("label", (16,), "i64")]
    trainer = Trainer(network, losses.cross_entropy, label, optimizer=optimizer)
    batch = {"x": numbers(16, 11), "label": np.random.default_rng(0).integers(0, 5, 16)}
    step = training_graph(network, losses.cross_entropy, label, optimizer, {}, Regularization())
    compare(step.graph, trainer.step_inputs(batch), SM80)


def test_training_keeps_its_state_on_the_device() -> None:
    """Two steps whose results are written over the state, as the processor's trainer does."""
    network = Network(Sequential(Dense(12), relu, Dense(5)), Input("x", (8, 6)))
    label = [Input("label", (8,), "i64")]
    optimizer = AdamW(0.01)
    trainer = Trainer(network, losses.cross_entropy, label, optimizer=optimizer)
    batch = {"x": numbers(8, 6), "label": np.arange(8) % 5}
    step = training_graph(network, losses.cross_entropy, label, optimizer, {}, Regularization())
    made = build_for_device(step.graph, Options(), SM80)
    model = DeviceModel(made.artifact, made.weights, EmulatedDriver())
    state = {name: model.place(array) for name, array in trainer.state.items()}
    for _ in range(2):
        inputs = trainer.step_inputs(batch) | state
        out = [None, *(state[name] for name in step.updated)]
        loss = model.run({value.name: inputs[value.name] for value in step.graph.inputs}, out)[0]
        expected = trainer.step(batch)["loss"]
        assert abs(float(loss) - expected) < 1e-5
    for name in step.updated:
        assert_close(model.fetch(state[name]), trainer.state[name], 1e-5)
