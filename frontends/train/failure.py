"""The error of a training that meets a NaN or an infinity, and the search for its origin.

A loss that is not finite stops its step before the state changes, and the step tells what is to
blame. Gradients are not looked at, that would cost every step time: what overflows on the way back
or in the optimizer shows at the step after, in the state. Then training is done again, to the same
bits, from the last checkpoint or the start, and each state looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from bessemer.compiler.ir.types import Array
from bessemer.frontends.train.batches import Batches
from bessemer.frontends.train.blame import find_blame
from bessemer.frontends.train.history import History
from bessemer.frontends.train.step import StepGraph
from bessemer.runtime.errors import RunError

_ADVICE = "A smaller learning rate, or clipping of gradients, may help"


class TrainingError(RunError):
    """Training cannot go on: the loss is not a number any more, say.

    `in_state`: the state itself has become useless; else it is that before the step.
    """

    def __init__(self, text: str, in_state: bool = False) -> None:
        super().__init__(text)
        self.in_state = in_state


class Learner(Protocol):
    """What is needed of a trainer."""

    state: dict[str, Array]
    steps: int
    history: History

    def restore(self, path: Path) -> None: ...

    def first_state(self) -> dict[str, Array]: ...

    def step(self, batch: Mapping[str, Array]) -> dict[str, float]: ...

    def step_inputs(self, batch: Mapping[str, Array]) -> dict[str, Array]: ...


def loss_error(
    step: StepGraph, inputs: Mapping[str, Array], number: int, loss: float
) -> TrainingError:
    """For a step whose loss is not finite; `inputs` are its batch and the state before it."""
    blame = find_blame(step, inputs)
    start = f"The loss of step {number} is {loss}."
    if blame is not None and blame.part == "state":
        text = f"{start} {blame.text} The step before made it, after its loss. {_ADVICE}."
        return TrainingError(text, in_state=True)
    if blame is None:
        why = f"In NumPy the same step stays finite, though near the largest number. {_ADVICE}."
    else:
        why = blame.text if blame.part == "batch" else f"{blame.text} {_ADVICE}."
    return TrainingError(f"{start} {why} The state is that before the step.")


def broken_names(state: Mapping[str, Array]) -> list[str]:
    """The arrays that have NaNs or infinities."""
    return [name for name, array in state.items() if not np.isfinite(array).all()]


def check_state(state: Mapping[str, Array], steps: int) -> None:
    """Raises TrainingError for a state that is not worth keeping."""
    if names := broken_names(state):
        listing = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise TrainingError(
            f"After {steps} steps there are NaNs or infinities in {listing}. {_ADVICE}.",
            in_state=True,
        )


def replay(step: StepGraph, learner: Learner, batches: Batches, end: int) -> str:
    """Trains again from the learner's state up to step `end`; tells of the step that breaks the
    state, and leaves the learner before it. Empty if no step does."""
    while learner.steps < end:
        history = learner.history
        for batch in batches.epoch(history.epoch, history.place):
            before = {name: array.copy() for name, array in learner.state.items()}
            numbers = learner.step(batch)
            if broken_names(learner.state):
                learner.state, learner.steps = before, learner.steps - 1
                blame = find_blame(step, learner.step_inputs(batch))
                found = blame.text if blame else "In NumPy the same step stays finite."
                return f"Step {learner.steps}, of loss {numbers['loss']:.6g}, broke it. {found}"
            history.add_step(len(next(iter(batch.values()))), numbers)
            if learner.steps >= end:
                return ""
        history.add_epoch({})
    return ""


def explained(
    error: TrainingError,
    learner: Learner,
    step: StepGraph,
    batches: Batches,
    file: Path | None,
    start: int,
) -> TrainingError:
    """The error with what broke the state, if it is broken, and where the last good one is, to
    which the learner goes back. `start` is the step at which this training began."""
    end, history, text = learner.steps, learner.history, str(error)
    kept = file if file is not None and file.exists() else None
    if error.in_state and (kept or start == 0):
        if kept:
            learner.restore(kept)
        else:
            learner.state, learner.steps, learner.history = learner.first_state(), 0, History()
        text = f"{text} {replay(step, learner, batches, end)}".rstrip()
        learner.history = history
    if kept:
        learner.restore(kept)
        text += f" The last good state, after {learner.steps} steps, is in {file}."
    return TrainingError(text, error.in_state)
