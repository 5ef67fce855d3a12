"""The training loop around a compiled step.

trainer = Trainer(network, cross_entropy, targets=[Input("label", ("batch",), "i64")],
                  optimizer=Adam(), metrics={"accuracy": accuracy})
history = trainer.fit({"x": images, "label": labels}, epochs=10, batch=64)
model = bessemer.compile(trainer.network)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.compile import compile
from bessemer.frontends.train.batches import Augmentation, Batches, split_rows
from bessemer.frontends.train.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from bessemer.frontends.train.history import History
from bessemer.frontends.train.optimizers import SGD, Optimizer
from bessemer.frontends.train.schedules import Schedule, constant
from bessemer.frontends.train.statistics import Statistics, read_statistics
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
from bessemer.runtime.errors import RunError
from bessemer.runtime.model import CompiledModel

Data = Mapping[str, Array]
_BEST = "best: "


class TrainingError(RunError):
    """Training cannot go on: the loss is no number any more, say."""


@dataclass(frozen=True, eq=False)
class Best:
    """The lowest loss so far, the epochs since, and the state at that time."""

    loss: float
    since: int
    state: Mapping[str, Array]

    def after(self, loss: float, state: Mapping[str, Array]) -> Best:
        """What is best after one more epoch."""
        if loss < self.loss:
            return Best(loss, 0, {name: array.copy() for name, array in state.items()})
        return Best(self.loss, self.since + 1, self.state)


class Trainer:
    """A network, what it is to learn, and how far it has come.

    `loss` and the metrics are functions of the network's outputs and then the `targets`, on
    tensors; `loss` may also be several, see Loss in step.py. `schedule` gives the factor of the
    optimizer's learning rate at every step. The same `seed` gives the same bits, at any number of
    threads. With `statistics`, every step leaves its own in the attribute of that name.
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
        statistics: bool = False,
    ) -> None:
        self.optimizer = optimizer or SGD()
        self.schedule = schedule or constant()
        self.seed = seed
        self.steps = 0
        self._start = network
        self._threads = threads
        self.names = [given.name for given in (*network.inputs, *targets)]
        chosen = metrics or {}
        self._training = training_graph(
            network,
            loss,
            targets,
            self.optimizer,
            chosen,
            regularization or Regularization(),
            statistics,
        )
        self._evaluation = evaluation_graph(network, loss, targets, chosen)
        self.statistics: Statistics | None = None
        self._prediction: StepGraph | None = None
        self._models: dict[str, CompiledModel] = {}
        self.history = History()
        self._best = Best(math.inf, 0, {})
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
        own: list[Array | None] = [None] * count
        rest: list[Array | None] = [None, None] if given.moved else []
        out = [*own, *self._other.values(), *rest]
        found = self._model("training", given).run(inputs, out=out)
        numbers = _numbers(given, found)
        if not math.isfinite(numbers["loss"]):
            raise TrainingError(
                f"The loss of step {self.steps} is {numbers['loss']}. A smaller learning rate, or "
                f"clipping of gradients, may help; the state is that before the step."
            )
        if given.moved:
            self.statistics = read_statistics(given.moved, given.layers, *found[-2:])
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
        checkpoint: str | Path | None = None,
        every: int = 0,
        report: Callable[[int, Mapping[str, float]], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> History:
        """Goes through the data `epochs` times in all, in a new order each time.

        `validation` is data, or the share of `data` to keep for it. With `patience`, training stops
        when the validation loss has not fallen for so many epochs, and the best state comes back.
        `checkpoint` is a file for the state after every epoch, after every so many steps (`every`)
        and on an interruption; if it is there, training goes on from it, to the same bits.
        `report` is told every epoch's numbers; `progress`, after every step, how many batches were
        done since the first epoch, and how many an epoch has.
        """
        if isinstance(validation, float):
            data, validation = split_rows(data, validation, self.seed)
        file = Path(checkpoint) if checkpoint else None
        if file and file.exists():
            self.restore(file)
        batches = Batches(data, self.names, batch, self.seed, augmentation)
        try:
            while self.history.epoch < epochs and not (patience and self._best.since >= patience):
                self._epoch(batches, file, every, progress)
                row = self._finish_epoch(validation, batch)
                if patience:
                    self._best = self._best.after(
                        row.get("validation loss", row["loss"]), self.state
                    )
                if report:
                    report(self.history.epoch - 1, row)
                if file:
                    self.save(file)
        except KeyboardInterrupt:
            if file:
                self.save(file)
            raise
        if patience and self._best.since:
            self.state = {name: array.copy() for name, array in self._best.state.items()}
        return self.history

    def _epoch(
        self,
        batches: Batches,
        file: Path | None,
        every: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """What is left of an epoch."""
        history = self.history
        for part in batches.epoch(history.epoch, history.place):
            numbers = self.step(part)
            history.add_step(len(next(iter(part.values()))), numbers)
            if progress:
                progress(history.epoch * batches.count + history.place, batches.count)
            if file and every and self.steps % every == 0:
                self.save(file)

    def _finish_epoch(self, validation: Data | None, batch: int) -> dict[str, float]:
        row = _averages(self.history.rows)
        if validation is not None:
            checked = self.evaluate(validation, batch=batch)
            row |= {f"validation {name}": number for name, number in checked.items()}
        self.history.add_epoch(row)
        return row

    def save(self, path: str | Path) -> None:
        """Writes a checkpoint, whole or not at all."""
        best = {"loss": self._best.loss, "since": self._best.since}
        facts = {"steps": self.steps, "seed": self.seed, "best": best}
        kept = {f"{_BEST}{name}": array for name, array in self._best.state.items()}
        facts["history"] = self.history.as_json()
        write_checkpoint(Path(path), Checkpoint(self.state | kept, facts))

    def restore(self, path: str | Path) -> None:
        """Goes back to a checkpoint. Raises CompileError for one of another network or optimizer,
        with nothing changed."""
        found = read_checkpoint(Path(path))
        for name, type in self._training.state:
            array = found.arrays.get(name)
            if array is None or array.shape != type.static_shape or array.dtype != type.dtype.numpy:
                what = "is missing" if array is None else f"is {array.dtype}{list(array.shape)}"
                raise CompileError(
                    f"{path} is of another network or optimizer: {name} {what}, not {type}."
                )
        self.state = {name: found.arrays[name].copy() for name, _ in self._training.state}
        self.steps, self.seed = int(found.facts["steps"]), int(found.facts["seed"])
        self.history = History.from_json(found.facts["history"])
        best = {
            name.removeprefix(_BEST): array
            for name, array in found.arrays.items()
            if name.startswith(_BEST)
        }
        self._best = Best(
            float(found.facts["best"]["loss"]), int(found.facts["best"]["since"]), best
        )

    def evaluate(self, data: Data, *, batch: int = 256) -> dict[str, float]:
        """Loss and metrics over data, nothing learned."""
        batches = Batches(data, self.names, batch, None, None)
        rows = []
        for part in batches.epoch(0):
            found = self._run_evaluation(part)
            rows.append((len(next(iter(part.values()))), _numbers(self._evaluation, found)))
        return _averages(rows)

    def predict(self, data: Data, *, batch: int = 256) -> list[Array]:
        """The network's outputs for its inputs, as it is now; no targets are wanted."""
        if self._prediction is None:
            self._prediction = evaluation_graph(self._start, lambda y, *_: y.sum(), [], {})
        given = self._prediction
        state = {name: self.state[name] for name, _ in given.state}
        model = self._model("prediction", given)
        parts = [
            model.run(self._inputs(given, part) | state)[1:]
            for part in Batches(data, given.batch, batch, None, None).epoch(0)
        ]
        return [np.concatenate(pieces) for pieces in zip(*parts)]

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
