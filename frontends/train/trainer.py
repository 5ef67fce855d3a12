"""The training loop around a compiled step.

trainer = Trainer(network, cross_entropy, targets=[Input("label", ("batch",), "i64")],
                  optimizer=Adam(), metrics={"accuracy": accuracy})
history = trainer.fit({"x": images, "label": labels}, epochs=10, batch=64)
model = bessemer.compile(trainer.network)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from bessemer.compiler.codegen.artifact.link import save
from bessemer.compiler.ir.types import Array
from bessemer.compiler.options import Options, Precision, dump_folder
from bessemer.compiler.training_library import build_library
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.byte_count import byte_count
from bessemer.frontends.compile import compile
from bessemer.frontends.given_sizes import given_sizes
from bessemer.frontends.settings import require_count
from bessemer.frontends.train.averages import averaged_state, averages_in, first_averages
from bessemer.frontends.train.batches import Augmentation, Batches, split_rows
from bessemer.frontends.train.check_arguments import check_arguments
from bessemer.frontends.train.check_data import (
    check_arrays,
    check_batch,
    check_batches,
    check_data,
    check_names,
    check_place,
)
from bessemer.frontends.train.checkpoint import (
    Checkpoint,
    check_writable,
    read_checkpoint,
    state_in,
    write_checkpoint,
)
from bessemer.frontends.train.course import Course, Progress, Report
from bessemer.frontends.train.export import Training, training_graphs
from bessemer.frontends.train.failure import TrainingError as TrainingError
from bessemer.frontends.train.failure import check_state, explained, loss_error
from bessemer.frontends.train.history import Best, History, averages, facts_of
from bessemer.frontends.train.interruption import interrupts_between_steps
from bessemer.frontends.train.memory_plan import MemoryPlan, memory_plan, sizes_of
from bessemer.frontends.train.normalization import Normalization
from bessemer.frontends.train.optimizers import SGD
from bessemer.frontends.train.parameter_groups import Optimizers, parameter_groups
from bessemer.frontends.train.schedules import Schedule, constant, factor_at
from bessemer.frontends.train.state_memory import side_by_side
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
from bessemer.runtime.artifact import Placement, Status
from bessemer.runtime.errors import ExecutionError
from bessemer.runtime.model import CompiledModel

Data = Mapping[str, Array]


class Trainer:
    """Trains a network: holds its parameters and the optimizer's state, and runs compiled steps.

    `loss` and the metrics are functions of tensors: of the network's outputs, followed by the
    `targets`. `loss` may also be several, see Loss in step.py. `schedule` gives the factor of the
    optimizer's learning rate at every step. The same `seed` gives the same bits, at any number of
    threads. With `statistics`, the attribute of that name has those of the last step. `memory` is
    the most bytes (or "512M") that a step may use besides its batch and the state, for batches of
    the size of the first. The `precision` "bfloat16" rounds the operands of products and
    convolutions (see `compile`); state and sums stay float32. `normalization` becomes a part of the
    network; `fit` computes its statistics from the training rows before the first step. The
    gradients of `accumulation` batches make one step of the optimizer. With `average`, that share
    of the parameters' running averages is kept from step to step; evaluation and predictions are
    those of the averages.
    Raises CompileError where shapes do not fit, with the layer's name.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        targets: Sequence[Input],
        *,
        optimizer: Optimizers | None = None,
        metrics: Metrics | None = None,
        regularization: Regularization | None = None,
        schedule: Schedule | None = None,
        threads: int | None = None,
        seed: int = 0,
        statistics: bool = False,
        memory: int | str = 0,
        precision: Precision = "float32",
        normalization: Normalization | None = None,
        accumulation: int = 1,
        average: float = 0.0,
    ) -> None:
        check_arguments(network, targets, metrics, regularization, schedule, normalization)
        self.optimizer = parameter_groups(SGD() if optimizer is None else optimizer)
        self.schedule = schedule or constant()
        require_count("Trainer", "seed", seed, 0)
        require_count("Trainer", "accumulation", accumulation, 1)
        self.average = average
        self.seed = int(seed)
        self.steps = 0
        network = normalization.around(network) if normalization else network
        self._start, self._normalization = network, normalization
        self._threads = threads
        self.memory = byte_count(memory) if memory else 0
        self.precision = Options(precision=precision).precision  # checks it
        self.names = [given.name for given in (*network.inputs, *targets)]
        chosen = metrics or {}
        self._training = training_graph(
            network,
            loss,
            targets,
            self.optimizer.by_pattern,
            chosen,
            regularization or Regularization(),
            statistics,
            accumulation,
            average,
        )
        self._evaluation = evaluation_graph(network, loss, targets, chosen)
        self.statistics: Statistics | None = None
        self._prediction: StepGraph | None = None
        self._models: dict[str, CompiledModel] = {}
        self.history = History()
        self._best = Best(math.inf, 0, {})
        self._is_torn = False
        self.state = self.first_state()

    def first_state(self) -> dict[str, Array]:
        """The state before the first step."""
        arrays = first_averages(self._start.arrays()) | self._start.arrays()
        return side_by_side(
            {
                name: arrays.get(name, np.zeros(type.static_shape, type.dtype.numpy))
                for name, type in self._training.state
            }
        )

    @property
    def network(self) -> Network:
        """The network as it is now."""
        return self._start.with_arrays(
            {name: self.state[name].copy() for name in self._training.parameters}
        )

    @property
    def averaged(self) -> Network:
        """The network with its parameters' averages. Raises CompileError without `average`."""
        return self.network.with_arrays(averages_in(self.state, self._training.parameters))

    def _model(self, kind: str, graph: StepGraph, batch: Data | None = None) -> CompiledModel:
        if kind not in self._models:
            memory = self.memory if self.memory and batch is not None else None
            sizes = sizes_of(graph.graph, batch) if memory and batch is not None else None
            self._models[kind] = compile(
                graph.graph,
                threads=self._threads,
                memory=memory,
                sizes=sizes,
                precision=self.precision,
            )
        return self._models[kind]

    def plan(self, batch: Data) -> MemoryPlan:
        """What a step keeps in memory for a batch, and what it computes again."""
        graph = self._training.graph
        return memory_plan(graph, sizes_of(graph, batch), self.memory, self.precision)

    def step(self, batch: Data) -> dict[str, float]:
        """Learns from one batch; its loss and metrics before the step.

        Raises TrainingError, with the state as it was before, where the loss is not finite.
        """
        given, state = self._training, self.state
        inputs = self.step_inputs(batch)
        loss = np.empty(
            given.graph.outputs[0].type.static_shape, given.graph.outputs[0].type.dtype.numpy
        )
        rest: list[Array | None] = [None, None] if given.moved else []
        metrics: list[Array | None] = [None] * len(given.metrics)
        out = [loss, *metrics, *(state[name] for name in given.updated), *rest]
        try:
            found = self._model("training", given, batch).run(inputs, out=out)
        except ExecutionError as error:
            if error.status != Status.NOT_FINITE:
                raise
            raise loss_error(given, inputs, self.steps, loss.item()) from None
        if given.moved:
            self.statistics = read_statistics(given.moved, given.layers, *found[-2:])
        self.steps += 1
        return given.numbers(found)

    def step_inputs(self, batch: Data) -> dict[str, Array]:
        """All that the next step reads."""
        rate = self.optimizer.learning_rate * factor_at(self.schedule, self.steps)
        inputs = self._inputs(self._training, batch)
        inputs[RATE] = np.array(rate, np.float64)
        inputs[STEP] = np.array(self.steps, np.int64)
        return inputs | self.state

    def _inputs(self, given: StepGraph, batch: Data) -> dict[str, Array]:
        check_batch(batch, given.batch, given.limits)
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
        report: Report | None = None,
        progress: Progress | None = None,
    ) -> History:
        """Goes through the data `epochs` times in all, in a new order each time.

        `validation` is data, or the share of `data` to keep for it. With `patience`, training stops
        when the validation loss has not fallen for so many epochs, and the best state comes back.
        `checkpoint` is a file for the state after every epoch, after every so many steps (`every`)
        and on an interruption; if it is there, training goes on from it, to the same bits.
        `report` gets every epoch's numbers; `progress`, after every step, how many batches were
        done since the first epoch, and how many an epoch has.
        """
        for name, given in (("epochs", epochs), ("patience", patience), ("every", every)):
            require_count("fit", name, given, 0)
        data, validation = self._parts(data, validation)
        file = Path(checkpoint) if checkpoint else None
        if file:
            check_writable(file)
        if file and file.exists():
            self.restore(file)
        if self._normalization and not self.steps:
            fitted = self._normalization.fitted(self._start, data)
            self._start = self._start.with_arrays(fitted)
            self.state |= fitted
        batches = Batches(data, self.names, batch, self.seed, augmentation)
        check_batches(self._training.batch_inputs, batches.rows, batch)
        check_place(self.history, batches)
        return self._run(
            Course(batches, validation, epochs, patience, file, every, report, progress)
        )

    def _parts(self, data: Data, validation: Data | float | None) -> tuple[Data, Data | None]:
        """The data to learn from and that for validation, checked."""
        check_names(data, self.names)
        if validation is not None and not isinstance(validation, Mapping):
            data = {name: data[name] for name in self.names if name in data}
            data, validation = split_rows(data, validation, self.seed)
        for part in (data, validation or data):
            check_data(part, self._training.batch_inputs, self._training.limits)
        return data, validation

    def _run(self, course: Course) -> History:
        """The epochs that are left; the best state is back at their end."""
        start, file, self._is_torn = self.steps, course.file, False
        try:
            with interrupts_between_steps() as stop:
                while not course.is_over(self.history.epoch, self._best.since):
                    self._epoch(course, stop)
                    row = self._finish_epoch(course)
                    if course.report:
                        course.report(self.history.epoch - 1, row)
                    if file:
                        self.save(file)
        except KeyboardInterrupt:
            if file and not self._is_torn:
                self.save(file)
            raise
        except TrainingError as error:
            raise explained(error, self, self._training, course.batches, file, start) from None
        if course.patience and self._best.since:
            self.state = side_by_side(self._best.state)
        return self.history

    def _epoch(self, course: Course, stop: Callable[[], None]) -> None:
        """What is left of an epoch."""
        history, batches = self.history, course.batches
        for part in batches.epoch(history.epoch, history.place):
            stop()
            self._is_torn = True
            numbers = self.step(part)
            history.add_step(len(next(iter(part.values()))), numbers)
            self._is_torn = False
            if course.progress:
                course.progress(history.epoch * batches.count + history.place, batches.count)
            if course.file and course.every and self.steps % course.every == 0:
                self.save(course.file)

    def _finish_epoch(self, course: Course) -> dict[str, float]:
        """The epoch's numbers, which the history and the best state take note of."""
        row = averages(self.history.rows)
        if course.validation is not None:
            checked = self.evaluate(course.validation, batch=course.batches.size)
            row |= {f"validation {name}": number for name, number in checked.items()}
        self.history.add_epoch(row)
        if course.patience:
            self._best = self._best.after(row.get("validation loss", row["loss"]), self.state)
        return row

    def save(self, path: str | Path) -> None:
        """Writes a checkpoint, whole or not at all. Raises TrainingError for a state with NaNs or
        infinities: what is in the file stays."""
        check_state(self.state, self.steps)
        facts = {"steps": self.steps, **facts_of(self.seed, self._best, self.history)}
        write_checkpoint(Path(path), Checkpoint(self.state | self._best.as_arrays(), facts))

    def restore(self, path: str | Path) -> None:
        """Goes back to a checkpoint. Raises CompileError for one of another network or optimizer,
        with nothing changed."""
        found = read_checkpoint(Path(path))
        self.state = side_by_side(state_in(found, self._training.state, path))
        self.steps, self.seed = int(found.facts["steps"]), int(found.facts["seed"])
        self.history = History.from_json(found.facts["history"])
        self._best = Best.from_checkpoint(found.arrays, found.facts["best"])

    def evaluate(self, data: Data, *, batch: int = 256) -> dict[str, float]:
        """Loss and metrics over data, by the averages if there are any; nothing is learned."""
        check_data(data, self._evaluation.batch_inputs, self._evaluation.limits)
        batches = Batches(data, self.names, batch, None, None)
        rows = []
        for part in batches.epoch(0):
            found = self._run_without_step("evaluation", self._evaluation, part)
            rows.append((len(next(iter(part.values()))), self._evaluation.numbers(found)))
        return averages(rows)

    def export(
        self,
        path: str | Path,
        *,
        name: str = "",
        target: str = "",
        placement: Placement = "inside",
        linker: str = "",
        sizes: Mapping[str, int] | None = None,
    ) -> list[Path]:
        """Writes this training as a C library (.so, .o or .a) with its header; the files written.

        It begins with the state as it is now, and goes on to the same bits as this Trainer with the
        same batches and rates (but for `statistics`, which it leaves out). `name` is what its C
        symbols start with, the file's own unless given; the other arguments are those of `save` and
        `compile`. With a budget of memory, `sizes` are the dims that it is for. Raises
        CompileError, also for a network whose outputs' sizes the data decides.
        """
        file = Path(path)
        training = Training(
            self._training,
            self._evaluation,
            self._predicting(),
            self._start.graph.output_names,
            self.state,
            self.steps,
            facts_of(self.seed, Best(math.inf, 0, {}), History()),
        )
        options = Options(
            target=target,
            dump=dump_folder(),
            memory=self.memory,
            precision=self.precision,
            sizes=tuple(sorted(given_sizes(sizes, "sizes").items())),
        )
        code, weights = build_library(training_graphs(name or file.stem, training), options)
        return save(code, weights, file, placement, linker)

    def _predicting(self) -> StepGraph:
        if self._prediction is None:
            self._prediction = evaluation_graph(self._start, lambda y, *_: y.sum(), [], {})
        return self._prediction

    def predict(self, data: Data, *, batch: int = 256) -> list[Array]:
        """The present outputs for inputs, by the averages if there are any; no targets are read."""
        given = self._predicting()
        check_arrays(data, given.batch_inputs)
        batches = Batches(data, given.batch, batch, None, None).epoch(0)
        parts = [self._run_without_step("prediction", given, part)[1:] for part in batches]
        return [np.concatenate(pieces) for pieces in zip(*parts)]

    def _run_without_step(self, name: str, given: StepGraph, part: Data) -> list[Array]:
        state = averaged_state(self.state)
        inputs = self._inputs(given, part) | {name: state[name] for name, _ in given.state}
        return self._model(name, given).run(inputs)
