"""The tuner: other forms of a model's kernels, measured where they will run, inside the model.

A trial is the whole model, compiled with another form of every kernel that is not settled yet, and
run in turns with the model as it is: so caches are as warm or cold as they will be, and one
compilation tries as many kernels as there are. Times are compared as ratios within a turn of both,
for the machine's clock changes. Shapes of tiles go first, then blocks, then the innermost loop.
In the end the model with all that won is measured against the one without, and must be faster.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ir.walk_steps import timed_steps
from bessemer.compiler.options import Choice, Options, Tuning
from bessemer.frontends.given_sizes import given_seconds
from bessemer.frontends.models_in import Model, as_graph, build_model
from bessemer.frontends.outputs_in_place import behind_inputs
from bessemer.frontends.profiling.profile import ProfiledModel
from bessemer.frontends.random_inputs import (
    default_sizes,
    index_limits,
    known_texts,
    random_arrays,
)
from bessemer.frontends.tuning.contest import (
    LEAST_SHARE,
    Contest,
    Report,
    Tuned,
    run_trials,
    winners,
)

_RUNS, _TRIAL_SECONDS = (5, 400), 0.6
"""The fewest and the most runs of a trial, and about how long it takes."""
_CHECK_SECONDS = 2.0
"""Kept back of the time to tune: to compare the tuned model as a whole with the original."""


def tune_model(
    model: Model,
    options: Options,
    seconds: float,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, Array | None] | None = None,
    report: Report = lambda text: None,
    interruptible: bool = False,
) -> Tuned:
    """Measures for about so long. Sizes that the model leaves open are a batch of 1, and 64.

    It changes no promise: the same tuning gives the same code, whose results do not depend on the
    number of threads. If it is `interruptible`, Ctrl-C ends the trials, and the result is what they
    have found. Raises CompileError for seconds that are none.
    """
    start, seconds = time.monotonic(), given_seconds(seconds)
    tuner = _Tuner(as_graph(model, dims, values), options)
    tuner.enter(tuner.base)
    cost = time.monotonic() - start
    end = start + seconds - _CHECK_SECONDS
    interrupted = run_trials(tuner, cost, end, interruptible, report)
    return replace(tuner.result(), interrupted=interrupted)


@dataclass(eq=False)
class _Tuner:
    """The model as it was, `base`, and the contests so far, by signature."""

    graph: Graph
    options: Options
    contests: dict[str, Contest] = field(default_factory=dict)
    trials: int = 0

    def __post_init__(self) -> None:
        self.known = self.options.tuning.choices
        self.base = self._compiled(self.known)
        signature = self.base.signature
        sizes = default_sizes(self.base.inputs, signature.symbols[: signature.input_symbols])
        texts = known_texts(self.graph.strings)
        limits = index_limits(self.graph)
        self.inputs = random_arrays(self.base.inputs, sizes, 0, limits, texts)

    def _compiled(self, choices: Mapping[str, Choice]) -> ProfiledModel:
        tuning = Tuning(choices, explore=True)
        made = build_model(self.graph, replace(self.options, tuning=tuning, profile=True))
        return ProfiledModel(made, self.options.threads)

    def enter(self, model: ProfiledModel) -> None:
        """Opens a contest for every signature that is new and whose kernels take time."""
        whole, _, times, _ = _in_turns(model, model, self.inputs, 0.0)
        for decision in model.compilation.program.decisions:
            share = times.get(decision.signature, 0.0) / whole if whole else 0.0
            if decision.signature not in self.contests and share > LEAST_SHARE:
                self.contests[decision.signature] = Contest(
                    dict(decision.choice), share, waiting=list(decision.others)
                )

    def attempt(self, entries: Mapping[str, Choice]) -> None:
        """Measures other forms of kernels, one of each, together with the winners so far."""
        contests = self.contests
        trial = self._compiled({**self.known, **winners(contests), **entries})
        ratios = _compare(self.base, trial, self.inputs, _TRIAL_SECONDS)[2]
        for name, choice in entries.items():
            contests[name].judge(choice, ratios.get(name, 1.0))
        won = [one for name, one in entries.items() if contests[name].best == one]
        if any({"winograd", "tiles"} & one.keys() for one in won):
            self.enter(trial)  # another method has kernels of its own

    def result(self) -> Tuned:
        """The winners all together against the model as it was: those that do not hold up are
        dropped, and all of them where the whole is not faster."""
        contests = self.contests
        if not winners(contests):
            whole = _in_turns(self.base, self.base, self.inputs, 0.0)[0]
            return Tuned(Tuning(self.known), contests, self.trials, whole, whole)
        before, after, ratios = self._against_base(winners(contests), _CHECK_SECONDS / 2)
        for name, one in contests.items():
            one.confirm(ratios.get(name, 1.0))
        kept = winners(contests)
        if kept:
            before, after, ratios = self._against_base(kept, _CHECK_SECONDS)
            for name, one in contests.items():
                one.ratio = ratios.get(name, 1.0) if one.best else 1.0
        if not kept or not _holds(before, after):
            return Tuned(Tuning(self.known), contests, self.trials, before, before)
        return Tuned(Tuning({**self.known, **kept}), contests, self.trials, before, after)

    def _against_base(
        self, choices: Mapping[str, Choice], seconds: float
    ) -> tuple[float, float, dict[str, float]]:
        """As `_compare`: the model without and with these choices."""
        final = self._compiled({**self.known, **choices})
        return _compare(self.base, final, self.inputs, seconds)


def _holds(before: float, after: float) -> bool:
    """Whether the tuned model is kept, by the seconds of a run without and with the tuning."""
    return after <= before


def _compare(
    base: ProfiledModel, other: ProfiledModel, inputs: Mapping[str, Array], seconds: float
) -> tuple[float, float, dict[str, float]]:
    """Seconds of a run of both, and the ratios of their kernels' times by signature."""
    before, after, mine, theirs = _in_turns(base, other, inputs, seconds)
    return before, after, {name: theirs[name] / mine[name] for name in mine if theirs.get(name)}


def _in_turns(
    base: ProfiledModel, other: ProfiledModel, inputs: Mapping[str, Array], seconds: float
) -> tuple[float, float, dict[str, float], dict[str, float]]:
    """Runs both in turns: the median seconds of their runs, and by signature what their kernels
    take of one."""
    models = (base, other)
    wholes: tuple[list[int], list[int]] = ([], [])
    sums: tuple[list[Array], list[Array]] = ([], [])
    places = [behind_inputs(model, inputs) for model in models]
    for model, (given, out) in zip(models, places, strict=True):
        model.run(given, out)
    end = time.monotonic() + seconds
    least, most = _RUNS
    while len(wholes[0]) < least or (time.monotonic() < end and len(wholes[0]) < most):
        for place, model in enumerate(models):
            whole, steps = model.measure(*places[place])
            wholes[place].append(whole)
            sums[place].append(steps[:, 1])
    times = [
        _by_signature(model, np.median(np.stack(rows), axis=0)) for model, rows in zip(models, sums)
    ]
    before, after = (float(np.median(found)) / 1e9 for found in wholes)
    return before, after, times[0], times[1]


def _by_signature(model: ProfiledModel, nanoseconds: Array) -> dict[str, float]:
    """Seconds of a run that the kernels of each signature take: all that work on its nodes."""
    program = model.compilation.program
    spent: dict[int, float] = {}
    for step, taken in zip(timed_steps(program.steps), nanoseconds, strict=True):
        if isinstance(step, Launch):
            for node in step.nodes:
                spent[id(node)] = spent.get(id(node), 0.0) + float(taken) / 1e9
    found: dict[str, float] = {}
    counted: set[tuple[str, int]] = set()
    for decision in program.decisions:
        key = (decision.signature, id(decision.node))
        if key not in counted:
            counted.add(key)
            own = spent.get(id(decision.node), 0.0)
            found[decision.signature] = found.get(decision.signature, 0.0) + own
    return found
