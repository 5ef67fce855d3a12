"""The training loop around a compiled step.

trainer = Trainer(network, cross_entropy, targets=[Input("label", ("batch",), "i64")],
                  optimizer=Adam(), metrics={"accuracy": accuracy})
history = trainer.fit({"x": images, "label": labels}, epochs=10, batch=64)
model = bessemer.compile(trainer.network)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.compile import compile
from bessemer.frontends.train.batches import Augmentation, Batches, split_rows
from bessemer.frontends.train.optimizers import SGD, Optimizer
from bessemer.frontends.train.schedules import Schedule, constant
from bessemer.frontends.train.step import (
    RATE,
    STEP,
    Loss,
    Metrics,
    Regularization,
    StepGraph,
    evaluation_graph,
    training_graph,
)
from bessemer.runtime.model import CompiledModel

Data = Mapping[str, Array]


class TrainingError(Exception):
    """Training cannot go on: the loss is no number any more, say."""


@dataclass
class History:
    """What every epoch came to: a list of numbers by name, "loss", "validation loss", metrics."""

    epochs: dict[str, list[float]] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    """The loss of every step."""

    def add(self, row: Mapping[str, float]) -> None:
        """One more epoch."""
        for name, number in row.items():
            self.epochs.setdefault(name, []).append(number)


class Trainer:
    """A network, what it is to learn, and how far it has come.

    `loss` and the metrics are functions of the network's outputs and then the `targets`, on
    tensors. `schedule` gives the factor of the optimizer's learning rate at every step. The same
    `seed` gives the same bits, at any number of threads.
    Raises CompileError where shapes do not fit, with the layer's name.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        targets: Sequence[Input],
        *,
        optimizer: Optimizer | None = None,
        metrics: Metrics | None = None,
        regularization: Regularization | None = None,
        schedule: Schedule | None = None,
        threads: int | None = None,
        seed: int = 0,
    ) -> None:
        self.optimizer = optimizer or SGD()
        self.schedule = schedule or constant()
        self.seed = seed
        self.steps = 0
        self._start = network
        self._threads = threads
        self._names = [given.name for given in (*network.inputs, *targets)]
        chosen = metrics or {}
        self._training = training_graph(
            network, loss, targets, self.optimizer, chosen, regularization or Regularization()
        )
        self._evaluation = evaluation_graph(network, loss, targets, chosen)
        self._models: dict[str, CompiledModel] = {}
        arrays = network.arrays()
        self.state = {
            name: arrays[name].copy()
            if name in arrays
            else np.zeros(type.static_shape, type.dtype.numpy)
            for name, type in self._training.state
        }
        self._other = {name: np.empty_like(array) for name, array in self.state.items()}

    @property
    def network(self) -> Network:
        """The network as it is now."""
        return self._start.with_arrays(
            {name: self.state[name].copy() for name in self._training.parameters}
        )

    def _model(self, kind: str, graph: StepGraph) -> CompiledModel:
        if kind not in self._models:
            self._models[kind] = compile(graph.graph, threads=self._threads)
        return self._models[kind]

    def step(self, batch: Data) -> dict[str, float]:
        """Learns from one batch; its loss and metrics before the step.

        Raises TrainingError, with the state as it was before, where the loss is not finite.
        """
        given = self._training
        rate = self.optimizer.learning_rate * self.schedule(self.steps)
        inputs = self._inputs(given, batch)
        inputs[RATE] = np.array(rate, np.float64)
        inputs[STEP] = np.array(self.steps, np.int64)
        inputs |= self.state
        count = 1 + len(given.metrics)
        out: list[Array | None] = [None] * count
        found = self._model("training", given).run(inputs, out=[*out, *self._other.values()])
        numbers = _numbers(given, found)
        if not math.isfinite(numbers["loss"]):
            raise TrainingError(
                f"The loss of step {self.steps} is {numbers['loss']}. A smaller learning rate, or "
                f"clipping of gradients, may help; the state is that before the step."
            )
        self.state, self._other = self._other, self.state
        self.steps += 1
        return numbers

    def _inputs(self, given: StepGraph, batch: Data) -> dict[str, Array]:
        missing = [name for name in given.batch if name not in batch]
        if missing:
            raise CompileError(
                f"The data has no {', '.join(missing)}; training wants {', '.join(given.batch)}."
            )
        return {name: batch[name] for name in given.batch}

    def fit(
        self,
        data: Data,
        *,
        epochs: int = 1,
        batch: int = 32,
        validation: Data | float | None = None,
        augmentation: Augmentation | None = None,
        patience: int = 0,
        report: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> History:
        """Goes through the data `epochs` times, in a new order each time.

        `validation` is data, or the share of `data` to keep for it. With `patience`, training stops
        when the validation loss has not fallen for so many epochs, and the best state comes back.
        `report` is told every epoch's numbers.
        """
        if isinstance(validation, float):
            data, validation = split_rows(data, validation, self.seed)
        history = History()
        best, since, kept = math.inf, 0, self.state
        batches = Batches(data, self._names, batch, self.seed, augmentation)
        for epoch in range(epochs):
            rows = [self._counted(history, part) for part in batches.epoch(self.steps)]
            row = _averages(rows)
            if validation is not None:
                checked = self.evaluate(validation, batch=batch)
                row |= {f"validation {name}": number for name, number in checked.items()}
            history.add(row)
            if report:
                report(epoch, row)
            watched = row.get("validation loss", row["loss"])
            if watched < best:
                best, since = watched, 0
                kept = {name: array.copy() for name, array in self.state.items()}
            else:
                since += 1
            if patience and since >= patience:
                self.state = kept
                break
        return history

    def _counted(self, history: History, part: Data) -> tuple[int, dict[str, float]]:
        numbers = self.step(part)
        history.losses.append(numbers["loss"])
        return len(next(iter(part.values()))), numbers

    def evaluate(self, data: Data, *, batch: int = 256) -> dict[str, float]:
        """Loss and metrics over data, nothing learned."""
        batches = Batches(data, self._names, batch, None, None)
        rows = []
        for part in batches.epoch(0):
            found = self._run_evaluation(part)
            rows.append((len(next(iter(part.values()))), _numbers(self._evaluation, found)))
        return _averages(rows)

    def _run_evaluation(self, part: Data) -> list[Array]:
        given = self._evaluation
        inputs = self._inputs(given, part) | {name: self.state[name] for name, _ in given.state}
        return self._model("evaluation", given).run(inputs)


def _numbers(given: StepGraph, found: Sequence[Array]) -> dict[str, float]:
    names = ("loss", *given.metrics)
    return {name: float(np.reshape(array, -1)[0]) for name, array in zip(names, found)}


def _averages(rows: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """Means over all samples."""
    total = sum(count for count, _ in rows)
    names = rows[0][1] if rows else ()
    return {name: sum(count * row[name] for count, row in rows) / total for name in names}
