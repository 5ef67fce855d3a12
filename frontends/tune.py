"""The tuner: other forms of a model's kernels, measured where they will run, inside the model.

A trial is the whole model, compiled with another form of every kernel that is not settled yet, and
run in turns with the model as it is: so caches are as warm or cold as they will be, and one
compilation tries as many kernels as there are. Times are compared as ratios within a turn of both,
for the machine's clock changes. Shapes of tiles go first, then blocks, then the innermost loop.
In the end the model with all that won is measured against the one without, and must be faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ir.walk_steps import timed_steps
from bessemer.compiler.options import Choice, Options, Tuning
from bessemer.frontends.contest import (
    LEAST_SHARE,
    Contest,
    Report,
    Tuned,
    offered,
    progress,
    winners,
)
from bessemer.frontends.given_sizes import given_seconds
from bessemer.frontends.models_in import Model, as_graph, build_model
from bessemer.frontends.outputs_in_place import behind_inputs
from bessemer.frontends.profile import ProfiledModel
from bessemer.frontends.random_inputs import (
    default_sizes,
    index_limits,
    known_texts,
    random_arrays,
)

_RUNS, _TRIAL_SECONDS = (5, 400), 0.6
_CHECK_SECONDS = 2.0


def tune_model(
    model: Model,
    options: Options,
    seconds: float,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, Array | None] | None = None,
    report: Report = lambda text: None,
) -> Tuned:
    """Measures for about so long. Sizes that the model leaves open are a batch of 1, and 64.

    It changes no promise: the same tuning gives the same code, whose results do not depend on the
    number of threads. Raises CompileError for seconds that are none.
    """
    start = time.monotonic()
    seconds = given_seconds(seconds)
    graph = as_graph(model, dims, values)
    options = replace(options, profile=True)

    def compiled(choices: Mapping[str, Choice]) -> ProfiledModel:
        tuning = Tuning(choices, explore=True)
        made = build_model(graph, replace(options, tuning=tuning))
        return ProfiledModel(made, options.threads)

    known = options.tuning.choices
    base = compiled(known)
    bound = base.signature.symbols[: base.signature.input_symbols]
    sizes = default_sizes(base.inputs, bound)
    texts = known_texts(graph.strings)
    inputs = random_arrays(base.inputs, sizes, 0, index_limits(graph), texts)
    contests: dict[str, Contest] = {}
    _enter(base, inputs, contests)
    trials = 0
    cost = time.monotonic() - start
    # A trial costs a compilation and its runs; the last check costs two of them.
    while time.monotonic() - start + 2 * cost + _CHECK_SECONDS < seconds:
        begin = time.monotonic()
        entries = offered(contests)
        if not entries:
            break
        trial = compiled({**known, **winners(contests), **entries})
        _judge(base, trial, inputs, contests, entries)
        won = [one for name, one in entries.items() if contests[name].best == one]
        if any({"winograd", "tiles"} & one.keys() for one in won):
            _enter(trial, inputs, contests)  # another method has kernels of its own
        trials += 1
        cost = time.monotonic() - begin
        report(progress(trials, contests))
    if not winners(contests):
        whole = _in_turns(base, base, inputs, 0.0)[0]
        return Tuned(Tuning(known), contests, trials, whole, whole)
    return _check(base, compiled, known, inputs, contests, trials)


def _check(
    base: ProfiledModel,
    compiled: Callable[[Mapping[str, Choice]], ProfiledModel],
    known: Mapping[str, Choice],
    inputs: Mapping[str, Array],
    contests: dict[str, Contest],
    trials: int,
) -> Tuned:
    """The winners all together against the model as it was: those that do not hold up are dropped,
    and all of them where the whole is not faster."""
    final = compiled({**known, **winners(contests)})
    before, after, ratios = _compare(base, final, inputs, _CHECK_SECONDS / 2)
    for name, one in contests.items():
        one.confirm(ratios.get(name, 1.0))
    kept = winners(contests)
    if kept:
        final = compiled({**known, **kept})
        before, after, ratios = _compare(base, final, inputs, _CHECK_SECONDS)
        for name, one in contests.items():
            one.ratio = ratios.get(name, 1.0) if one.best else 1.0
    if not kept or not _holds(before, after):
        return Tuned(Tuning(known), contests, trials, before, before)
    return Tuned(Tuning({**known, **kept}), contests, trials, before, after)


def _holds(before: float, after: float) -> bool:
    """Whether the tuned model is kept, by the seconds of a run without and with the tuning."""
    return after <= before


def _enter(model: ProfiledModel, inputs: Mapping[str, Array], contests: dict[str, Contest]) -> None:
    """Opens a contest for every signature that is new and whose kernels take time."""
    whole, _, times, _ = _in_turns(model, model, inputs, 0.0)
    for decision in model.compilation.program.decisions:
        share = times.get(decision.signature, 0.0) / whole if whole else 0.0
        if decision.signature not in contests and share > LEAST_SHARE:
            contests[decision.signature] = Contest(
                dict(decision.choice), share, waiting=list(decision.others)
            )


def _judge(
    base: ProfiledModel,
    trial: ProfiledModel,
    inputs: Mapping[str, Array],
    contests: Mapping[str, Contest],
    entries: Mapping[str, Choice],
) -> None:
    ratios = _compare(base, trial, inputs, _TRIAL_SECONDS)[2]
    for name, choice in entries.items():
        contests[name].judge(choice, ratios.get(name, 1.0))


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
