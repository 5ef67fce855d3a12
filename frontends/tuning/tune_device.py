"""The tuner for GPUs: other forms of a model's kernels, measured on the device, inside the model.

A trial is the whole model with another form of every kernel that is not settled yet, at most twelve
forms of one. Kernels are measured by events, several launches in a graph, each time beside the form
in use, for the device's clock changes. What does not compile, or the device refuses, has lost. In
the end the model with all that won is measured against the one without, and must be faster.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bessemer.compiler.device_driver import DeviceCompilation, build_for_device
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ir.walk_steps import launches
from bessemer.compiler.options import Choice, Options, Tuning
from bessemer.compiler.targets.nvptx import DeviceTarget
from bessemer.frontends.given_sizes import given_seconds
from bessemer.frontends.models_in import Model, as_graph
from bessemer.frontends.random_inputs import default_sizes, index_limits, random_arrays
from bessemer.frontends.tuning.contest import (
    LEAST_SHARE,
    Contest,
    Report,
    Tuned,
    run_trials,
    winners,
)
from bessemer.runtime.arrays import numpy_dtype
from bessemer.runtime.cuda.arguments import DeviceArray
from bessemer.runtime.cuda.driver import DeviceError, Driver
from bessemer.runtime.cuda.timed import NORMAL, Effort, TimedModel
from bessemer.runtime.shapes import evaluate_shape

MOST_TRIALS = 12
"""Forms of one kernel that are tried."""


def tune_for_device(
    model: Model,
    options: Options,
    seconds: float,
    target: DeviceTarget,
    driver: Driver,
    device: int = 0,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, Array | None] | None = None,
    report: Report = lambda text: None,
    effort: Effort = NORMAL,
    interruptible: bool = False,
) -> Tuned:
    """Measures for about so long, on a device of the driver. Sizes that the model leaves open are
    a batch of 1, and 64. Ctrl-C is as for `tune_model`.

    Raises DeviceError where the device cannot run the model as it is, CompileError for seconds that
    are none.
    """
    start, seconds = time.monotonic(), given_seconds(seconds)
    graph = as_graph(model, dims, values, broadcasts=False)
    tuner = _Tuner(graph, options, target, driver, device, effort)
    try:
        tuner.enter()
        cost = time.monotonic() - start
        interrupted = run_trials(tuner, cost, start + seconds, interruptible, report)
        return replace(tuner.result(), interrupted=interrupted)
    finally:
        tuner.base.model.close()


@dataclass(eq=False)
class _Placed:
    """A compiled model on the device, and which of its launches each signature's time is."""

    made: DeviceCompilation
    model: TimedModel
    launches: dict[str, list[int]]

    def times(self, inputs: Sequence[Array], names: Sequence[str], effort: Effort) -> _Found:
        """Seconds of the kernels of signatures, each for one node."""
        wanted = {number for name in names for number in self.launches.get(name, ())}
        found = self.model.measure(inputs, wanted, effort)
        seconds = {
            name: sum(found.seconds[number] for number in numbers)
            for name, numbers in self.launches.items()
            if name in names and numbers and all(n in found.seconds for n in numbers)
        }
        broken = {
            name
            for name, numbers in self.launches.items()
            if name in names and not found.errors.keys().isdisjoint(numbers)
        }
        return _Found(seconds, broken)


@dataclass(frozen=True)
class _Found:
    seconds: Mapping[str, float]
    broken: set[str]


@dataclass(eq=False)
class _Tuner:
    graph: Graph
    options: Options
    target: DeviceTarget
    driver: Driver
    device: int
    effort: Effort
    contests: dict[str, Contest] = field(default_factory=dict)
    trials: int = 0

    def __post_init__(self) -> None:
        self.known = self.options.tuning.choices
        self.base = self._placed(self.known)
        signature = self.base.model.signature
        symbols = signature.symbols[: signature.input_symbols]
        self.sizes = default_sizes(signature.inputs, symbols)
        arrays = random_arrays(signature.inputs, self.sizes, 0, index_limits(self.graph))
        self.inputs = [arrays[info.name] for info in signature.inputs]

    def _placed(self, choices: Mapping[str, Choice]) -> _Placed:
        options = replace(self.options, tuning=Tuning(choices, explore=True))
        made = build_for_device(self.graph, options, self.target)
        model = TimedModel(made.artifact, made.weights, self.driver, self.device)
        return _Placed(made, model, _launches_by_signature(made))

    # Trials

    def enter(self) -> None:
        """Opens a contest for every signature whose kernels take time."""
        found = self.base.times(self.inputs, list(self.base.launches), self.effort).seconds
        decisions = self.base.made.program.decisions
        whole = sum(found.get(decision.signature, 0.0) for decision in decisions)
        for decision in decisions:
            name, others = decision.signature, list(decision.others)[: MOST_TRIALS - 1]
            taken = sum(found.get(d.signature, 0.0) for d in decisions if d.signature == name)
            if name not in found or name in self.contests or not others:
                continue
            if taken > LEAST_SHARE * whole:
                share = taken / whole
                self.contests[name] = Contest(dict(decision.choice), share, waiting=others)

    def attempt(self, entries: Mapping[str, Choice]) -> None:
        """Measures forms; where all together cannot be compiled or loaded, in halves."""
        names = list(entries)
        try:
            trial = self._placed({**self.known, **entries})
        except (DeviceError, InternalError):
            half = len(names) // 2
            for part in (names[:half], names[half:]) if half else ():
                self.attempt({name: entries[name] for name in part})
            if not half:
                self.contests[names[0]].tried += 1
            return
        try:
            found = trial.times(self.inputs, names, self.effort)
        finally:
            trial.model.close()
        self._judge(entries, found)
        left = {n: c for n, c in entries.items() if n not in {*found.seconds, *found.broken}}
        if found.broken and left:
            self.attempt(left)

    def _judge(self, entries: Mapping[str, Choice], found: _Found) -> None:
        for name in found.broken:
            self.contests[name].tried += 1
        measured = [name for name in entries if name in found.seconds and name not in found.broken]
        if not measured:
            return
        mine = self.base.times(self.inputs, measured, self.effort).seconds
        for name in measured:
            ratio = found.seconds[name] / mine[name] if mine.get(name) else 1.0
            self.contests[name].judge(entries[name], ratio)

    # The end

    def result(self) -> Tuned:
        """The winners all together, if with them the model is faster."""
        won = winners(self.contests)
        before = self._whole(self.base)
        if not won:
            return Tuned(Tuning(self.known), self.contests, self.trials, before, before)
        choices = {**self.known, **won}
        final = self._placed(choices)
        try:
            pairs = [(self._whole(self.base), self._whole(final)) for _ in range(3)]
        finally:
            final.model.close()
        before, after = (float(np.median(times)) for times in zip(*pairs))
        if after > before:
            for one in self.contests.values():
                one.drop()
            return Tuned(Tuning(self.known), self.contests, self.trials, before, before)
        return Tuned(Tuning(choices), self.contests, self.trials, before, after)

    def _whole(self, placed: _Placed) -> float:
        model = placed.model
        inputs = [model.place(array) for array in self.inputs]
        return model.whole(inputs, self._targets(model), self.effort)

    def _targets(self, model: TimedModel) -> list[DeviceArray | None]:
        """Places for the outputs whose sizes are known."""
        found: list[DeviceArray | None] = []
        for info in model.outputs:
            shape = None if info.data_dependent else evaluate_shape(info.shape, self.sizes)
            empty = shape is None or 0 in shape
            array = None if shape is None else np.zeros(shape, numpy_dtype(info.dtype))
            found.append(None if empty or array is None else model.place(array))
        return found


def _launches_by_signature(made: DeviceCompilation) -> dict[str, list[int]]:
    """The numbers of the launches that work on the first node of each signature."""
    listed = list(launches(made.program.steps))  # as the artifact numbers them
    found: dict[str, list[int]] = {}
    for decision in made.program.decisions:
        if decision.signature not in found:
            found[decision.signature] = [
                number
                for number, launch in enumerate(listed)
                if any(node is decision.node for node in launch.nodes)
            ]
    return found
