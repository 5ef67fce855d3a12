"""The losses of the first steps of training from the same weights and batches, ours and torch's."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from benchmarks.training_networks import TrainingNetwork, loss, torch_loss
from bessemer.compiler.ir.types import Array
from bessemer.frontends.compile import compile
from bessemer.frontends.train.step import RATE, STEP, Regularization, training_graph
from bessemer.frontends.widen import widen


def our_losses(network: TrainingNetwork, count: int, double: bool, threads: int) -> list[float]:
    """The loss of each of our steps; with `double` everything is float64."""
    made = network.network()
    step = training_graph(made, loss, [network.target], network.optimizer, {}, Regularization())
    model = compile(widen(step.graph) if double else step.graph, threads=threads)
    arrays = made.arrays()

    def cast(array: Array) -> Array:
        return array.astype(np.float64) if double and array.dtype == np.float32 else array

    state = {
        name: cast(arrays[name] if name in arrays else np.zeros(type.static_shape, np.float32))
        for name, type in step.state
    }
    rate = np.array(network.optimizer.learning_rate, np.float64)
    found = []
    for number, batch in enumerate(network.batches(count)):
        inputs = {name: cast(array) for name, array in batch.items()}
        inputs |= {RATE: rate, STEP: np.array(number, np.int64)} | state
        first, *after = model.run(inputs)
        found.append(float(first))
        state |= dict(zip(step.updated, after, strict=True))
    return found


def torch_losses(network: TrainingNetwork, count: int, double: bool, threads: int) -> list[float]:
    """The loss of each of torch's steps, eager."""
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads)
    model = network.torch_model(network.network().arrays(), double)
    optimizer = network.torch_optimizer(model)
    found = []
    for batch in network.batches(count):
        x, label = (torch.tensor(array) for array in batch.values())
        optimizer.zero_grad()
        value = torch_loss(model(x.double() if double and x.is_floating_point() else x), label)
        value.backward()
        optimizer.step()
        found.append(float(value))
    return found


def deviation(ours: list[float], theirs: list[float]) -> float:
    """The greatest relative difference."""
    pairs = zip(ours, theirs, strict=True)
    return max(abs(a - b) / abs(b) for a, b in pairs)
